//! Page-aligned memory that the kernel shares with us.

use std::io;
use std::ptr::NonNull;

/// An anonymous mapping, zeroed; unmapped when dropped.
#[derive(Debug)]
pub(crate) struct Map {
    base: NonNull<u8>,
    bytes: usize,
    leaked: bool,
}

impl Map {
    pub(crate) fn new(bytes: usize) -> io::Result<Map> {
        // SAFETY: asks for a new mapping wherever the kernel likes; no existing memory is touched.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        match NonNull::new(base.cast()) {
            Some(base) => Ok(Map { base, bytes, leaked: false }),
            None => Err(io::Error::from_raw_os_error(libc::ENOMEM)),
        }
    }

    /// Never unmaps it.
    pub(crate) fn leak(&mut self) {
        self.leaked = true;
    }

    /// The address `offset` bytes in, if `bytes` from there on lie inside.
    pub(crate) fn at(&self, offset: usize, bytes: usize) -> Option<NonNull<u8>> {
        let end = offset.checked_add(bytes)?;
        if end > self.bytes {
            return None;
        }
        // SAFETY: offset ≤ the mapping's length, checked above.
        Some(unsafe { self.base.add(offset) })
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        if self.leaked {
            return;
        }
        // SAFETY: base and length are those of our own mapping, and its owner drops it only when the kernel has
        // nothing in flight that points into it (else it is leaked, see `Ring`'s drop).
        let _ = unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}
