//! What each completion does to the connection it is about.

use std::io;
use std::net::Shutdown;

use io_uring::cqueue;

use super::conns::{Phase, Receiving};
use super::pool::Pool;
use super::token::{Kind, Token};
use super::{Ring, accepted_stream};
use crate::{ConnId, Event, ListenerId};

impl Ring {
    pub(super) fn complete(&mut self, entry: &cqueue::Entry) {
        let Some(token) = Token::unpack(entry.user_data()) else { return };
        let id = ConnId { index: token.index, generation: token.generation };
        match token.kind {
            Kind::Receive => self.received(id, entry),
            Kind::Send => self.sent(id, entry.result()),
            Kind::Accept => self.accepted(token.index, entry),
            Kind::Connect => self.connected(id, entry.result()),
            Kind::Write | Kind::Sync => {
                let event = self.files.complete(&mut self.kernel, token, entry.result());
                self.ready.extend(event);
            }
            Kind::Wake => {
                if !cqueue::more(entry.flags()) {
                    self.kernel.watch(self.waker.fd(), token);
                }
            }
            Kind::CancelAccept => self.listeners.cancel_again(&mut self.kernel, token.index),
            Kind::CancelReceive => self.receive_not_cancelled(id),
            Kind::CancelSend | Kind::CancelConnect => self.not_cancelled(id),
            Kind::CancelAny => {}
        }
    }

    fn accepted(&mut self, listener: u32, entry: &cqueue::Entry) {
        let result = entry.result();
        if result >= 0 {
            self.greet(listener, entry);
        } else if !matches!(-result, libc::ECANCELED | libc::EINTR | libc::EAGAIN) {
            let error = io::Error::from_raw_os_error(-result);
            self.ready.push(Event::AcceptFailed { listener: ListenerId(listener), error });
        }
        if !cqueue::more(entry.flags()) {
            self.listeners.ended(&mut self.kernel, listener, result);
        }
    }

    fn greet(&mut self, listener: u32, entry: &cqueue::Entry) {
        let stream = accepted_stream(entry);
        let listener = ListenerId(listener);
        let greeted = stream.peer_addr().and_then(|peer| Ok((peer, self.conns.insert(stream, Phase::Open)?)));
        self.ready.push(match greeted {
            Ok((peer, conn)) => Event::Accepted { listener, conn, peer },
            // The peer has gone before it was greeted.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => return,
            Err(error) => Event::AcceptFailed { listener, error },
        });
    }

    fn connected(&mut self, id: ConnId, result: i32) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.connecting = false;
        if conn.phase == Phase::Dialing {
            conn.phase = Phase::Open;
            if result < 0 {
                conn.failed = true;
                conn.ended = true;
                self.out.discard(&mut conn.queue, &mut self.pool);
            }
            let result = if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) };
            self.ready.push(Event::Dialed { conn: id, result });
            self.receive(id);
            self.mark_dirty(id);
        }
        self.advance(id);
    }

    fn received(&mut self, id: ConnId, entry: &cqueue::Entry) {
        let result = entry.result();
        if let Some(slot) = cqueue::buffer_select(entry.flags()) {
            self.take_slots(id, slot, u32::try_from(result).unwrap_or(0));
        }
        if cqueue::more(entry.flags()) {
            return;
        }
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.receiving = Receiving::No;
        match -result {
            libc::ENOBUFS => {
                conn.starved = true;
                self.starved.push_back(id);
            }
            libc::ECANCELED | libc::EINTR | libc::EAGAIN => self.receive(id),
            error if error < 0 => self.receive(id),
            0 => self.end_of_stream(id),
            error => self.fail(id, error),
        }
        self.advance(id);
    }

    /// The kernel filled slots, from this one on in the order in which it was given them.
    fn take_slots(&mut self, id: ConnId, first: u16, bytes: u32) {
        let wanted = self.conns.get(id).is_some_and(|conn| !conn.is_closing());
        let mut slot = first;
        let mut rest = bytes;
        loop {
            let len = rest.min(self.pool.slot_bytes());
            let next = if rest > len { self.pool.following(slot) } else { None };
            self.pool.take(slot);
            if wanted && len > 0 {
                self.ready.push(Event::Received { conn: id, lease: Pool::lease(slot, len) });
            } else {
                self.pool.release(slot);
            }
            rest -= len;
            let Some(following) = next else { return };
            slot = following;
        }
    }

    fn end_of_stream(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.ended = true;
        if conn.is_closing() {
            return;
        }
        match conn.send_error {
            Some(error) => self.fail(id, error),
            None => self.ready.push(Event::EndOfStream { conn: id }),
        }
    }

    /// The connection is of no further use: the owner is told, once, unless it is closing anyway.
    fn fail(&mut self, id: ConnId, error: i32) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.ended = true;
        self.out.discard(&mut conn.queue, &mut self.pool);
        if !std::mem::replace(&mut conn.failed, true) && !conn.is_closing() {
            let error = conn.send_error.unwrap_or(error);
            self.ready.push(Event::Failed { conn: id, error: io::Error::from_raw_os_error(error) });
        }
    }

    fn sent(&mut self, id: ConnId, result: i32) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let taken = usize::try_from(result).unwrap_or(0);
        self.out.taken(&mut conn.queue, &mut self.pool, taken);
        if conn.phase == Phase::Cutting || conn.failed {
            self.out.discard(&mut conn.queue, &mut self.pool);
        } else if taken == 0 && !matches!(-result, libc::EINTR | libc::EAGAIN) {
            let error = if result == 0 { libc::EPIPE } else { -result };
            self.send_failed(id, error);
        }
        self.tell_drained(id);
        self.mark_dirty(id);
        self.advance(id);
    }

    /// What the peer sent before it went may still be there to be received: the owner is told after that. Shutting
    /// down both ways makes sure that receiving does come to an end.
    fn send_failed(&mut self, id: ConnId, error: i32) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.send_error = Some(error);
        self.out.discard(&mut conn.queue, &mut self.pool);
        // An error here means that the connection has gone already.
        let _ = conn.stream.shutdown(Shutdown::Both);
        if conn.ended {
            self.fail(id, error);
        }
    }

    fn tell_drained(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.above && conn.queue.bytes() <= self.config.queue_low_bytes {
            conn.above = false;
            if !conn.is_closing() {
                self.ready.push(Event::Drained { conn: id });
            }
        }
    }

    /// A cancel of the receive failed: the receive has ended by itself, or was between two waits and goes on.
    fn receive_not_cancelled(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.receiving != Receiving::Cancelling {
            return;
        }
        if conn.wanted && conn.phase != Phase::Cutting {
            conn.receiving = Receiving::Armed;
        } else {
            self.kernel.cancel(conn.token(Kind::Receive, id.index));
        }
    }

    /// A cancel of a send or a connect failed: again, if it is still under way.
    fn not_cancelled(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id).filter(|conn| conn.phase == Phase::Cutting) else { return };
        if conn.connecting {
            self.kernel.cancel(conn.token(Kind::Connect, id.index));
        }
        if conn.queue.is_sending() {
            self.kernel.cancel(conn.token(Kind::Send, id.index));
        }
    }

    /// Ends everything of the connection that is in flight, and throws away what is not.
    pub(super) fn cut(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.phase = Phase::Cutting;
        self.out.discard(&mut conn.queue, &mut self.pool);
        if conn.connecting {
            self.kernel.cancel(conn.token(Kind::Connect, id.index));
        }
        if conn.receiving == Receiving::Armed {
            conn.receiving = Receiving::Cancelling;
            self.kernel.cancel(conn.token(Kind::Receive, id.index));
        }
        if conn.queue.is_sending() {
            self.kernel.cancel(conn.token(Kind::Send, id.index));
        }
        self.advance(id);
    }

    /// Takes the steps that are due when something has ended: FIN, the cut after a flush, the end.
    pub(super) fn advance(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let up = matches!(conn.phase, Phase::Open | Phase::Flushing) && conn.send_error.is_none();
        if up && conn.finish && !conn.finished && !conn.failed && conn.queue.is_empty() {
            conn.finished = true;
            // An error here means that the connection has gone already, which receiving will show.
            let _ = conn.stream.shutdown(Shutdown::Write);
        }
        if conn.phase == Phase::Flushing && ((conn.finished && conn.ended) || conn.failed || !up) {
            self.cut(id);
        } else if conn.phase == Phase::Cutting && !conn.is_in_flight() {
            self.conns.remove(id);
            self.ready.push(Event::Closed { conn: id });
        }
    }
}
