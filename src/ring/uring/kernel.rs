//! The two queues: operations go in, completions come out, and what the kernel may still touch is counted.

use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use io_uring::types::{CancelBuilder, Fd, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};

use super::spin::Spin;
use super::token::{Kind, Token};
use crate::outgoing::GATHER_MAX;
use crate::system::SocketAddress;

/// Vectors that can be in use between two submissions: one fewer left than a gather may need makes a submission.
const VECTORS: usize = 8 * GATHER_MAX;

/// Pauses of the processor between two looks: some hundred nanoseconds.
const LOOK_PAUSES: u32 = 8;

/// Most completions handled between two looks at the queue.
pub(super) const BATCH: usize = 64;

/// Most frames in use between two submissions; one more use makes a submission.
const FRAMES_MAX: u32 = 128;

/// What a gather send or a dial points to while it waits for submission: the kernel copies it when it takes the
/// operation (IORING_FEAT_SUBMIT_STABLE), so it is free again as soon as the submission queue is empty.
#[derive(Clone, Copy)]
struct Frame {
    header: libc::msghdr,
    address: SocketAddress,
}

pub(super) struct Kernel {
    ring: IoUring,
    /// Operations that found the submission queue full and the kernel unwilling to take it; almost always empty.
    backlog: VecDeque<squeue::Entry>,
    frames: Box<[Frame]>,
    frames_used: usize,
    /// What the frames' headers point to.
    vectors: Box<[libc::iovec]>,
    vectors_used: usize,
    in_flight: usize,
    enter_flags: EnterFlags,
    spin: Spin,
    /// Completions since the last wait.
    reaped: usize,
    sleeps: u64,
}

impl Kernel {
    pub(super) fn new(ring: IoUring, spin: Duration) -> Kernel {
        let frames = ring.params().sq_entries().min(FRAMES_MAX);
        let no_vector = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        let mut enter_flags = EnterFlags::GETEVENTS;
        if ring.params().is_feature_no_iowait() {
            enter_flags |= EnterFlags::NO_IOWAIT;
        }
        Kernel {
            ring,
            backlog: VecDeque::new(),
            frames: (0..frames).map(|_| Frame::new()).collect(),
            frames_used: 0,
            vectors: vec![no_vector; VECTORS].into(),
            vectors_used: 0,
            in_flight: 0,
            enter_flags,
            spin: Spin::new(spin),
            reaped: 0,
            sleeps: 0,
        }
    }

    /// Waits in which the kernel put this thread to sleep, or would have.
    pub(super) fn sleeps(&self) -> u64 {
        self.sleeps
    }

    pub(super) fn submitter(&self) -> io_uring::Submitter<'_> {
        self.ring.submitter()
    }

    pub(super) fn bundles(&self) -> bool {
        self.ring.params().is_feature_recvsend_bundle()
    }

    /// Operations that have not ended, cancels left out.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Queues an operation.
    ///
    /// # Safety
    /// Memory that the operation points to stays valid, and is not written to by us if the kernel reads it, until
    /// its last completion has been reaped (until submission, for what is in a [`Frame`]).
    unsafe fn push(&mut self, entry: squeue::Entry, token: Token) {
        let entry = entry.user_data(token.pack());
        if !token.kind.is_cancel() {
            self.in_flight += 1;
        }
        if self.backlog.is_empty() && self.ring.submission().is_full() {
            // What the kernel does not take now it takes later; an error shows itself in the next turn.
            let _ = self.submit();
        }
        if self.backlog.is_empty() {
            // SAFETY: passed on to the caller.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
        }
        self.backlog.push_back(entry);
    }

    /// # Safety
    /// As for [`Kernel::push`].
    #[cfg(test)]
    pub(super) unsafe fn push_raw(&mut self, entry: &squeue::Entry) {
        // SAFETY: passed on to the caller.
        unsafe { self.ring.submission().push(entry) }.unwrap();
        self.in_flight += 1;
    }

    fn push_backlog(&mut self) {
        while let Some(entry) = self.backlog.front() {
            // SAFETY: whoever called `push` with this entry vouched for its memory until its completion.
            if unsafe { self.ring.submission().push(entry) }.is_err() {
                return;
            }
            self.backlog.pop_front();
        }
    }

    pub(super) fn accept(&mut self, fd: RawFd, token: Token) {
        let entry = opcode::AcceptMulti::new(Fd(fd)).flags(libc::SOCK_CLOEXEC).build();
        // SAFETY: points to no memory.
        unsafe { self.push(entry, token) };
    }

    /// Watches a descriptor for becoming readable, again and again.
    pub(super) fn watch(&mut self, fd: RawFd, token: Token) {
        let events = u32::from(libc::POLLIN.unsigned_abs());
        let entry = opcode::PollAdd::new(Fd(fd), events).multi(true).build();
        // SAFETY: points to no memory.
        unsafe { self.push(entry, token) };
    }

    /// Receives into the pool's slots until told otherwise, with `bundle` into several at a time.
    pub(super) fn receive(&mut self, fd: RawFd, group: u16, bundle: bool, token: Token) {
        let entry = if bundle {
            opcode::RecvMultiBundle::new(Fd(fd), group).build()
        } else {
            opcode::RecvMulti::new(Fd(fd), group).build()
        };
        // SAFETY: the kernel picks its memory from the registered buffer ring, which outlives the ring.
        unsafe { self.push(entry, token) };
    }

    /// # Safety
    /// `len` bytes at `at` are valid and unchanged until the completion has been reaped.
    pub(super) unsafe fn send(&mut self, fd: RawFd, at: *const u8, len: u32, token: Token) {
        let entry = opcode::Send::new(Fd(fd), at, len).flags(libc::MSG_NOSIGNAL).build();
        // SAFETY: passed on to the caller.
        unsafe { self.push(entry, token) };
    }

    /// Sends the first `count` of the vectors that [`Kernel::vectors`] gave out just before.
    ///
    /// # Safety
    /// What the vectors name is valid and unchanged until the completion has been reaped.
    pub(super) unsafe fn send_gather(&mut self, fd: RawFd, count: usize, token: Token) {
        let Some(frame) = self.frames.get_mut(self.frames_used) else { return };
        let Some(vectors) = self.vectors.get_mut(self.vectors_used..) else { return };
        self.frames_used += 1;
        self.vectors_used += count;
        frame.header.msg_iov = vectors.as_mut_ptr();
        frame.header.msg_iovlen = count.min(vectors.len());
        let header = &raw const frame.header;
        let flags = libc::MSG_NOSIGNAL.unsigned_abs();
        let entry = opcode::SendMsg::new(Fd(fd), header).flags(flags).build();
        // SAFETY: neither frame nor vectors are reused before submission (`frames_used`, `vectors_used`); the rest
        // is the caller's.
        unsafe { self.push(entry, token) };
    }

    /// Room for the vectors of one gather send; `None` when the queue takes no more before the next turn.
    pub(super) fn vectors(&mut self) -> Option<&mut [libc::iovec]> {
        if !self.has_room() {
            return None;
        }
        self.vectors.get_mut(self.vectors_used..)
    }

    /// Makes room for a frame, its vectors and their operation. The operation's too: were the submission queue
    /// emptied between filling a frame and queueing what points to it, the frame would count as free again.
    fn has_room(&mut self) -> bool {
        let vectors_left = self.vectors.len() - self.vectors_used;
        if self.frames_used == self.frames.len()
            || vectors_left < GATHER_MAX
            || self.ring.submission().is_full()
        {
            let _ = self.submit();
        }
        self.backlog.is_empty()
            && !self.ring.submission().is_full()
            && self.frames_used < self.frames.len()
            && self.vectors.len() - self.vectors_used >= GATHER_MAX
    }

    /// `false`: the queue takes no more before the next turn.
    pub(super) fn connect(&mut self, fd: RawFd, address: SocketAddr, token: Token) -> bool {
        if !self.has_room() {
            return false;
        }
        let Some(frame) = self.frames.get_mut(self.frames_used) else { return false };
        self.frames_used += 1;
        frame.address = SocketAddress::from(address);
        let (at, len) = frame.address.raw();
        let entry = opcode::Connect::new(Fd(fd), at, len).build();
        // SAFETY: the address is in a frame that is not reused before submission.
        unsafe { self.push(entry, token) };
        true
    }

    /// # Safety
    /// `len` bytes at `at` are valid and unchanged until the completion has been reaped.
    pub(super) unsafe fn write(&mut self, fd: RawFd, at: *const u8, len: u32, offset: u64, token: Token) {
        let entry = opcode::Write::new(Fd(fd), at, len).offset(offset).build();
        // SAFETY: passed on to the caller.
        unsafe { self.push(entry, token) };
    }

    pub(super) fn sync(&mut self, fd: RawFd, token: Token) {
        let entry = opcode::Fsync::new(Fd(fd)).flags(FsyncFlags::DATASYNC).build();
        // SAFETY: points to no memory.
        unsafe { self.push(entry, token) };
    }

    /// Asks for the end of an operation. That the operation's own completion comes is the answer; a completion
    /// of this one comes only when it failed, for instance because the operation was just between two waits.
    pub(super) fn cancel(&mut self, target: Token) {
        let Some(kind) = target.kind.cancel() else { return };
        let entry = opcode::AsyncCancel2::new(CancelBuilder::user_data(target.pack()))
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS);
        // SAFETY: points to no memory.
        unsafe { self.push(entry, Token { kind, ..target }) };
    }

    pub(super) fn cancel_all(&mut self) {
        let entry = opcode::AsyncCancel2::new(CancelBuilder::any()).build();
        // SAFETY: points to no memory.
        unsafe { self.push(entry, Token::new(Kind::CancelAny, 0, 0)) };
    }

    /// Hands over what is queued without looking for completions.
    fn submit(&mut self) -> io::Result<()> {
        self.call(0, EnterFlags::empty(), None)
    }

    /// Hands over what is queued, lets the kernel finish what it can, and waits for a completion if `wait` and
    /// none is there: not at all, up to a time, or for ever.
    pub(super) fn enter(&mut self, wait: bool, timeout: Option<Duration>) -> io::Result<()> {
        self.push_backlog();
        if !wait {
            return self.hand_over();
        }
        let reaped = std::mem::take(&mut self.reaped);
        if let Some(most) = self.spin.time(reaped) {
            self.hand_over()?;
            let found = self.look(most.min(timeout.unwrap_or(most)))?;
            self.spin.learn(found);
            if found {
                return Ok(());
            }
        }
        self.sleeps += 1;
        self.call(1, self.enter_flags, timeout)
    }

    /// Hands over what is queued and lets the kernel finish what it can, if there is either.
    fn hand_over(&mut self) -> io::Result<()> {
        let queue = self.ring.submission();
        if queue.is_empty() && !queue.taskrun() && !queue.cq_overflow() {
            return Ok(());
        }
        drop(queue);
        self.call(0, self.enter_flags, None)
    }

    /// Looks for completions for some time; without a system call, until the kernel says that there is work to be done
    /// for one.
    fn look(&mut self, time: Duration) -> io::Result<bool> {
        let start = Instant::now();
        loop {
            if self.ring.submission().taskrun() {
                self.call(0, self.enter_flags, None)?;
            }
            if self.has_completions() {
                return Ok(true);
            }
            if start.elapsed() >= time {
                return Ok(false);
            }
            (0..LOOK_PAUSES).for_each(|_| std::hint::spin_loop());
        }
    }

    fn call(&mut self, want: u32, flags: EnterFlags, timeout: Option<Duration>) -> io::Result<()> {
        let queued = u32::try_from(self.ring.submission().len()).unwrap_or(u32::MAX);
        let timespec = timeout.map(Timespec::from).unwrap_or_default();
        let mut arguments = SubmitArgs::new();
        if timeout.is_some() {
            arguments = arguments.timespec(&timespec);
        }
        let flags = (flags | EnterFlags::EXT_ARG).bits();
        // SAFETY: EXT_ARG goes with SubmitArgs, which is what the kernel expects with it, and both it and the
        // timespec outlive the call.
        let result = unsafe { self.ring.submitter().enter(queued, want, flags, Some(&arguments)) };
        if self.backlog.is_empty() && self.ring.submission().is_empty() {
            self.frames_used = 0;
            self.vectors_used = 0;
        }
        match result {
            Ok(_) => Ok(()),
            // Out of time, a signal, or short of memory or completion space: all that is queued is still queued.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN)
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    pub(super) fn has_completions(&mut self) -> bool {
        !self.ring.completion().is_empty()
    }

    /// Moves completions out of the queue.
    pub(super) fn reap<'a>(
        &mut self,
        batch: &'a mut [MaybeUninit<cqueue::Entry>; BATCH],
    ) -> &'a mut [cqueue::Entry] {
        let reaped = self.ring.completion().fill(batch);
        self.reaped += reaped.len();
        for entry in reaped.iter() {
            let cancel = Token::unpack(entry.user_data()).is_some_and(|token| token.kind.is_cancel());
            if !cancel && !cqueue::more(entry.flags()) {
                self.in_flight = self.in_flight.saturating_sub(1);
            }
        }
        reaped
    }
}

impl Frame {
    fn new() -> Frame {
        // SAFETY: a msghdr of zeroes is valid: null pointers and no lengths.
        let header = unsafe { std::mem::zeroed() };
        Frame { header, address: SocketAddress::default() }
    }
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernel").field("in_flight", &self.in_flight).finish_non_exhaustive()
    }
}
