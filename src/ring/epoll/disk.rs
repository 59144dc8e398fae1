//! Writes and syncs of files: readiness says nothing about a disk, so one helper thread waits for it.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::files::Files;
use crate::{Event, FileId, Waker, system};

/// Jobs that the thread has and has not answered. What comes beyond waits here: the thread does one at a time anyway.
const HANDED_MAX: usize = 64;

/// The files, and the thread that writes them, in the order in which it was asked.
#[derive(Debug)]
pub(super) struct Disk {
    files: Files<Arc<File>>,
    waiting: VecDeque<Job>,
    handed: usize,
    /// `None` when the disk is being dropped.
    jobs: Option<SyncSender<Job>>,
    done: Receiver<Done>,
    bell: Waker,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Job {
    place: u32,
    file: Arc<File>,
    token: u64,
    work: Work,
}

#[derive(Debug)]
enum Work {
    Write { offset: u64, buf: Vec<u8>, start: usize },
    Sync,
}

#[derive(Debug)]
struct Done {
    place: u32,
    event: Event,
}

impl Disk {
    /// # Errors
    /// When the thread cannot be had.
    pub(super) fn new() -> io::Result<Disk> {
        let (jobs, todo) = sync_channel::<Job>(HANDED_MAX);
        // As long as the other: the thread never waits for its driver.
        let (results, done) = sync_channel(HANDED_MAX);
        let bell = Waker::new()?;
        let waker = bell.clone();
        let thread = thread::Builder::new().name(String::from("disk")).spawn(move || {
            // It inherits the driver's core, where it would be in the way; any other will do.
            let _ = system::unpin_current_thread();
            while let Ok(job) = todo.recv() {
                if results.send(job.carry_out()).is_err() {
                    return;
                }
                waker.wake();
            }
        })?;
        Ok(Disk {
            files: Files::default(),
            waiting: VecDeque::new(),
            handed: 0,
            jobs: Some(jobs),
            done,
            bell,
            thread: Some(thread),
        })
    }

    /// What tells that results are there.
    pub(super) fn bell(&self) -> &Waker {
        &self.bell
    }

    pub(super) fn open(&mut self, fd: OwnedFd) -> FileId {
        self.files.open(Arc::new(File::from(fd)))
    }

    pub(super) fn close(&mut self, id: FileId) {
        self.files.close(id);
    }

    /// Open files.
    pub(super) fn files(&self) -> usize {
        self.files.len()
    }

    /// Jobs that are not done.
    pub(super) fn in_flight(&self) -> usize {
        self.waiting.len() + self.handed
    }

    pub(super) fn write(
        &mut self,
        id: FileId,
        offset: u64,
        buf: Vec<u8>,
        start: usize,
        token: u64,
    ) -> Option<Event> {
        if start >= buf.len() {
            return Some(Event::Written { token, result: Ok(()), buf });
        }
        match self.begin(id) {
            Ok((place, file)) => {
                self.hand(Job { place, file, token, work: Work::Write { offset, buf, start } })
            }
            Err(error) => return Some(Event::Written { token, result: Err(error), buf }),
        }
        None
    }

    pub(super) fn sync(&mut self, id: FileId, token: u64) -> Option<Event> {
        match self.begin(id) {
            Ok((place, file)) => self.hand(Job { place, file, token, work: Work::Sync }),
            Err(error) => return Some(Event::Synced { token, result: Err(error) }),
        }
        None
    }

    fn begin(&mut self, id: FileId) -> io::Result<(u32, Arc<File>)> {
        let place = self.files.begin(id)?;
        let file = self.files.get(place).ok_or(io::ErrorKind::NotFound)?;
        Ok((place, Arc::clone(file)))
    }

    fn hand(&mut self, job: Job) {
        self.waiting.push_back(job);
        self.hand_on();
    }

    /// Gives the thread what it has room for.
    fn hand_on(&mut self) {
        while self.handed < HANDED_MAX
            && let Some(jobs) = &self.jobs
            && let Some(job) = self.waiting.pop_front()
        {
            match jobs.try_send(job) {
                Ok(()) => self.handed += 1,
                Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => {
                    self.waiting.push_front(job);
                    return;
                }
            }
        }
    }

    /// Takes the results that are there.
    pub(super) fn collect(&mut self, events: &mut Vec<Event>) {
        while let Ok(Done { place, event }) = self.done.try_recv() {
            self.handed = self.handed.saturating_sub(1);
            self.files.end(place);
            events.push(event);
        }
        self.hand_on();
    }

    /// Ends the thread when it has done what it has; one that a disk keeps beyond `patience` is left to itself, with
    /// the buffers and files that it owns.
    pub(super) fn end(&mut self, patience: Duration) {
        self.waiting.clear();
        self.jobs = None;
        let until = Instant::now() + patience;
        loop {
            match self.done.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => return,
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        if let Some(thread) = self.thread.take() {
            // It has left its loop; that it panicked is nothing that could be told to anybody here.
            let _ = thread.join();
        }
    }
}

impl Job {
    fn carry_out(self) -> Done {
        let Job { place, file, token, work } = self;
        let event = match work {
            Work::Write { offset, buf, start } => {
                let bytes = buf.get(start..).unwrap_or_default();
                Event::Written { token, result: file.write_all_at(bytes, offset), buf }
            }
            Work::Sync => Event::Synced { token, result: file.sync_data() },
        };
        Done { place, event }
    }
}
