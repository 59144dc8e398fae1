//! Why a session ends, and the one table that says what the client is told of it and whose doing it was.

use lockgate_codecs::postgres::Malformed;
use lockgate_codecs::postgres::backend::{self, ErrorText};

use crate::scram::ScramError;
use crate::{Fault, Outbox, Side};

/// An end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The client said Terminate.
    Goodbye,
    /// The client's connection ended.
    ClientGone { error: String },
    /// The server's connection ended without a word.
    ServerGone { error: String },
    /// The server ended the session with an error that the client has seen.
    ServerEnded,
    /// A message is not what its own length and counts say.
    ClientMalformed { what: &'static str },
    /// The first bytes cannot begin a packet. PostgreSQL does not answer such a peer, and drivers that leave before
    /// they have introduced themselves (Terminate as a first packet) count on that.
    NotAPacket,
    /// A message that is not legal now.
    ClientIllegal { kind: u8, state: &'static str },
    /// Bytes that came in clear text behind a request for TLS.
    BytesBehindTlsRequest,
    /// More than may be sent before it is asked for.
    TooEarly,
    /// Not authenticated in time.
    LoginTimeout,
    /// The listener wants TLS.
    TlsRequired,
    /// The listener wants a certificate of the client's.
    CertificateRequired,
    /// The certificate is another one's than the user's that the client claims to be.
    WrongCertificate { user: String, subject: String },
    /// A protocol that is not spoken here.
    UnsupportedProtocol { major: u16, minor: u16 },
    /// A start-up parameter that cannot be accepted.
    BadParameter { message: String, sqlstate: &'static str },
    /// The client did not prove itself.
    WrongPassword { user: String },
    /// The SASL exchange is not what it must be.
    BadSasl { error: ScramError },
    /// It proved itself and may not connect.
    NotAdmitted { reason: String },
    /// A limit on sessions is in the way.
    NoSeat { message: String },
    /// Policy denies the start-up parameters.
    StartupDenied { message: String, detail: String },
    /// The target cannot be reached, or not in the way its `tls` demands.
    TargetUnreachable { message: String },
    /// The target does not accept the gateway's credential, or asks for what it cannot do.
    TargetLogin { message: String },
    /// The target refused the session for a reason of its own.
    TargetRefused { sqlstate: String, message: String },
    /// The server sent what is malformed or not legal now.
    ServerProtocol { what: String },
    /// The session switched to an encoding in which SQL cannot be read safely.
    UnsafeEncoding { encoding: String },
    /// Rows cannot be masked.
    Unmaskable { what: &'static str },
    /// Policy has changed, and no longer allows what goes on.
    Withdrawn { message: String },
    /// The worker ends the session (drain, recording failed, no longer admitted).
    Terminated { sqlstate: String, message: String },
}

impl From<ScramError> for Trouble {
    fn from(error: ScramError) -> Trouble {
        Trouble::BadSasl { error }
    }
}

impl From<Malformed> for Trouble {
    fn from(malformed: Malformed) -> Trouble {
        Trouble::ClientMalformed { what: malformed.what }
    }
}

impl Trouble {
    /// A malformed message of the server's.
    pub(super) fn server(malformed: Malformed) -> Trouble {
        Trouble::ServerProtocol { what: malformed.to_string() }
    }

    /// Whose doing it is.
    pub(super) fn fault(&self) -> Fault {
        match self {
            Trouble::Goodbye | Trouble::NoSeat { .. } => Fault::None,
            // The operator's wish (class 57 is "operator intervention").
            Trouble::Terminated { sqlstate, .. } if sqlstate.starts_with("57") => Fault::None,
            Trouble::ClientGone { error } if error.is_empty() => Fault::None,
            Trouble::ClientGone { .. }
            | Trouble::ClientMalformed { .. }
            | Trouble::NotAPacket
            | Trouble::ClientIllegal { .. }
            | Trouble::BytesBehindTlsRequest
            | Trouble::TooEarly
            | Trouble::LoginTimeout
            | Trouble::TlsRequired
            | Trouble::CertificateRequired
            | Trouble::WrongCertificate { .. }
            | Trouble::UnsupportedProtocol { .. }
            | Trouble::BadParameter { .. }
            | Trouble::WrongPassword { .. }
            | Trouble::BadSasl { .. }
            | Trouble::NotAdmitted { .. }
            | Trouble::StartupDenied { .. }
            | Trouble::Withdrawn { .. }
            | Trouble::UnsafeEncoding { .. } => Fault::Client,
            Trouble::ServerGone { .. }
            | Trouble::ServerEnded
            | Trouble::TargetUnreachable { .. }
            | Trouble::TargetLogin { .. }
            | Trouble::TargetRefused { .. }
            | Trouble::ServerProtocol { .. } => Fault::Server,
            Trouble::Unmaskable { .. } | Trouble::Terminated { .. } => Fault::Gateway,
        }
    }

    /// One sentence for log and record, without secrets.
    pub(super) fn reason(&self) -> String {
        match self {
            Trouble::Goodbye => String::from("the client said goodbye"),
            Trouble::ClientGone { error } if error.is_empty() => {
                String::from("the client closed the connection")
            }
            Trouble::ClientGone { error } => format!("the client's connection broke: {error}"),
            Trouble::NotAPacket => String::from("the first bytes are not a packet of PostgreSQL's protocol"),
            Trouble::ServerEnded => String::from("the target ended the session"),
            Trouble::BadSasl { error } => format!("SASL authentication failed: {error:?}"),
            Trouble::WrongCertificate { user, subject } => {
                format!("the certificate of \"{subject}\" is not that of user \"{user}\"")
            }
            other => other.told().map_or_else(String::new, |(_, _, message)| message),
        }
    }

    /// Writes the client's last message, if it gets one.
    pub(super) fn tell_client(&self, out: &mut Outbox) {
        let Some((severity, code, message)) = self.told() else { return };
        let detail = match self {
            Trouble::StartupDenied { detail, .. } => detail.as_str(),
            _ => "",
        };
        let error = ErrorText { severity, code: &code, message: &message, detail, hint: self.hint() };
        out.send(Side::Client, |arena| backend::write_error(arena, &error));
    }

    fn hint(&self) -> &'static str {
        match self {
            Trouble::TlsRequired => "Connect with sslmode=require or stronger.",
            Trouble::CertificateRequired => "Connect inside TLS, with sslcert and sslkey.",
            Trouble::UnsafeEncoding { .. } => {
                "Use an encoding in which bytes below 128 are always ASCII, such as UTF8."
            }
            _ => "",
        }
    }

    /// The table: severity, SQLSTATE, message; nothing where nobody is left to hear it.
    pub(super) fn told(&self) -> Option<(&'static str, String, String)> {
        let (code, message) = match self {
            Trouble::Goodbye | Trouble::ClientGone { .. } | Trouble::NotAPacket | Trouble::ServerEnded => {
                return None;
            }
            Trouble::ServerGone { error } if error.is_empty() => {
                ("08006", String::from("the target closed the connection unexpectedly"))
            }
            Trouble::ServerGone { error } => {
                ("08006", format!("the connection to the target broke: {error}"))
            }
            Trouble::ClientMalformed { what } => ("08P01", format!("protocol error: malformed {what}")),
            Trouble::ClientIllegal { kind, state } => {
                ("08P01", format!("protocol error: message type {} is not legal {state}", printable(*kind)))
            }
            Trouble::BytesBehindTlsRequest => {
                ("08P01", String::from("protocol error: bytes in clear text behind the request for TLS"))
            }
            Trouble::TooEarly => {
                ("08P01", String::from("protocol error: too many bytes before the session stands"))
            }
            Trouble::LoginTimeout => {
                ("57014", String::from("canceling authentication due to timeout (limits.login_timeout)"))
            }
            Trouble::TlsRequired => {
                ("28000", String::from("this listener accepts only connections with TLS"))
            }
            Trouble::CertificateRequired => {
                ("28000", String::from("connection requires a valid client certificate"))
            }
            Trouble::WrongCertificate { user, .. } => {
                ("28000", format!("certificate authentication failed for user \"{user}\""))
            }
            Trouble::UnsupportedProtocol { major, minor } => (
                "0A000",
                format!("unsupported frontend protocol {major}.{minor}: Lockgate speaks 3.0 to 3.2"),
            ),
            Trouble::BadParameter { message, sqlstate } => (*sqlstate, message.clone()),
            Trouble::WrongPassword { user } => {
                ("28P01", format!("password authentication failed for user \"{user}\""))
            }
            Trouble::BadSasl { error } => {
                let (code, message) = sasl_message(*error);
                (code, message.to_owned())
            }
            Trouble::NotAdmitted { reason } => ("28000", reason.clone()),
            Trouble::NoSeat { message } => ("53300", message.clone()),
            Trouble::StartupDenied { message, .. } | Trouble::Withdrawn { message } => {
                ("42501", message.clone())
            }
            Trouble::TargetUnreachable { message } => ("08001", message.clone()),
            Trouble::TargetLogin { message } => ("08004", message.clone()),
            Trouble::TargetRefused { sqlstate, message } => {
                return Some(("FATAL", sqlstate.clone(), message.clone()));
            }
            Trouble::ServerProtocol { what } => ("08P01", format!("the target broke the protocol: {what}")),
            Trouble::UnsafeEncoding { encoding } => (
                "0A000",
                format!("client_encoding {encoding} is refused: SQL could be read differently by the server"),
            ),
            Trouble::Unmaskable { what } => {
                ("58000", format!("the result cannot be masked, so it is cut: {what}"))
            }
            Trouble::Terminated { sqlstate, message } => {
                return Some(("FATAL", sqlstate.clone(), message.clone()));
            }
        };
        Some(("FATAL", code.to_owned(), message))
    }
}

fn sasl_message(error: ScramError) -> (&'static str, &'static str) {
    match error {
        ScramError::Malformed => ("08P01", "malformed SCRAM message"),
        ScramError::WrongProof => ("28P01", "password authentication failed"),
        ScramError::Unsupported => (
            "08P01",
            "this SASL mechanism, channel binding or authorization identity is not supported here: there is SCRAM-SHA-256 and, inside TLS, SCRAM-SHA-256-PLUS with tls-server-end-point",
        ),
        ScramError::TooManyIterations => ("08P01", "too many SCRAM iterations"),
        ScramError::Downgraded => (
            "28000",
            "SCRAM channel binding negotiation error: the client supports channel binding and was not offered it, though it was offered here",
        ),
        ScramError::OtherChannel => (
            "28000",
            "SCRAM channel binding check failed: the client sees another certificate than the one shown here",
        ),
    }
}

fn printable(kind: u8) -> String {
    if kind.is_ascii_graphic() { format!("'{}'", char::from(kind)) } else { format!("0x{kind:02x}") }
}
