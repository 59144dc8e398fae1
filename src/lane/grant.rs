//! What a log-in is granted: an identity, a target, and the rules that stand between them.

use std::fmt;
use std::sync::Arc;

use lockgate_facts::postgres::Catalog;
use lockgate_mask::ColumnMasks;
use lockgate_policy_dsl::Program;
use zeroize::Zeroizing;

/// A start-up packet's claim.
#[derive(Debug, Clone)]
pub struct LoginRequest {
    pub user: String,
    pub database: String,
    pub tls: bool,
}

/// Whose password, with what salt.
#[derive(Debug, Clone)]
pub struct SaltRequest {
    pub password: Secret,
    pub salt: Vec<u8>,
    pub iterations: u32,
}

/// What the snapshot says about a claim. A name that does not exist gets a verifier that nothing satisfies, so
/// that a client learns nothing before it has proven itself.
#[derive(Debug)]
pub struct LoginAnswer {
    /// Against what the client proves itself.
    pub verifier: Arc<Verifier>,
    /// What it gets then; or why not, in words for the client (unknown target, no policy…).
    pub grant: Result<Grant, String>,
}

/// What SCRAM-SHA-256 needs of a password (RFC 5802 section 3). Never the password.
#[derive(Clone)]
pub struct Verifier {
    pub salt: Vec<u8>,
    pub iterations: u32,
    pub stored_key: [u8; 32],
    pub server_key: [u8; 32],
}

/// Everything about an authenticated session that does not change, and what may.
#[derive(Debug, Clone)]
pub struct Grant {
    pub identity: Arc<Identity>,
    pub target: Arc<Target>,
    pub standing: Arc<Standing>,
}

/// Who acts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub name: String,
    pub groups: Vec<String>,
}

/// What is acted on.
#[derive(Debug)]
pub struct Target {
    pub name: String,
    /// `host:port` as configured; for messages, and the name that certificates are checked against.
    pub address: String,
    pub database: String,
    pub user: String,
    pub password: Option<Secret>,
    pub tls: TargetTls,
}

/// `tls` of a target, as libpq's sslmode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetTls {
    Disable,
    Require,
    VerifyCa,
    VerifyFull,
}

/// The rules between one set of groups and one target: one snapshot's program, catalog and masks.
#[derive(Debug)]
pub struct Standing {
    pub epoch: u64,
    pub program: Program,
    pub catalog: Arc<Catalog>,
    pub masks: ColumnMasks,
}

/// A password or token: wiped when dropped, never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    pub fn new(bytes: Vec<u8>) -> Secret {
        Secret(Zeroizing::new(bytes))
    }
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}
impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier")
    }
}
