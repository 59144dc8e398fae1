//! `verify`: everything the recordings say of themselves, checked and told.

use std::fmt::Write as _;
use std::io::{self, Write};

use lockgate_recording::{Report, SeriesReport};

use crate::text::{count, size};

/// Writes the report; the last line is the result.
pub(crate) fn print(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    for series in &report.series {
        self::series(series, out)?;
    }
    let sum = |of: fn(&SeriesReport) -> u64| report.series.iter().map(of).sum::<u64>();
    let problems = sum(|series| series.problems.len() as u64 + series.problems_more);
    if problems > 0 {
        return writeln!(out, "NOT verified: {}", count(problems, "problem"));
    }
    let workers = count(report.series.len() as u64, "worker");
    let (segments, blocks) = (count(sum(|s| s.segments), "segment"), count(sum(|s| s.blocks), "block"));
    let (records, sessions) = (count(sum(|s| s.records), "record"), count(sum(|s| s.sessions), "session"));
    writeln!(out, "verified: {workers}, {segments}, {blocks}, {records}, {sessions}")
}

fn series(series: &SeriesReport, out: &mut dyn Write) -> io::Result<()> {
    let mut head = String::new();
    for byte in series.head {
        let _ = write!(head, "{byte:02x}");
    }
    let (segments, blocks) = (count(series.segments, "segment"), count(series.blocks, "block"));
    writeln!(out, "worker {}", series.worker)?;
    writeln!(out, "  {segments} ({} made and not begun)", series.unused)?;
    match series.next_block.checked_sub(1) {
        Some(last) if series.blocks > 0 => writeln!(out, "  {blocks}, {} to {last}", series.first_block)?,
        _ => writeln!(out, "  {blocks}")?,
    }
    if series.first_block > 0 {
        writeln!(out, "  what stood before block {} is not there", series.first_block)?;
    }
    let records = count(series.records, "record");
    writeln!(out, "  {records}, {} of them", size(series.payload_bytes))?;
    let (sessions, open) = (count(series.sessions, "session"), series.open);
    writeln!(out, "  {sessions} opened; {open} still open, {} ended by a crash", series.crashed)?;
    writeln!(out, "  last chain value {head}")?;
    for tail in &series.tails {
        let path = tail.path.display();
        if tail.bytes > 0 {
            writeln!(out, "  torn tail: {path}: offset {}, {}", tail.offset, count(tail.bytes, "byte"))?;
        }
        if tail.repeated_blocks > 0 {
            let blocks = count(tail.repeated_blocks, "block");
            writeln!(out, "  write reported as failed: {path}: {blocks}, repeated in the next segment")?;
        }
    }
    for problem in &series.problems {
        writeln!(out, "  PROBLEM {problem}")?;
    }
    if series.problems_more > 0 {
        writeln!(out, "  and {} more", count(series.problems_more, "problem"))?;
    }
    Ok(())
}
