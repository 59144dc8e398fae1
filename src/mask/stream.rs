//! Masking a DataRow that is too long to be held: piece by piece, without a change of any length.

use crate::plan::Plan;
use crate::row::{self, HEADER_BYTES, Header};

/// Masks one DataRow message where it passes, cut anywhere. Every byte of a protected cell becomes `*`, whatever its
/// mask: lengths have gone out before the value is seen, so neither NULL nor `[REDACTED]` can be had.
///
/// Feed it the message from its type byte on; [`StreamProgress::Done`] says where the message ends. After an error
/// the rest of the message must not be sent: what was masked before is valid, but the row is not whole, so the
/// session cannot go on. Where [`Plan::is_streamable`] is true only a broken row is an error.
#[derive(Debug)]
pub struct StreamMasker {
    state: State,
    /// Bytes of the body that are still to come.
    body_left: usize,
    /// The cell that comes next, or is passing.
    column: usize,
    /// Its place among the plan's protected columns.
    masked_at: usize,
}

/// Where in the message the next byte is.
#[derive(Debug, Clone, Copy)]
enum State {
    Header { bytes: [u8; HEADER_BYTES], have: usize },
    Length { bytes: [u8; 4], have: usize },
    Cell { left: usize, masked: bool },
    Done,
    Failed,
}

/// How far a row has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamProgress {
    /// The whole piece belonged to the row, and more is to come.
    More,
    /// The row ended with this many bytes of the piece; those behind it were not touched.
    Done(usize),
}

/// Why a row cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamError {
    /// Its counts and lengths contradict each other, or it has other columns than the plan.
    Broken,
    /// A protected cell is of a type that has no masked value of the same length.
    NotMaskable,
}

impl std::fmt::Display for StreamError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            StreamError::Broken => "the server sent a row that is not one of the columns it described",
            StreamError::NotMaskable => {
                "a row is too long to be masked: a protected column in it has a type that can only become NULL"
            }
        })
    }
}

impl std::error::Error for StreamError {}

impl Default for StreamMasker {
    fn default() -> StreamMasker {
        StreamMasker::new()
    }
}

impl StreamMasker {
    /// For one row.
    pub fn new() -> StreamMasker {
        StreamMasker {
            state: State::Header { bytes: [0; HEADER_BYTES], have: 0 },
            body_left: 0,
            column: 0,
            masked_at: 0,
        }
    }

    /// Masks the next piece of the row where it stands and counts its cells in `plan`, the same for every piece.
    ///
    /// # Errors
    /// [`StreamError`]: nothing of this piece may be sent, and no further one fed.
    pub fn feed(&mut self, plan: &mut Plan, piece: &mut [u8]) -> Result<StreamProgress, StreamError> {
        let bytes = piece.len();
        let mut rest = piece;
        let fed = loop {
            match self.step(plan, &mut rest) {
                Ok(()) => {}
                Err(error) => break Err(error),
            }
            if matches!(self.state, State::Done) {
                break Ok(StreamProgress::Done(bytes - rest.len()));
            }
            if rest.is_empty() {
                break Ok(StreamProgress::More);
            }
        };
        if fed.is_err() {
            self.state = State::Failed;
        }
        fed
    }

    /// Takes what the present state can use of `rest`.
    fn step(&mut self, plan: &mut Plan, rest: &mut &mut [u8]) -> Result<(), StreamError> {
        match self.state {
            State::Header { mut bytes, have } => {
                let have = have + fill(bytes.get_mut(have..).unwrap_or(&mut []), rest);
                self.state = State::Header { bytes, have };
                if have == HEADER_BYTES { self.begin(plan, &bytes) } else { Ok(()) }
            }
            State::Length { mut bytes, have } => {
                let have = have + fill(bytes.get_mut(have..).unwrap_or(&mut []), rest);
                self.state = State::Length { bytes, have };
                if have == bytes.len() { self.begin_cell(plan, bytes) } else { Ok(()) }
            }
            State::Cell { left, masked } => {
                let here = left.min(rest.len());
                let (cell, after) =
                    std::mem::take(rest).split_at_mut_checked(here).ok_or(StreamError::Broken)?;
                if masked {
                    cell.fill(b'*');
                }
                *rest = after;
                self.state = State::Cell { left: left - here, masked };
                if left == here { self.end_cell(plan) } else { Ok(()) }
            }
            State::Done => Ok(()),
            State::Failed => Err(StreamError::Broken),
        }
    }

    fn begin(&mut self, plan: &Plan, header: &[u8; HEADER_BYTES]) -> Result<(), StreamError> {
        let header = Header::parse(header).ok_or(StreamError::Broken)?;
        if header.columns != plan.columns() {
            return Err(StreamError::Broken);
        }
        self.body_left = header.body_bytes;
        self.next_cell(plan)
    }

    fn next_cell(&mut self, plan: &Plan) -> Result<(), StreamError> {
        self.state = if self.column < plan.columns() {
            State::Length { bytes: [0; 4], have: 0 }
        } else if self.body_left == 0 {
            State::Done
        } else {
            return Err(StreamError::Broken);
        };
        Ok(())
    }

    fn begin_cell(&mut self, plan: &mut Plan, length: [u8; 4]) -> Result<(), StreamError> {
        let bytes = row::cell_bytes(length).map_err(|_| StreamError::Broken)?;
        let taken = length.len() + bytes.unwrap_or(0);
        self.body_left = self.body_left.checked_sub(taken).ok_or(StreamError::Broken)?;
        let protected = plan.masked().get(self.masked_at).filter(|masked| masked.index == self.column);
        let masked = protected.is_some() && bytes.is_some();
        if masked {
            if protected.is_some_and(|protected| !protected.carries_text) {
                return Err(StreamError::NotMaskable);
            }
            plan.add_cells(self.masked_at, 1);
        }
        match bytes {
            Some(left @ 1..) => {
                self.state = State::Cell { left, masked };
                Ok(())
            }
            _ => self.end_cell(plan),
        }
    }

    fn end_cell(&mut self, plan: &Plan) -> Result<(), StreamError> {
        let protected = plan.masked().get(self.masked_at).is_some_and(|masked| masked.index == self.column);
        self.masked_at += usize::from(protected);
        self.column += 1;
        self.next_cell(plan)
    }
}

/// Copies as much of `rest` as fits into `to` and takes it off; how many bytes that were.
fn fill(to: &mut [u8], rest: &mut &mut [u8]) -> usize {
    let bytes = to.len().min(rest.len());
    for (to, from) in to.iter_mut().zip(rest.iter()) {
        *to = *from;
    }
    *rest = std::mem::take(rest).split_at_mut_checked(bytes).map_or(&mut [][..], |(_, after)| after);
    bytes
}
