//! PostgreSQL's wire protocol as a client needs it: requests as bytes that are made once, answers as frames over
//! borrowed bytes.

use std::io;

/// The answer to it is one byte: `S` or `N`.
pub const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
const VERSION: [u8; 4] = [0, 3, 0, 0];
const CANCEL_CODE: [u8; 4] = [0x04, 0xd2, 0x16, 0x2e];
/// No message of the tools is longer; a longer one is taken for nonsense.
const MESSAGE_BYTES_MAX: u32 = 64 << 20;

/// A message of the server's, over the bytes it came in.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Its type.
    pub kind: u8,
    /// What follows the length.
    pub body: &'a [u8],
}

impl Frame<'_> {
    /// Bytes of it all on the wire.
    pub fn wire_len(&self) -> usize {
        self.body.len() + 5
    }
}

/// The first message of a buffer, once it is whole.
pub fn frame(buf: &[u8]) -> io::Result<Option<Frame<'_>>> {
    let Some(([kind, length @ ..], rest)) = buf.split_first_chunk::<5>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length);
    if !(4..=MESSAGE_BYTES_MAX).contains(&length) {
        return Err(io::Error::other(format!("what answers is not PostgreSQL: a message of {length} bytes")));
    }
    let body = usize::try_from(length - 4).ok().and_then(|length| rest.get(..length));
    Ok(body.map(|body| Frame { kind: *kind, body }))
}

/// One message.
pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind][..], &length(body.len() + 4), body].concat()
}

/// StartupMessage, with its parameters.
pub fn startup(parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = VERSION.to_vec();
    for (key, value) in parameters {
        body.extend([key.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat());
    }
    body.push(0);
    [&length(body.len() + 4)[..], &body].concat()
}

/// CancelRequest, with a key as BackendKeyData gave it.
pub fn cancel(key: &[u8]) -> Vec<u8> {
    [&length(key.len() + 8)[..], &CANCEL_CODE, key].concat()
}

/// SASLInitialResponse, with SCRAM's client-first-message.
pub fn sasl_initial(first: &str) -> Vec<u8> {
    message(b'p', &[b"SCRAM-SHA-256\0", &length(first.len())[..], first.as_bytes()].concat())
}

/// SASLResponse, with SCRAM's client-final-message.
pub fn sasl_response(last: &str) -> Vec<u8> {
    message(b'p', last.as_bytes())
}

/// Query.
pub fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &[sql.as_bytes(), b"\0"].concat())
}

/// Parse, with types left to the server.
pub fn parse(name: &str, sql: &str) -> Vec<u8> {
    message(b'P', &[name.as_bytes(), b"\0", sql.as_bytes(), b"\0\0\0"].concat())
}

/// Bind of the unnamed portal: one parameter, all in text.
pub fn bind(name: &str, parameter: &str) -> Vec<u8> {
    let head = [b"\0", name.as_bytes(), b"\0", b"\0\0", b"\0\x01"].concat();
    message(b'B', &[&head, &length(parameter.len())[..], parameter.as_bytes(), b"\0\0"].concat())
}

/// Describe and Execute of the unnamed portal.
pub fn execute() -> Vec<u8> {
    [message(b'D', b"P\0"), message(b'E', b"\0\0\0\0\0")].concat()
}

/// Sync.
pub fn sync() -> Vec<u8> {
    message(b'S', b"")
}

/// Terminate.
pub fn terminate() -> Vec<u8> {
    message(b'X', b"")
}

/// CopyData for each chunk, then CopyDone.
pub fn copy<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut bytes: Vec<u8> = chunks.into_iter().flat_map(|chunk| message(b'd', chunk)).collect();
    bytes.extend(message(b'c', b""));
    bytes
}

/// The body of a DataRow of these cells.
pub fn row(cells: &[&[u8]]) -> Vec<u8> {
    let count = u16::try_from(cells.len()).unwrap_or(u16::MAX);
    let cells = cells.iter().flat_map(|cell| [&length(cell.len())[..], cell].concat());
    count.to_be_bytes().into_iter().chain(cells).collect()
}

/// The cells of a DataRow; NULL is `None`. It ends early where the message does.
pub fn cells(body: &[u8]) -> impl Iterator<Item = Option<&[u8]>> {
    let mut rest = body.get(2..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (length, behind) = rest.split_first_chunk::<4>()?;
        let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
            rest = behind;
            return Some(None);
        };
        let (cell, behind) = behind.split_at_checked(length)?;
        rest = behind;
        Some(Some(cell))
    })
}

/// SQLSTATE and text of an ErrorResponse, as one line.
pub fn error_text(body: &[u8]) -> String {
    let fields = body.split(|byte| *byte == 0).filter_map(<[u8]>::split_first);
    let wanted = fields.filter(|(kind, _)| matches!(kind, b'C' | b'M' | b'D'));
    let texts: Vec<_> = wanted.map(|(_, text)| String::from_utf8_lossy(text)).collect();
    texts.join(": ")
}

fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_whole_or_not_there() {
        let bytes = [message(b'Z', b"I"), message(b'S', b"")].concat();
        for cut in 0..6 {
            assert_eq!(frame(&bytes[..cut]).unwrap(), None, "{cut}");
        }
        let first = frame(&bytes).unwrap().unwrap();
        assert_eq!((first.kind, first.body, first.wire_len()), (b'Z', &b"I"[..], 6));
        assert_eq!(frame(&bytes[first.wire_len()..]).unwrap().unwrap().wire_len(), 5);
    }

    #[test]
    fn nonsense_is_told_from_a_message() {
        frame(b"HTTP/1.1 400 Bad Request").unwrap_err();
        frame(b"Z\0\0\0\x03").unwrap_err();
    }

    #[test]
    fn cells_are_those_of_the_row() {
        let body = row(&[b"1", b"", b"xyz"]);
        assert_eq!(cells(&body).collect::<Vec<_>>(), [Some(&b"1"[..]), Some(b""), Some(b"xyz")]);
        assert_eq!(cells(b"\0\x01\xff\xff\xff\xff").collect::<Vec<_>>(), [None]);
        assert_eq!(cells(&body[..body.len() - 1]).count(), 2);
    }

    #[test]
    fn requests_are_what_the_protocol_says() {
        assert_eq!(startup(&[("user", "u")]), b"\0\0\0\x10\0\x03\0\0user\0u\0\0");
        assert_eq!(cancel(b"12345678"), b"\0\0\0\x10\x04\xd2\x16\x2e12345678");
        assert_eq!(sasl_initial("n,,"), b"p\0\0\0\x19SCRAM-SHA-256\0\0\0\0\x03n,,");
        assert_eq!(query("x"), b"Q\0\0\0\x06x\0");
        assert_eq!(parse("s", "x"), b"P\0\0\0\x0as\0x\0\0\0");
        assert_eq!(bind("s", "42"), b"B\0\0\0\x13\0s\0\0\0\0\x01\0\0\0\x0242\0\0");
        assert_eq!(sync(), b"S\0\0\0\x04");
        assert_eq!(copy([&b"a\n"[..]]), b"d\0\0\0\x06a\nc\0\0\0\x04");
        assert_eq!(error_text(b"SERROR\0C42501\0Mno\0\0"), "42501: no");
    }
}
