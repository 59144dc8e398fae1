//! The packets that may come first on a connection: they have no type byte.

use super::Malformed;
use super::read::Reader;
use super::write;

/// Longest first packet that a PostgreSQL server reads (`MAX_STARTUP_PACKET_LENGTH`), in bytes.
pub const STARTUP_BYTES_MAX: usize = 10_000;

const CANCEL_REQUEST: u32 = 80_877_102;
const SSL_REQUEST: u32 = 80_877_103;
const GSSENC_REQUEST: u32 = 80_877_104;

/// Longest cancel key of protocol 3.2, in bytes.
pub const CANCEL_KEY_BYTES_MAX: usize = 256;

/// A protocol version, as major and minor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 3 for everything since PostgreSQL 7.4.
    pub major: u16,
    /// 0, or 2 since PostgreSQL 18.
    pub minor: u16,
}

/// A first packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum First<'a> {
    /// May I speak TLS?
    Ssl,
    /// May I speak GSSAPI encryption?
    GssEnc,
    /// Cancel what this key belongs to.
    Cancel {
        /// The server process.
        process_id: u32,
        /// The key: 4 bytes, up to 256 in protocol 3.2.
        secret: &'a [u8],
    },
    /// Begin a session.
    Startup(Startup<'a>),
}

/// A StartupMessage: its version and its parameters, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Startup<'a> {
    /// What the client wants to speak.
    pub version: Version,
    /// As they came.
    pub parameters: Vec<Parameter<'a>>,
}

/// A start-up parameter: name and value.
pub type Parameter<'a> = (&'a [u8], &'a [u8]);

/// Length that the packet at the front of `bytes` says it has; `None` while its four bytes are not there. A length
/// outside of what a server accepts is malformed.
pub fn packet_bytes(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    let Some(length) = bytes.first_chunk::<4>() else { return Ok(None) };
    match usize::try_from(i32::from_be_bytes(*length)) {
        Ok(length) if (8..=STARTUP_BYTES_MAX).contains(&length) => Ok(Some(length)),
        _ => Err(Malformed { what: "start-up packet length" }),
    }
}

/// Reads one whole first packet. Requests are legal only at their exact length.
pub fn parse(packet: &[u8]) -> Result<First<'_>, Malformed> {
    let mut reader = Reader::new(packet, "start-up packet");
    reader.i32()?;
    match reader.u32()? {
        SSL_REQUEST => reader.end().map(|()| First::Ssl),
        GSSENC_REQUEST => reader.end().map(|()| First::GssEnc),
        CANCEL_REQUEST => {
            let process_id = reader.u32()?;
            match reader.rest() {
                secret if (4..=CANCEL_KEY_BYTES_MAX).contains(&secret.len()) => {
                    Ok(First::Cancel { process_id, secret })
                }
                _ => Err(Malformed { what: "CancelRequest" }),
            }
        }
        version => {
            let [a, b, c, d] = version.to_be_bytes();
            let version = Version { major: u16::from_be_bytes([a, b]), minor: u16::from_be_bytes([c, d]) };
            Ok(First::Startup(Startup { version, parameters: parameters(reader)? }))
        }
    }
}

fn parameters(mut reader: Reader<'_>) -> Result<Vec<Parameter<'_>>, Malformed> {
    let mut parameters = Vec::new();
    loop {
        let name = reader.string()?;
        if name.is_empty() {
            reader.end()?;
            return Ok(parameters);
        }
        parameters.push((name, reader.string()?));
    }
}

/// Writes an SSLRequest.
pub fn write_ssl_request(out: &mut Vec<u8>) {
    write::untyped(out, |body| {
        body.u32(SSL_REQUEST);
    });
}

/// Writes a CancelRequest.
pub fn write_cancel_request(out: &mut Vec<u8>, process_id: u32, secret: &[u8]) {
    write::untyped(out, |body| {
        body.u32(CANCEL_REQUEST).u32(process_id).bytes(secret);
    });
}

/// Writes a StartupMessage.
pub fn write_startup(out: &mut Vec<u8>, version: Version, parameters: &[Parameter<'_>]) {
    write::untyped(out, |body| {
        body.bytes(&version.major.to_be_bytes()).bytes(&version.minor.to_be_bytes());
        for (name, value) in parameters {
            body.string(name).string(value);
        }
        body.u8(0);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(code: u32, rest: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        write::untyped(&mut out, |body| {
            body.u32(code).bytes(rest);
        });
        out
    }

    #[test]
    fn requests_are_legal_only_at_their_exact_length() {
        assert_eq!(parse(&packet(SSL_REQUEST, b"")), Ok(First::Ssl));
        assert_eq!(parse(&packet(GSSENC_REQUEST, b"")), Ok(First::GssEnc));
        assert!(parse(&packet(SSL_REQUEST, b"\0")).is_err());
        assert!(parse(&packet(GSSENC_REQUEST, b"padding")).is_err());
        assert!(parse(&packet(CANCEL_REQUEST, &[0; 7])).is_err());
        assert!(parse(&packet(CANCEL_REQUEST, &[0; 4 + 257])).is_err());
        let cancel = packet(CANCEL_REQUEST, &[0, 0, 0, 9, 1, 2, 3, 4]);
        assert_eq!(parse(&cancel), Ok(First::Cancel { process_id: 9, secret: &[1, 2, 3, 4] }));
    }

    #[test]
    fn startup_round_trips_and_every_prefix_is_malformed() {
        let mut out = Vec::new();
        let version = Version { major: 3, minor: 2 };
        write_startup(&mut out, version, &[(b"user", b"u"), (b"database", b"")]);
        let First::Startup(startup) = parse(&out).unwrap() else { panic!("not a start-up") };
        assert_eq!(startup.version, version);
        assert_eq!(startup.parameters, vec![(&b"user"[..], &b"u"[..]), (b"database", b"")]);
        for cut in 0..out.len() {
            assert!(parse(&out[..cut]).is_err(), "{cut}");
        }
        out.push(0);
        assert!(parse(&out).is_err(), "bytes behind the last zero");
    }

    #[test]
    fn lengths_outside_the_servers_own_limits_are_malformed() {
        for length in [i32::MIN, -1, 0, 4, 7, 10_001, i32::MAX] {
            assert!(packet_bytes(&length.to_be_bytes()).is_err(), "{length}");
        }
        assert_eq!(packet_bytes(&8_i32.to_be_bytes()), Ok(Some(8)));
        assert_eq!(packet_bytes(&[0, 0, 0]), Ok(None));
    }
}
