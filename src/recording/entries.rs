//! Bytes of one block to records, and fragments to whole records.

use crate::codec::{Decoder, Malformed};
use crate::draft::{Head, RECORD_BYTES_MAX};
use crate::record::{FRAGMENT, Record, SessionId, Time};

/// A record with what stands before it.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry<'a> {
    /// Whose record it is; [`SessionId::NONE`]: the worker's own.
    pub session: SessionId,
    /// Counts the session's records from 1; 0 outside of an open session.
    pub counter: u64,
    /// When it was pushed.
    pub at: Time,
    /// The record.
    pub record: Record<'a>,
}

/// A record's head and its undecoded body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Raw<'a> {
    pub(crate) head: Head,
    pub(crate) body: &'a [u8],
}

/// The records of a block's payload, in order; ends at the first that is malformed.
#[derive(Debug)]
pub(crate) struct Raws<'a> {
    rest: Decoder<'a>,
    last: Time,
}

impl<'a> Raws<'a> {
    pub(crate) fn new(payload: &'a [u8]) -> Raws<'a> {
        Raws { rest: Decoder::new(payload), last: Time::default() }
    }

    fn read(&mut self) -> Result<Raw<'a>, Malformed> {
        let len = usize::try_from(self.rest.u32()?).map_err(|_| Malformed::Short)?;
        let mut from = Decoder::new(self.rest.take(len)?);
        let (kind, session, counter) = (from.u8()?, SessionId(from.u64()?), from.varint()?);
        let at =
            Time { monotonic_ns: from.step(self.last.monotonic_ns)?, wall_us: from.step(self.last.wall_us)? };
        self.last = at;
        Ok(Raw { head: Head { kind, session, counter, at }, body: from.rest() })
    }
}

impl<'a> Iterator for Raws<'a> {
    type Item = Result<Raw<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let read = self.read();
        if read.is_err() {
            self.rest.rest();
        }
        Some(read)
    }
}

/// Joins fragments. The fragments of one record follow each other; nothing but a `Gap` of the worker can come
/// between them, so one record at most is pending.
#[derive(Debug, Default)]
pub(crate) struct Joiner {
    pending: Option<Pending>,
    whole: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pending {
    session: SessionId,
    kind: u8,
}

impl Joiner {
    /// The rest of a pending record will not come (crash, damage).
    pub(crate) fn forget(&mut self) {
        self.pending = None;
        self.whole = Vec::new();
    }

    /// The record that is complete with `raw`; `None`: more is to come.
    pub(crate) fn join<'a>(&'a mut self, raw: Raw<'a>) -> Result<Option<Entry<'a>>, Malformed> {
        let Head { kind, session, counter, at } = raw.head;
        if kind == FRAGMENT {
            let Some(kind) = self.append(session, raw.body)? else { return Ok(None) };
            let record = Record::decode(kind, &self.whole)?;
            return Ok(Some(Entry { session, counter, at, record }));
        }
        let record = Record::decode(kind, raw.body)?;
        match record {
            Record::Gap { .. } if session == SessionId::NONE => {}
            Record::Recovered { .. } => self.forget(),
            _ if self.pending.is_some() => {
                self.forget();
                return Err(Malformed::Short);
            }
            _ => {}
        }
        Ok(Some(Entry { session, counter, at, record }))
    }

    fn append(&mut self, session: SessionId, body: &[u8]) -> Result<Option<u8>, Malformed> {
        let mut from = Decoder::new(body);
        let (kind, last) = (from.u8()?, from.u8()?);
        let this = Pending { session, kind };
        if last > 1 || self.pending.is_some_and(|pending| pending != this) {
            self.forget();
            return Err(Malformed::Case);
        }
        if self.pending.is_none() {
            self.whole.clear();
        }
        let bytes = from.rest();
        if self.whole.len() + bytes.len() > RECORD_BYTES_MAX {
            self.forget();
            return Err(Malformed::Excess);
        }
        self.whole.extend_from_slice(bytes);
        self.pending = (last == 0).then_some(this);
        Ok((last == 1).then_some(kind))
    }
}
