//! What every driver keeps for its connections, and the steps of their lives that need no kernel.

use std::collections::VecDeque;
use std::io;
use std::net::Shutdown;
use std::ops::Range;
use std::time::Instant;

use crate::config::{Config, Counts};
use crate::conns::{Conns, Phase};
use crate::outgoing::{Outgoing, Queue};
use crate::pool::Pool;
use crate::{ConnId, Event, Lease};

/// The pool, the table of connections, what they send, and who waits for what. `O` is what a driver notes of each
/// connection beside.
#[derive(Debug)]
pub(crate) struct Common<O> {
    pub(crate) pool: Pool,
    pub(crate) out: Outgoing,
    pub(crate) conns: Conns<O>,
    pub(crate) config: Config,
    /// Found, and not yet handed over.
    pub(crate) ready: Vec<Event>,
    /// Have something to send.
    pub(crate) dirty: Vec<ConnId>,
    /// Found no slot, in the order in which they did.
    pub(crate) starved: VecDeque<ConnId>,
    /// Are flushed until then; the limit is the same for all, so the first is the next.
    lingering: VecDeque<(Instant, ConnId)>,
}

/// What [`Common::close`] has made due.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Closing {
    Nothing,
    /// Receive, send, [`Common::advance`].
    Flush,
    Cut,
}

/// What [`Common::advance`] has made due.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Nothing,
    Cut,
    /// The connection is over as soon as nothing of it is in flight.
    End,
}

impl<O: Default> Common<O> {
    pub(crate) fn new(config: Config, pool: Pool) -> Common<O> {
        Common {
            pool,
            out: Outgoing::default(),
            conns: Conns::new(config.connections_max),
            config,
            ready: Vec::new(),
            dirty: Vec::new(),
            starved: VecDeque::new(),
            lingering: VecDeque::new(),
        }
    }

    pub(crate) fn counts(&self, files: usize, in_flight: usize) -> Counts {
        Counts {
            connections: self.conns.len(),
            starved: self.starved.len(),
            files,
            slots_in_use: self.pool.in_use(),
            copy_buffers_in_use: self.out.chunks_in_use(),
            in_flight,
        }
    }

    /// There is something to hand over or to send.
    pub(crate) fn is_busy(&self) -> bool {
        !self.ready.is_empty() || !self.dirty.is_empty()
    }

    /// When the limit of the next lingering connection is reached.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.lingering.front().map(|(until, _)| *until)
    }

    /// A connection that has lingered too long and is to be cut.
    pub(crate) fn lingered_out(&mut self, now: Instant) -> Option<ConnId> {
        while let Some((until, id)) = self.lingering.front().copied() {
            let flushing = self.conns.get(id).is_some_and(|conn| conn.phase == Phase::Flushing);
            if flushing && until > now {
                return None;
            }
            self.lingering.pop_front();
            if flushing {
                return Some(id);
            }
        }
        None
    }

    /// How many of those that starve can be fed now, with all the slots that may be filled.
    pub(crate) fn feedable(&mut self) -> usize {
        self.pool.refill();
        self.starved.len().min(usize::try_from(self.pool.available()).unwrap_or(0))
    }

    /// The next of those that starve, no longer one of them. `None` if it has gone meanwhile.
    pub(crate) fn feed(&mut self) -> Option<ConnId> {
        let id = self.starved.pop_front()?;
        self.conns.get_mut(id)?.starved = false;
        Some(id)
    }

    /// The connection found no slot.
    pub(crate) fn starve(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(id) {
            conn.starved = true;
            self.starved.push_back(id);
        }
    }

    /// The owner wants bytes, or no more. `false`: the connection is closing or gone.
    pub(crate) fn want(&mut self, id: ConnId, wanted: bool) -> bool {
        let conn = self.conns.get_mut(id).filter(|conn| !conn.is_closing());
        conn.map(|conn| conn.wanted = wanted).is_some()
    }

    pub(crate) fn mark_dirty(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(id)
            && !conn.dirty
            && conn.can_send()
        {
            conn.dirty = true;
            self.dirty.push(id);
        }
    }

    fn queue(&mut self, id: ConnId, add: impl FnOnce(&mut Outgoing, &mut Queue, &mut Pool)) {
        let Some(conn) = self.conns.get_mut(id).filter(|conn| conn.takes_sends()) else { return };
        add(&mut self.out, &mut conn.queue, &mut self.pool);
        conn.above |= conn.queue.bytes() > self.config.queue_high_bytes;
        if !conn.dirty && conn.can_send() {
            conn.dirty = true;
            self.dirty.push(id);
        }
    }

    pub(crate) fn send_slot(&mut self, conn: ConnId, lease: &Lease, range: Range<usize>) {
        debug_assert!(range.start <= range.end && range.end <= lease.len(), "beyond the lease");
        let start =
            u32::try_from(range.start).map_or(u32::MAX, |start| lease.range.start.saturating_add(start));
        let end = u32::try_from(range.end).map_or(u32::MAX, |end| lease.range.start.saturating_add(end));
        let range = start.min(lease.range.end)..end.min(lease.range.end);
        self.queue(conn, |out, queue, pool| out.push_slot(queue, pool, lease.slot, range));
    }

    pub(crate) fn send_copy(&mut self, conn: ConnId, bytes: &[u8]) {
        self.queue(conn, |out, queue, _| out.push_copy(queue, bytes));
    }

    pub(crate) fn queued(&self, conn: ConnId) -> usize {
        self.conns.get(conn).map_or(0, |conn| conn.queue.bytes())
    }

    pub(crate) fn pinned(&self, conn: ConnId) -> usize {
        self.conns.get(conn).map_or(0, |conn| usize::try_from(conn.queue.pinned()).unwrap_or(0))
    }

    /// The kernel took `bytes` of the send in flight.
    pub(crate) fn taken(&mut self, id: ConnId, bytes: usize) {
        if let Some(conn) = self.conns.get_mut(id) {
            self.out.taken(&mut conn.queue, &mut self.pool, bytes);
        }
    }

    /// Throws away what is queued and not in flight.
    pub(crate) fn discard(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(id) {
            self.out.discard(&mut conn.queue, &mut self.pool);
        }
    }

    pub(crate) fn tell_drained(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.above && conn.queue.bytes() <= self.config.queue_low_bytes {
            conn.above = false;
            if !conn.is_closing() {
                self.ready.push(Event::Drained { conn: id });
            }
        }
    }

    /// A dial has ended; `error` is 0 if the connection stands. `false`: the owner has closed it meanwhile.
    pub(crate) fn dialed(&mut self, id: ConnId, error: i32) -> bool {
        let Some(conn) = self.conns.get_mut(id).filter(|conn| conn.phase == Phase::Dialing) else {
            return false;
        };
        conn.phase = Phase::Open;
        if error != 0 {
            conn.failed = true;
            conn.ended = true;
            self.out.discard(&mut conn.queue, &mut self.pool);
        }
        let result = if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) };
        self.ready.push(Event::Dialed { conn: id, result });
        true
    }

    pub(crate) fn end_of_stream(&mut self, id: ConnId) {
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
    pub(crate) fn fail(&mut self, id: ConnId, error: i32) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.ended = true;
        self.out.discard(&mut conn.queue, &mut self.pool);
        if !std::mem::replace(&mut conn.failed, true) && !conn.is_closing() {
            let error = conn.send_error.unwrap_or(error);
            self.ready.push(Event::Failed { conn: id, error: io::Error::from_raw_os_error(error) });
        }
    }

    /// What the peer sent before it went may still be there to be received: the owner is told after that. Shutting
    /// down both ways makes sure that receiving does come to an end.
    pub(crate) fn send_failed(&mut self, id: ConnId, error: i32) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.send_error = Some(error);
        self.out.discard(&mut conn.queue, &mut self.pool);
        // An error here means that the connection has gone already.
        let _ = conn.stream.shutdown(Shutdown::Both);
        if conn.ended {
            self.fail(id, error);
        }
    }

    /// Bytes of a closing connection's peer are of no use. `true`: it sends too many, and is to be read from no more.
    pub(crate) fn throw_away(&mut self, id: ConnId, bytes: u32) -> bool {
        let Some(conn) = self.conns.get_mut(id).filter(|conn| conn.phase == Phase::Flushing) else {
            return false;
        };
        conn.thrown_bytes = conn.thrown_bytes.saturating_add(bytes);
        let too_many = conn.thrown_bytes > self.config.linger_bytes_max;
        conn.wanted &= !too_many;
        too_many
    }

    /// `false`: there is nothing to finish.
    pub(crate) fn finish(&mut self, id: ConnId) -> bool {
        let conn = self.conns.get_mut(id).filter(|conn| !conn.is_closing());
        conn.map(|conn| conn.finish = true).is_some()
    }

    /// The owner closes the connection.
    pub(crate) fn close(&mut self, id: ConnId, flush: bool) -> Closing {
        let Some(conn) = self.conns.get_mut(id) else { return Closing::Nothing };
        let usable = !conn.failed && conn.send_error.is_none();
        match conn.phase {
            Phase::Cutting => Closing::Nothing,
            Phase::Flushing if flush => Closing::Nothing,
            Phase::Open if flush && usable => {
                conn.phase = Phase::Flushing;
                conn.finish = true;
                conn.wanted = true;
                self.lingering.push_back((Instant::now() + self.config.linger, id));
                Closing::Flush
            }
            Phase::Dialing | Phase::Open | Phase::Flushing => Closing::Cut,
        }
    }

    /// Takes the steps that are due when something has ended: FIN, the cut after a flush, the end.
    pub(crate) fn advance(&mut self, id: ConnId) -> Due {
        let Some(conn) = self.conns.get_mut(id) else { return Due::Nothing };
        let up = matches!(conn.phase, Phase::Open | Phase::Flushing) && conn.send_error.is_none();
        if up && conn.finish && !conn.finished && !conn.failed && conn.queue.is_empty() {
            conn.finished = true;
            // An error here means that the connection has gone already, which receiving will show.
            let _ = conn.stream.shutdown(Shutdown::Write);
        }
        let heard = conn.ended || conn.thrown_bytes > self.config.linger_bytes_max;
        if conn.phase == Phase::Flushing && ((conn.finished && heard) || conn.failed || !up) {
            Due::Cut
        } else if conn.phase == Phase::Cutting {
            Due::End
        } else {
            Due::Nothing
        }
    }

    /// Nothing of the connection is in flight any more.
    pub(crate) fn end(&mut self, id: ConnId) {
        self.conns.remove(id);
        self.ready.push(Event::Closed { conn: id });
    }

    /// Hands over what a turn has found.
    pub(crate) fn hand_over(&mut self, events: &mut Vec<Event>) {
        if events.is_empty() {
            std::mem::swap(events, &mut self.ready);
        } else {
            events.append(&mut self.ready);
        }
        self.conns.turn_ends();
    }
}
