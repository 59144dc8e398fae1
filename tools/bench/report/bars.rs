//! Bar charts over a section's cells: throughput, processor time, memory.

use super::plot::{COLOURS, escape, frame, label};
use crate::compare::{Cell, Measured, Round, Row};

const LEFT: f64 = 190.0;
const WIDTH: f64 = 900.0;
const BAR: f64 = 14.0;

/// What is drawn.
struct Chart {
    /// For the file's name.
    word: &'static str,
    what: &'static str,
    has: fn(&Cell) -> bool,
    /// Of a front in a cell; `None` where it has none.
    figure: fn(&Cell, &Row) -> Option<f64>,
}

/// One front's; its place among all gives it its colour.
struct Bar {
    place: usize,
    front: String,
    value: f64,
}

const CHARTS: &[Chart] = &[
    Chart {
        word: "rate",
        what: "commands a second",
        has: |cell| is_asking(cell) && !cell.workload.is_bulk(),
        figure: |_, row| Some(row.spread(Round::rate)?.middle),
    },
    Chart {
        word: "throughput",
        what: "MiB a second",
        has: |cell| cell.workload.is_bulk(),
        figure: |_, row| Some(row.spread(Round::throughput)?.middle),
    },
    Chart {
        word: "cpu",
        what: "µs of the front's processor time for each command (each MiB in bulk)",
        has: is_asking,
        figure: |cell, row| Some(row.front_cost(cell.workload.is_bulk())?.middle),
    },
    Chart {
        word: "memory",
        what: "KiB of memory for each session (PSS)",
        has: |cell| cell.workload.rests(),
        figure: |cell, row| Some(row.spread(|round| round.kib_for_each(cell.connections))?.middle),
    },
];

fn is_asking(cell: &Cell) -> bool {
    !cell.workload.rests()
}

/// File name, caption and picture of each chart that has something to show.
pub fn charts(measured: &[Measured]) -> Vec<(String, String, String)> {
    let mut made = Vec::new();
    for part in measured {
        for Chart { word, what, has, figure } in CHARTS {
            let cells = part.tables.iter().filter(|(cell, _)| has(cell));
            let groups: Vec<_> =
                cells.map(|(cell, rows)| (cell.title(), bars(rows, |row| figure(cell, row)))).collect();
            if groups.iter().any(|(_, bars)| !bars.is_empty()) {
                let caption = format!("{}: {what}", part.section.title);
                let name = format!("{}-{word}.svg", part.section.title.to_lowercase().replace(' ', "-"));
                made.push((name, caption.clone(), chart(&caption, &groups)));
            }
        }
    }
    made
}

fn bars(rows: &[Row], figure: impl Fn(&Row) -> Option<f64>) -> Vec<Bar> {
    let bar =
        |(place, row): (usize, &Row)| Some(Bar { place, front: row.front.clone(), value: figure(row)? });
    rows.iter().enumerate().filter_map(bar).collect()
}

fn chart(caption: &str, groups: &[(String, Vec<Bar>)]) -> String {
    let mut body = String::new();
    let mut y = 40.0;
    for (title, bars) in groups {
        let most = bars.iter().map(|bar| bar.value).fold(f64::MIN_POSITIVE, f64::max);
        body +=
            &format!("<text x=\"10\" y=\"{:.0}\" font-weight=\"bold\">{}</text>\n", y + 12.0, escape(title));
        y += 20.0;
        for Bar { place, front, value } in bars {
            let length = (WIDTH - LEFT - 90.0) * value.max(0.0) / most;
            let colour = COLOURS.get(place % COLOURS.len()).copied().unwrap_or_default();
            body += &format!(
                "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>\n",
                LEFT - 8.0,
                y + 11.0,
                escape(front)
            );
            body += &format!(
                "<rect x=\"{LEFT}\" y=\"{y:.0}\" width=\"{length:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>\n"
            );
            body += &format!(
                "<text x=\"{:.1}\" y=\"{:.0}\">{}</text>\n",
                LEFT + length + 6.0,
                y + 11.0,
                label(*value)
            );
            y += BAR + 4.0;
        }
        y += 12.0;
    }
    frame(caption, WIDTH, y + 6.0, &body)
}
