//! The table of connections and what is known of each.
//!
//! ```text
//!            accept                 dial
//!              │                     │
//!              ▼     connected       ▼
//!            open ◄────────────── dialing
//!              │ close(flush)        │
//!              ▼                     │ close, or close of an open one without flush
//!           flushing ─ FIN sent, ─┐  │
//!              │     peer ended   │  │
//!              │ linger limit,    ▼  ▼
//!              └ failure ──────► cutting ── nothing in flight ──► gone
//! ```

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, RawFd};

use super::outgoing::Queue;
use super::token::{INDEX_MAX, Kind, Token};
use crate::ConnId;

/// The life of a connection; see the drawing above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Dialing,
    Open,
    Flushing,
    Cutting,
}

/// The multishot receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Receiving {
    No,
    Armed,
    /// A cancel is under way; bytes may still come before its end is confirmed.
    Cancelling,
}

/// One connection. It never moves a buffer that the kernel knows: those are in the pool and in `Outgoing`.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) stream: TcpStream,
    pub(super) generation: u32,
    pub(super) phase: Phase,
    pub(super) receiving: Receiving,
    /// A connect is the kernel's.
    pub(super) connecting: bool,
    /// The owner wants bytes.
    pub(super) wanted: bool,
    /// Waits in the line of those that found no slot.
    pub(super) starved: bool,
    /// Nothing more comes: end of stream or an error.
    pub(super) ended: bool,
    /// Of no further use, and the owner knows.
    pub(super) failed: bool,
    /// Waits in the line of those with something to send.
    pub(super) dirty: bool,
    /// What is queued was above the high mark.
    pub(super) above: bool,
    /// FIN is due when the queue is empty.
    pub(super) finish: bool,
    pub(super) finished: bool,
    /// A send failed, and the owner is told when the last byte has been received.
    pub(super) send_error: Option<i32>,
    pub(super) queue: Queue,
}

impl Conn {
    fn new(stream: TcpStream, generation: u32, phase: Phase) -> Conn {
        Conn {
            stream,
            generation,
            phase,
            receiving: Receiving::No,
            connecting: false,
            wanted: false,
            starved: false,
            ended: false,
            failed: false,
            dirty: false,
            above: false,
            finish: false,
            finished: false,
            send_error: None,
            queue: Queue::default(),
        }
    }

    pub(super) fn fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }

    /// The owner has called close.
    pub(super) fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Flushing | Phase::Cutting)
    }

    /// Sends may still be queued.
    pub(super) fn takes_sends(&self) -> bool {
        !self.is_closing() && !self.finish && !self.failed && self.send_error.is_none()
    }

    /// The queue may go to the kernel.
    pub(super) fn can_send(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::Flushing)
            && self.send_error.is_none()
            && !self.queue.is_sending()
            && !self.queue.is_empty()
    }

    pub(super) fn can_receive(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::Flushing)
            && self.wanted
            && !self.ended
            && !self.starved
            && self.receiving == Receiving::No
    }

    pub(super) fn is_in_flight(&self) -> bool {
        self.connecting || self.receiving != Receiving::No || self.queue.is_sending()
    }

    pub(super) fn token(&self, kind: Kind, index: u32) -> Token {
        Token::new(kind, index, self.generation)
    }
}

/// Fixed in size, so that a flood of connections ends in refusals and not in memory.
#[derive(Debug)]
pub(super) struct Conns {
    entries: Vec<Entry>,
    free: Vec<u32>,
    /// Places whose connection is gone and whose owner has not been told.
    retired: Vec<u32>,
    /// Places whose owner is being told: until the next turn he may still look the old connection up by its index.
    told: Vec<u32>,
    max: u32,
}

#[derive(Debug)]
struct Entry {
    /// Of the connection that is here, or of the next one.
    generation: u32,
    conn: Option<Conn>,
}

impl Conns {
    pub(super) fn new(max: u32) -> Conns {
        Conns {
            entries: Vec::new(),
            free: Vec::new(),
            retired: Vec::new(),
            told: Vec::new(),
            max: max.min(INDEX_MAX),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.free.len() - self.retired.len() - self.told.len()
    }

    /// # Errors
    /// When the table is full; the stream is then closed.
    pub(super) fn insert(&mut self, stream: TcpStream, phase: Phase) -> io::Result<ConnId> {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                let index = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
                if index >= self.max {
                    return Err(io::Error::new(
                        io::ErrorKind::QuotaExceeded,
                        format!("{} connections are open, which is the limit", self.max),
                    ));
                }
                self.entries.push(Entry { generation: 0, conn: None });
                index
            }
        };
        let Some(entry) = entry_mut(&mut self.entries, index) else {
            return Err(io::Error::from(io::ErrorKind::OutOfMemory));
        };
        entry.conn = Some(Conn::new(stream, entry.generation, phase));
        Ok(ConnId { index, generation: entry.generation })
    }

    pub(super) fn get(&self, id: ConnId) -> Option<&Conn> {
        let entry = self.entries.get(usize::try_from(id.index).ok()?)?;
        entry.conn.as_ref().filter(|conn| conn.generation == id.generation)
    }

    pub(super) fn get_mut(&mut self, id: ConnId) -> Option<&mut Conn> {
        let conn = entry_mut(&mut self.entries, id.index)?.conn.as_mut()?;
        (conn.generation == id.generation).then_some(conn)
    }

    /// Closes the descriptor. The place is free for another generation when the owner has dealt with the end.
    pub(super) fn remove(&mut self, id: ConnId) {
        let Some(entry) = entry_mut(&mut self.entries, id.index) else { return };
        if entry.generation == id.generation && entry.conn.take().is_some() {
            entry.generation = entry.generation.wrapping_add(1);
            self.retired.push(id.index);
        }
    }

    /// A turn begins: the owner has dealt with the ends that the last one told.
    pub(super) fn turn_begins(&mut self) {
        self.free.append(&mut self.told);
    }

    /// A turn has handed over its events.
    pub(super) fn turn_ends(&mut self) {
        self.told.append(&mut self.retired);
    }
}

fn entry_mut(entries: &mut [Entry], index: u32) -> Option<&mut Entry> {
    entries.get_mut(usize::try_from(index).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn an_idle_connection_is_small() {
        assert!(size_of::<Entry>() <= 96, "{}", size_of::<Entry>());
    }

    #[test]
    fn a_dead_id_finds_nothing_and_a_full_table_refuses() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connect = || TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut conns = Conns::new(2);
        let first = conns.insert(connect(), Phase::Open).unwrap();
        let second = conns.insert(connect(), Phase::Open).unwrap();
        assert!(conns.insert(connect(), Phase::Open).is_err());
        conns.remove(first);
        conns.remove(first);
        assert!(conns.insert(connect(), Phase::Open).is_err(), "the owner has not been told");
        conns.turn_ends();
        assert!(conns.insert(connect(), Phase::Open).is_err(), "the owner is being told");
        conns.turn_begins();
        let third = conns.insert(connect(), Phase::Open).unwrap();
        assert_eq!(third.index, first.index);
        assert!(conns.get(first).is_none() && conns.get_mut(first).is_none());
        assert!(conns.get(second).is_some() && conns.get(third).is_some());
        assert_eq!(conns.len(), 2);
    }
}
