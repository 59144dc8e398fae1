//! Connections between the gateway and its peers: two streams of parcels, each with a window, and somebody at the far
//! end.

use std::collections::VecDeque;
use std::net::SocketAddr;

use super::disk::Disk;
use super::random::Random;
use crate::{ConnId, ListenerId};

/// Whoever stands at the far end of a connection. It is called when the connection stands, when bytes or the end
/// have come, and when the time has come that it asked for; every call may find nothing new.
pub trait Peer {
    /// Does what it has to do now, and returns.
    fn act(&mut self, wire: &mut Wire<'_>);
}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The other end says no more.
    Finished,
    /// The connection broke.
    Reset,
}

/// What a [`Peer`] can see and do.
pub struct Wire<'a> {
    pub(super) now_ns: u64,
    pub(super) random: &'a mut Random,
    pub(super) link: &'a mut Link,
    pub(super) disk: &'a Disk,
}

impl Wire<'_> {
    /// The simulation's time.
    pub fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// The simulation's chance.
    pub fn random(&mut self) -> &mut Random {
        self.random
    }

    /// What has come and was not taken; the peer takes from the front.
    pub fn input(&mut self) -> &mut Vec<u8> {
        &mut self.link.input
    }

    /// How the gateway's stream ended, if it has and everything before it has come.
    pub fn end(&self) -> Option<End> {
        self.link.to_peer.end.filter(|_| self.link.to_peer.arrived.is_empty())
    }

    /// Sends, now or when there is room.
    pub fn send(&mut self, bytes: &[u8]) {
        if !self.link.to_gate.finish {
            self.link.outbox.extend(bytes);
        }
    }

    /// Bytes that found no room yet.
    pub fn unsent(&self) -> usize {
        self.link.outbox.len()
    }

    /// Says no more; goes on reading.
    pub fn finish(&mut self) {
        self.link.to_gate.finish = true;
    }

    /// Breaks the connection. What was not on its way is lost.
    pub fn reset(&mut self) {
        self.link.reset_wanted = true;
    }

    /// Takes no more bytes until told otherwise: the gateway's queue grows.
    pub fn read(&mut self, wanted: bool) {
        self.link.reading = wanted;
    }

    /// Asks to be called once more, this much later.
    pub fn wake_in(&mut self, ns: u64) {
        self.link.wake_at_ns.push(self.now_ns.saturating_add(ns));
    }

    /// Has another peer knock, this much later.
    pub fn connect_in(&mut self, ns: u64, listener: ListenerId, from: SocketAddr, peer: Box<dyn Peer>) {
        self.link.knocks.push((self.now_ns.saturating_add(ns), listener, from, peer));
    }

    /// The simulation's disk.
    pub fn disk(&self) -> &Disk {
        self.disk
    }
}

/// What is on its way.
pub(super) enum Parcel {
    Bytes(Vec<u8>),
    End(End),
}

impl Parcel {
    pub(super) fn len(&self) -> usize {
        match self {
            Parcel::Bytes(bytes) => bytes.len(),
            Parcel::End(_) => 0,
        }
    }
}

/// One direction.
#[derive(Default)]
pub(super) struct Stream {
    pub(super) transit: VecDeque<Parcel>,
    /// Bytes in `transit`.
    pub(super) travelling: usize,
    /// Came, and were not taken by the receiver.
    pub(super) arrived: VecDeque<u8>,
    pub(super) end: Option<End>,
    /// The sender wants to say no more.
    pub(super) finish: bool,
    /// The end is on its way.
    pub(super) ended: bool,
    /// Parcels arrive in order.
    pub(super) last_arrival_ns: u64,
}

impl Stream {
    /// Bytes that may still be put on their way.
    pub(super) fn room(&self, window: usize) -> usize {
        window.saturating_sub(self.travelling + self.arrived.len())
    }
}

/// What the network has in store for a connection, counted in bytes of both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Good,
    /// Reset after this many bytes.
    Reset(u64),
    /// Silent after this many bytes.
    Silence(u64),
    /// It is silent.
    Silent,
    /// Nothing more travels.
    Over,
}

pub(super) struct Link {
    /// `None` while it is being called.
    pub(super) peer: Option<Box<dyn Peer>>,
    /// The gateway's end; `None`: not accepted yet, or closed.
    pub(super) conn: Option<ConnId>,
    /// The gateway's end is closed: what still comes is answered with a reset.
    pub(super) closed: bool,
    pub(super) to_gate: Stream,
    pub(super) to_peer: Stream,
    /// What the peer has to send and found no room.
    pub(super) outbox: VecDeque<u8>,
    /// What the peer was handed and has not taken.
    pub(super) input: Vec<u8>,
    pub(super) reading: bool,
    pub(super) reset_wanted: bool,
    pub(super) wake_at_ns: Vec<u64>,
    pub(super) knocks: Vec<(u64, ListenerId, SocketAddr, Box<dyn Peer>)>,
    pub(super) window: usize,
    pub(super) latency_ns_max: u64,
    pub(super) bytewise: bool,
    pub(super) fate: Fate,
    /// Whence it comes, or whereto it goes.
    pub(super) address: SocketAddr,
}

impl Link {
    pub(super) fn new(peer: Box<dyn Peer>) -> Link {
        Link {
            peer: Some(peer),
            conn: None,
            closed: false,
            to_gate: Stream::default(),
            to_peer: Stream::default(),
            outbox: VecDeque::new(),
            input: Vec::new(),
            reading: true,
            reset_wanted: false,
            wake_at_ns: Vec::new(),
            knocks: Vec::new(),
            window: 64 << 10,
            latency_ns_max: 0,
            bytewise: false,
            fate: Fate::Good,
            address: super::NOWHERE,
        }
    }
}
