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

use crate::ConnId;
use crate::outgoing::Queue;

/// Highest number of places in a table: drivers carry an index in 28 bits.
pub(crate) const INDEX_MAX: u32 = (1 << 28) - 1;

/// The life of a connection; see the drawing above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Dialing,
    Open,
    Flushing,
    Cutting,
}

/// One connection; `own` is what its kind of driver notes beside. It never moves a buffer that the kernel knows: those
/// are in the pool and in `Outgoing`.
#[derive(Debug)]
pub(crate) struct Conn<O> {
    pub(crate) stream: TcpStream,
    pub(crate) generation: u32,
    pub(crate) phase: Phase,
    pub(crate) own: O,
    /// The owner wants bytes.
    pub(crate) wanted: bool,
    /// Waits in the line of those that found no slot.
    pub(crate) starved: bool,
    /// Nothing more comes: end of stream or an error.
    pub(crate) ended: bool,
    /// Of no further use, and the owner knows.
    pub(crate) failed: bool,
    /// Waits in the line of those with something to send.
    pub(crate) dirty: bool,
    /// What is queued was above the high mark.
    pub(crate) above: bool,
    /// FIN is due when the queue is empty.
    pub(crate) finish: bool,
    pub(crate) finished: bool,
    /// Bytes that came after the owner had closed it.
    pub(crate) thrown_bytes: u32,
    /// A send failed, and the owner is told when the last byte has been received.
    pub(crate) send_error: Option<i32>,
    pub(crate) queue: Queue,
}

impl<O: Default> Conn<O> {
    fn new(stream: TcpStream, generation: u32, phase: Phase) -> Conn<O> {
        Conn {
            stream,
            generation,
            phase,
            own: O::default(),
            wanted: false,
            starved: false,
            ended: false,
            failed: false,
            dirty: false,
            above: false,
            finish: false,
            finished: false,
            thrown_bytes: 0,
            send_error: None,
            queue: Queue::default(),
        }
    }
}

impl<O> Conn<O> {
    pub(crate) fn fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }

    /// The owner has called close.
    pub(crate) fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Flushing | Phase::Cutting)
    }

    /// Sends may still be queued.
    pub(crate) fn takes_sends(&self) -> bool {
        !self.is_closing() && !self.finish && !self.failed && self.send_error.is_none()
    }

    /// The queue may go to the kernel.
    pub(crate) fn can_send(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::Flushing)
            && self.send_error.is_none()
            && !self.queue.is_sending()
            && !self.queue.is_empty()
    }

    /// Bytes are wanted, may still come, and do not wait for a slot.
    pub(crate) fn can_receive(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::Flushing) && self.wanted && !self.ended && !self.starved
    }
}

/// Fixed in size, so that a flood of connections ends in refusals and not in memory.
#[derive(Debug)]
pub(crate) struct Conns<O> {
    entries: Vec<Entry<O>>,
    free: Vec<u32>,
    /// Places whose connection is gone and whose owner has not been told.
    retired: Vec<u32>,
    /// Places whose owner is being told: until the next turn he may still look the old connection up by its index.
    told: Vec<u32>,
    max: u32,
}

#[derive(Debug)]
struct Entry<O> {
    /// Of the connection that is here, or of the next one.
    generation: u32,
    conn: Option<Conn<O>>,
}

impl<O: Default> Conns<O> {
    pub(crate) fn new(max: u32) -> Conns<O> {
        Conns {
            entries: Vec::new(),
            free: Vec::new(),
            retired: Vec::new(),
            told: Vec::new(),
            max: max.min(INDEX_MAX),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.free.len() - self.retired.len() - self.told.len()
    }

    /// # Errors
    /// When the table is full; the stream is then closed.
    pub(crate) fn insert(&mut self, stream: TcpStream, phase: Phase) -> io::Result<ConnId> {
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

    pub(crate) fn get(&self, id: ConnId) -> Option<&Conn<O>> {
        let entry = self.entries.get(usize::try_from(id.index).ok()?)?;
        entry.conn.as_ref().filter(|conn| conn.generation == id.generation)
    }

    pub(crate) fn get_mut(&mut self, id: ConnId) -> Option<&mut Conn<O>> {
        let conn = entry_mut(&mut self.entries, id.index)?.conn.as_mut()?;
        (conn.generation == id.generation).then_some(conn)
    }

    /// Closes the descriptor. The place is free for another generation when the owner has dealt with the end.
    pub(crate) fn remove(&mut self, id: ConnId) {
        let Some(entry) = entry_mut(&mut self.entries, id.index) else { return };
        if entry.generation == id.generation && entry.conn.take().is_some() {
            entry.generation = entry.generation.wrapping_add(1);
            self.retired.push(id.index);
        }
    }

    /// A turn begins: the owner has dealt with the ends that the last one told.
    pub(crate) fn turn_begins(&mut self) {
        self.free.append(&mut self.told);
    }

    /// A turn has handed over its events.
    pub(crate) fn turn_ends(&mut self) {
        self.told.append(&mut self.retired);
    }
}

fn entry_mut<O>(entries: &mut [Entry<O>], index: u32) -> Option<&mut Entry<O>> {
    entries.get_mut(usize::try_from(index).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn an_idle_connection_is_small() {
        assert!(size_of::<Entry<[bool; 4]>>() <= 96, "{}", size_of::<Entry<[bool; 4]>>());
    }

    #[test]
    fn a_dead_id_finds_nothing_and_a_full_table_refuses() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connect = || TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut conns = Conns::<()>::new(2);
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
