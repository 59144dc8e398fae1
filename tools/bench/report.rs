//! What was measured, as files: Markdown to read, JSON to compare with, plots.

use std::fs;
use std::io;
use std::path::Path;

use crate::bed::Bed;
use crate::compare::{Measured, Section};
use crate::fronts::Setup;
use crate::process::{self, Who};

mod bars;
mod json;
mod markdown;
mod plot;

pub use markdown::{markdown, standing};

/// Where and with what it was measured.
#[derive(Debug)]
pub struct Machine {
    /// Sentences on processor, memory and kernel.
    pub hardware: String,
    /// One line for each program.
    pub versions: Vec<String>,
    /// What was typed.
    pub command: String,
    /// The day, in UTC.
    pub date: String,
}

impl Machine {
    /// As far as the machine tells.
    pub fn read(bed: &Bed, setup: &Setup, sections: &[Section]) -> Machine {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(':'))
                .map_or("?".into(), |(_, value)| value.trim().to_owned())
        };
        let model = field(&read("/proc/cpuinfo"), "model name");
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let kernel = read("/proc/sys/kernel/osrelease");
        let hardware = format!(
            "{model}, {} cores, {memory} of memory, Linux {}",
            crate::compare::cores(),
            kernel.trim()
        );
        let mut versions = vec![bed.version.clone()];
        for spec in sections.iter().flat_map(|section| &section.fronts) {
            versions.extend(spec.version(setup).filter(|version| !versions.contains(version)));
        }
        // Of the sources that lie here, which need not be those that it was built of.
        let here = std::env::current_dir().unwrap_or_default().display().to_string();
        let words = ["-C", &here, "describe", "--always", "--dirty"].map(String::from);
        let commit = process::run(Who::Ourselves, Path::new("git"), &words);
        versions.extend(commit.ok().map(|commit| format!("sources: commit {}", commit.trim())));
        let date = process::run(Who::Ourselves, Path::new("date"), &["-u".into(), "+%F".into()]);
        Machine { hardware, versions, command: command(), date: date.unwrap_or_default().trim().to_owned() }
    }
}

fn command() -> String {
    let mut words = std::env::args();
    let program = words.next().unwrap_or_default();
    let name =
        Path::new(&program).file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    [name].into_iter().chain(words).collect::<Vec<_>>().join(" ")
}

/// Writes all files into a folder.
pub fn write(folder: &Path, machine: &Machine, measured: &[Measured]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let mut page = markdown(machine, measured);
    page += "\n## Plots\n\n";
    for (name, caption, svg) in plots(measured) {
        fs::write(folder.join(&name), svg)?;
        page += &format!("![{caption}]({name})\n\n");
    }
    fs::write(folder.join("report.md"), page)?;
    fs::write(folder.join("report.json"), json::json(machine, measured)?)
}

/// File name, caption and picture of each.
fn plots(measured: &[Measured]) -> Vec<(String, String, String)> {
    let mut plots = bars::charts(measured);
    for part in measured {
        for (cell, rows) in
            part.tables.iter().filter(|(cell, _)| !cell.workload.rests() && !cell.workload.is_bulk())
        {
            let caption = format!("{}: {}, latency by quantile", part.section.title, cell.title());
            let section = part.section.title.to_lowercase().replace(' ', "-");
            let name = format!("{section}-{}.svg", cell.slug());
            plots.push((name, caption.clone(), plot::latencies(&caption, rows)));
        }
    }
    plots
}
