//! What each call does to the connection it is about.

use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;

use super::interest::{Ready, Source};
use super::{ACCEPTS_MAX, Poller, TURN_SLOTS_MAX};
use crate::common::{Common, Due};
use crate::conns::Phase;
use crate::outgoing::Gathered;
use crate::pool::Pool;
use crate::system::{self, SocketAddress};
use crate::{ConnId, Event, ListenerId};

impl Poller {
    /// The kernel reports what has become possible with a connection.
    pub(super) fn became(&mut self, id: ConnId, ready: Ready) {
        let Some(conn) = self.common.conns.get_mut(id) else { return };
        conn.own.readable |= ready.readable;
        conn.own.writable |= ready.writable;
        conn.own.more_than_bytes |= ready.more_than_bytes;
        if conn.phase == Phase::Dialing {
            if ready.writable {
                let error = conn.stream.take_error();
                self.connected(id, error.unwrap_or_else(Some));
            }
            return;
        }
        self.line_up(id);
        if ready.writable {
            self.send(id);
        }
    }

    /// Receives from it later in this turn, or in the next, if it is to be received from and there is something.
    pub(super) fn line_up(&mut self, id: ConnId) {
        if let Some(conn) = self.common.conns.get_mut(id)
            && conn.own.readable
            && !conn.own.lined_up
            && conn.can_receive()
        {
            conn.own.lined_up = true;
            self.line.push(id);
        }
    }

    pub(super) fn accept(&mut self) {
        for listener in self.listeners.ids() {
            for _ in 0..ACCEPTS_MAX {
                let Some(accepted) = self.listeners.accept(listener) else { break };
                let listener = ListenerId(listener);
                let greeted = accepted.and_then(|(stream, peer)| {
                    system::greet(&stream, peer)?;
                    let conn = self.common.conns.insert(stream, Phase::Open)?;
                    self.watch(conn).inspect_err(|_| self.common.conns.remove(conn))?;
                    Ok(Event::Accepted { listener, conn, peer })
                });
                let event = greeted.unwrap_or_else(|error| Event::AcceptFailed { listener, error });
                self.common.ready.push(event);
            }
        }
    }

    fn watch(&self, id: ConnId) -> io::Result<()> {
        let conn = self.common.conns.get(id).ok_or(io::ErrorKind::NotFound)?;
        self.interest.add(conn.fd(), Source::Conn(id))
    }

    /// Begins what [`Driver::dial`](crate::Driver::dial) asked for.
    pub(super) fn connect(&mut self, id: ConnId, address: SocketAddr) {
        let Some(conn) = self.common.conns.get(id) else { return };
        // Watched from now on only: a socket that is not being connected counts as hung up.
        match connect(conn.fd(), address).and_then(|()| self.watch(id)) {
            Ok(()) => {}
            Err(error) => self.connected(id, Some(error)),
        }
    }

    fn connected(&mut self, id: ConnId, error: Option<io::Error>) {
        let error = error.map_or(0, |error| error.raw_os_error().unwrap_or(libc::EIO));
        if self.common.dialed(id, error) {
            self.line_up(id);
            self.common.mark_dirty(id);
        }
        self.advance(id);
    }

    /// Receives a connection's share of a turn.
    pub(super) fn receive(&mut self, id: ConnId) {
        if let Some(conn) = self.common.conns.get_mut(id) {
            conn.own.lined_up = false;
        }
        for _ in 0..self.receives_max {
            if !self.receive_once(id) {
                break;
            }
        }
        self.line_up(id);
        self.advance(id);
    }

    /// `false`: for now there is nothing more to be had, or to be had with.
    fn receive_once(&mut self, id: ConnId) -> bool {
        let Common { conns, pool, .. } = &mut self.common;
        let Some(conn) = conns.get_mut(id).filter(|conn| conn.own.readable && conn.can_receive()) else {
            return false;
        };
        let mut room = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; TURN_SLOTS_MAX];
        let room = room.get_mut(..self.slots_at_once).unwrap_or_default();
        let count = pool.vectors(room);
        if count == 0 {
            self.common.starve(id);
            return false;
        }
        let room = room.get(..count).unwrap_or_default();
        match read(conn.fd(), room) {
            Ok(0) => self.common.end_of_stream(id),
            Ok(len) => {
                let full = len == room.iter().map(|vector| vector.iov_len).sum();
                // Less than there was room for means that there was no more.
                conn.own.readable = full || conn.own.more_than_bytes;
                self.take_slots(id, len);
                return true;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => conn.own.readable = false,
            Err(error) => self.common.fail(id, error.raw_os_error().unwrap_or(libc::EIO)),
        }
        false
    }

    /// The slots that were next have been filled with `bytes`.
    fn take_slots(&mut self, id: ConnId, bytes: usize) {
        let Common { conns, pool, ready, .. } = &mut self.common;
        let wanted = conns.get(id).is_some_and(|conn| !conn.is_closing());
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let mut rest = bytes;
        while rest > 0
            && let len = rest.min(pool.slot_bytes())
            && let Some(slot) = pool.take_next(len)
        {
            rest -= len;
            if wanted {
                ready.push(Event::Received { conn: id, lease: Pool::lease(slot, len) });
            } else {
                pool.release(slot);
            }
        }
        if !wanted {
            self.common.throw_away(id, bytes);
        }
    }

    /// Sends as much of the queue as one call takes.
    pub(super) fn send(&mut self, id: ConnId) {
        let Common { conns, out, pool, .. } = &mut self.common;
        let Some(conn) = conns.get_mut(id) else { return };
        conn.dirty = false;
        if !conn.can_send() || !conn.own.writable {
            return;
        }
        let sent = match out.gather(&mut conn.queue, pool, &mut self.gather) {
            Gathered::Nothing => return,
            Gathered::One(at, len) => {
                let len = usize::try_from(len).unwrap_or(0);
                let base = at.cast_mut().cast();
                // SAFETY: the piece is in flight until `sent`: its slot keeps its reference, its copy buffer stays.
                unsafe { send(conn.fd(), &[libc::iovec { iov_base: base, iov_len: len }]) }
            }
            Gathered::Many(count) => {
                let vectors = self.gather.get(..count).unwrap_or_default();
                // SAFETY: as above, for each piece.
                unsafe { send(conn.fd(), vectors) }
            }
        };
        self.sent(id, sent);
    }

    fn sent(&mut self, id: ConnId, sent: io::Result<Sent>) {
        let (taken, error) = match sent {
            Ok(Sent { taken, whole }) => {
                self.note_writable(id, whole);
                (taken, None)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (0, None),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.note_writable(id, false);
                (0, None)
            }
            Err(error) => (0, Some(error.raw_os_error().unwrap_or(libc::EIO))),
        };
        self.common.taken(id, taken);
        if let Some(error) = error {
            self.common.send_failed(id, error);
            // No edge need come any more, and what the peer sent before it went is to be received to its end.
            if let Some(conn) = self.common.conns.get_mut(id) {
                conn.own.readable = true;
                conn.own.more_than_bytes = true;
            }
            self.line_up(id);
        }
        self.common.tell_drained(id);
        if self.common.conns.get(id).is_some_and(|conn| conn.own.writable) {
            self.common.mark_dirty(id);
        }
        self.advance(id);
    }

    fn note_writable(&mut self, id: ConnId, writable: bool) {
        if let Some(conn) = self.common.conns.get_mut(id) {
            conn.own.writable = writable;
        }
    }

    /// Ends the connection here and now.
    pub(super) fn cut(&mut self, id: ConnId) {
        if let Some(conn) = self.common.conns.get_mut(id) {
            conn.phase = Phase::Cutting;
            self.common.discard(id);
            self.common.end(id);
        }
    }

    /// Takes the steps that are due when something has ended.
    pub(super) fn advance(&mut self, id: ConnId) {
        match self.common.advance(id) {
            Due::Nothing => {}
            Due::Cut | Due::End => self.cut(id),
        }
    }
}

/// What a send did.
struct Sent {
    taken: usize,
    /// All that was to be sent; else the kernel has no more room.
    whole: bool,
}

fn connect(fd: RawFd, address: SocketAddr) -> io::Result<()> {
    let address = SocketAddress::from(address);
    let (at, len) = address.raw();
    // SAFETY: the pointer and the length name `address`, which outlives the call.
    if unsafe { libc::connect(fd, at, len) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // It goes on by itself.
        Some(libc::EINPROGRESS | libc::EINTR) => Ok(()),
        _ => Err(error),
    }
}

/// Fills the vectors one after the other; 0 is the end of the stream.
fn read(fd: RawFd, room: &[libc::iovec]) -> io::Result<usize> {
    let count = i32::try_from(room.len()).unwrap_or(i32::MAX);
    // SAFETY: the vectors name free slots of the pool, which nobody else reads or writes.
    let len = unsafe { libc::readv(fd, room.as_ptr(), count) };
    usize::try_from(len).map_err(|_| io::Error::last_os_error())
}

/// # Safety
/// What the vectors name is there to be read.
unsafe fn send(fd: RawFd, vectors: &[libc::iovec]) -> io::Result<Sent> {
    // SAFETY: a msghdr of zeroes is valid: null pointers and no lengths.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = vectors.as_ptr().cast_mut();
    header.msg_iovlen = vectors.len();
    // SAFETY: the header and what it names outlive the call, which only reads them.
    let taken = unsafe { libc::sendmsg(fd, &raw const header, libc::MSG_NOSIGNAL) };
    let taken = usize::try_from(taken).map_err(|_| io::Error::last_os_error())?;
    Ok(Sent { taken, whole: taken == vectors.iter().map(|vector| vector.iov_len).sum() })
}
