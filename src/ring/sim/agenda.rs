//! What is going to happen, and when. Things due at one moment happen in an order that the seed draws.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use super::random::Random;
use crate::{ConnId, ListenerId};

/// Something that happens by itself.
pub(super) enum What {
    /// A client knocks.
    Knock { listener: ListenerId, link: usize },
    /// A listener goes on after a failed accept.
    Rested(ListenerId),
    /// A dial comes to its end.
    Dialed(ConnId),
    /// The receive under way finds what there is.
    Deliver(ConnId),
    /// The send under way ends; a number of another send means that this one is over already.
    Sent { conn: ConnId, number: u64 },
    /// A flush has taken long enough.
    Linger(ConnId),
    /// The next parcel reaches the gateway.
    ToGate(usize),
    /// The next parcel reaches the peer.
    ToPeer(usize),
    /// The peer asked to be called.
    Peer(usize),
    /// Nobody has heard of the other end for too long.
    Forgotten(usize),
    /// A step of a write or sync.
    Disk(usize),
    /// Something of the test's.
    Chore(Box<dyn FnOnce()>),
}

struct Due {
    at_ns: u64,
    draw: u64,
    number: u64,
    what: What,
}

impl Due {
    fn key(&self) -> (u64, u64, u64) {
        (self.at_ns, self.draw, self.number)
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Due) -> Ordering {
        self.key().cmp(&other.key())
    }
}

/// Everything that is due, the earliest first.
#[derive(Default)]
pub(super) struct Agenda {
    heap: BinaryHeap<Reverse<Due>>,
    last_number: u64,
}

impl Agenda {
    pub(super) fn add(&mut self, at_ns: u64, what: What, random: &mut Random) {
        self.last_number += 1;
        self.heap.push(Reverse(Due { at_ns, draw: random.bits(), number: self.last_number, what }));
    }

    pub(super) fn next_ns(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse(due)| due.at_ns)
    }

    pub(super) fn pop(&mut self, now_ns: u64) -> Option<What> {
        if self.next_ns()? > now_ns {
            return None;
        }
        self.heap.pop().map(|Reverse(due)| due.what)
    }
}
