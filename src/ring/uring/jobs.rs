//! Writes and syncs of files under way.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use super::kernel::Kernel;
use super::token::{Kind, Token};
use crate::files::Files;
use crate::{Event, FileId};

/// Longest single write handed to the kernel; what is longer goes in several.
const WRITE_BYTES_MAX: usize = 1 << 30;

#[derive(Debug, Default)]
pub(super) struct Jobs {
    files: Files<OwnedFd>,
    jobs: Vec<Job>,
    free: Vec<u32>,
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
    /// The bytes from `start` on belong at `offset`; those before `done` are written.
    Write {
        buf: Vec<u8>,
        start: usize,
        offset: u64,
        done: usize,
    },
    Sync,
}

impl Jobs {
    pub(super) fn open(&mut self, fd: OwnedFd) -> FileId {
        self.files.open(fd)
    }

    pub(super) fn close(&mut self, id: FileId) {
        self.files.close(id);
    }

    /// Open files.
    pub(super) fn files(&self) -> usize {
        self.files.len()
    }

    pub(super) fn write(
        &mut self,
        kernel: &mut Kernel,
        id: FileId,
        offset: u64,
        buf: Vec<u8>,
        start: usize,
        token: u64,
    ) -> Option<Event> {
        if start >= buf.len() {
            return Some(Event::Written { token, result: Ok(()), buf });
        }
        match self.files.begin(id) {
            Ok(file) => self.begin(kernel, file, token, Work::Write { buf, start, offset, done: start }),
            Err(error) => return Some(Event::Written { token, result: Err(error), buf }),
        }
        None
    }

    pub(super) fn sync(&mut self, kernel: &mut Kernel, id: FileId, token: u64) -> Option<Event> {
        match self.files.begin(id) {
            Ok(file) => self.begin(kernel, file, token, Work::Sync),
            Err(error) => return Some(Event::Synced { token, result: Err(error) }),
        }
        None
    }

    fn begin(&mut self, kernel: &mut Kernel, file: u32, token: u64, work: Work) {
        let at = self.free.pop().unwrap_or_else(|| {
            self.jobs.push(Job { generation: 0, file, token, work: Work::None });
            u32::try_from(self.jobs.len() - 1).unwrap_or(u32::MAX)
        });
        if let Some(job) = job_mut(&mut self.jobs, at) {
            job.file = file;
            job.token = token;
            job.work = work;
        }
        self.submit(kernel, at);
    }

    /// Hands the job, or what is left of it, to the kernel.
    fn submit(&mut self, kernel: &mut Kernel, at: u32) {
        let Some(job) = job_mut(&mut self.jobs, at) else { return };
        let Some(fd) = self.files.get(job.file).map(AsRawFd::as_raw_fd) else { return };
        match &job.work {
            Work::None => {}
            Work::Sync => kernel.sync(fd, Token::new(Kind::Sync, at, job.generation)),
            Work::Write { buf, start, offset, done } => {
                let rest = buf.get(*done..).unwrap_or_default();
                let len = u32::try_from(rest.len().min(WRITE_BYTES_MAX)).unwrap_or(0);
                let offset = offset + u64::try_from(*done - *start).unwrap_or(0);
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
        let token = job.token;
        let work = std::mem::replace(&mut job.work, Work::None);
        self.files.end(job.file);
        self.free.push(at);
        match work {
            Work::None => None,
            Work::Write { buf, .. } => Some(Event::Written { token, result, buf }),
            Work::Sync => Some(Event::Synced { token, result }),
        }
    }
}

fn job_mut(jobs: &mut [Job], at: u32) -> Option<&mut Job> {
    jobs.get_mut(usize::try_from(at).ok()?)
}
