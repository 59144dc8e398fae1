//! The same as numbers, for whoever compares two reports.

use std::io;
use std::time::Duration;

use serde_json::{Value, json};

use super::Machine;
use crate::compare::{Cell, Measured, Round, Row};

const QUANTILES: [(&str, f64); 6] = [
    ("p50_us", 0.5),
    ("p90_us", 0.9),
    ("p99_us", 0.99),
    ("p99_9_us", 0.999),
    ("p99_99_us", 0.9999),
    ("max_us", 1.0),
];

/// The whole.
pub fn json(machine: &Machine, measured: &[Measured]) -> io::Result<String> {
    let whole = json!({
        "date": machine.date,
        "hardware": machine.hardware,
        "versions": machine.versions,
        "command": machine.command,
        "sections": measured.iter().map(section).collect::<Vec<_>>(),
    });
    serde_json::to_string_pretty(&whole).map_err(io::Error::other)
}

fn section(part: &Measured) -> Value {
    let absent = part.absent.iter().map(|(front, why)| json!({ "front": front, "why": why }));
    json!({
        "title": part.section.title,
        "absent": absent.collect::<Vec<_>>(),
        "cells": part.tables.iter().map(|(cell, rows)| table(cell, rows)).collect::<Vec<_>>(),
    })
}

fn table(cell: &Cell, rows: &[Row]) -> Value {
    json!({
        "workload": cell.workload.name(),
        "connections": cell.connections,
        "rate": cell.rate,
        "tls": cell.tls || cell.workload.tls(),
        "seconds": cell.rhythm.window.as_secs_f64(),
        "fronts": rows.iter().map(row).collect::<Vec<_>>(),
    })
}

fn row(row: &Row) -> Value {
    json!({ "front": row.front, "rounds": row.rounds.iter().map(round).collect::<Vec<_>>() })
}

fn round(round: &Round) -> Value {
    let us = |spent: Duration| u64::try_from(spent.as_micros()).unwrap_or(u64::MAX);
    let (before, with) = round.memory;
    let mut value = json!({
        "commands": round.outcome.commands,
        "bytes": round.outcome.bytes,
        "seconds": round.outcome.seconds,
        "cpu_front_us": round.front.map(us),
        "cpu_client_us": us(round.client),
        "cpu_server_us": us(round.server),
        "rss_kib": with.rss_kib,
        "pss_kib": with.pss_kib,
        "pss_before_kib": before.pss_kib,
    });
    if let Some(fields) = value.as_object_mut() {
        fields.extend(QUANTILES.map(|(name, quantile)| (name.to_owned(), json!(round.latency(quantile)))));
    }
    value
}
