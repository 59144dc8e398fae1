//! Files that are written at explicit offsets, and the writes and syncs under way.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use super::kernel::Kernel;
use super::token::{Kind, Token};
use crate::{Event, FileId};

/// Longest single write handed to the kernel; what is longer goes in several.
const WRITE_BYTES_MAX: usize = 1 << 30;

/// A file id holds a 16-bit place and a 16-bit generation.
const PLACE_BITS: u32 = 16;
const PLACE_MASK: u32 = (1 << PLACE_BITS) - 1;

#[derive(Debug, Default)]
pub(super) struct Files {
    files: Vec<File>,
    free_files: Vec<u32>,
    jobs: Vec<Job>,
    free_jobs: Vec<u32>,
}

#[derive(Debug)]
struct File {
    generation: u32,
    fd: Option<OwnedFd>,
    jobs: u32,
    closing: bool,
}

/// A write or a sync under way. The buffer is the kernel's to read until the completion.
#[derive(Debug)]
struct Job {
    generation: u32,
    file: u32,
    token: u64,
    work: Work,
}

#[derive(Debug)]
enum Work {
    None,
    Write { buf: Vec<u8>, offset: u64, done: usize },
    Sync,
}

impl Files {
    pub(super) fn open(&mut self, fd: OwnedFd) -> FileId {
        let place = self.free_files.pop().unwrap_or_else(|| {
            self.files.push(File { generation: 0, fd: None, jobs: 0, closing: false });
            u32::try_from(self.files.len() - 1).unwrap_or(u32::MAX)
        });
        let Some(file) = file_mut(&mut self.files, place).filter(|_| place < PLACE_MASK) else {
            // More files than descriptors can be open: an id that finds nothing, so that writes fail.
            return FileId(u32::MAX);
        };
        file.fd = Some(fd);
        file.closing = false;
        FileId((file.generation << PLACE_BITS) | place)
    }

    pub(super) fn close(&mut self, id: FileId) {
        let place = id.0 & PLACE_MASK;
        if let Some(file) = self.find(id) {
            file.closing = true;
            self.close_if_done(place);
        }
    }

    fn close_if_done(&mut self, place: u32) {
        if let Some(file) = file_mut(&mut self.files, place)
            && file.closing
            && file.jobs == 0
            && file.fd.take().is_some()
        {
            file.generation = (file.generation + 1) & PLACE_MASK;
            self.free_files.push(place);
        }
    }

    /// Open files.
    pub(super) fn len(&self) -> usize {
        self.files.len() - self.free_files.len()
    }

    pub(super) fn write(
        &mut self,
        kernel: &mut Kernel,
        id: FileId,
        offset: u64,
        buf: Vec<u8>,
        token: u64,
    ) -> Option<Event> {
        if buf.is_empty() {
            return Some(Event::Written { token, result: Ok(()), buf });
        }
        let Some(file) = self.find(id) else {
            return Some(Event::Written { token, result: Err(no_such_file()), buf });
        };
        file.jobs += 1;
        let job = self.begin(id.0 & PLACE_MASK, token, Work::Write { buf, offset, done: 0 });
        self.submit(kernel, job);
        None
    }

    pub(super) fn sync(&mut self, kernel: &mut Kernel, id: FileId, token: u64) -> Option<Event> {
        let Some(file) = self.find(id) else {
            return Some(Event::Synced { token, result: Err(no_such_file()) });
        };
        file.jobs += 1;
        let job = self.begin(id.0 & PLACE_MASK, token, Work::Sync);
        self.submit(kernel, job);
        None
    }

    fn begin(&mut self, file: u32, token: u64, work: Work) -> u32 {
        let at = self.free_jobs.pop().unwrap_or_else(|| {
            self.jobs.push(Job { generation: 0, file, token, work: Work::None });
            u32::try_from(self.jobs.len() - 1).unwrap_or(u32::MAX)
        });
        if let Some(job) = job_mut(&mut self.jobs, at) {
            job.file = file;
            job.token = token;
            job.work = work;
        }
        at
    }

    /// Hands the job, or what is left of it, to the kernel.
    fn submit(&mut self, kernel: &mut Kernel, at: u32) {
        let Some(job) = job_mut(&mut self.jobs, at) else { return };
        let Some(fd) = file_fd(&self.files, job.file) else { return };
        match &job.work {
            Work::None => {}
            Work::Sync => kernel.sync(fd, Token::new(Kind::Sync, at, job.generation)),
            Work::Write { buf, offset, done } => {
                let rest = buf.get(*done..).unwrap_or_default();
                let len = u32::try_from(rest.len().min(WRITE_BYTES_MAX)).unwrap_or(0);
                let offset = offset + u64::try_from(*done).unwrap_or(0);
                let token = Token::new(Kind::Write, at, job.generation);
                // SAFETY: the buffer stays in the job, untouched, until `complete` sees the completion; the heap
                // memory of a Vec does not move with it. A ring dropped before leaks the table if it must.
                unsafe { kernel.write(fd, rest.as_ptr(), len, offset, token) };
            }
        }
    }

    /// A completion for a job: the event it makes, if it is over.
    pub(super) fn complete(&mut self, kernel: &mut Kernel, token: Token, result: i32) -> Option<Event> {
        let job = job_mut(&mut self.jobs, token.index).filter(|job| job.generation == token.generation)?;
        if matches!(-result, libc::EINTR | libc::EAGAIN) {
            self.submit(kernel, token.index);
            return None;
        }
        let outcome = match &mut job.work {
            Work::None => return None,
            Work::Sync if result < 0 => Err(io::Error::from_raw_os_error(-result)),
            Work::Sync => Ok(()),
            Work::Write { .. } if result == 0 => Err(io::Error::from(io::ErrorKind::WriteZero)),
            Work::Write { buf, done, .. } => match usize::try_from(result) {
                Err(_) => Err(io::Error::from_raw_os_error(-result)),
                Ok(written) => {
                    *done += written;
                    if *done < buf.len() {
                        self.submit(kernel, token.index);
                        return None;
                    }
                    Ok(())
                }
            },
        };
        self.end(token.index, outcome)
    }

    fn end(&mut self, at: u32, result: io::Result<()>) -> Option<Event> {
        let job = job_mut(&mut self.jobs, at)?;
        job.generation = job.generation.wrapping_add(1);
        let (place, token) = (job.file, job.token);
        let work = std::mem::replace(&mut job.work, Work::None);
        self.free_jobs.push(at);
        if let Some(file) = file_mut(&mut self.files, place) {
            file.jobs -= 1;
        }
        self.close_if_done(place);
        match work {
            Work::None => None,
            Work::Write { buf, .. } => Some(Event::Written { token, result, buf }),
            Work::Sync => Some(Event::Synced { token, result }),
        }
    }

    fn find(&mut self, id: FileId) -> Option<&mut File> {
        let generation = id.0 >> PLACE_BITS;
        file_mut(&mut self.files, id.0 & PLACE_MASK)
            .filter(|file| file.fd.is_some() && !file.closing && file.generation == generation)
    }
}

fn file_fd(files: &[File], place: u32) -> Option<RawFd> {
    files.get(usize::try_from(place).ok()?)?.fd.as_ref().map(AsRawFd::as_raw_fd)
}

fn file_mut(files: &mut [File], place: u32) -> Option<&mut File> {
    files.get_mut(usize::try_from(place).ok()?)
}

fn job_mut(jobs: &mut [Job], at: u32) -> Option<&mut Job> {
    jobs.get_mut(usize::try_from(at).ok()?)
}

fn no_such_file() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the file id names no open file")
}
