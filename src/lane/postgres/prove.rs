//! The client proves who it is, to Lockgate and never to the target.

use std::sync::Arc;

use lockgate_codecs::postgres::{backend, frame, frontend};

use super::connect::Connect;
use super::inbound::Step;
use super::parameters::Wishes;
use super::trouble::Trouble;
use super::{Core, Phase, Turn};
use crate::scram::{self, ScramError};
use crate::{Action, Grant, ListenerAuth, LoginAnswer, NotGranted, SaltRequest, Secret, Side, Verifier};

/// Longest authentication message that is read, in bytes.
const PROOF_BYTES_MAX: usize = 10_000;

/// A start-up packet was read; who that is has been asked.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) wishes: Wishes,
}

/// The client is asked for a proof.
#[derive(Debug)]
pub(super) struct Prove {
    wishes: Wishes,
    verifier: Arc<Verifier>,
    grant: Result<Grant, NotGranted>,
    step: Proof,
}

#[derive(Debug)]
enum Proof {
    /// SASLInitialResponse is due.
    SaslInitial,
    /// The client's final message is due.
    SaslFinal(scram::Server),
    /// The password itself is due (inside TLS).
    Password,
    /// The password is being salted.
    Salting,
}

impl Claim {
    /// Asks for the proof that the listener wants.
    pub(super) fn answered(
        self,
        login: LoginAnswer,
        core: &mut Core,
        turn: &mut Turn<'_>,
    ) -> Result<Phase, Trouble> {
        let step = match core.rules.auth {
            ListenerAuth::Scram => {
                let mechanisms = format!("{}\0\0", scram::SHA_256);
                turn.out.send(Side::Client, |arena| {
                    backend::write_authentication(arena, 10, mechanisms.as_bytes());
                });
                Proof::SaslInitial
            }
            ListenerAuth::Password if core.client_tls => {
                turn.out.send(Side::Client, |arena| backend::write_authentication(arena, 3, b""));
                Proof::Password
            }
            ListenerAuth::Password => return Err(Trouble::TlsRequired),
        };
        let LoginAnswer { verifier, grant } = login;
        Ok(Phase::Prove(Prove { wishes: self.wishes, verifier, grant, step }))
    }
}

impl Prove {
    /// One message of the client's.
    pub(super) fn step(
        self,
        bytes: &[u8],
        core: &mut Core,
        turn: &mut Turn<'_>,
    ) -> (Result<Phase, Trouble>, Step) {
        if matches!(self.step, Proof::Salting) {
            return (Ok(Phase::Prove(self)), Step::Blocked);
        }
        let header = match frame::header(bytes) {
            Err(malformed) => return (Err(malformed.into()), Step::Blocked),
            Ok(None) => return (Ok(Phase::Prove(self)), Step::Need(frame::HEADER_BYTES)),
            Ok(Some(header)) => header,
        };
        if header.kind != frontend::PASSWORD {
            let illegal = Trouble::ClientIllegal { kind: header.kind, state: "during authentication" };
            return (Err(illegal), Step::Blocked);
        }
        let length = header.message_bytes();
        if length > PROOF_BYTES_MAX {
            return (Err(Trouble::ClientMalformed { what: "authentication message" }), Step::Blocked);
        }
        match bytes.get(frame::HEADER_BYTES..length) {
            None => (Ok(Phase::Prove(self)), Step::Need(length)),
            Some(body) => (self.proof(body, core, turn), Step::Consumed(length)),
        }
    }

    fn proof(mut self, body: &[u8], core: &mut Core, turn: &mut Turn<'_>) -> Result<Phase, Trouble> {
        match std::mem::replace(&mut self.step, Proof::Salting) {
            Proof::SaslInitial => {
                let (mechanism, first) = frontend::sasl_initial(body)?;
                if mechanism != scram::SHA_256.as_bytes() {
                    return Err(ScramError::Unsupported.into());
                }
                let entropy = core.entropy.expose().get(..scram::NONCE_BYTES).unwrap_or_default();
                let (server, challenge) = scram::Server::begin(Arc::clone(&self.verifier), first, entropy)?;
                turn.out.send(Side::Client, |arena| {
                    backend::write_authentication(arena, 11, challenge.as_bytes());
                });
                self.step = Proof::SaslFinal(server);
                Ok(Phase::Prove(self))
            }
            Proof::SaslFinal(server) => match server.finish(body) {
                Ok(last) => {
                    turn.out.send(Side::Client, |arena| {
                        backend::write_authentication(arena, 12, last.as_bytes());
                    });
                    self.proven("scram-sha-256", core, turn)
                }
                Err(ScramError::WrongProof) => Err(self.failed()),
                Err(error) => Err(error.into()),
            },
            Proof::Password => {
                let password = Secret::new(frontend::password(body)?.to_vec());
                let (salt, iterations) = (self.verifier.salt.clone(), self.verifier.iterations);
                turn.out.actions.push(Action::Salt(SaltRequest {
                    password,
                    salt,
                    iterations,
                    number: core.dials,
                }));
                Ok(Phase::Prove(self))
            }
            Proof::Salting => Ok(Phase::Prove(self)),
        }
    }

    /// The password has been salted.
    pub(super) fn salted(
        self,
        key: &[u8; 32],
        core: &mut Core,
        turn: &mut Turn<'_>,
    ) -> Result<Phase, Trouble> {
        if !matches!(self.step, Proof::Salting) {
            return Ok(Phase::Prove(self));
        }
        if self.verifier.accepts(key) { self.proven("password", core, turn) } else { Err(self.failed()) }
    }

    fn failed(&self) -> Trouble {
        Trouble::WrongPassword { user: self.wishes.user.clone() }
    }

    fn proven(self, method: &'static str, core: &mut Core, turn: &mut Turn<'_>) -> Result<Phase, Trouble> {
        let grant = self.grant.map_err(|why| match why {
            NotGranted::Denied(reason) => Trouble::NotAdmitted { reason },
            NotGranted::Unknown(message) => Trouble::TargetUnreachable { message },
        })?;
        turn.out.send(Side::Client, |arena| backend::write_authentication(arena, 0, b""));
        Connect::begin(self.wishes, grant, method, core, turn)
    }
}
