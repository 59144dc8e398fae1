//! What travels between the gateway and its peers, and what becomes of it on the way.

use super::Sim;
use super::agenda::What;
use super::conns::Phase;
use super::wire::{End, Fate, Link, Parcel, Peer, Wire};
use crate::{Event, ListenerId};

use std::io;
use std::net::SocketAddr;

/// How long accepting rests after it failed.
const REST_NS: u64 = 50_000_000;
/// When the kernel gives up a connection whose other end is silent (keepalive, as Linux has it by default).
const KEEPALIVE_NS: u64 = 7_875_000_000_000;
/// Shortest window that a connection is given.
const WINDOW_BYTES_MIN: usize = 256;
/// Longest parcel.
const PARCEL_BYTES_MAX: usize = 1 << 16;
/// Bytes of a message that the journal shows.
const SHOWN_BYTES_MAX: usize = 48;

impl super::Faults {
    /// How much of `room` is moved.
    pub(super) fn share(&self, room: usize, bytewise: bool, random: &mut super::Random) -> usize {
        if room <= 1 || bytewise {
            room.min(1)
        } else if random.chance(self.split) {
            // Short ones as often as long ones.
            let most = if random.chance(500) { room.min(16) } else { room };
            random.length(1, most)
        } else {
            room
        }
    }
}

impl Sim {
    pub(super) fn new_link(&mut self, peer: Box<dyn Peer>, address: SocketAddr) -> usize {
        let faults = &self.config.faults;
        let mut link = Link::new(peer);
        link.address = address;
        link.latency_ns_max = self.random.below(faults.latency_ns_max.saturating_add(1));
        link.bytewise = self.random.chance(faults.bytewise);
        let most = self.config.window_bytes_max.max(WINDOW_BYTES_MIN);
        link.window = self.random.length(WINDOW_BYTES_MIN, most);
        let bytes = self.random.below(faults.trouble_bytes_max.saturating_add(1));
        if self.random.chance(faults.reset) {
            link.fate = Fate::Reset(bytes);
        } else if self.random.chance(faults.silence) {
            link.fate = Fate::Silence(bytes);
        }
        self.links.push(link);
        self.links.len() - 1
    }

    // ----- how connections begin -----------------------------------------------------------------------------

    pub(super) fn knock(&mut self, id: ListenerId, at: usize) {
        let place = usize::try_from(id.0).unwrap_or(usize::MAX);
        let (fault, quiet_until_ns) = (self.random.chance(self.config.faults.accept), self.now_ns + REST_NS);
        match self.listeners.get_mut(place) {
            Some(listener) if listener.stopped => return self.refuse(at),
            None => return self.refuse(at),
            Some(listener) if listener.resting => return listener.backlog.push_back(at),
            Some(listener) if fault => {
                listener.resting = true;
                listener.backlog.push_back(at);
                let error = io::Error::from_raw_os_error(libc::EMFILE);
                self.ready.push(Event::AcceptFailed { listener: id, error });
                return self.agenda.add(quiet_until_ns, What::Rested(id), &mut self.random);
            }
            Some(_) => {}
        }
        match self.conns.insert(Phase::Open) {
            Ok(conn) => {
                let peer = self.join(at, conn);
                self.ready.push(Event::Accepted { listener: id, conn, peer });
                self.call(at);
            }
            Err(error) => {
                self.ready.push(Event::AcceptFailed { listener: id, error });
                self.refuse(at);
            }
        }
    }

    pub(super) fn rested(&mut self, id: ListenerId) {
        let place = usize::try_from(id.0).unwrap_or(usize::MAX);
        let Some(listener) = self.listeners.get_mut(place) else { return };
        listener.resting = false;
        for link in std::mem::take(&mut listener.backlog) {
            self.knock(id, link);
        }
    }

    pub(super) fn stop(&mut self, id: ListenerId) {
        let place = usize::try_from(id.0).unwrap_or(usize::MAX);
        let Some(listener) = self.listeners.get_mut(place) else { return };
        listener.stopped = true;
        for link in std::mem::take(&mut listener.backlog) {
            self.refuse(link);
        }
    }

    /// Nobody takes the connection.
    fn refuse(&mut self, at: usize) {
        let Some(link) = self.links.get_mut(at) else { return };
        link.closed = true;
        link.fate = Fate::Over;
        link.to_peer.end = Some(End::Reset);
        self.call(at);
    }

    fn join(&mut self, at: usize, conn: crate::ConnId) -> SocketAddr {
        if let Some(found) = self.conns.get_mut(conn) {
            found.link = Some(at);
        }
        let Some(link) = self.links.get_mut(at) else { return super::NOWHERE };
        link.conn = Some(conn);
        link.address
    }

    pub(super) fn dialed(&mut self, id: crate::ConnId) {
        let Some(conn) = self.conns.get_mut(id).filter(|conn| conn.connecting) else { return };
        conn.connecting = false;
        let address = self.dials.remove(&id);
        if conn.phase == Phase::Dialing {
            conn.phase = Phase::Open;
            let result = self.answer_dial(id, address);
            if result.is_err()
                && let Some(conn) = self.conns.get_mut(id)
            {
                conn.failed = true;
                conn.ended = true;
                conn.discard(&mut self.pool);
            }
            self.ready.push(Event::Dialed { conn: id, result });
            self.receive(id);
            self.mark_dirty(id);
        }
        self.advance(id);
    }

    fn answer_dial(&mut self, id: crate::ConnId, address: Option<SocketAddr>) -> io::Result<()> {
        let refused = || io::Error::from_raw_os_error(libc::ECONNREFUSED);
        if self.random.chance(self.config.faults.refusal) {
            return Err(refused());
        }
        let address = address.ok_or_else(refused)?;
        let peer = self.hosts.get_mut(&address).map(|host| host()).ok_or_else(refused)?;
        let link = self.new_link(peer, address);
        self.join(link, id);
        self.agenda.add(self.now_ns, What::Peer(link), &mut self.random);
        Ok(())
    }

    // ----- what travels --------------------------------------------------------------------------------------

    /// Lets the peer do what it has to do, and carries out what it asked for.
    pub(super) fn call(&mut self, at: usize) {
        let Some(link) = self.links.get_mut(at) else { return };
        let Some(mut peer) = link.peer.take() else { return };
        if link.reading {
            link.input.extend(link.to_peer.arrived.drain(..));
        }
        let mut wire = Wire { now_ns: self.now_ns, random: &mut self.random, link, disk: &self.disk };
        peer.act(&mut wire);
        link.peer = Some(peer);
        let (reset, conn) = (std::mem::take(&mut link.reset_wanted), link.conn);
        let again = link.reading && !link.to_peer.arrived.is_empty();
        for at_ns in std::mem::take(&mut link.wake_at_ns) {
            self.agenda.add(at_ns, What::Peer(at), &mut self.random);
        }
        for (at_ns, listener, from, peer) in std::mem::take(&mut link.knocks) {
            self.connect(at_ns, listener, from, peer);
        }
        if reset {
            return self.reset_by_peer(at);
        }
        if again {
            self.agenda.add(self.now_ns, What::Peer(at), &mut self.random);
        }
        self.post(at);
        // The peer may have made room.
        if let Some(conn) = conn {
            self.go_on_sending(conn);
        }
    }

    fn go_on_sending(&mut self, id: crate::ConnId) {
        let at_ns = self.completion_ns();
        let Some(conn) = self.conns.get_mut(id).filter(|conn| conn.send_waits && conn.sending > 0) else {
            return;
        };
        let Some(link) = conn.link.and_then(|link| self.links.get(link)) else { return };
        if link.to_peer.room(link.window) > 0 || link.to_gate.end == Some(End::Reset) {
            conn.send_waits = false;
            let number = conn.send_number;
            self.agenda.add(at_ns, What::Sent { conn: id, number }, &mut self.random);
        }
    }

    /// Puts on its way what the peer has to send, as far as there is room.
    pub(super) fn post(&mut self, at: usize) {
        loop {
            let Some(link) = self.links.get_mut(at) else { return };
            if link.to_gate.ended || link.fate == Fate::Over {
                return;
            }
            let room = link.to_gate.room(link.window).min(link.outbox.len()).min(PARCEL_BYTES_MAX);
            if room == 0 {
                break;
            }
            let count = self.config.faults.share(room, link.bytewise, &mut self.random);
            let bytes = link.outbox.drain(..count).collect();
            self.dispatch_to_gate(at, Parcel::Bytes(bytes));
        }
        let Some(link) = self.links.get_mut(at) else { return };
        if link.outbox.is_empty() && link.to_gate.finish && !link.to_gate.ended {
            self.dispatch_to_gate(at, Parcel::End(End::Finished));
        }
    }

    fn reset_by_peer(&mut self, at: usize) {
        let Some(link) = self.links.get_mut(at) else { return };
        link.outbox.clear();
        link.to_peer.end = Some(End::Reset);
        if !link.to_gate.ended || link.to_gate.end == Some(End::Finished) {
            self.dispatch_to_gate(at, Parcel::End(End::Reset));
        }
    }

    fn dispatch_to_gate(&mut self, at: usize, parcel: Parcel) {
        let at_ns = self.arrival_ns(at, true);
        let len = parcel.len();
        let parcel = self.meet_fate(at, parcel);
        let Some(link) = self.links.get_mut(at) else { return };
        let Some(parcel) = parcel else { return link.to_gate.travelling += len };
        link.to_gate.put(parcel, at_ns);
        self.agenda.add(at_ns, What::ToGate(at), &mut self.random);
    }

    pub(super) fn dispatch_to_peer(&mut self, at: usize, parcel: Parcel) {
        let at_ns = self.arrival_ns(at, false);
        let len = parcel.len();
        let parcel = self.meet_fate(at, parcel);
        let Some(link) = self.links.get_mut(at) else { return };
        let Some(parcel) = parcel else { return link.to_peer.travelling += len };
        link.to_peer.put(parcel, at_ns);
        self.agenda.add(at_ns, What::ToPeer(at), &mut self.random);
    }

    fn arrival_ns(&mut self, at: usize, to_gate: bool) -> u64 {
        let (stall, stall_ns) = (self.config.faults.stall, self.config.faults.stall_ns_max);
        let Some(link) = self.links.get(at) else { return self.now_ns };
        let (latency_ns, last_ns) = match to_gate {
            true => (link.latency_ns_max, link.to_gate.last_arrival_ns),
            false => (link.latency_ns_max, link.to_peer.last_arrival_ns),
        };
        let most_ns = if self.random.chance(stall) { stall_ns } else { latency_ns };
        (self.now_ns + self.draw_ns(most_ns)).max(last_ns)
    }

    /// What the network makes of a parcel; what it swallows stays in its sender's window for ever.
    fn meet_fate(&mut self, at: usize, mut parcel: Parcel) -> Option<Parcel> {
        let link = self.links.get_mut(at)?;
        let len = u64::try_from(parcel.len()).unwrap_or(u64::MAX);
        match link.fate {
            Fate::Good => Some(parcel),
            Fate::Over | Fate::Silent => None,
            Fate::Reset(bytes) if len < bytes => {
                link.fate = Fate::Reset(bytes - len);
                Some(parcel)
            }
            Fate::Silence(bytes) if len < bytes => {
                link.fate = Fate::Silence(bytes - len);
                Some(parcel)
            }
            Fate::Reset(bytes) => {
                if let Parcel::Bytes(all) = &mut parcel {
                    all.truncate(usize::try_from(bytes).unwrap_or(0));
                }
                link.fate = Fate::Reset(0);
                self.agenda.add(self.now_ns, What::Forgotten(at), &mut self.random);
                Some(parcel)
            }
            Fate::Silence(_) => {
                link.fate = Fate::Silent;
                let at_ns = self.now_ns + KEEPALIVE_NS;
                self.agenda.add(at_ns, What::Forgotten(at), &mut self.random);
                None
            }
        }
    }

    /// The network breaks the connection: both ends are reset behind what is on its way.
    pub(super) fn break_link(&mut self, at: usize) {
        let to_gate_ns = self.arrival_ns(at, true);
        let to_peer_ns = self.arrival_ns(at, false);
        let Some(link) = self.links.get_mut(at) else { return };
        if std::mem::replace(&mut link.fate, Fate::Over) == Fate::Over {
            return;
        }
        link.outbox.clear();
        link.to_gate.put(Parcel::End(End::Reset), to_gate_ns);
        link.to_peer.put(Parcel::End(End::Reset), to_peer_ns);
        self.agenda.add(to_gate_ns, What::ToGate(at), &mut self.random);
        self.agenda.add(to_peer_ns, What::ToPeer(at), &mut self.random);
    }

    /// A parcel reaches the gateway.
    pub(super) fn reach_gate(&mut self, at: usize) {
        let Some(link) = self.links.get_mut(at) else { return };
        let Some(parcel) = link.to_gate.transit.pop_front() else { return };
        let more = matches!(parcel, Parcel::Bytes(_));
        link.to_gate.arrive(parcel);
        if link.closed {
            // Nobody is there: the kernel answers with a reset.
            link.to_gate.arrived.clear();
            if more && link.fate != Fate::Over {
                link.fate = Fate::Over;
                link.outbox.clear();
                let at_ns = self.arrival_ns(at, false);
                let Some(link) = self.links.get_mut(at) else { return };
                link.to_peer.put(Parcel::End(End::Reset), at_ns);
                self.agenda.add(at_ns, What::ToPeer(at), &mut self.random);
            }
            return;
        }
        if let Some(conn) = link.conn {
            self.receive(conn);
            self.go_on_sending(conn);
        }
    }

    /// A parcel reaches the peer.
    pub(super) fn reach_peer(&mut self, at: usize) {
        let Some(link) = self.links.get_mut(at) else { return };
        let Some(parcel) = link.to_peer.transit.pop_front() else { return };
        let (kind, bytes) = match &parcel {
            Parcel::Bytes(bytes) => (20, bytes.as_slice()),
            Parcel::End(End::Finished) => (21, &[][..]),
            Parcel::End(End::Reset) => (22, &[][..]),
        };
        let place = u64::try_from(at).unwrap_or(u64::MAX);
        self.trace.note(self.now_ns, &[kind, place], bytes, || match kind {
            20 => format!("  to peer {at}: {}", shown(bytes)),
            21 => format!("  to peer {at}: FIN"),
            _ => format!("  to peer {at}: RST"),
        });
        link.to_peer.arrive(parcel);
        self.call(at);
    }

    /// The gateway's end is closed: FIN if it was not sent, or a reset if something was left unread.
    pub(super) fn gate_closed(&mut self, at: usize, finished: bool) {
        let Some(link) = self.links.get_mut(at) else { return };
        link.conn = None;
        link.closed = true;
        let unread = !link.to_gate.arrived.is_empty();
        link.to_gate.arrived.clear();
        let broken = link.to_gate.end == Some(End::Reset);
        if broken || link.fate == Fate::Over {
            return;
        }
        if unread {
            link.outbox.clear();
            self.dispatch_to_peer(at, Parcel::End(End::Reset));
        } else if !finished {
            self.dispatch_to_peer(at, Parcel::End(End::Finished));
        }
    }
}

impl super::wire::Stream {
    fn put(&mut self, parcel: Parcel, at_ns: u64) {
        self.last_arrival_ns = at_ns;
        match &parcel {
            Parcel::Bytes(bytes) => self.travelling += bytes.len(),
            Parcel::End(_) => self.ended = true,
        }
        self.transit.push_back(parcel);
    }

    fn arrive(&mut self, parcel: Parcel) {
        match parcel {
            Parcel::Bytes(bytes) => {
                self.travelling -= bytes.len();
                self.arrived.extend(bytes);
            }
            Parcel::End(end) => self.end = Some(end),
        }
    }
}

/// A few bytes of a message, for people.
pub(super) fn shown(bytes: &[u8]) -> String {
    let some = bytes.get(..SHOWN_BYTES_MAX.min(bytes.len())).unwrap_or_default();
    format!("{} bytes {}", bytes.len(), some.escape_ascii())
}
