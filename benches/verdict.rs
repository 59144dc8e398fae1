//! Judging facts by a program, however many rules it was made of.

use std::error::Error;
use std::fmt::Write;
use std::hint::black_box;

use lockgate_policy_dsl::{Decision, Facts, Pair, Program, Source, compile};

use crate::{Bench, Setup, Work};

pub(crate) const BENCHES: &[Bench] = &[
    Bench { name: "verdict/rules_10", work: Work::Items(1), set_up: || verdict(10) },
    Bench { name: "verdict/rules_100", work: Work::Items(1), set_up: || verdict(100) },
    Bench { name: "verdict/rules_1000", work: Work::Items(1), set_up: || verdict(1_000) },
    Bench { name: "verdict/rules_10000", work: Work::Items(1), set_up: || verdict(10_000) },
];

/// What the program's user, group and target are called.
pub(crate) const NAME: &str = "bench";

/// Rules that the benches' commands meet.
const MET: [&str; 4] = [
    "allow read on public.customers, public.orders",
    "allow update on public.orders",
    "allow transaction",
    "deny update, delete when unbounded because \"an UPDATE or DELETE needs a WHERE\"",
];

/// A program of so many rules: those that are met, and others on tables and schemas of their own, of every verb, some
/// of them patterns.
pub(crate) fn program(rules: usize) -> Result<Program, Box<dyn Error>> {
    let mut text = format!("policy {NAME} for group \"{NAME}\" on target \"{NAME}\" {{\n");
    for rule in MET {
        writeln!(text, "{rule}")?;
    }
    for number in MET.len()..rules {
        let schema = number % 50;
        match number % 5 {
            0 => writeln!(text, "deny read, copy_out on secret{schema}.t{number}")?,
            1 => writeln!(text, "hold update on ledger{schema}.t{number} for group \"audit\" within 1h")?,
            2 => writeln!(text, "allow read on tenant{number}.*")?,
            _ => writeln!(text, "allow read, insert, update on app{schema}.t{number}")?,
        }
    }
    text.push_str("}\n");
    let (set, _) = compile(&[Source { name: String::from(NAME), text }])
        .map_err(|told| format!("the policy does not compile: {told:?}"))?;
    let program = set.program(NAME, &[String::from(NAME)], NAME);
    program.ok_or_else(|| "no policy applies".into())
}

fn facts(pairs: &[&str]) -> Result<Facts, Box<dyn Error>> {
    let pairs: Result<Vec<Pair>, _> = pairs.iter().map(|pair| pair.parse()).collect();
    let mut pairs = pairs?;
    pairs.sort();
    Ok(Facts { pairs, unknown: Vec::new() })
}

/// Of a join with a sub-select for update, as one that is refused would end early.
fn verdict(rules: usize) -> Setup {
    let program = program(rules)?;
    let facts = facts(&["read public.customers", "read public.orders", "update public.orders"])?;
    Ok(Box::new(move || program.judge(black_box(&facts)).decision == Decision::Allow))
}
