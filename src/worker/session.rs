//! A session: its lane and its two connections, with what waits between them.

use std::net::SocketAddr;
use std::ops::{Index, IndexMut};

use lockgate_lane::{Lane, Side};
use lockgate_recording::SessionId;
use lockgate_ring::ConnId;

use crate::cancel::Requester;
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
    /// When the earliest of its lane timers comes up; `u64::MAX`: none is armed.
    pub armed_ns: u64,
    /// The block of the recording that holds its last records; 0: none yet.
    pub recorded_in: u64,
    /// Commands whose records are not written yet.
    pub gate: Option<Box<Gate>>,
    /// Whereto and how, from [`lockgate_lane::Action::Dial`] on.
    pub upstream: Option<Box<Upstream>>,
    /// The process id under which its cancel key is registered.
    pub registered: Option<u32>,
}

/// How far a session has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Limits before authentication apply.
    Arriving,
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
    pub(crate) fn new(lane: Lane, id: SessionId, conn: ConnId, client: SocketAddr, listener: usize) -> Session {
        let mut legs = Legs::default();
        legs.client.conn = Some(conn);
        Session {
            lane: Some(lane),
            legs,
            id,
            client,
            listener,
            stage: Stage::Arriving,
            armed_ns: u64::MAX,
            recorded_in: 0,
            gate: None,
            upstream: None,
            registered: None,
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

/// Bytes for the server that may leave only when the block with their records is written, in order. There are two
/// blocks at most that are not written: the one on its way to the disk and the one being filled.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    flying: Vec<u8>,
    filling: Vec<u8>,
}

impl Gate {
    pub(crate) fn len(&self) -> usize {
        self.flying.len() + self.filling.len()
    }

    /// Adds bytes; `filling`: their records are in the block being filled. What came later never passes what came
    /// earlier.
    pub(crate) fn push(&mut self, bytes: &[u8], filling: bool) {
        if filling || !self.filling.is_empty() {
            self.filling.extend_from_slice(bytes);
        } else {
            self.flying.extend_from_slice(bytes);
        }
    }

    /// The block being filled has been sealed and is on its way.
    pub(crate) fn sealed(&mut self) {
        if self.flying.is_empty() {
            std::mem::swap(&mut self.flying, &mut self.filling);
        } else {
            self.flying.append(&mut self.filling);
        }
    }

    /// The block on its way is written: what may leave now.
    pub(crate) fn written(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.flying)
    }
}

/// Whom a connection belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A side of a session.
    Session(crate::table::Key, Side),
    /// A connection that delivers a cancel request.
    Courier(crate::table::Key),
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

/// Something to be done when the call that asked for it is over, because it concerns another session.
#[derive(Debug)]
pub(crate) enum Job {
    /// Tell a session that its cancel key came.
    Cancel { session: crate::table::Key, client: SocketAddr, requester: Requester },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gate_keeps_order_and_lets_nothing_out_early() {
        let mut gate = Gate::default();
        gate.push(b"a", true);
        assert_eq!(gate.written(), b"", "its block is not even sealed");
        gate.sealed();
        gate.push(b"b", true);
        gate.push(b"c", false);
        assert_eq!(gate.written(), b"a");
        gate.sealed();
        gate.push(b"d", false);
        assert_eq!(gate.len(), 3);
        assert_eq!(gate.written(), b"bcd", "d had no records of its own, so it goes with b and c");
        assert_eq!(gate.len(), 0);
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
