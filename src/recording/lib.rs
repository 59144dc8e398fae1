//! The on-disk format of recordings: who holds this crate can not write a block that does not verify, nor read
//! one that does not.
//!
//! No sockets, no threads, no clock. A worker owns one [`Writer`]; records are encoded straight into the open
//! block, [`Writer::seal`] makes it a group commit (header, CRC-32C, chain) and tells where it goes; the worker
//! writes it through its ring. Byte by byte: `FORMAT.md`.

/// A moment, as an argument: this crate and everything above it but the planes read no clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Nanoseconds of a monotonic clock whose zero is the process' start.
    pub monotonic_ns: u64,
    /// Microseconds since 1970-01-01 UTC.
    pub wall_us: u64,
}

/// A session for ever: unique over all workers and restarts (worker, boot and counter; random high bits).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// How a command came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum CommandKind {
    Query = 1,
    Parse = 2,
    Execute = 3,
    FunctionCall = 4,
    StartUp = 5,
    Copy = 6,
}

/// What became of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Ruling {
    Allow = 1,
    Deny = 2,
    Hold = 3,
    /** refused by a limit or the protocol, not by policy */
    Refuse = 4,
}

/// One record. Borrowed both when written and when read. `command` counts the commands of a session from 1;
/// records that belong to a command carry its number.
#[derive(Debug, Clone, PartialEq)]
pub enum Record<'a> {
    /// A client was authenticated and its target session stands (`target_pid` is the server's process).
    SessionOpened {
        user: &'a str,
        groups: Vec<&'a str>,
        method: &'a str,
        client: &'a str,
        client_tls: &'a str,
        target: &'a str,
        database: &'a str,
        target_user: &'a str,
        target_pid: u32,
        application: &'a str,
        epoch: u64,
    },
    /// A log-in that came to nothing.
    LoginFailed { user: &'a str, database: &'a str, client: &'a str, reason: &'a str },
    /// A command as the client sent it. `statement` is the text (for Execute: the text that was parsed under
    /// `name`); `parameters` in wire form, `None` for NULL; `formats` 0 text, 1 binary, one for each parameter.
    Command {
        command: u64,
        kind: CommandKind,
        name: &'a str,
        statement: &'a [u8],
        parameters: Vec<Option<&'a [u8]>>,
        parameter_types: Vec<u32>,
        formats: Vec<u8>,
    },
    /// What policy said: `rule` as `policy/rule`, and why; `effects` as the policy language spells them.
    Verdict {
        command: u64,
        ruling: Ruling,
        rule: &'a str,
        reason: &'a str,
        epoch: u64,
        effects: Vec<&'a str>,
    },
    /// The columns of the rows that follow.
    Columns { command: u64, columns: Vec<Column<'a>> },
    /// A stretch of the stream of DataRow messages as the client got them, after masking, cut anywhere:
    /// consecutive `Rows` of one command are to be joined.
    Rows { command: u64, stream: &'a [u8] },
    /// A stretch of the payload stream of CopyData messages (whole messages with their headers), cut anywhere.
    Copied {
        command: u64,
        /** true: from the client */
        inward: bool,
        stream: &'a [u8],
    },
    /// Cells masked in the command's rows: by which rule, where, how many.
    Masked { command: u64, rule: &'a str, place: &'a str, cells: u64 },
    /// The command ended well.
    Completed { command: u64, tag: &'a str, rows: u64, bytes: u64 },
    /// The command (0: none) failed; what the client saw.
    Failed { command: u64, severity: &'a str, sqlstate: &'a str, message: &'a str },
    /// A notice the client saw.
    Notice { severity: &'a str, sqlstate: &'a str, message: &'a str },
    /// A notification the client saw.
    Notification { channel: &'a str, payload: &'a str },
    /// A CancelRequest for this session came.
    Cancelled { client: &'a str },
    /// The session is over. `fault`: client, server, gateway or empty.
    SessionClosed { reason: &'a str, fault: &'a str, commands: u64, bytes_in: u64, bytes_out: u64, rows: u64 },
    /// This worker judges by another snapshot from here on.
    EpochAdopted { epoch: u64 },
    /// Something could not be recorded here.
    Gap { reason: &'a str },
    /// First record of a segment that was begun after a crash: what recovery found.
    Recovered { segment: u64, valid_blocks: u64, cut_bytes: u64, sessions: Vec<SessionId> },
}

/// A result column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column<'a> {
    pub name: &'a str,
    pub type_oid: u32,
    pub format: u8,
    pub table_oid: u32,
    pub attribute: i16,
}

/// The open block: records go in, nothing comes out before it is sealed. A lane holds it while it is fed.
#[derive(Debug, Default)]
pub struct Draft {
    bytes: Vec<u8>,
    records: u32,
}

impl Draft {
    /// Encodes one record at the end of the block.
    pub fn push(&mut self, session: SessionId, at: Time, record: &Record<'_>) {
        let _ = (session, at, record);
    }
    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }
    /// No record yet.
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }
}
