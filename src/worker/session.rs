//! A session: its lane and its two connections, with what waits between them.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::{Index, IndexMut};

use lockgate_lane::{Lane, Side};
use lockgate_recording::SessionId;
use lockgate_ring::ConnId;

use crate::cancel::{Cancel, Requester};
use crate::seating::Seat;
use crate::tls::Tls;
use crate::upstream::Upstream;

/// One session, from accept until both its connections are closed. Kept small: thousands of them idle.
#[derive(Debug)]
pub(crate) struct Session {
    /// `None`: the session is over, or only a cancel request; its connections wind up.
    pub lane: Option<Lane>,
    pub legs: Legs,
    pub id: SessionId,
    pub client: SocketAddr,
    /// Which listener it came through.
    pub listener: usize,
    pub stage: Stage,
    /// Its client counts among the unauthenticated.
    pub waiting: bool,
    /// Its first byte has come.
    pub spoken: bool,
    /// It began with a TLS handshake, so it must name the protocol in it.
    pub direct_tls: bool,
    /// The snapshot that answered its log-in; 0: none yet.
    pub epoch: u64,
    /// When the earliest of its lane timers comes up; `u64::MAX`: none is armed.
    pub armed_ns: u64,
    /// The mark of the recording up to which its records go; 0: none yet.
    pub recorded: u64,
    /// Commands whose records are not written yet.
    pub gate: Option<Box<Gate>>,
    /// Its place within the limits on sessions.
    pub seat: Option<Box<Seat>>,
    /// Whereto and how, from [`lockgate_lane::Action::Dial`] on.
    pub upstream: Option<Box<Upstream>>,
    /// The process id under which its cancel key is registered.
    pub registered: Option<u32>,
    /// It stands in the line of those that have had their share.
    pub in_line: bool,
    /// Whether its client can take what is queued to it.
    pub strain: Strain,
    /// It has added much to a recording that is behind: until its turn comes its server is not read from.
    pub awaits_disk: bool,
    /// Its command is being cancelled.
    pub cancel: Option<Box<Cancel>>,
}

/// What is known of a client to which much is queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strain {
    None,
    /// So much was queued to it when it was last looked at.
    Watched(usize),
    /// It has taken nothing since, of so much: it may have to be read from before it can.
    Strained(usize),
}

/// How far a session has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Limits before authentication apply.
    Arriving,
    /// Authenticated; the target's side is being made, or waited for.
    Admitted,
    /// Authenticated and connected.
    Established,
    /// A cancel request: the connection closes when it is done.
    Cancelling,
    /// Over; counted and forgotten everywhere but in the table.
    Over,
}

/// The two connections.
#[derive(Debug, Default)]
pub(crate) struct Legs {
    client: Leg,
    server: Leg,
}

/// One connection of a session.
#[derive(Debug, Default)]
pub(crate) struct Leg {
    /// `None`: not made yet, or closed.
    pub conn: Option<ConnId>,
    pub tls: Option<Box<Tls>>,
    /// Receiving is paused because of what is queued elsewhere.
    pub paused: bool,
    /// The lane knows that nothing more comes from here.
    pub ended: bool,
    /// To be closed when the gate has let its bytes out.
    pub close_due: bool,
}

impl Index<Side> for Legs {
    type Output = Leg;
    fn index(&self, side: Side) -> &Leg {
        match side {
            Side::Client => &self.client,
            Side::Server => &self.server,
        }
    }
}

impl IndexMut<Side> for Legs {
    fn index_mut(&mut self, side: Side) -> &mut Leg {
        match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }
}

impl Session {
    pub(crate) fn new(
        lane: Lane,
        id: SessionId,
        conn: ConnId,
        client: SocketAddr,
        listener: usize,
    ) -> Session {
        let mut legs = Legs::default();
        legs.client.conn = Some(conn);
        Session {
            lane: Some(lane),
            legs,
            id,
            client,
            listener,
            stage: Stage::Arriving,
            waiting: true,
            spoken: false,
            direct_tls: false,
            epoch: 0,
            armed_ns: u64::MAX,
            recorded: 0,
            gate: None,
            seat: None,
            upstream: None,
            registered: None,
            in_line: false,
            strain: Strain::None,
            awaits_disk: false,
            cancel: None,
        }
    }

    /// Both connections are closed and nothing refers to it any more.
    pub(crate) fn is_gone(&self) -> bool {
        self.lane.is_none() && self.legs.client.conn.is_none() && self.legs.server.conn.is_none()
    }

    /// Bytes that wait for their records to be written.
    pub(crate) fn gated(&self) -> usize {
        self.gate.as_ref().map_or(0, |gate| gate.len())
    }
}

/// Bytes for the server that may leave only when the records of what they command are written, in order.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    bytes: Vec<u8>,
    /// Where in `bytes` a stretch ends, and the mark of the recording it waits for. Marks never fall.
    stretches: VecDeque<(u64, usize)>,
}

impl Gate {
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Adds bytes that may leave once the recording is written up to `mark`.
    pub(crate) fn push(&mut self, bytes: &[u8], mark: u64) {
        self.bytes.extend_from_slice(bytes);
        let end = self.bytes.len();
        match self.stretches.back_mut() {
            Some((last, last_end)) if *last >= mark => *last_end = end,
            _ => self.stretches.push_back((mark, end)),
        }
    }

    /// Moves what may leave, now that the recording is written up to `written`, to the end of `out`.
    pub(crate) fn release(&mut self, written: u64, out: &mut Vec<u8>) {
        let mut released = 0;
        while let Some((mark, end)) = self.stretches.front().copied() {
            if mark > written {
                break;
            }
            released = end;
            self.stretches.pop_front();
        }
        for (_, end) in &mut self.stretches {
            *end -= released;
        }
        out.extend(self.bytes.drain(..released.min(self.bytes.len())));
    }
}

/// Whom a connection belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A side of a session.
    Session(crate::table::Key, Side),
    /// A connection that delivers a cancel request.
    Courier(crate::table::Key),
    /// A connection that was never let in, and is being told why.
    TurnedAway,
}

/// Owners by connection. Rows are indexed by the driver's own index and checked against its generation.
#[derive(Debug, Default)]
pub(crate) struct Owners {
    rows: Vec<Option<(ConnId, Owner)>>,
}

impl Owners {
    pub(crate) fn set(&mut self, conn: ConnId, owner: Owner) {
        let Ok(index) = usize::try_from(conn.index) else { return };
        if self.rows.len() <= index {
            self.rows.resize(index + 1, None);
        }
        if let Some(row) = self.rows.get_mut(index) {
            *row = Some((conn, owner));
        }
    }

    pub(crate) fn get(&self, conn: ConnId) -> Option<Owner> {
        let (owned, owner) = (*self.rows.get(usize::try_from(conn.index).ok()?)?)?;
        (owned == conn).then_some(owner)
    }

    /// The connection is closed.
    pub(crate) fn take(&mut self, conn: ConnId) -> Option<Owner> {
        let owner = self.get(conn)?;
        if let Some(row) = self.rows.get_mut(usize::try_from(conn.index).ok()?) {
            *row = None;
        }
        Some(owner)
    }
}

/// Something to be done when the call that asked for it is over, because a lane may not be called
/// while its own actions are carried out.
#[derive(Debug)]
pub(crate) enum Job {
    /// Tell a session that its cancel key came.
    Cancel { session: crate::table::Key, client: SocketAddr, requester: Requester },
    /// Cancel once more, for those that asked while a cancel was on its way.
    CancelAgain { session: crate::table::Key },
    /// End a session because nothing can be recorded.
    Unrecorded { session: crate::table::Key },
    /// Give a session its place in a snapshot that came while it logged in.
    Adopt { session: crate::table::Key },
    /// Tell a session that it has its seat.
    Seated { session: crate::table::Key },
    /// Tell a session that one of its connections is of no further use.
    Broken { session: crate::table::Key, side: Side, conn: Option<ConnId>, error: String },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gate_keeps_order_and_lets_nothing_out_early() {
        let mut gate = Gate::default();
        let mut check = |push: &[(&str, u64)], written, expected: &str, left| {
            for (bytes, mark) in push {
                gate.push(bytes.as_bytes(), *mark);
            }
            let mut out = Vec::new();
            gate.release(written, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
            assert_eq!(gate.len(), left);
        };
        check(&[("a", 1), ("b", 1), ("c", 2)], 0, "", 3);
        check(&[("d", 4)], 1, "ab", 2);
        check(&[], 1, "", 2);
        check(&[("e", 3)], 3, "c", 2);
        check(&[], 4, "de", 0);
        check(&[("f", 5)], 9, "f", 0);
    }

    #[test]
    fn an_owner_is_found_by_the_whole_id() {
        let mut table = crate::table::Table::new();
        let key = table.insert(()).unwrap();
        let mut owners = Owners::default();
        let conn = ConnId { index: 3, generation: 1 };
        owners.set(conn, Owner::Courier(key));
        assert_eq!(owners.get(conn), Some(Owner::Courier(key)));
        assert_eq!(owners.get(ConnId { index: 3, generation: 2 }), None);
        assert_eq!(owners.get(ConnId { index: 9, generation: 1 }), None);
        assert_eq!(owners.take(conn), Some(Owner::Courier(key)));
        assert_eq!(owners.get(conn), None);
    }
}
