//! Recording: records into the open block, and blocks sealed.

use std::error::Error;

use lockgate_recording::{
    CommandKind, Draft, Record, Recovery, Ruling, SEGMENT_BYTES_MAX, SeriesStart, SessionId, Time, Writer,
};

use crate::messages::{self, ROWS_BYTES};
use crate::{Bench, Setup, Work};

/// Commands of one call: their records are most of a block.
const COMMANDS: u64 = 128;

pub(crate) const BENCHES: &[Bench] = &[
    Bench { name: "recording/append", work: Work::Items(COMMANDS), set_up: append },
    Bench { name: "recording/append_and_seal", work: Work::Items(COMMANDS), set_up: append_and_seal },
    Bench { name: "recording/seal_64k", work: Work::Bytes(ROWS_BYTES), set_up: seal },
];

/// A writer whose blocks go nowhere: what is sealed counts as written at once.
pub(crate) struct Sink {
    writer: Writer,
}

impl Sink {
    pub(crate) fn new(now: Time) -> Result<Sink, Box<dyn Error>> {
        let start = SeriesStart { worker: 0, node: 1, boot: 2, recovery: Recovery::default(), now };
        let mut writer = Writer::new(start);
        let header = writer.begin_segment(writer.next_segment(), SEGMENT_BYTES_MAX, 3, now)?;
        writer.acknowledged(header.token, header.buf);
        Ok(Sink { writer })
    }

    /// Seals what waits; how many bytes of file that is.
    pub(crate) fn seal(&mut self, draft: &mut Draft, now: Time) -> usize {
        let Some(write) = self.writer.seal(draft, now) else { return 0 };
        let bytes = write.bytes().len();
        self.writer.acknowledged(write.token, write.buf);
        bytes
    }
}

/// What a point select leaves.
fn push(draft: &mut Draft, session: SessionId, command: u64, row: &[u8]) {
    let at = Time { monotonic_ns: command * 1_000, wall_us: command };
    let records = [
        Record::Command {
            command,
            kind: CommandKind::Query,
            name: "",
            statement: b"SELECT id, name, email FROM customers WHERE id = 42",
            parameters: Vec::new(),
            parameter_types: Vec::new(),
            formats: Vec::new(),
        },
        Record::Verdict {
            command,
            ruling: Ruling::Allow,
            rule: "bench/allow read on public.customers",
            reason: "",
            epoch: 1,
            effects: vec!["read public.customers"],
        },
        Record::Rows { command, stream: row },
        Record::Completed { command, tag: "SELECT 1", rows: 1, bytes: 128 },
    ];
    for record in &records {
        draft.push(session, at, record);
    }
}

fn opened(session: SessionId) -> Draft {
    let mut draft = Draft::default();
    let opened = Record::SessionOpened {
        user: "u",
        groups: vec!["g"],
        method: "certificate",
        client: "127.0.0.1:9",
        client_tls: "",
        target: "t",
        database: "db",
        target_user: "app",
        target_pid: 77,
        application: "",
        epoch: 1,
    };
    draft.push(session, Time::default(), &opened);
    draft
}

/// Into a block that begins without room and grows, as a worker's first does.
fn append() -> Setup {
    let (session, row) = (SessionId(1), messages::row(42, messages::POINT_COLUMNS));
    Ok(Box::new(move || {
        let mut draft = opened(session);
        (1..=COMMANDS).for_each(|command| push(&mut draft, session, command, &row));
        draft.len() > 16 << 10
    }))
}

/// Into blocks whose buffers come back, as in a worker that has found its pace.
fn append_and_seal() -> Setup {
    let (session, row) = (SessionId(1), messages::row(42, messages::POINT_COLUMNS));
    let mut draft = opened(session);
    let mut sink = Sink::new(Time::default())?;
    let mut command = 0;
    Ok(Box::new(move || {
        for _ in 0..COMMANDS {
            command += 1;
            push(&mut draft, session, command, &row);
        }
        sink.seal(&mut draft, Time::default()) > 16 << 10 && draft.is_empty()
    }))
}

/// A block of one record.
fn seal() -> Setup {
    let rows = messages::rows();
    let mut draft = Draft::default();
    let mut sink = Sink::new(Time::default())?;
    Ok(Box::new(move || {
        draft.push(SessionId(1), Time::default(), &Record::Rows { command: 1, stream: &rows });
        sink.seal(&mut draft, Time::default()) > rows.len() && draft.is_empty()
    }))
}
