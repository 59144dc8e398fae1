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
    /// Who it says it is.
    pub user: String,
    /// The target it wants.
    pub database: String,
    /// It came inside TLS.
    pub tls: bool,
}

/// Whose password, with what salt.
#[derive(Debug, Clone)]
pub struct SaltRequest {
    /// Whose key is wanted.
    pub password: Secret,
    /// The salt.
    pub salt: Vec<u8>,
    /// How often.
    pub iterations: u32,
    /// The asker's name for the question: the answer bears it, because an answer to a question that matters no more may
    /// come late.
    pub number: u32,
}

/// What the snapshot says about a claim. A name that does not exist gets a verifier that nothing satisfies, so
/// that a client learns nothing before it has proven itself.
#[derive(Debug)]
pub struct LoginAnswer {
    /// Against what the client proves itself.
    pub verifier: Arc<Verifier>,
    /// The name that its certificate must bear; `None`: no certificate is this one's.
    pub certificate_name: Option<Arc<str>>,
    /// What it gets then; or why not.
    pub grant: Result<Grant, NotGranted>,
}

/// Why whoever has proven themselves gets no session, in words for the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotGranted {
    /// They may not have one: unknown target, no policy.
    Denied(String),
    /// Nobody can have one now: nothing is known of the target yet.
    Unknown(String),
}

/// What SCRAM-SHA-256 needs of a password (RFC 5802 section 3). Never the password.
#[derive(Clone)]
pub struct Verifier {
    /// The salt.
    pub salt: Vec<u8>,
    /// PBKDF2 iterations.
    pub iterations: u32,
    /// `StoredKey`.
    pub stored_key: [u8; 32],
    /// `ServerKey`.
    pub server_key: [u8; 32],
}

/// Everything about an authenticated session that does not change, and what may.
#[derive(Debug, Clone)]
pub struct Grant {
    /// Who acts.
    pub identity: Arc<Identity>,
    /// What is acted on.
    pub target: Arc<Target>,
    /// By which rules; replaced when they change.
    pub standing: Arc<Standing>,
}

/// Who acts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its name.
    pub name: String,
    /// The groups it belongs to.
    pub groups: Vec<String>,
}

/// What is acted on.
#[derive(Debug)]
pub struct Target {
    /// The name that clients use as their database.
    pub name: String,
    /// Which of its servers will do, where it has several.
    pub attrs: SessionAttrs,
    /// The database there.
    pub database: String,
    /// The account there.
    pub user: String,
    /// The account's password, SASLprepped.
    pub password: Option<Secret>,
    /// What the connection must be.
    pub tls: TargetTls,
}

/// `target_session_attrs` of a target, as libpq's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionAttrs {
    /// Any server.
    Any,
    /// Sessions write unless they ask not to.
    ReadWrite,
    /// Sessions do not write: a standby, or a server whose sessions only read.
    ReadOnly,
    /// No standby.
    Primary,
    /// A standby.
    Standby,
    /// A standby if there is one, else any server.
    PreferStandby,
}

/// `tls` of a target, as libpq's sslmode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetTls {
    /// No TLS.
    Disable,
    /// TLS, whoever answers.
    Require,
    /// TLS, and a certificate of a known authority.
    VerifyCa,
    /// That, and the certificate names the address.
    VerifyFull,
}

/// The rules between one set of groups and one target: one snapshot's program, catalog and masks.
#[derive(Debug)]
pub struct Standing {
    /// The publication that made it.
    pub epoch: u64,
    /// The policy.
    pub program: Program,
    /// What the target's names mean.
    pub catalog: Arc<Catalog>,
    /// Protected columns of that catalog.
    pub masks: ColumnMasks,
}

/// A password, token or cancel key: wiped when dropped, never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes it over.
    pub fn new(bytes: Vec<u8>) -> Secret {
        Secret(Zeroizing::new(bytes))
    }
    /// The secret itself, for the wire.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

/// A salted password: as good as the password itself, so it is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct SaltedKey(pub [u8; 32]);

impl fmt::Debug for SaltedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SaltedKey")
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
