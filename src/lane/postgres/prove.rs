//! The client proves who it is, to Lockgate and never to the target.

use std::sync::Arc;

use lockgate_codecs::postgres::{backend, frame, frontend};

use super::connect::Connect;
use super::inbound::Step;
use super::parameters::Wishes;
use super::trouble::Trouble;
use super::{Core, Phase, Turn};
use crate::scram::{self, Offer, ScramError};
use crate::{
    Action, ClientCertificate, Grant, ListenerAuth, LoginAnswer, NotGranted, SaltRequest, Secret, Side,
    Verifier,
};

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
    /// The client's final message is due; with it the method, for the record.
    SaslFinal(scram::Server, &'static str),
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
        let LoginAnswer { verifier, certificate_name, grant } = login;
        self.check_certificate(certificate_name.as_deref(), core)?;
        let step = match core.rules.auth {
            ListenerAuth::Scram => {
                let mechanisms = match core.channel.end_point {
                    Some(_) => format!("{}\0{}\0\0", scram::SHA_256_PLUS, scram::SHA_256),
                    None => format!("{}\0\0", scram::SHA_256),
                };
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
            ListenerAuth::Certificate => return proven(self.wishes, grant, "", core, turn),
        };
        Ok(Phase::Prove(Box::new(Prove { wishes: self.wishes, verifier, grant, step })))
    }

    /// A certificate that is shown must be the user's, whatever else is asked for.
    fn check_certificate(&self, name: Option<&str>, core: &Core) -> Result<(), Trouble> {
        let rules = &core.rules;
        let needed = rules.client_certificate == ClientCertificate::Required
            || rules.auth == ListenerAuth::Certificate;
        match &core.channel.certificate {
            None if needed => Err(Trouble::CertificateRequired),
            None => Ok(()),
            Some(holder) if name.is_some_and(|name| holder.names.iter().any(|other| other == name)) => Ok(()),
            Some(holder) => Err(Trouble::WrongCertificate {
                user: self.wishes.user.clone(),
                subject: holder.subject.clone(),
            }),
        }
    }
}

impl Prove {
    /// One message of the client's.
    pub(super) fn step(
        self: Box<Self>,
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

    fn proof(
        mut self: Box<Self>,
        body: &[u8],
        core: &mut Core,
        turn: &mut Turn<'_>,
    ) -> Result<Phase, Trouble> {
        match std::mem::replace(&mut self.step, Proof::Salting) {
            Proof::SaslInitial => {
                let (mechanism, first) = frontend::sasl_initial(body)?;
                let (offer, method) = taken(mechanism, core.channel.end_point.as_deref())?;
                let entropy = core.entropy.expose().get(..scram::NONCE_BYTES).unwrap_or_default();
                let (server, challenge) =
                    scram::Server::begin(Arc::clone(&self.verifier), offer, first, entropy)?;
                turn.out.send(Side::Client, |arena| {
                    backend::write_authentication(arena, 11, challenge.as_bytes());
                });
                self.step = Proof::SaslFinal(server, method);
                Ok(Phase::Prove(self))
            }
            Proof::SaslFinal(server, method) => match server.finish(body) {
                Ok(last) => {
                    turn.out.send(Side::Client, |arena| {
                        backend::write_authentication(arena, 12, last.as_bytes());
                    });
                    self.proven(method, core, turn)
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
        self: Box<Self>,
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

    fn proven(
        self: Box<Self>,
        method: &'static str,
        core: &mut Core,
        turn: &mut Turn<'_>,
    ) -> Result<Phase, Trouble> {
        proven(self.wishes, self.grant, method, core, turn)
    }
}

/// The client is who it says: by its certificate, if it has shown one, and by `method`, if that is not empty.
fn proven(
    wishes: Wishes,
    grant: Result<Grant, NotGranted>,
    method: &str,
    core: &mut Core,
    turn: &mut Turn<'_>,
) -> Result<Phase, Trouble> {
    let grant = grant.map_err(|why| match why {
        NotGranted::Denied(reason) => Trouble::NotAdmitted { reason },
        NotGranted::Unknown(message) => Trouble::TargetUnreachable { message },
    })?;
    let method = match (&core.channel.certificate, method) {
        (Some(_), "") => String::from("certificate"),
        (Some(_), method) => format!("certificate and {method}"),
        (None, method) => method.to_owned(),
    };
    turn.out.send(Side::Client, |arena| backend::write_authentication(arena, 0, b""));
    Connect::begin(wishes, grant, method, core, turn)
}

/// What the mechanism that a client names is worth here, and the method's name for the record.
fn taken<'a>(mechanism: &[u8], end_point: Option<&'a [u8]>) -> Result<(Offer<'a>, &'static str), ScramError> {
    match (mechanism, end_point) {
        (name, Some(hash)) if name == scram::SHA_256_PLUS.as_bytes() => {
            Ok((Offer::EndPoint(hash), "scram-sha-256-plus"))
        }
        (name, Some(_)) if name == scram::SHA_256.as_bytes() => Ok((Offer::Declined, "scram-sha-256")),
        (name, None) if name == scram::SHA_256.as_bytes() => Ok((Offer::Unbound, "scram-sha-256")),
        _ => Err(ScramError::Unsupported),
    }
}
