//! The one reader of a peer's bytes: every step is checked, nothing else does arithmetic on a peer's lengths.

use super::Malformed;

/// A cursor over one message body.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    /// Reads `bytes`; errors will name `what`.
    pub fn new(bytes: &'a [u8], what: &'static str) -> Reader<'a> {
        Reader { rest: bytes, what }
    }

    /// The error of this message.
    pub fn malformed(&self) -> Malformed {
        Malformed { what: self.what }
    }

    /// The next `count` bytes.
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self.rest.split_at_checked(count).ok_or(Malformed { what: self.what })?;
        self.rest = tail;
        Ok(head)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        let (&byte, tail) = self.rest.split_first().ok_or(Malformed { what: self.what })?;
        self.rest = tail;
        Ok(byte)
    }

    /// Int16.
    pub fn i16(&mut self) -> Result<i16, Malformed> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    /// Int32.
    pub fn i32(&mut self) -> Result<i32, Malformed> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    /// Int32 that is unsigned (an OID, a process id).
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    /// An Int16 that counts what follows. The documentation calls it signed; the server reads and writes it unsigned,
    /// so that a statement may have 65,535 parameters, and clients make use of it.
    pub fn count(&mut self) -> Result<usize, Malformed> {
        Ok(usize::from(u16::from_be_bytes(self.array()?)))
    }

    /// A zero-terminated string, without its zero.
    pub fn string(&mut self) -> Result<&'a [u8], Malformed> {
        let end = memchr::memchr(0, self.rest).ok_or(Malformed { what: self.what })?;
        let text = self.bytes(end)?;
        self.u8()?;
        Ok(text)
    }

    /// A value preceded by its Int32 length; −1 is NULL.
    pub fn value(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        match self.i32()? {
            -1 => Ok(None),
            length => {
                let length = usize::try_from(length).map_err(|_| self.malformed())?;
                self.bytes(length).map(Some)
            }
        }
    }

    /// What has not been read.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Nothing may be left.
    pub fn end(self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.malformed()) }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, tail) = self.rest.split_first_chunk::<N>().ok_or(Malformed { what: self.what })?;
        self.rest = tail;
        Ok(*head)
    }
}
