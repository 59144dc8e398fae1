//! Whole workers in a simulated world, one for each seed: network, disk and clock are the simulator's, lanes, gate and
//! recording are the real ones.
//!
//! A seed that fails names itself; `LOCKGATE_SEED=N` runs it alone and shows its journal, `LOCKGATE_SEEDS=N` sets how
//! many there are.

mod backend;
mod client;
mod script;
mod server;
mod world;

use std::rc::Rc;

use world::{Ending, Plan, Remains, Tally, World};

/// Seeds of a run of all tests, for each kind of world.
const SEEDS: u64 = 100;
/// Lines of the journal that are shown of a seed that failed.
const JOURNAL_LINES: usize = 4000;

fn run(plan: Plan, journal_lines: usize) -> Remains {
    World::new(plan, journal_lines, Rc::new(tempfile::tempdir().unwrap()), 0).run()
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Runs every seed of a kind of world.
#[expect(clippy::print_stdout, reason = "what a test has done is for its reader")]
fn seeds(plan: fn(u64) -> Plan) -> Tally {
    let seeds = match (number("LOCKGATE_SEED"), number("LOCKGATE_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, count) => 0..count.unwrap_or(SEEDS),
    };
    let mut total = Tally::default();
    let (mut turns, mut virtual_ns) = (0, 0);
    for seed in seeds {
        let remains = std::panic::catch_unwind(move || run(plan(seed), 0));
        let well = remains.as_ref().is_ok_and(|remains| remains.violations.is_empty());
        if !well {
            show(plan(seed));
            panic!("seed {seed} fails: run it with LOCKGATE_SEED={seed}");
        }
        let remains = remains.unwrap();
        turns += remains.turns;
        virtual_ns += remains.virtual_ns;
        total.add(&remains.tally);
    }
    println!("{turns} turns in {} simulated s: {total:?}", virtual_ns / 1_000_000_000);
    total
}

/// Runs a failing seed once more and tells what happened.
#[expect(clippy::print_stdout, reason = "what a test has done is for its reader")]
fn show(plan: Plan) {
    println!("{plan:?}");
    let Ok(remains) = std::panic::catch_unwind(|| run(plan, JOURNAL_LINES)) else { return };
    for line in &remains.journal {
        println!("{line}");
    }
    for violation in &remains.violations {
        println!("VIOLATION {violation}");
    }
}

impl Tally {
    fn add(&mut self, other: &Tally) {
        self.served += other.served;
        self.refused += other.refused;
        self.cut += other.cut;
        self.left += other.left;
        self.gave_up += other.gave_up;
        self.cancelled += other.cancelled;
        self.commands += other.commands;
        self.crashes += other.crashes;
    }
}

fn calm(seed: u64) -> Plan {
    Plan { seed, network: false, disk: false, end: Ending::Late }
}

#[test]
fn everybody_is_served_where_nothing_fails() {
    let total = seeds(calm);
    assert!(total.served > 0 && total.commands > 0);
}

#[test]
fn a_network_that_breaks_harms_nobody_else() {
    seeds(|seed| Plan { network: true, ..calm(seed) });
}

#[test]
fn a_disk_that_fails_lets_no_command_pass_unrecorded() {
    seeds(|seed| Plan { disk: true, network: seed % 2 == 0, ..calm(seed) });
}

#[test]
fn an_end_at_any_moment_leaves_nothing_behind() {
    seeds(|seed| Plan { end: Ending::Early, network: seed % 2 == 0, disk: seed % 4 == 0, ..calm(seed) });
}

#[test]
fn a_crash_at_any_moment_loses_nothing_that_was_acknowledged() {
    seeds(|seed| Plan { end: Ending::Crash, network: seed % 2 == 0, disk: seed % 4 == 0, ..calm(seed) });
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 0..20 {
        let plan = Plan { network: true, disk: true, ..calm(seed) };
        assert_eq!(run(plan, 0).trace, run(plan, 10).trace, "seed {seed}");
        assert_ne!(run(plan, 0).trace, run(Plan { seed: seed + 1000, ..plan }, 0).trace);
    }
}
