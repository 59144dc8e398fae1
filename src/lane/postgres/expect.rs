//! What the server has been asked and has not answered yet, in order.

use std::collections::VecDeque;
use std::rc::Rc;

use super::names::{Change, Names, Portal, Statement};
use super::reading::Turned;

/// One question that is on its way to the server.
#[derive(Debug)]
pub(super) enum Expect {
    /// A simple Query, up to its ReadyForQuery.
    Query(Running),
    Parse {
        change: Change,
    },
    Bind {
        change: Change,
    },
    /// Describe of a statement: ParameterDescription, then RowDescription or NoData.
    DescribeStatement {
        statement: Option<Rc<Statement>>,
        /// ParameterDescription has come.
        parameters_seen: bool,
    },
    /// Describe of a portal. One that Lockgate asked itself is answered to nobody.
    DescribePortal {
        portal: Rc<Portal>,
        own: bool,
    },
    Execute {
        portal: Rc<Portal>,
        running: Running,
    },
    Close {
        change: Change,
    },
    /// Sync, up to its ReadyForQuery.
    Sync,
    /// FunctionCall, up to its ReadyForQuery.
    FunctionCall(Running),
    /// The stand-in of a refused pipeline: its error is replaced.
    Refusal(Refused),
    /// The stand-in of a refused Query or FunctionCall, up to its ReadyForQuery.
    RefusedQuery(Refused),
}

/// A command that the server carries out.
#[derive(Debug, Default)]
pub(super) struct Running {
    /// Its number in the session.
    pub(super) command: u64,
    /// It holds COPY … FROM STDIN: what the client sends next depends on the answer.
    pub(super) copy_gate: bool,
    /// What it does to how SQL is read.
    pub(super) turned: Option<Turned>,
    /// Names that SQL in it prepares; what they mean is uncertain if it fails.
    pub(super) prepares: Vec<Rc<str>>,
    /// It has failed: ReadyForQuery is all that is to come.
    pub(super) failed: bool,
}

/// A command that never reached the server.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) command: u64,
    /// The ErrorResponse that the client gets.
    pub(super) error: Vec<u8>,
    pub(super) sqlstate: &'static str,
    pub(super) message: String,
}

/// The name of what stands at the front: the row of the table in [`super::legality`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Awaited {
    Nothing,
    Query,
    Parse,
    Bind,
    StatementParameters,
    StatementColumns,
    PortalColumns,
    Execute,
    Close,
    Ready,
    FunctionCall,
    Refusal,
}

#[cfg(test)]
impl Awaited {
    pub(super) const ALL: [Awaited; 12] = {
        use Awaited as A;
        [
            A::Nothing,
            A::Query,
            A::Parse,
            A::Bind,
            A::StatementParameters,
            A::StatementColumns,
            A::PortalColumns,
            A::Execute,
            A::Close,
            A::Ready,
            A::FunctionCall,
            A::Refusal,
        ]
    };
}

impl Expect {
    fn awaited(&self) -> Awaited {
        match self {
            Expect::Query(running) | Expect::FunctionCall(running) if running.failed => Awaited::Ready,
            Expect::Query(_) => Awaited::Query,
            Expect::FunctionCall(_) => Awaited::FunctionCall,
            Expect::Parse { .. } => Awaited::Parse,
            Expect::Bind { .. } => Awaited::Bind,
            Expect::DescribeStatement { parameters_seen: false, .. } => Awaited::StatementParameters,
            Expect::DescribeStatement { parameters_seen: true, .. } => Awaited::StatementColumns,
            Expect::DescribePortal { .. } => Awaited::PortalColumns,
            Expect::Execute { .. } => Awaited::Execute,
            Expect::Close { .. } => Awaited::Close,
            Expect::Sync => Awaited::Ready,
            Expect::Refusal(_) | Expect::RefusedQuery(_) => Awaited::Refusal,
        }
    }

    /// The command that runs, if one does.
    pub(super) fn running(&mut self) -> Option<&mut Running> {
        match self {
            Expect::Query(running) | Expect::FunctionCall(running) | Expect::Execute { running, .. } => {
                Some(running)
            }
            _ => None,
        }
    }

    /// Takes back what it would have changed.
    pub(super) fn undo(self, names: &mut Names) {
        match self {
            Expect::Parse { change } | Expect::Bind { change } | Expect::Close { change } => {
                names.undo(&change);
            }
            _ => {}
        }
    }

    /// The server has done it: what it changes holds.
    pub(super) fn settle(self, names: &mut Names) {
        match self {
            Expect::Parse { change } | Expect::Bind { change } | Expect::Close { change } => {
                names.settle(&change);
            }
            _ => {}
        }
    }
}

/// All questions on their way.
#[derive(Debug, Default)]
pub(super) struct Expects {
    queue: VecDeque<Expect>,
    /// How many were ever pushed, and how many of those are done with.
    pushed: u64,
    done: u64,
    /// Bytes of messages on their way: of those up to the question with this number. What they replaced is kept until
    /// they are answered, so they count against the session.
    sent: VecDeque<(u64, usize)>,
    bytes: usize,
}

impl Expects {
    pub(super) fn push(&mut self, expect: Expect) {
        self.queue.push_back(expect);
        self.pushed += 1;
    }

    /// The questions pushed last are in messages of so many bytes.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.sent.push_back((self.pushed, bytes));
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Bytes of messages on their way.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn is_done(&mut self, count: usize) {
        self.done = self.done.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        while let Some((_, bytes)) = self.sent.pop_front_if(|(last, _)| *last <= self.done) {
            self.bytes = self.bytes.saturating_sub(bytes);
        }
    }

    pub(super) fn front(&mut self) -> Option<&mut Expect> {
        self.queue.front_mut()
    }

    pub(super) fn pop(&mut self) -> Option<Expect> {
        let expect = self.queue.pop_front()?;
        self.is_done(1);
        Some(expect)
    }

    /// Something else of the front is still to come.
    pub(super) fn put_back(&mut self, expect: Expect) {
        self.queue.push_front(expect);
        self.done = self.done.saturating_sub(1);
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn awaited(&self) -> Awaited {
        self.queue.front().map_or(Awaited::Nothing, Expect::awaited)
    }

    /// The last question asks for COPY data and has not been answered.
    pub(super) fn copy_gate(&self) -> bool {
        match self.queue.back() {
            Some(Expect::Query(running) | Expect::Execute { running, .. }) => running.copy_gate,
            _ => false,
        }
    }

    /// After an error in the extended protocol the server skips to the Sync. What it skips, in order; the second
    /// result tells whether that Sync is on its way.
    pub(super) fn skipped(&mut self) -> (Vec<Expect>, bool) {
        let end = self.queue.iter().position(|expect| matches!(expect, Expect::Sync));
        let skipped: Vec<Expect> = self.queue.drain(..end.unwrap_or(self.queue.len())).collect();
        self.is_done(skipped.len());
        (skipped, end.is_some())
    }

    /// The questions since the last Sync, the latest first.
    pub(super) fn since_sync(&self) -> impl Iterator<Item = &Expect> {
        self.queue.iter().rev().take_while(|expect| !matches!(expect, Expect::Sync))
    }
}
