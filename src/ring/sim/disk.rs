//! Files in memory: writes that take their time, come in parts, fail, and are torn when everything ends at once.

use std::io;
use std::os::fd::OwnedFd;

use super::random::Random;
use crate::FileId;

/// What a machine that loses power may keep or lose of a write, in bytes.
const SECTOR_BYTES: usize = 512;

/// All files that were ever opened, in that order.
#[derive(Default)]
pub struct Disk {
    files: Vec<Sheet>,
    acknowledged: Vec<u8>,
}

/// One file.
struct Sheet {
    /// Kept until it is closed: it has a size that the owner may ask for.
    fd: Option<OwnedFd>,
    closing: bool,
    jobs: usize,
    image: Vec<u8>,
}

/// A write or a sync under way.
pub(super) struct Job {
    pub(super) file: usize,
    pub(super) token: u64,
    pub(super) work: Work,
}

pub(super) enum Work {
    Write { offset: u64, buf: Vec<u8>, start: usize, done: usize, fails_at: Option<usize> },
    Sync { fails: bool },
}

impl Disk {
    /// What each file holds, in the order in which they were opened; behind it are zeros.
    pub fn images(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.files.iter().map(|sheet| sheet.image.as_slice())
    }

    /// Every buffer whose write was reported as done, one behind the other.
    pub fn acknowledged(&self) -> &[u8] {
        &self.acknowledged
    }

    pub(super) fn open_files(&self) -> usize {
        self.files.iter().filter(|sheet| sheet.fd.is_some()).count()
    }

    pub(super) fn open(&mut self, fd: OwnedFd) -> FileId {
        self.files.push(Sheet { fd: Some(fd), closing: false, jobs: 0, image: Vec::new() });
        FileId(u32::try_from(self.files.len() - 1).unwrap_or(u32::MAX))
    }

    /// The file, if it takes work.
    pub(super) fn find(&mut self, id: FileId) -> Option<usize> {
        let at = usize::try_from(id.0).ok()?;
        self.files.get(at).is_some_and(|sheet| sheet.fd.is_some() && !sheet.closing).then_some(at)
    }

    pub(super) fn close(&mut self, id: FileId) {
        if let Some(sheet) = self.find(id).and_then(|at| self.files.get_mut(at)) {
            sheet.closing = true;
            sheet.settle();
        }
    }

    pub(super) fn job_begins(&mut self, file: usize) {
        if let Some(sheet) = self.files.get_mut(file) {
            sheet.jobs += 1;
        }
    }

    pub(super) fn job_ends(&mut self, file: usize) {
        if let Some(sheet) = self.files.get_mut(file) {
            sheet.jobs -= 1;
            sheet.settle();
        }
    }

    pub(super) fn put(&mut self, file: usize, offset: u64, bytes: &[u8]) {
        let (Some(sheet), Ok(start)) = (self.files.get_mut(file), usize::try_from(offset)) else { return };
        let end = start + bytes.len();
        if sheet.image.len() < end {
            sheet.image.resize(end, 0);
        }
        if let Some(to) = sheet.image.get_mut(start..end) {
            to.copy_from_slice(bytes);
        }
    }

    pub(super) fn acknowledge(&mut self, buf: &[u8]) {
        self.acknowledged.extend_from_slice(buf);
    }

    /// The machine stops: of a write under way any sectors may be there.
    pub(super) fn tear(&mut self, job: &Job, random: &mut Random) {
        let Work::Write { offset, buf, start, done, .. } = &job.work else { return };
        let rest = buf.get(*start + *done..).unwrap_or_default();
        let mut at = offset + u64::try_from(*done).unwrap_or(0);
        let keep = random.length(0, 1000);
        for sector in rest.chunks(SECTOR_BYTES) {
            if random.length(0, 999) < keep {
                let part = random.length(0, sector.len());
                let len = if random.chance(100) { part } else { sector.len() };
                self.put(job.file, at, sector.get(..len).unwrap_or_default());
            }
            at += u64::try_from(sector.len()).unwrap_or(0);
        }
    }
}

impl Sheet {
    fn settle(&mut self) {
        if self.closing && self.jobs == 0 {
            self.fd = None;
        }
    }
}

pub(super) fn no_such_file() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the file id names no open file")
}
