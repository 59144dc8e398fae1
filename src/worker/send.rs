//! The way out: out of the slot, by copy, through TLS or behind the gate; and what holds the other side back.

use std::ops::Range;

use lockgate_lane::Side;
use lockgate_ring::{ConnId, Driver};

use crate::feed::Input;
use crate::session::{Gate, Job, Session, Stage};
use crate::table::Key;
use crate::turn::Worker;

/// With this many bytes queued to a peer nobody is read from who adds to them: a few turns' worth for a fast peer,
/// and what one session may cost for a slow one. Not below the ring's own high mark, or no
/// [`Drained`](lockgate_ring::Event::Drained) would end the pause.
pub(crate) const QUEUE_BYTES_HIGH: usize = 256 << 10;

/// With this many bytes behind the gate the client is not read from: as much as one block of the recording holds
/// of its commands anyway.
const GATE_BYTES_HIGH: usize = 256 << 10;

/// Slots that one connection's send queue may keep from the pool; past them bytes are copied out, so that one slow
/// peer never empties the pool.
const PINNED_SLOTS_MAX: usize = 16;

/// Which bytes a range means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    Input,
    Arena,
}

/// Plaintext gathered for the TLS connections of the session at hand.
#[derive(Debug, Default)]
pub(crate) struct Staged {
    client: Vec<u8>,
    server: Vec<u8>,
}

impl Staged {
    fn side(&mut self, side: Side) -> &mut Vec<u8> {
        match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }
}

/// How bytes leave.
enum Route {
    /// There is nobody to take them.
    Nowhere,
    /// Behind the gate, until the recording is written up to the mark.
    Gate(u64),
    Tls,
    Plain(ConnId),
}

impl<D: Driver> Worker<D> {
    /// Sends one stretch of bytes.
    pub(crate) fn send_run(
        &mut self,
        key: Key,
        input: Input<'_>,
        to: Side,
        origin: Origin,
        range: Range<usize>,
    ) {
        if to == Side::Client {
            self.counters.bytes_to_clients.add(u64::try_from(range.len()).unwrap_or(u64::MAX));
        }
        let Some(session) = self.sessions.get(key) else { return };
        let route = self.route(session, to);
        if let (Route::Plain(conn), Origin::Input, Input::Slot(lease)) = (&route, origin, input)
            && self.ring.pinned(*conn) < PINNED_SLOTS_MAX
        {
            return self.ring.send_slot(*conn, lease, range);
        }
        self.send_bytes(key, to, route, origin, input, range);
    }

    /// Whatever cannot go out of its slot.
    fn send_bytes(
        &mut self,
        key: Key,
        to: Side,
        route: Route,
        origin: Origin,
        input: Input<'_>,
        range: Range<usize>,
    ) {
        if let Route::Plain(conn) = route {
            return self.send_copy(conn, origin, input, range);
        }
        let bytes = match (origin, input) {
            (Origin::Arena, _) => self.outbox.arena.get(range),
            (Origin::Input, Input::Slot(lease)) => self.ring.bytes(lease).get(range),
            (Origin::Input, Input::Bytes(plain)) => plain.get(range),
            (Origin::Input, Input::None) => None,
        };
        let Some(bytes) = bytes else { return misnamed(self.index) };
        match route {
            Route::Nowhere | Route::Plain(_) => {}
            Route::Tls => self.staged.side(to).extend_from_slice(bytes),
            Route::Gate(mark) => {
                let Some(session) = self.sessions.get_mut(key) else { return };
                let gate = session.gate.get_or_insert_with(|| {
                    self.gated.push(key);
                    Box::new(Gate::default())
                });
                gate.push(bytes, mark);
            }
        }
    }

    fn send_copy(&mut self, conn: ConnId, origin: Origin, input: Input<'_>, range: Range<usize>) {
        let bytes = match (origin, input) {
            (Origin::Arena, _) => self.outbox.arena.get(range),
            (Origin::Input, Input::Bytes(plain)) => plain.get(range),
            (Origin::Input, Input::Slot(lease)) => {
                // Out of a slot that is not to be kept from the pool.
                self.copies.clear();
                self.copies.extend_from_slice(self.ring.bytes(lease).get(range).unwrap_or_default());
                Some(self.copies.as_slice())
            }
            (Origin::Input, Input::None) => None,
        };
        match bytes {
            Some(bytes) => self.ring.send_copy(conn, bytes),
            None => misnamed(self.index),
        }
    }

    fn route(&self, session: &Session, to: Side) -> Route {
        let leg = &session.legs[to];
        let Some(conn) = leg.conn else { return Route::Nowhere };
        let commands = to == Side::Server && session.stage == Stage::Established;
        if commands && (session.gate.is_some() || self.recorder.must_wait(session.recorded)) {
            return Route::Gate(session.recorded);
        }
        match leg.tls {
            Some(_) => Route::Tls,
            None => Route::Plain(conn),
        }
    }

    /// Seals and sends what was gathered for TLS connections.
    pub(crate) fn flush_staged(&mut self, key: Key) {
        for side in [Side::Client, Side::Server] {
            if self.staged.side(side).is_empty() {
                continue;
            }
            let mut plain = std::mem::take(self.staged.side(side));
            self.seal(key, side, &plain);
            plain.clear();
            plain.shrink_to(QUEUE_BYTES_HIGH);
            *self.staged.side(side) = plain;
        }
    }

    /// Seals plaintext and queues the records. A connection whose keys are used up, or that is still shaking hands,
    /// takes nothing: it breaks.
    fn seal(&mut self, key: Key, side: Side, plain: &[u8]) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let Some(tls) = &mut session.legs[side].tls else { return };
        self.cipher.clear();
        let sealed = tls.seal(plain, &mut self.cipher);
        self.send_cipher(key, side);
        if let Err(error) = sealed {
            self.jobs.push_back(Job::Broken { session: key, side, error });
        }
    }

    /// Queues what TLS wrote.
    pub(crate) fn send_cipher(&mut self, key: Key, side: Side) {
        let conn = self.sessions.get(key).and_then(|session| session.legs[side].conn);
        if let (Some(conn), false) = (conn, self.cipher.is_empty()) {
            self.ring.send_copy(conn, self.cipher.filled());
        }
        self.cipher.clear();
    }

    /// Lets out every command whose records are written by now.
    pub(crate) fn open_gates(&mut self) {
        let written = self.recorder.written();
        let gated = std::mem::take(&mut self.gated);
        for key in &gated {
            self.open_gate(*key, written);
        }
        let mut gated = gated;
        gated.retain(|key| self.sessions.get(*key).is_some_and(|session| session.gate.is_some()));
        // Nothing comes behind a gate while gates are opened; still, nothing added would be lost.
        gated.append(&mut self.gated);
        self.gated = gated;
    }

    fn open_gate(&mut self, key: Key, written: u64) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let Some(gate) = &mut session.gate else { return };
        let mut released = std::mem::take(&mut self.copies);
        released.clear();
        gate.release(written, &mut released);
        let empty = gate.len() == 0;
        if empty {
            session.gate = None;
        }
        let close_due = empty && session.legs[Side::Server].close_due;
        if !released.is_empty() {
            match (session.legs[Side::Server].conn, &session.legs[Side::Server].tls) {
                (Some(_), Some(_)) => self.seal(key, Side::Server, &released),
                (Some(conn), None) => self.ring.send_copy(conn, &released),
                (None, _) => {}
            }
        }
        released.shrink_to(QUEUE_BYTES_HIGH);
        self.copies = released;
        if close_due {
            self.close_leg(key, Side::Server);
        }
        self.throttle(key);
    }

    /// Closes one connection when all that is queued to it has gone out, what waits behind the gate included.
    pub(crate) fn close_leg(&mut self, key: Key, side: Side) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let gated = side == Side::Server && session.gate.is_some();
        let leg = &mut session.legs[side];
        let Some(conn) = leg.conn else { return };
        if gated && self.recorder.down().is_none() {
            leg.close_due = true;
            return;
        }
        self.cipher.clear();
        if let Some(mut tls) = leg.tls.take() {
            tls.close(&mut self.cipher);
        }
        self.send_cipher(key, side);
        self.ring.close(conn, true);
        if gated && let Some(session) = self.sessions.get_mut(key) {
            session.gate = None;
        }
    }

    /// Stops reading from whoever adds to a queue that is too long, has said more than the lane can take now, or has to
    /// wait for the recording, and goes on when that is over.
    ///
    /// A long queue to the client holds back both sides: the server sends rows, and the client's own commands may
    /// be answered by the gateway. A long queue to the server holds back the client only: were the server not
    /// read from either, it might never come to empty its queue.
    pub(crate) fn throttle(&mut self, key: Key) {
        let Some(session) = self.sessions.get(key) else { return };
        let to_client = self.queued(session, Side::Client) > QUEUE_BYTES_HIGH;
        let to_server =
            self.queued(session, Side::Server) > QUEUE_BYTES_HIGH || session.gated() > GATE_BYTES_HIGH;
        let blocked = |side| session.lane.as_ref().is_some_and(|lane| lane.blocked(side));
        let client = to_client || to_server || blocked(Side::Client);
        let server = to_client || session.awaits_disk || blocked(Side::Server);
        self.set_paused(key, Side::Client, client);
        self.set_paused(key, Side::Server, server);
    }

    fn queued(&self, session: &Session, side: Side) -> usize {
        session.legs[side].conn.map_or(0, |conn| self.ring.queued(conn))
    }

    fn set_paused(&mut self, key: Key, side: Side, pause: bool) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let leg = &mut session.legs[side];
        let Some(conn) = leg.conn else { return };
        if leg.paused == pause || leg.ended || session.lane.is_none() {
            return;
        }
        leg.paused = pause;
        if pause {
            self.ring.pause(conn);
        } else {
            self.ring.resume(conn);
        }
    }
}

/// A lane named bytes that are not there: its session is out of step with its peers.
fn misnamed(worker: u32) {
    tracing::error!(worker, "a lane named bytes that are not there");
}
