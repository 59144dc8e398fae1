//! One session as a readable transcript, record by record.

use std::collections::HashMap;
use std::fmt::Write as _;

use lockgate_recording::{Column, CommandKind, Entry, Record, Ruling, Time, copied, rows};

use crate::text::{self, block, count, duration, line, padded, shorten, size, utc, widths};
use crate::values::{is_number, type_name, value};

/// Most bytes of one row, or of one message of a COPY, that are held to be shown.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// How NULL is shown.
const NULL: &str = "NULL";
const INDENT: &str = "  ";

/// What to leave out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Most rows of a result, or messages of a COPY, that are shown; 0: all.
    pub(crate) rows: u64,
    /// Most characters of a cell, a parameter or a COPY message that are shown; 0: all.
    pub(crate) cell: usize,
}

/// Turns the records of one session, in order, into text.
#[derive(Debug)]
pub(crate) struct Transcript {
    bounds: Bounds,
    opened: Option<Time>,
    /// The command under whose headline the text now stands.
    current: u64,
    commands: HashMap<u64, Command>,
}

/// What is still open of a command.
#[derive(Debug, Default)]
struct Command {
    began: Option<Time>,
    columns: Vec<ColumnShown>,
    rows: Stream,
    copied_in: Stream,
    copied_out: Stream,
}

#[derive(Debug)]
struct ColumnShown {
    name: String,
    type_oid: u32,
    format: u8,
}

/// The messages of a stream that comes in stretches.
#[derive(Debug, Default)]
struct Stream {
    rest: Vec<u8>,
    shown: Vec<Vec<String>>,
    messages: u64,
    bytes: u64,
    broken: bool,
}

impl Stream {
    /// Takes whole messages off the front of what came so far; `show` is asked for those within bounds.
    fn feed(&mut self, stretch: &[u8], max: u64, mut show: impl FnMut(&[u8]) -> Option<Vec<String>>) {
        self.bytes += stretch.len() as u64;
        if self.broken {
            return;
        }
        self.rest.extend_from_slice(stretch);
        let mut rest = self.rest.as_slice();
        while let Some(len) = whole_message(rest) {
            let Some((message, later)) = rest.split_at_checked(len) else { break };
            rest = later;
            self.messages += 1;
            if max == 0 || self.messages <= max {
                match show(message) {
                    Some(cells) => self.shown.push(cells),
                    None => self.broken = true,
                }
            }
        }
        let taken = self.rest.len() - rest.len();
        self.rest.drain(..taken);
        if self.rest.len() > MESSAGE_BYTES_MAX {
            self.broken = true;
            self.rest = Vec::new();
        }
    }
}

/// Bytes of the message that begins here, if its length is there.
fn whole_message(bytes: &[u8]) -> Option<usize> {
    let len = bytes.get(1..5)?.first_chunk::<4>()?;
    usize::try_from(u32::from_be_bytes(*len)).ok()?.max(4).checked_add(1)
}

impl Transcript {
    pub(crate) fn new(bounds: Bounds) -> Transcript {
        Transcript { bounds, opened: None, current: 0, commands: HashMap::new() }
    }

    /// Appends the text of one record.
    pub(crate) fn feed(&mut self, entry: &Entry<'_>, out: &mut String) {
        let at = entry.at;
        self.opened.get_or_insert(at);
        match &entry.record {
            Record::SessionOpened { .. } => opened(entry, out),
            Record::LoginFailed { user, database, client, reason } => {
                let (user, database, client) = (line(user), line(database), line(client));
                let _ = writeln!(
                    out,
                    "Log-in failed  {}  {user} to {database} from {client}: {}",
                    utc(at.wall_us),
                    line(reason)
                );
            }
            Record::Command { command, kind, name, statement, .. } => {
                self.headline(*command, Some((*kind, name)), at, out);
                self.commands.entry(*command).or_default().began = Some(at);
                out.push_str(&block(statement, INDENT));
                self.parameters(&entry.record, out);
            }
            Record::Verdict { command, .. } => {
                self.headline(*command, None, at, out);
                verdict(&entry.record, out);
            }
            Record::Columns { command, columns } => {
                self.headline(*command, None, at, out);
                self.flush(*command, out);
                self.columns(*command, columns);
            }
            Record::Rows { command, stream } => self.rows(*command, stream),
            Record::Copied { command, inward, stream } => self.copied(*command, *inward, stream),
            Record::Masked { command, rule, place, cells } => {
                self.headline(*command, None, at, out);
                self.flush(*command, out);
                let cells = count(*cells, "cell");
                let _ = writeln!(out, "  masked   {cells} of {} by {}", line(place), line(rule));
            }
            Record::Completed { command, tag, rows, bytes } => {
                self.headline(*command, None, at, out);
                self.flush(*command, out);
                let took = self.end(*command, at);
                let (rows, bytes) = (count(*rows, "row"), size(*bytes));
                let _ = writeln!(out, "  ok       {}, {rows}, {bytes}{took}", line(tag));
            }
            Record::Failed { command, severity, sqlstate, message } => {
                self.headline(*command, None, at, out);
                self.flush(*command, out);
                let took = self.end(*command, at);
                let (severity, sqlstate) = (line(severity), line(sqlstate));
                let _ = writeln!(out, "  {severity} {sqlstate}: {}{took}", line(message));
            }
            _ => self.aside(entry, out),
        }
    }

    /// What the session left unfinished.
    pub(crate) fn finish(&mut self, out: &mut String) {
        // What a statement's rows would look like was asked for outside of any command: 0.
        let mut open: Vec<_> = self.commands.keys().copied().filter(|command| *command != 0).collect();
        open.sort_unstable();
        for command in open {
            let before = out.len();
            self.flush(command, out);
            if out.len() > before {
                let _ = writeln!(out, "  command {command} has no end in the recording");
            }
        }
    }

    /// Records that belong to no command.
    fn aside(&mut self, entry: &Entry<'_>, out: &mut String) {
        let since = self.since(entry.at);
        self.current = 0;
        let _ = match &entry.record {
            Record::Notice { severity, sqlstate, message } => {
                writeln!(out, "\n[{since}] {} {}: {}", line(severity), line(sqlstate), line(message))
            }
            Record::Notification { channel, payload } => {
                writeln!(out, "\n[{since}] notification on {}: {}", line(channel), line(payload))
            }
            Record::Cancelled { client } => {
                writeln!(out, "\n[{since}] cancel requested from {}", line(client))
            }
            Record::Gap { reason } => writeln!(out, "\n[{since}] GAP: {}", line(reason)),
            Record::SessionClosed { reason, fault, commands, bytes_in, bytes_out, rows } => {
                let fault =
                    if fault.is_empty() { String::new() } else { format!(", fault: {}", line(fault)) };
                let (commands, rows) = (count(*commands, "command"), count(*rows, "row"));
                let (bytes_in, bytes_out) = (size(*bytes_in), size(*bytes_out));
                writeln!(
                    out,
                    "\n[{since}] closed: {}{fault}\n  totals   {commands}, {rows}, {bytes_in} from the client, {bytes_out} to it",
                    line(reason)
                )
            }
            other => writeln!(out, "\n[{since}] {}", line(&format!("{other:?}"))),
        };
    }

    fn since(&self, at: Time) -> String {
        let opened = self.opened.unwrap_or(at).monotonic_ns;
        let ms = at.monotonic_ns.saturating_sub(opened) / 1_000_000;
        format!("+{}.{:03} s", ms / 1000, ms % 1000)
    }

    /// Says whose command what follows is, unless that is clear.
    fn headline(&mut self, command: u64, new: Option<(CommandKind, &str)>, at: Time, out: &mut String) {
        if new.is_none() && self.current == command {
            return;
        }
        self.current = command;
        let since = self.since(at);
        let _ = match new {
            _ if command == 0 => writeln!(out, "\n[{since}]"),
            None => writeln!(out, "\n[{since}] #{command} goes on"),
            Some((kind, name)) => {
                let name = if name.is_empty() { String::new() } else { format!(" \"{}\"", line(name)) };
                writeln!(out, "\n[{since}] #{command} {}{name}", kind_word(kind))
            }
        };
    }

    fn parameters(&self, record: &Record<'_>, out: &mut String) {
        let Record::Command { parameters, parameter_types, formats, .. } = record else { return };
        for (at, parameter) in parameters.iter().enumerate() {
            let oid = parameter_types.get(at).copied().unwrap_or(0);
            let format = formats.get(at).copied().unwrap_or(0);
            let shown = parameter.map_or_else(|| NULL.to_owned(), |bytes| value(oid, format, bytes));
            let shown = shorten(shown, self.bounds.cell);
            let of = if oid == 0 { String::new() } else { format!("  ({})", type_name(oid)) };
            let _ = writeln!(out, "  ${} = {shown}{of}", at + 1);
        }
    }

    fn columns(&mut self, command: u64, columns: &[Column<'_>]) {
        let shown = columns.iter().map(|column| ColumnShown {
            name: shorten(line(column.name), self.bounds.cell),
            type_oid: column.type_oid,
            format: column.format,
        });
        self.commands.entry(command).or_default().columns = shown.collect();
    }

    fn rows(&mut self, command: u64, stretch: &[u8]) {
        let bounds = self.bounds;
        let Command { columns, rows: stream, .. } = self.commands.entry(command).or_default();
        stream.feed(stretch, bounds.rows, |message| {
            let cells = rows(message).next()?.ok()?;
            let cells = cells.into_iter().enumerate().map(|(at, cell)| {
                let (oid, format) = columns.get(at).map_or((0, 0), |column| (column.type_oid, column.format));
                cell.map_or_else(|| NULL.to_owned(), |bytes| shorten(value(oid, format, bytes), bounds.cell))
            });
            Some(cells.collect())
        });
    }

    fn copied(&mut self, command: u64, inward: bool, stretch: &[u8]) {
        let bounds = self.bounds;
        let command = self.commands.entry(command).or_default();
        let stream = if inward { &mut command.copied_in } else { &mut command.copied_out };
        stream.feed(stretch, bounds.rows, |message| {
            let data = copied(message).next()?.ok()?;
            let data = data.strip_suffix(b"\n").unwrap_or(data);
            Some(vec![shorten(text::bytes_line(data), bounds.cell)])
        });
    }

    /// Shows the rows and COPY data that came since the last time.
    fn flush(&mut self, command: u64, out: &mut String) {
        let Some(command) = self.commands.get_mut(&command) else { return };
        let rows = std::mem::take(&mut command.rows);
        let columns = std::mem::take(&mut command.columns);
        if !columns.is_empty() || rows.bytes > 0 {
            table(&columns, &rows, out);
        }
        for (stream, way) in [(&mut command.copied_in, "from"), (&mut command.copied_out, "to")] {
            let stream = std::mem::take(stream);
            if stream.bytes > 0 {
                copy(&stream, way, out);
            }
        }
    }

    /// The command is over; how long it took.
    fn end(&mut self, command: u64, at: Time) -> String {
        let began = self.commands.remove(&command).and_then(|command| command.began);
        began.map_or_else(String::new, |began| {
            format!(", {}", duration(at.monotonic_ns.saturating_sub(began.monotonic_ns)))
        })
    }
}

fn kind_word(kind: CommandKind) -> &'static str {
    match kind {
        CommandKind::Query => "query",
        CommandKind::Parse => "parse",
        CommandKind::Execute => "execute",
        CommandKind::FunctionCall => "function call",
        CommandKind::StartUp => "start-up",
        CommandKind::Copy => "copy",
    }
}

fn opened(entry: &Entry<'_>, out: &mut String) {
    let Record::SessionOpened {
        user,
        groups,
        method,
        client,
        client_tls,
        target,
        database,
        target_user,
        target_pid,
        application,
        epoch,
    } = &entry.record
    else {
        return;
    };
    let groups: Vec<_> = groups.iter().map(|group| line(group)).collect();
    let groups =
        if groups.is_empty() { "no groups".to_owned() } else { format!("groups {}", groups.join(", ")) };
    let tls =
        if client_tls.is_empty() { "without TLS".to_owned() } else { format!("with {}", line(client_tls)) };
    let (user, target) = (line(user), line(target));
    let _ = writeln!(out, "Session {}  {user} to {target}", entry.session);
    let _ = writeln!(out, "  opened   {}", utc(entry.at.wall_us));
    let _ = writeln!(out, "  who      {user} ({groups}), proven by {}", line(method));
    let _ = writeln!(out, "  client   {} {tls}{}", line(client), named(application));
    let _ = writeln!(
        out,
        "  target   {target}: database {} as {}, server process {target_pid}",
        line(database),
        line(target_user)
    );
    let _ = writeln!(out, "  epoch    {epoch}");
}

fn named(application: &str) -> String {
    if application.is_empty() { String::new() } else { format!(", application {}", line(application)) }
}

fn verdict(record: &Record<'_>, out: &mut String) {
    let Record::Verdict { ruling, rule, reason, epoch, effects, .. } = record else { return };
    let word = match ruling {
        Ruling::Allow => "allowed",
        Ruling::Deny => "DENIED",
        Ruling::Hold => "HELD",
        Ruling::Refuse => "REFUSED",
    };
    let by = if rule.is_empty() { String::new() } else { format!(" by {}", line(rule)) };
    let why = if reason.is_empty() { String::new() } else { format!(": {}", line(reason)) };
    let _ = writeln!(out, "  {word:<8}{by}{why} (epoch {epoch})");
    if !effects.is_empty() {
        let effects: Vec<_> = effects.iter().map(|effect| line(effect)).collect();
        let _ = writeln!(out, "  effects  {}", effects.join(", "));
    }
}

fn table(columns: &[ColumnShown], rows: &Stream, out: &mut String) {
    let names: Vec<String> = columns.iter().map(|column| column.name.clone()).collect();
    let right: Vec<bool> = columns.iter().map(|column| is_number(column.type_oid)).collect();
    let widths = widths(std::iter::once(names.as_slice()).chain(rows.shown.iter().map(Vec::as_slice)));
    if !names.is_empty() {
        let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
        let _ = writeln!(out, "   {}", padded(&names, &widths, &[]));
        let _ = writeln!(out, "  -{}-", rule.join("-+-"));
    }
    for row in &rows.shown {
        let _ = writeln!(out, "   {}", padded(row, &widths, &right));
    }
    let _ = writeln!(out, "  ({}{})", count(rows.messages, "row"), left_out(rows));
}

fn copy(stream: &Stream, way: &str, out: &mut String) {
    let _ = writeln!(out, "  copied {way} the client:");
    for message in &stream.shown {
        let _ = writeln!(out, "  > {}", message.join(""));
    }
    let bytes = size(stream.bytes);
    let _ = writeln!(out, "  ({}, {bytes}{})", count(stream.messages, "message"), left_out(stream));
}

fn left_out(stream: &Stream) -> String {
    let shown = stream.shown.len() as u64;
    let mut out = String::new();
    if shown < stream.messages {
        let _ = write!(out, ", the first {shown} shown; --rows 0 shows all");
    }
    if stream.broken {
        out.push_str(", and something that cannot be read as such");
    } else if !stream.rest.is_empty() {
        let _ = write!(out, ", and {} of one that was cut off", size(stream.rest.len() as u64));
    }
    out
}
