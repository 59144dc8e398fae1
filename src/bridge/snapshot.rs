//! What all workers judge by, immutable, with its epoch.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use crate::Seats;
use lockgate_lane::{Grant, Identity, LoginAnswer, LoginRequest, NotGranted, Standing, Target, Verifier};

/// One published state of the gateway: identities, targets, and the standing of every admitted pair.
pub struct Snapshot {
    /// Counts up with every publication.
    pub epoch: u64,
    /// Local identities by name.
    pub users: HashMap<String, Admission>,
    /// Targets by the name that clients use as their database.
    pub targets: HashMap<String, Destination>,
    /// What stands between a user and a target; a pair that is missing may not connect. There is none for a target whose
    /// catalog is not known: nothing could be masked by it.
    pub standings: HashMap<(String, String), Arc<Standing>>,
    /// Verifiers for names that do not exist are derived from this, so that they look the same every time.
    pub decoy_key: [u8; 32],
}

/// One local identity.
#[derive(Debug)]
pub struct Admission {
    /// Who.
    pub identity: Arc<Identity>,
    /// Against what it proves itself.
    pub verifier: Arc<Verifier>,
    /// The name that its certificate bears.
    pub certificate_name: Arc<str>,
    /// Its sessions; the same in every snapshot.
    pub seats: Arc<Seats>,
    /// How many there may be.
    pub sessions_max: SessionsMax,
}

/// A limit on sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionsMax {
    /// So many; `u32::MAX`: no limit.
    pub max: u32,
    /// The key of the configuration that says so, for whoever is refused.
    pub key: &'static str,
}

/// Who may wait where a limit is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue {
    /// How many; 0: nobody.
    pub max: u32,
    /// For how long, in nanoseconds.
    pub ns_max: u64,
}

/// One target as workers need it.
#[derive(Debug)]
pub struct Destination {
    /// What the lane needs.
    pub target: Arc<Target>,
    /// Its catalog has been read, once at least: before that nobody has a standing there.
    pub known: bool,
    /// Where it may be, in the order in which it is tried. Control resolves names; a worker never does.
    pub places: Arc<[Place]>,
    /// Its sessions; the same in every snapshot.
    pub seats: Arc<Seats>,
    /// How many there may be.
    pub sessions_max: SessionsMax,
    /// Who may wait for one to end.
    pub queue: Queue,
}

/// One address of a target.
#[derive(Debug, Clone)]
pub struct Place {
    /// The address.
    pub address: SocketAddr,
    /// How TLS to it is begun, with the host's own name; `None` exactly for `TargetTls::Disable`.
    pub tls: Option<DestinationTls>,
}

/// The client's side of TLS to one target.
#[derive(Debug, Clone)]
pub struct DestinationTls {
    /// Verifies as the target's `tls` says.
    pub config: Arc<ClientConfig>,
    /// What the certificate is checked against, and what SNI says.
    pub name: ServerName<'static>,
}

impl fmt::Debug for Snapshot {
    /// Counts only: names and keys are nobody's business in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("epoch", &self.epoch)
            .field("users", &self.users.len())
            .field("targets", &self.targets.len())
            .field("standings", &self.standings.len())
            .finish_non_exhaustive()
    }
}

impl Snapshot {
    /// What a start-up packet's claim is worth, should the client prove itself.
    pub fn login(&self, request: &LoginRequest) -> LoginAnswer {
        let Some(admission) = self.users.get(&request.user) else {
            return LoginAnswer {
                verifier: Arc::new(self.decoy(&request.user)),
                certificate_name: None,
                grant: Err(NotGranted::Denied(String::from("unknown user"))),
            };
        };
        LoginAnswer {
            verifier: Arc::clone(&admission.verifier),
            certificate_name: Some(Arc::clone(&admission.certificate_name)),
            grant: self.grant(&admission.identity, &request.database),
        }
    }

    /// The current standing of a pair that was granted before; `None`: it may no longer be connected.
    pub fn standing(&self, grant: &Grant) -> Option<Arc<Standing>> {
        self.standings.get(&(grant.identity.name.clone(), grant.target.name.clone())).cloned()
    }

    fn grant(&self, identity: &Arc<Identity>, database: &str) -> Result<Grant, NotGranted> {
        let destination = self.targets.get(database).ok_or_else(|| {
            NotGranted::Denied(format!(
                "no target is named \"{database}\"; connect with a configured target's name as the database"
            ))
        })?;
        if !destination.known {
            return Err(NotGranted::Unknown(format!(
                "target \"{database}\" has not been reached since Lockgate began, and without its catalog nobody is let in; please try again later (the gateway's /readyz says why)"
            )));
        }
        let standing =
            self.standings.get(&(identity.name.clone(), database.to_owned())).ok_or_else(|| {
                NotGranted::Denied(format!(
                    "\"{}\" may not connect to target \"{database}\": no policy lets it",
                    identity.name
                ))
            })?;
        Ok(Grant {
            identity: Arc::clone(identity),
            target: Arc::clone(&destination.target),
            standing: Arc::clone(standing),
        })
    }

    fn decoy(&self, user: &str) -> Verifier {
        Verifier::decoy(&self.decoy_key, user)
    }
}
