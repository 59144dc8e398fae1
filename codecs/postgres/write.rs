//! The one writer of messages: lengths are filled in when a message is done, so they can not be wrong.

/// Appends one message: type byte, length, what `body` writes.
pub fn message(out: &mut Vec<u8>, kind: u8, body: impl FnOnce(&mut Body<'_>)) {
    out.push(kind);
    untyped(out, body);
}

/// Appends one packet without a type byte (start-up packets and requests).
pub fn untyped(out: &mut Vec<u8>, body: impl FnOnce(&mut Body<'_>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    body(&mut Body { out });
    // What is written here is bounded far below 2 GiB by the limits on what it is made of.
    let length = i32::try_from(out.len().saturating_sub(start)).unwrap_or(i32::MAX);
    if let Some(slot) = out.get_mut(start..).and_then(|tail| tail.first_chunk_mut::<4>()) {
        *slot = length.to_be_bytes();
    }
}

/// A message body that is being written.
#[derive(Debug)]
pub struct Body<'a> {
    out: &'a mut Vec<u8>,
}

impl Body<'_> {
    /// One byte.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.out.push(value);
        self
    }
    /// Int16.
    pub fn i16(&mut self, value: i16) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }
    /// Int32.
    pub fn i32(&mut self, value: i32) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }
    /// Int32, unsigned.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }
    /// Bytes as they are.
    pub fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.out.extend_from_slice(value);
        self
    }
    /// A zero-terminated string; a zero inside would end it, so what follows one is left out.
    pub fn string(&mut self, value: &[u8]) -> &mut Self {
        let end = memchr::memchr(0, value).unwrap_or(value.len());
        self.bytes(value.get(..end).unwrap_or_default());
        self.u8(0)
    }
}
