//! Framing: a type byte, an Int32 length that counts itself, a body.

use super::Malformed;

/// Bytes of a message header: type and length.
pub const HEADER_BYTES: usize = 5;

/// What a message's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The type byte.
    pub kind: u8,
    /// Bytes of the body that follows the header.
    pub body_bytes: usize,
}

impl Header {
    /// Bytes of the whole message.
    pub fn message_bytes(self) -> usize {
        self.body_bytes.saturating_add(HEADER_BYTES)
    }
}

/// The header at the front of `bytes`; `None` while there is not enough of it. Every body length that an Int32 can
/// say is accepted here: limits are their user's.
pub fn header(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let Some(&[kind, a, b, c, d]) = bytes.first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let length = i32::from_be_bytes([a, b, c, d]);
    match length.checked_sub(4).map(usize::try_from) {
        Some(Ok(body_bytes)) => Ok(Some(Header { kind, body_bytes })),
        _ => Err(Malformed { what: "message length" }),
    }
}

/// One whole message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// The type byte.
    pub kind: u8,
    /// What follows the header.
    pub body: &'a [u8],
    /// The bytes behind the message.
    pub behind: &'a [u8],
}

/// Splits the first whole message off `bytes`; `None` while it is not whole.
pub fn split(bytes: &[u8]) -> Result<Option<Message<'_>>, Malformed> {
    let Some(header) = header(bytes)? else { return Ok(None) };
    let Some((message, behind)) = bytes.split_at_checked(header.message_bytes()) else { return Ok(None) };
    Ok(message.get(HEADER_BYTES..).map(|body| Message { kind: header.kind, body, behind }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_whole_or_not_there() {
        let message = [b'Q', 0, 0, 0, 6, b'x', 0];
        for cut in 0..HEADER_BYTES {
            assert_eq!(header(&message[..cut]), Ok(None));
        }
        assert_eq!(header(&message), Ok(Some(Header { kind: b'Q', body_bytes: 2 })));
        for cut in 0..message.len() {
            assert_eq!(split(&message[..cut]), Ok(None));
        }
        assert_eq!(split(&message).unwrap().unwrap().body, b"x\0");
    }

    #[test]
    fn lengths_that_do_not_count_themselves_are_malformed() {
        for length in [i32::MIN, -1, 0, 3] {
            let mut message = vec![b'Q'];
            message.extend_from_slice(&length.to_be_bytes());
            assert!(header(&message).is_err(), "{length}");
        }
        let mut message = vec![b'Q'];
        message.extend_from_slice(&i32::MAX.to_be_bytes());
        assert_eq!(header(&message).unwrap().unwrap().body_bytes, 0x7fff_fffb);
    }
}
