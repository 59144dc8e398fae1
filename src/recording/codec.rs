//! One writer and one reader for every byte of a recording; nobody else does arithmetic on a stored length.

use std::fmt;

/// Appends values to a buffer. Integers are little-endian, lengths are varints (LEB128, shortest form).
#[derive(Debug)]
pub(crate) struct Encoder<'a> {
    buf: &'a mut Vec<u8>,
}

impl<'a> Encoder<'a> {
    pub(crate) fn new(buf: &'a mut Vec<u8>) -> Encoder<'a> {
        Encoder { buf }
    }
    #[inline]
    pub(crate) fn u8(&mut self, value: u8) {
        self.buf.push(value);
    }
    #[inline]
    pub(crate) fn u16(&mut self, value: u16) {
        self.raw(&value.to_le_bytes());
    }
    #[inline]
    pub(crate) fn u32(&mut self, value: u32) {
        self.raw(&value.to_le_bytes());
    }
    #[inline]
    pub(crate) fn u64(&mut self, value: u64) {
        self.raw(&value.to_le_bytes());
    }
    #[inline]
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
    }
    #[inline]
    pub(crate) fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.buf.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.buf.push(value.to_le_bytes()[0]);
    }
    /// The step from `from` to `to`, modulo 2^64, as zigzag varint: small steps either way are short.
    #[inline]
    pub(crate) fn step(&mut self, from: u64, to: u64) {
        let step = to.wrapping_sub(from).cast_signed();
        self.varint(((step << 1) ^ (step >> 63)).cast_unsigned());
    }
    #[inline]
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.varint(bytes.len() as u64);
        self.raw(bytes);
    }
    #[inline]
    pub(crate) fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }
    pub(crate) fn count(&mut self, count: usize) {
        self.varint(count as u64);
    }
}

/// Overwrites bytes that stand already, for lengths and headers known only afterwards.
pub(crate) fn put_at(buf: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = buf.get_mut(at..).and_then(|rest| rest.get_mut(..bytes.len())) {
        place.copy_from_slice(bytes);
    }
}

/// Why bytes are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// The bytes end inside a value.
    Short,
    /// A varint is longer than it must be or does not fit in 64 bits.
    Varint,
    /// A text is not UTF-8.
    Text,
    /// A byte that names one of several cases names none.
    Case,
    /// Bytes are left over.
    Excess,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Malformed::Short => "it ends inside a value",
            Malformed::Varint => "a varint is not in its shortest form",
            Malformed::Text => "a text is not UTF-8",
            Malformed::Case => "an unknown case",
            Malformed::Excess => "bytes are left over",
        })
    }
}

impl std::error::Error for Malformed {}

/// Takes values from the front of a slice; never reads past it, never allocates.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Decoder<'a> {
    rest: &'a [u8],
}

impl<'a> Decoder<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Decoder<'a> {
        Decoder { rest: bytes }
    }
    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
    pub(crate) fn len(&self) -> usize {
        self.rest.len()
    }
    /// All that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }
    #[inline]
    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Malformed::Short)?;
        self.rest = rest;
        Ok(taken)
    }
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(Malformed::Short)?;
        self.rest = rest;
        Ok(*taken)
    }
    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        let [byte] = self.array()?;
        Ok(byte)
    }
    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array()?))
    }
    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }
    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }
    #[inline]
    pub(crate) fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(Malformed::Varint);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return if bits == 0 && shift > 0 { Err(Malformed::Varint) } else { Ok(value) };
            }
        }
        Err(Malformed::Varint)
    }
    pub(crate) fn step(&mut self, from: u64) -> Result<u64, Malformed> {
        let code = self.varint()?;
        let step = (code >> 1) ^ (code & 1).wrapping_neg();
        Ok(from.wrapping_add(step))
    }
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let len = usize::try_from(self.varint()?).map_err(|_| Malformed::Short)?;
        self.take(len)
    }
    pub(crate) fn text(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed::Text)
    }
    /// A number of elements, each of which takes at least `least` bytes: more than are left is malformed, so a
    /// count never makes anybody allocate more than a fixed multiple of what is there.
    pub(crate) fn count(&mut self, least: usize) -> Result<usize, Malformed> {
        let count = usize::try_from(self.varint()?).map_err(|_| Malformed::Short)?;
        if count > self.rest.len() / least.max(1) { Err(Malformed::Short) } else { Ok(count) }
    }
    pub(crate) fn finish(&self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed::Excess) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_round_trip_and_only_their_shortest_form_is_read() {
        for shift in 0..64 {
            for value in [1u64 << shift, (1u64 << shift) - 1, u64::MAX >> shift] {
                let mut buf = Vec::new();
                Encoder::new(&mut buf).varint(value);
                let mut decoder = Decoder::new(&buf);
                assert_eq!(decoder.varint(), Ok(value));
                assert_eq!(decoder.finish(), Ok(()));
            }
        }
        let check = |bytes: &[u8], expected| assert_eq!(Decoder::new(bytes).varint(), expected, "{bytes:?}");
        check(&[], Err(Malformed::Short));
        check(&[0x80], Err(Malformed::Short));
        check(&[0x80, 0x00], Err(Malformed::Varint));
        check(&[0xff; 9], Err(Malformed::Short));
        check(&[0xff; 10], Err(Malformed::Varint));
        check(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], Ok(u64::MAX));
        check(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02], Err(Malformed::Varint));
    }

    #[test]
    fn steps_go_both_ways_and_around() {
        for (from, to, len) in [(5, 5, 1), (5, 4, 1), (0, 63, 1), (0, 64, 2), (0, u64::MAX, 1), (9, 0, 1)] {
            let mut buf = Vec::new();
            Encoder::new(&mut buf).step(from, to);
            assert_eq!(buf.len(), len, "{from} to {to}");
            assert_eq!(Decoder::new(&buf).step(from), Ok(to));
        }
    }

    #[test]
    fn a_count_never_promises_more_than_is_there() {
        let mut buf = Vec::new();
        Encoder::new(&mut buf).varint(u64::MAX);
        assert_eq!(Decoder::new(&buf).count(1), Err(Malformed::Short));
        assert_eq!(Decoder::new(&[3, 0, 0]).count(1), Err(Malformed::Short));
        assert_eq!(Decoder::new(&[2, 0, 0]).count(1), Ok(2));
        assert_eq!(Decoder::new(&[2, 0, 0]).count(2), Err(Malformed::Short));
    }
}
