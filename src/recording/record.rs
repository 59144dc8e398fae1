//! What is recorded: every record type, how it is encoded and decoded.

use crate::codec::{Decoder, Encoder, Malformed};

/// A moment, as an argument: this crate and everything above it but the planes read no clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time {
    /// Nanoseconds of a monotonic clock whose zero is the process' start.
    pub monotonic_ns: u64,
    /// Microseconds since 1970-01-01 UTC.
    pub wall_us: u64,
}

/// A session for ever: unique over all workers and restarts (worker, boot and counter; random high bits). Zero
/// is no session: records of the worker itself carry it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct SessionId(pub u64);

impl SessionId {
    /// Records of the worker itself.
    pub const NONE: SessionId = SessionId(0);
}

impl std::fmt::Display for SessionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// How a command came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum CommandKind {
    /// Query message.
    Query = 1,
    /// Parse message.
    Parse = 2,
    /// Bind and Execute messages.
    Execute = 3,
    /// FunctionCall message.
    FunctionCall = 4,
    /// What start-up parameters amount to.
    StartUp = 5,
    /// COPY data.
    Copy = 6,
}

impl CommandKind {
    fn decode(code: u8) -> Result<CommandKind, Malformed> {
        use CommandKind::{Copy, Execute, FunctionCall, Parse, Query, StartUp};
        [Query, Parse, Execute, FunctionCall, StartUp, Copy]
            .into_iter()
            .find(|kind| *kind as u8 == code)
            .ok_or(Malformed::Case)
    }
}

/// What became of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Ruling {
    /// Policy let it pass.
    Allow = 1,
    /// Policy refused it.
    Deny = 2,
    /// Policy held it for approval.
    Hold = 3,
    /// Refused by a limit or the protocol, not by policy.
    Refuse = 4,
}

impl Ruling {
    fn decode(code: u8) -> Result<Ruling, Malformed> {
        [Ruling::Allow, Ruling::Deny, Ruling::Hold, Ruling::Refuse]
            .into_iter()
            .find(|ruling| *ruling as u8 == code)
            .ok_or(Malformed::Case)
    }
}

/// A result column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column<'a> {
    /// As RowDescription names it.
    pub name: &'a str,
    /// The type's OID.
    pub type_oid: u32,
    /// 0 text, 1 binary.
    pub format: u8,
    /// The table it comes from, or 0.
    pub table_oid: u32,
    /// Its number in that table, or 0.
    pub attribute: i16,
}

/// Declares the record types once: number on disk, fields in their order on disk. Encoding, decoding and the
/// bound on the size come from the same table, so they cannot disagree.
macro_rules! records {
    ($(
        $(#[$meta:meta])*
        $code:literal $name:ident { $( $(#[$field_meta:meta])* $field:ident: $type:ty ),* $(,)? }
    )*) => {
        /// One record. Borrowed both when written and when read. `command` counts the commands of a session from
        /// 1; records that belong to a command carry its number. The fields' wire forms are PostgreSQL's.
        #[derive(Debug, Clone, PartialEq)]
        #[expect(missing_docs, reason = "the variants say what their fields are; FORMAT.md has them one by one")]
        pub enum Record<'a> {
            $( $(#[$meta])* $name { $( $(#[$field_meta])* $field: $type ),* } ),*
        }

        impl<'a> Record<'a> {
            /// The record type's number on disk.
            pub fn kind(&self) -> u8 {
                match self { $( Record::$name { .. } => $code ),* }
            }

            /// The record type's name.
            pub fn name(&self) -> &'static str {
                match self { $( Record::$name { .. } => stringify!($name) ),* }
            }

            /// No encoding of the body is longer, in bytes.
            #[inline]
            pub(crate) fn size_bound(&self) -> usize {
                match self { $( Record::$name { $($field),* } => 0 $( + Field::size_bound($field) )* ),* }
            }

            #[inline]
            pub(crate) fn encode(&self, out: &mut Encoder<'_>) {
                match self { $( Record::$name { $($field),* } => { $( Field::encode($field, out); )* } ),* }
            }

            pub(crate) fn decode(kind: u8, body: &'a [u8]) -> Result<Record<'a>, Malformed> {
                let mut from = Decoder::new(body);
                let record = match kind {
                    $( $code => Record::$name { $( $field: Field::decode(&mut from)? ),* }, )*
                    _ => return Err(Malformed::Case),
                };
                from.finish()?;
                Ok(record)
            }
        }
    };
}

records! {
    /// A client was authenticated and its target session stands (`target_pid` is the server's process).
    1 SessionOpened {
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
    }
    /// A log-in that came to nothing.
    2 LoginFailed { user: &'a str, database: &'a str, client: &'a str, reason: &'a str }
    /// A command as the client sent it. `statement` is the text (for Execute: the text that was parsed under
    /// `name`); `parameters` in wire form, `None` for NULL; `formats` 0 text, 1 binary, one for each parameter.
    3 Command {
        command: u64,
        kind: CommandKind,
        name: &'a str,
        statement: &'a [u8],
        parameters: Vec<Option<&'a [u8]>>,
        parameter_types: Vec<u32>,
        formats: Vec<u8>,
    }
    /// What policy said: `rule` as `policy/rule`, and why; `effects` as the policy language spells them.
    4 Verdict {
        command: u64,
        ruling: Ruling,
        rule: &'a str,
        reason: &'a str,
        epoch: u64,
        effects: Vec<&'a str>,
    }
    /// The columns of the rows that follow.
    5 Columns { command: u64, columns: Vec<Column<'a>> }
    /// A stretch of the stream of DataRow messages as the client got them, after masking, cut anywhere:
    /// consecutive `Rows` of one command are to be joined.
    6 Rows { command: u64, stream: &'a [u8] }
    /// A stretch of the payload stream of CopyData messages (whole messages with their headers), cut anywhere.
    7 Copied {
        command: u64,
        /// true: from the client
        inward: bool,
        stream: &'a [u8],
    }
    /// Cells masked in the command's rows: by which rule, where, how many.
    8 Masked { command: u64, rule: &'a str, place: &'a str, cells: u64 }
    /// The command ended well.
    9 Completed { command: u64, tag: &'a str, rows: u64, bytes: u64 }
    /// The command (0: none) failed; what the client saw.
    10 Failed { command: u64, severity: &'a str, sqlstate: &'a str, message: &'a str }
    /// A notice the client saw.
    11 Notice { severity: &'a str, sqlstate: &'a str, message: &'a str }
    /// A notification the client saw.
    12 Notification { channel: &'a str, payload: &'a str }
    /// A CancelRequest for this session came.
    13 Cancelled { client: &'a str }
    /// The session is over. `fault`: client, server, gateway or empty.
    14 SessionClosed { reason: &'a str, fault: &'a str, commands: u64, bytes_in: u64, bytes_out: u64, rows: u64 }
    /// This worker judges by another snapshot from here on.
    15 EpochAdopted { epoch: u64 }
    /// Something could not be recorded here.
    16 Gap { reason: &'a str }
    /// First record of a segment that was begun after a crash: what recovery found in the last one, and which
    /// sessions were open and are over.
    17 Recovered { segment: u64, valid_blocks: u64, cut_bytes: u64, sessions: Vec<SessionId> }
    /// The sessions that are open after this record, with their counters: written once in every segment, so that
    /// recovery need not read the whole series.
    18 Carried { sessions: Vec<(SessionId, u64)> }
}

/// Number on disk of a piece of a record that was too large to be written whole.
pub(crate) const FRAGMENT: u8 = 19;

/// Longest varint.
pub(crate) const VARINT_BYTES_MAX: usize = 10;

/// How a field type is encoded.
trait Field<'a>: Sized {
    /// Least bytes an encoding takes: bounds how many a count may promise.
    const LEAST: usize = 1;
    fn size_bound(&self) -> usize;
    fn encode(&self, out: &mut Encoder<'_>);
    fn decode(from: &mut Decoder<'a>) -> Result<Self, Malformed>;
}

impl<'a> Field<'a> for u64 {
    #[inline]
    fn size_bound(&self) -> usize {
        VARINT_BYTES_MAX
    }
    #[inline]
    fn encode(&self, out: &mut Encoder<'_>) {
        out.varint(*self);
    }
    fn decode(from: &mut Decoder<'a>) -> Result<u64, Malformed> {
        from.varint()
    }
}

impl<'a> Field<'a> for u32 {
    #[inline]
    fn size_bound(&self) -> usize {
        VARINT_BYTES_MAX
    }
    #[inline]
    fn encode(&self, out: &mut Encoder<'_>) {
        out.varint(u64::from(*self));
    }
    fn decode(from: &mut Decoder<'a>) -> Result<u32, Malformed> {
        u32::try_from(from.varint()?).map_err(|_| Malformed::Varint)
    }
}

impl<'a> Field<'a> for u8 {
    fn size_bound(&self) -> usize {
        1
    }
    fn encode(&self, out: &mut Encoder<'_>) {
        out.u8(*self);
    }
    fn decode(from: &mut Decoder<'a>) -> Result<u8, Malformed> {
        from.u8()
    }
}

impl<'a> Field<'a> for bool {
    fn size_bound(&self) -> usize {
        1
    }
    fn encode(&self, out: &mut Encoder<'_>) {
        out.u8(u8::from(*self));
    }
    fn decode(from: &mut Decoder<'a>) -> Result<bool, Malformed> {
        match from.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed::Case),
        }
    }
}

impl<'a> Field<'a> for &'a str {
    #[inline]
    fn size_bound(&self) -> usize {
        VARINT_BYTES_MAX + self.len()
    }
    #[inline]
    fn encode(&self, out: &mut Encoder<'_>) {
        out.text(self);
    }
    fn decode(from: &mut Decoder<'a>) -> Result<&'a str, Malformed> {
        from.text()
    }
}

impl<'a> Field<'a> for &'a [u8] {
    #[inline]
    fn size_bound(&self) -> usize {
        VARINT_BYTES_MAX + self.len()
    }
    #[inline]
    fn encode(&self, out: &mut Encoder<'_>) {
        out.bytes(self);
    }
    fn decode(from: &mut Decoder<'a>) -> Result<&'a [u8], Malformed> {
        from.bytes()
    }
}

/// NULL is 0, anything else its length plus one and its bytes.
impl<'a> Field<'a> for Option<&'a [u8]> {
    fn size_bound(&self) -> usize {
        VARINT_BYTES_MAX + self.map_or(0, <[u8]>::len)
    }
    fn encode(&self, out: &mut Encoder<'_>) {
        match self {
            None => out.varint(0),
            Some(bytes) => {
                out.varint((bytes.len() as u64).saturating_add(1));
                out.raw(bytes);
            }
        }
    }
    fn decode(from: &mut Decoder<'a>) -> Result<Option<&'a [u8]>, Malformed> {
        match from.varint()?.checked_sub(1) {
            None => Ok(None),
            Some(len) => from.take(usize::try_from(len).map_err(|_| Malformed::Short)?).map(Some),
        }
    }
}

impl<'a> Field<'a> for CommandKind {
    fn size_bound(&self) -> usize {
        1
    }
    fn encode(&self, out: &mut Encoder<'_>) {
        out.u8(*self as u8);
    }
    fn decode(from: &mut Decoder<'a>) -> Result<CommandKind, Malformed> {
        CommandKind::decode(from.u8()?)
    }
}

impl<'a> Field<'a> for Ruling {
    fn size_bound(&self) -> usize {
        1
    }
    fn encode(&self, out: &mut Encoder<'_>) {
        out.u8(*self as u8);
    }
    fn decode(from: &mut Decoder<'a>) -> Result<Ruling, Malformed> {
        Ruling::decode(from.u8()?)
    }
}

/// Eight bytes: the high bits are random, a varint would be longer.
impl<'a> Field<'a> for SessionId {
    const LEAST: usize = 8;
    fn size_bound(&self) -> usize {
        8
    }
    fn encode(&self, out: &mut Encoder<'_>) {
        out.u64(self.0);
    }
    fn decode(from: &mut Decoder<'a>) -> Result<SessionId, Malformed> {
        from.u64().map(SessionId)
    }
}

impl<'a> Field<'a> for (SessionId, u64) {
    const LEAST: usize = 9;
    fn size_bound(&self) -> usize {
        8 + VARINT_BYTES_MAX
    }
    fn encode(&self, out: &mut Encoder<'_>) {
        Field::encode(&self.0, out);
        Field::encode(&self.1, out);
    }
    fn decode(from: &mut Decoder<'a>) -> Result<(SessionId, u64), Malformed> {
        Ok((Field::decode(from)?, Field::decode(from)?))
    }
}

impl<'a> Field<'a> for Column<'a> {
    const LEAST: usize = 6;
    fn size_bound(&self) -> usize {
        4 * VARINT_BYTES_MAX + self.name.len()
    }
    fn encode(&self, out: &mut Encoder<'_>) {
        out.text(self.name);
        out.varint(u64::from(self.type_oid));
        out.u8(self.format);
        out.varint(u64::from(self.table_oid));
        out.u16(self.attribute.cast_unsigned());
    }
    fn decode(from: &mut Decoder<'a>) -> Result<Column<'a>, Malformed> {
        Ok(Column {
            name: from.text()?,
            type_oid: Field::decode(from)?,
            format: from.u8()?,
            table_oid: Field::decode(from)?,
            attribute: from.u16()?.cast_signed(),
        })
    }
}

impl<'a, T: Field<'a>> Field<'a> for Vec<T> {
    fn size_bound(&self) -> usize {
        VARINT_BYTES_MAX + self.iter().map(Field::size_bound).sum::<usize>()
    }
    fn encode(&self, out: &mut Encoder<'_>) {
        out.count(self.len());
        for element in self {
            element.encode(out);
        }
    }
    fn decode(from: &mut Decoder<'a>) -> Result<Vec<T>, Malformed> {
        let count = from.count(T::LEAST)?;
        (0..count).map(|_| T::decode(from)).collect()
    }
}

/// The columns of a result as a [`Record::Columns`] holds them: encoded once, recorded often.
pub struct Columns(Box<[u8]>);

impl Columns {
    /// Encodes them.
    pub fn new(columns: &[Column<'_>]) -> Columns {
        let mut bytes = Vec::new();
        let mut out = Encoder::new(&mut bytes);
        out.count(columns.len());
        columns.iter().for_each(|column| column.encode(&mut out));
        Columns(bytes.into())
    }

    pub(crate) fn encoded(&self) -> &[u8] {
        &self.0
    }

    /// The columns again.
    pub(crate) fn decode(&self) -> Result<Vec<Column<'_>>, Malformed> {
        Field::decode(&mut Decoder::new(&self.0))
    }
}
