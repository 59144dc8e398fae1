//! What each completion does to the connection it is about.

use std::io;

use io_uring::cqueue;

use super::token::{Kind, Token};
use super::{Receiving, Ring, accepted_stream};
use crate::common::{Common, Due};
use crate::conns::Phase;
use crate::pool::Pool;
use crate::{ConnId, Event, ListenerId, system};

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
                let event = self.jobs.complete(&mut self.kernel, token, entry.result());
                self.common.ready.extend(event);
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
            self.common.ready.push(Event::AcceptFailed { listener: ListenerId(listener), error });
        }
        if !cqueue::more(entry.flags()) {
            self.listeners.ended(&mut self.kernel, listener, result);
        }
    }

    fn greet(&mut self, listener: u32, entry: &cqueue::Entry) {
        let stream = accepted_stream(entry);
        let listener = ListenerId(listener);
        let greeted = stream.peer_addr().and_then(|peer| {
            system::greet(&stream, peer)?;
            Ok((peer, self.common.conns.insert(stream, Phase::Open)?))
        });
        self.common.ready.push(match greeted {
            Ok((peer, conn)) => Event::Accepted { listener, conn, peer },
            // The peer has gone before it was greeted.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => return,
            Err(error) => Event::AcceptFailed { listener, error },
        });
    }

    fn connected(&mut self, id: ConnId, result: i32) {
        let Some(conn) = self.common.conns.get_mut(id) else { return };
        conn.own.connecting = false;
        if self.common.dialed(id, result.min(0).saturating_neg()) {
            self.receive(id);
            self.common.mark_dirty(id);
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
        let Some(conn) = self.common.conns.get_mut(id) else { return };
        conn.own.receiving = Receiving::No;
        match -result {
            libc::ENOBUFS => self.common.starve(id),
            libc::ECANCELED | libc::EINTR | libc::EAGAIN => self.receive(id),
            error if error < 0 => self.receive(id),
            0 => self.common.end_of_stream(id),
            error => self.common.fail(id, error),
        }
        self.advance(id);
    }

    /// The kernel filled slots, from this one on in the order in which it was given them.
    fn take_slots(&mut self, id: ConnId, first: u16, bytes: u32) {
        let Common { conns, pool, ready, .. } = &mut self.common;
        let wanted = conns.get(id).is_some_and(|conn| !conn.is_closing());
        let mut slot = first;
        let mut rest = bytes;
        loop {
            let len = rest.min(pool.slot_bytes());
            let next = if rest > len { pool.following(slot) } else { None };
            pool.take(slot, len);
            if wanted && len > 0 {
                ready.push(Event::Received { conn: id, lease: Pool::lease(slot, len) });
            } else {
                pool.release(slot);
            }
            rest -= len;
            let Some(following) = next else { break };
            slot = following;
        }
        if !wanted && self.common.throw_away(id, bytes) {
            self.stop_receiving(id);
            self.advance(id);
        }
    }

    fn sent(&mut self, id: ConnId, result: i32) {
        let taken = usize::try_from(result).unwrap_or(0);
        self.common.taken(id, taken);
        let Some(conn) = self.common.conns.get_mut(id) else { return };
        if conn.phase == Phase::Cutting || conn.failed {
            self.common.discard(id);
        } else if taken == 0 && !matches!(-result, libc::EINTR | libc::EAGAIN) {
            let error = if result == 0 { libc::EPIPE } else { -result };
            self.common.send_failed(id, error);
        }
        self.common.tell_drained(id);
        self.common.mark_dirty(id);
        self.advance(id);
    }

    /// A cancel of the receive failed: the receive has ended by itself, or was between two waits and goes on.
    fn receive_not_cancelled(&mut self, id: ConnId) {
        let Some(conn) = self.common.conns.get_mut(id) else { return };
        if conn.own.receiving != Receiving::Cancelling {
            return;
        }
        if conn.wanted && conn.phase != Phase::Cutting {
            conn.own.receiving = Receiving::Armed;
        } else {
            self.kernel.cancel(conn.token(Kind::Receive, id.index));
        }
    }

    /// A cancel of a send or a connect failed: again, if it is still under way.
    fn not_cancelled(&mut self, id: ConnId) {
        let conn = self.common.conns.get_mut(id).filter(|conn| conn.phase == Phase::Cutting);
        let Some(conn) = conn else { return };
        if conn.own.connecting {
            self.kernel.cancel(conn.token(Kind::Connect, id.index));
        }
        if conn.queue.is_sending() {
            self.kernel.cancel(conn.token(Kind::Send, id.index));
        }
    }

    /// Ends everything of the connection that is in flight, and throws away what is not.
    pub(super) fn cut(&mut self, id: ConnId) {
        let Some(conn) = self.common.conns.get_mut(id) else { return };
        conn.phase = Phase::Cutting;
        if conn.own.connecting {
            self.kernel.cancel(conn.token(Kind::Connect, id.index));
        }
        if conn.queue.is_sending() {
            self.kernel.cancel(conn.token(Kind::Send, id.index));
        }
        self.stop_receiving(id);
        self.common.discard(id);
        self.advance(id);
    }

    /// Takes the steps that are due when something has ended.
    pub(super) fn advance(&mut self, id: ConnId) {
        match self.common.advance(id) {
            Due::Nothing => {}
            Due::Cut => self.cut(id),
            Due::End => {
                if self.common.conns.get(id).is_some_and(|conn| !conn.is_in_flight()) {
                    self.common.end(id);
                }
            }
        }
    }
}
