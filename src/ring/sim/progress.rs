//! What each thing on the agenda does to the gateway's end of a connection, and what of it the owner hears.

use std::io;

use super::Sim;
use super::agenda::What;
use super::conns::Phase;
use super::disk::Work;
use super::wire::{End, Parcel};
use crate::{ConnId, Event};

/// Most pieces that one send carries.
const GATHER_MAX: usize = 64;

impl Sim {
    pub(super) fn happen(&mut self, what: What) {
        match what {
            What::Knock { listener, link } => self.knock(listener, link),
            What::Rested(listener) => self.rested(listener),
            What::Dialed(id) => self.dialed(id),
            What::Deliver(id) => self.deliver(id),
            What::Sent { conn, number } => self.sent(conn, number),
            What::Linger(id) => {
                if self.conns.get(id).is_some_and(|conn| conn.phase == Phase::Flushing) {
                    self.cut(id);
                }
            }
            What::ToGate(link) => self.reach_gate(link),
            What::ToPeer(link) => self.reach_peer(link),
            What::Peer(link) => self.call(link),
            What::Forgotten(link) => self.break_link(link),
            What::Disk(job) => self.disk_step(job),
            What::Chore(chore) => chore(),
        }
        // Slots may have come back while the owner waits.
        self.feed_starved();
    }

    /// Begins a receive if the connection wants bytes and something has come.
    pub(super) fn receive(&mut self, id: ConnId) {
        let at_ns = self.completion_ns();
        let Some(conn) = self.conns.get_mut(id) else { return };
        let Some(link) = conn.link.and_then(|link| self.links.get(link)) else { return };
        let something = !link.to_gate.arrived.is_empty() || link.to_gate.end.is_some();
        let broken = conn.send_error.is_some();
        if conn.can_receive(self.now_ns) && !conn.delivering && (something || broken) {
            conn.delivering = true;
            self.agenda.add(at_ns, What::Deliver(id), &mut self.random);
        }
    }

    /// The receive under way takes what is there.
    pub(super) fn deliver(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.delivering = false;
        if !conn.can_receive(self.now_ns) {
            return self.advance(id);
        }
        let (Some(at), send_error) = (conn.link, conn.send_error) else { return };
        let Some(link) = self.links.get(at) else { return };
        let came = link.to_gate.arrived.len();
        match link.to_gate.end {
            _ if came > 0 => self.take_bytes(id, at),
            _ if send_error.is_some() => self.fail(id, libc::EPIPE),
            Some(End::Finished) => self.end_of_stream(id),
            Some(End::Reset) => self.fail(id, libc::ECONNRESET),
            None => {}
        }
        self.advance(id);
        self.receive(id);
    }

    fn take_bytes(&mut self, id: ConnId, at: usize) {
        let Some(slot) = self.pool.take(&mut self.random) else {
            if let Some(conn) = self.conns.get_mut(id) {
                conn.starved = true;
                self.starved.push_back(id);
            }
            return;
        };
        let closing = self.conns.get(id).is_none_or(super::conns::Conn::is_closing);
        let slot_bytes = self.pool.slot_bytes();
        // A part of a slot need not be its beginning.
        let start = if self.random.chance(100) { self.random.length(0, slot_bytes - 1) } else { 0 };
        let Some(link) = self.links.get_mut(at) else { return };
        let room = (slot_bytes - start).min(link.to_gate.arrived.len());
        let count = self.config.faults.share(room, link.bytewise, &mut self.random);
        let first = self.pool.fill(slot, start, link.to_gate.arrived.drain(..count));
        self.post(at);
        if closing {
            self.pool.release(slot);
            return;
        }
        let mut leases = vec![first];
        if count > 1 && self.random.chance(50) {
            // Two leases on one slot.
            self.pool.retain(slot);
            let cut = self.random.length(1, count - 1);
            leases = leases.into_iter().flat_map(|lease| split(lease, cut)).collect();
        }
        self.ready.extend(leases.into_iter().map(|lease| Event::Received { conn: id, lease }));
    }

    fn end_of_stream(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.ended = true;
        if !conn.is_closing() {
            self.ready.push(Event::EndOfStream { conn: id });
        }
    }

    /// The connection is of no further use: the owner is told, once, unless it is closing anyway.
    fn fail(&mut self, id: ConnId, error: i32) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.ended = true;
        conn.discard(&mut self.pool);
        if !std::mem::replace(&mut conn.failed, true) && !conn.is_closing() {
            let error = io::Error::from_raw_os_error(conn.send_error.unwrap_or(error));
            self.ready.push(Event::Failed { conn: id, error });
        }
    }

    /// Begins a send of what is queued.
    pub(super) fn send(&mut self, id: ConnId) {
        let at_ns = self.completion_ns();
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.dirty = false;
        if !conn.can_send() {
            return;
        }
        conn.sending = conn.queue.iter().take(GATHER_MAX).map(super::conns::Piece::len).sum();
        conn.send_number += 1;
        conn.send_waits = false;
        let number = conn.send_number;
        self.agenda.add(at_ns, What::Sent { conn: id, number }, &mut self.random);
    }

    /// The send under way ends, or finds no room and waits for it.
    fn sent(&mut self, id: ConnId, number: u64) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.send_number != number || conn.sending == 0 {
            return;
        }
        let Some(at) = conn.link else { return };
        let Some(link) = self.links.get_mut(at) else { return };
        let cut = conn.phase == Phase::Cutting;
        let broken = link.to_gate.end == Some(End::Reset);
        let room = link.to_peer.room(link.window).min(conn.sending);
        if room == 0 && !broken && !cut {
            conn.send_waits = true;
            return;
        }
        let mut count = self.config.faults.share(room, link.bytewise, &mut self.random);
        if broken || (cut && self.random.chance(500)) {
            count = 0;
        }
        let bytes = conn.take(count, &mut self.pool);
        conn.sending = 0;
        if cut || conn.failed {
            conn.discard(&mut self.pool);
        }
        if count > 0 {
            self.dispatch_to_peer(at, Parcel::Bytes(bytes));
        } else if broken && !cut {
            self.send_failed(id, libc::EPIPE);
        }
        self.tell_drained(id);
        self.mark_dirty(id);
        self.advance(id);
        self.flush_dirty();
    }

    /// Sends that become possible while the owner waits go on without it.
    fn flush_dirty(&mut self) {
        for id in std::mem::take(&mut self.dirty) {
            self.send(id);
        }
    }

    /// What the peer sent before it went may still be there to be received: the owner is told after that.
    fn send_failed(&mut self, id: ConnId, error: i32) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.send_error = Some(error);
        conn.discard(&mut self.pool);
        if conn.ended {
            self.fail(id, error);
        }
        self.receive(id);
    }

    fn tell_drained(&mut self, id: ConnId) {
        let low = self.config.queue_low_bytes;
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.above && conn.queued <= low {
            conn.above = false;
            if !conn.is_closing() {
                self.ready.push(Event::Drained { conn: id });
            }
        }
    }

    /// Ends everything of the connection that is under way, and throws away what is not.
    pub(super) fn cut(&mut self, id: ConnId) {
        let at_ns = self.completion_ns();
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.phase = Phase::Cutting;
        conn.discard(&mut self.pool);
        let (connecting, number) = (conn.connecting, conn.send_number);
        if conn.sending > 0 {
            self.agenda.add(at_ns, What::Sent { conn: id, number }, &mut self.random);
        }
        if connecting {
            self.agenda.add(at_ns, What::Dialed(id), &mut self.random);
        }
        self.advance(id);
    }

    /// Takes the steps that are due when something has ended: FIN, the cut after a flush, the end.
    pub(super) fn advance(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let up = matches!(conn.phase, Phase::Open | Phase::Flushing) && conn.send_error.is_none();
        if up && conn.finish && !conn.finished && !conn.failed && conn.queue.is_empty() {
            conn.finished = true;
            if let Some(link) = conn.link {
                self.dispatch_to_peer(link, Parcel::End(End::Finished));
            }
        }
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.phase == Phase::Flushing && ((conn.finished && conn.ended) || conn.failed || !up) {
            self.cut(id);
        } else if conn.phase == Phase::Cutting && !conn.is_in_flight() {
            self.remove(id);
        }
    }

    fn remove(&mut self, id: ConnId) {
        let Some(conn) = self.conns.remove(id) else { return };
        self.dials.remove(&id);
        self.ready.push(Event::Closed { conn: id });
        if let Some(link) = conn.link {
            self.gate_closed(link, conn.finished);
        }
    }

    /// A write or sync goes one step on.
    fn disk_step(&mut self, at: usize) {
        let Some(Some(mut job)) = self.jobs.get_mut(at).map(Option::take) else { return };
        let result = match &mut job.work {
            Work::Sync { fails } => {
                if *fails {
                    Err(io::Error::from_raw_os_error(libc::EIO))
                } else {
                    Ok(())
                }
            }
            Work::Write { offset, buf, start, done, fails_at } => {
                let end = fails_at.unwrap_or(buf.len() - *start);
                let count = self.config.faults.share(end - *done, false, &mut self.random);
                let part = buf.get(*start + *done..*start + *done + count).unwrap_or_default();
                self.disk.put(job.file, *offset + u64::try_from(*done).unwrap_or(0), part);
                *done += count;
                if *done < end {
                    let at_ns = self.completion_ns();
                    if let Some(place) = self.jobs.get_mut(at) {
                        *place = Some(job);
                    }
                    return self.agenda.add(at_ns, What::Disk(at), &mut self.random);
                }
                if fails_at.is_some() { Err(io::Error::from_raw_os_error(libc::ENOSPC)) } else { Ok(()) }
            }
        };
        self.disk.job_ends(job.file);
        let token = job.token;
        self.ready.push(match job.work {
            Work::Sync { .. } => Event::Synced { token, result },
            Work::Write { buf, start, .. } => {
                if result.is_ok() {
                    self.disk.acknowledge(buf.get(start..).unwrap_or_default());
                }
                Event::Written { token, result, buf }
            }
        });
    }

    pub(super) fn note_events(&mut self) {
        for event in &self.ready {
            let (kind, conn, more): (u64, ConnId, u64) = match event {
                Event::Accepted { conn, .. } => (1, *conn, 0),
                Event::AcceptFailed { .. } => (2, NOBODY, 0),
                Event::Dialed { conn, result } => (3, *conn, u64::from(result.is_ok())),
                Event::Received { conn, lease } => (4, *conn, u64::from(lease.range.end)),
                Event::EndOfStream { conn } => (5, *conn, 0),
                Event::Failed { conn, .. } => (6, *conn, 0),
                Event::Drained { conn } => (7, *conn, 0),
                Event::Closed { conn } => (8, *conn, 0),
                Event::Written { token, result, .. } => (9, NOBODY, token << 1 | u64::from(result.is_ok())),
                Event::Synced { token, .. } => (10, NOBODY, *token),
                Event::Woken => (11, NOBODY, 0),
            };
            let bytes = match event {
                Event::Received { lease, .. } => self.pool.part(lease.slot, &lease.range),
                _ => &[],
            };
            let words = [kind, u64::from(conn.index), u64::from(conn.generation), more];
            self.trace.note(self.now_ns, &words, bytes, || told(event, bytes));
        }
    }
}

const NOBODY: ConnId = ConnId { index: u32::MAX, generation: 0 };

fn told(event: &Event, bytes: &[u8]) -> String {
    match event {
        Event::Received { conn, .. } => format!("Received {conn:?} {}", super::network::shown(bytes)),
        // Its buffer holds more than was written, at places that differ from run to run.
        Event::Written { token, result, .. } => format!("Written {token} {result:?}"),
        other => format!("{other:?}"),
    }
}

/// A lease as two: its first `cut` bytes, and the rest.
fn split(lease: crate::Lease, cut: usize) -> [crate::Lease; 2] {
    let crate::Lease { slot, range } = lease;
    let middle = range.start + u32::try_from(cut).unwrap_or(0);
    [crate::Lease { slot, range: range.start..middle }, crate::Lease { slot, range: middle..range.end }]
}
