//! `list`: the sessions, one line each.

use std::io::{self, Write};

use crate::sessions::{Catalogue, Summary};
use crate::text::{duration, json, line, padded, utc, widths};

/// A table for people.
pub(crate) fn table(catalogue: &Catalogue, out: &mut dyn Write) -> io::Result<()> {
    let names = [
        "session", "started", "duration", "user", "groups", "target", "client", "commands", "denied", "rows",
        "outcome",
    ];
    let right = [false, false, true, false, false, false, false, true, true, true, false];
    let mut table = vec![names.map(str::to_owned).to_vec()];
    table.extend(catalogue.sessions.iter().map(cells));
    let widths = widths(table.iter().map(Vec::as_slice));
    for row in &table {
        writeln!(out, "{}", padded(row, &widths, &right))?;
    }
    Ok(())
}

fn cells(session: &Summary) -> Vec<String> {
    let outcome = match session.outcome.reason() {
        "" => session.outcome.word().to_owned(),
        reason => format!("{}: {}", session.outcome.word(), line(reason)),
    };
    vec![
        session.id.to_string(),
        utc(session.first.wall_us),
        duration(session.duration_ns()),
        line(&session.user),
        line(&session.groups.join(",")),
        line(&session.target),
        line(&session.client),
        session.commands.to_string(),
        session.denied.to_string(),
        session.rows.to_string(),
        outcome,
    ]
}

/// One JSON object on each line.
pub(crate) fn json_lines(catalogue: &Catalogue, out: &mut dyn Write) -> io::Result<()> {
    for session in &catalogue.sessions {
        let groups: Vec<_> = session.groups.iter().map(|group| json(group)).collect();
        write!(out, "{{\"session\":\"{}\",\"worker\":{},", session.id, session.worker)?;
        write!(out, "\"started\":\"{}\",", utc(session.first.wall_us))?;
        write!(out, "\"duration_us\":{},", session.duration_ns() / 1000)?;
        write!(out, "\"user\":{},\"groups\":[{}],", json(&session.user), groups.join(","))?;
        write!(out, "\"target\":{},\"client\":{},", json(&session.target), json(&session.client))?;
        write!(out, "\"commands\":{},\"denied\":{},", session.commands, session.denied)?;
        write!(out, "\"rows\":{},\"outcome\":\"{}\",", session.rows, session.outcome.word())?;
        let (reason, fault) = (json(session.outcome.reason()), json(session.outcome.fault()));
        writeln!(out, "\"reason\":{reason},\"fault\":{fault}}}")?;
    }
    Ok(())
}
