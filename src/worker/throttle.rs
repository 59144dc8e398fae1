//! Who is not read from for now, and when a client that is not is read from all the same.

use lockgate_lane::Side;
use lockgate_ring::Driver;

use crate::session::{Session, Strain};
use crate::table::Key;
use crate::timers::Timer;
use crate::turn::Worker;

/// With this many bytes waiting on their way to a peer nobody is read from who adds to them: a few turns' worth for a
/// fast peer, and what one session may cost for a slow one. Not below the ring's own high mark, or no
/// [`Drained`](lockgate_ring::Event::Drained) would end the pause.
pub(crate) const QUEUE_BYTES_HIGH: usize = 256 << 10;

/// The same from a strained client: what a client that reads late has room for beyond what the kernel keeps of it.
const STRAINED_BYTES_HIGH: usize = 4 << 20;

/// A client whose long queue has not moved for so long is strained, in nanoseconds: as soon as the kernel gives up
/// waiting for an acknowledgement.
const STRAIN_NS: u64 = 200_000_000;

impl<D: Driver> Worker<D> {
    /// Stops reading from whoever adds to a queue that is too long, has said more than the lane can take now, or has to
    /// wait for the recording, and goes on when that is over.
    ///
    /// A long queue to the client holds back both sides: the server sends rows, and the client's own commands may
    /// be answered by the gateway. A long queue to the server holds back the client only: were the server not
    /// read from either, it might never come to empty its queue.
    ///
    /// A client that takes nothing while it is held back may not be able to: one that reads only when all it has to say
    /// is said, or one whose kernel is not heard. (What comes when a receive buffer is full is dropped with the
    /// acknowledgements in it, by Linux 6.17 and later.) Both are helped by being read from a good deal further.
    pub(crate) fn throttle(&mut self, key: Key) {
        let Some(session) = self.sessions.get(key) else { return };
        let to_client = self.queued(session, Side::Client);
        let held = session.lane.as_ref().map_or(0, |lane| lane.held_bytes());
        let from_client = self.queued(session, Side::Server).max(session.gated()).max(held);
        let much_to_client = to_client > QUEUE_BYTES_HIGH;
        let pause_client = match session.strain {
            // What the gateway itself answers meanwhile is queued to the client, and counts as well.
            Strain::Strained(stuck) if much_to_client => {
                from_client.max(to_client.saturating_sub(stuck)) > STRAINED_BYTES_HIGH
            }
            _ => much_to_client || from_client > QUEUE_BYTES_HIGH,
        };
        let pause_server = much_to_client || session.awaits_disk;
        self.set_paused(key, Side::Client, pause_client);
        self.set_paused(key, Side::Server, pause_server);
        self.watch(key, to_client);
    }

    /// Looks at a long queue to a client again in a while.
    fn watch(&mut self, key: Key, to_client: usize) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        match session.strain {
            Strain::None if to_client > QUEUE_BYTES_HIGH => {
                session.strain = Strain::Watched(to_client);
                self.timers.arm(self.now.monotonic_ns.saturating_add(STRAIN_NS), Timer::Strain(key));
            }
            Strain::Strained(_) if to_client <= QUEUE_BYTES_HIGH => session.strain = Strain::None,
            _ => {}
        }
    }

    /// The while is over.
    pub(crate) fn strain_deadline(&mut self, key: Key) {
        let Some(session) = self.sessions.get(key) else { return };
        let to_client = self.queued(session, Side::Client);
        let stuck = session.strain == Strain::Watched(to_client);
        let Some(session) = self.sessions.get_mut(key) else { return };
        session.strain = if stuck { Strain::Strained(to_client) } else { Strain::None };
        self.throttle(key);
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
