//! A buffer whose contents begin at a page of memory, so that they can be written past the page cache.

use crate::layout::{BLOCK_BYTES_MAX, PAGE_BYTES};

/// Up to here a buffer grows by doubling.
const SMALL_BYTES: usize = 64 << 10;

/// Bytes that begin at a multiple of [`PAGE_BYTES`]. A `Vec` can promise no address, so what stands before the first page
/// is left unused.
#[derive(Default)]
pub(crate) struct PagedBuf {
    buf: Vec<u8>,
    start: usize,
}

impl PagedBuf {
    /// Empty, in the memory of `spare`.
    pub(crate) fn new(mut spare: Vec<u8>) -> PagedBuf {
        spare.clear();
        PagedBuf { buf: spare, start: 0 }
    }

    /// What [`PagedBuf::into_parts`] gave.
    pub(crate) fn again(buf: Vec<u8>, start: usize) -> PagedBuf {
        PagedBuf { buf, start }
    }

    pub(crate) fn len(&self) -> usize {
        self.buf.len().saturating_sub(self.start)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.buf.get(self.start..).unwrap_or_default()
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        self.buf.get_mut(self.start..).unwrap_or_default()
    }

    /// What appends; [`PagedBuf::reserve`] comes first, or the contents may move off their page.
    #[inline]
    pub(crate) fn vec(&mut self) -> &mut Vec<u8> {
        &mut self.buf
    }

    #[inline]
    pub(crate) fn reserve(&mut self, more: usize) {
        if self.buf.is_empty() || self.buf.capacity() - self.buf.len() < more {
            self.grow(more);
        }
    }

    /// Fills up with zeros; gives what [`PagedBuf::again`] takes: the bytes from the index on.
    pub(crate) fn into_parts(mut self, len: usize) -> (Vec<u8>, usize) {
        self.reserve(len.saturating_sub(self.len()));
        self.buf.resize(self.start + len, 0);
        (self.buf, self.start)
    }

    pub(crate) fn truncate(&mut self, len: usize) {
        self.buf.truncate(self.start + len);
    }

    #[cold]
    fn grow(&mut self, more: usize) {
        let len = self.len() + more;
        // Once it is large it is as large as any: growing means to copy, and untouched memory costs nothing.
        let room =
            PAGE_BYTES + if len <= SMALL_BYTES { len.max(2 * self.len()) } else { len.max(BLOCK_BYTES_MAX) };
        let mut buf = if self.buf.is_empty() { std::mem::take(&mut self.buf) } else { Vec::new() };
        buf.reserve(room);
        let start = buf.as_ptr().addr().wrapping_neg() % PAGE_BYTES;
        buf.resize(start, 0);
        buf.extend_from_slice(self.bytes());
        *self = PagedBuf { buf, start };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_stay_and_begin_at_a_page_however_they_grow() {
        let mut paged = PagedBuf::default();
        let mut expected = Vec::new();
        for round in 0..200_u32 {
            let more = vec![u8::try_from(round).unwrap(); usize::try_from(round * round % 3001).unwrap()];
            paged.reserve(more.len());
            paged.vec().extend_from_slice(&more);
            expected.extend_from_slice(&more);
            assert_eq!(paged.bytes(), expected);
            assert_eq!(paged.bytes().as_ptr().addr() % PAGE_BYTES, 0);
        }
        let len = paged.len();
        let (buf, start) = paged.into_parts(len + 5000);
        assert_eq!(buf[start..], [expected.clone(), vec![0; 5000]].concat());
        assert_eq!(buf[start..].as_ptr().addr() % PAGE_BYTES, 0);
        let mut again = PagedBuf::again(buf, start);
        again.truncate(len);
        assert_eq!(again.bytes(), expected);
        let spare = PagedBuf::new(again.into_parts(len).0);
        assert_eq!(spare.len(), 0);
    }
}
