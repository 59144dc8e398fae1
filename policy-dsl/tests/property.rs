//! Random policies and facts: the program equals its naive twin, and no order means anything.

use super::naive;
use super::{Random, compiled, facts};
use crate::*;

const EFFECTS: [&str; 9] = ["read", "update", "call", "set", "drop", "unknown", "write", "*", "read_file"];
const OBJECTS: [&str; 20] = [
    "*",
    "public.*",
    "public.orders",
    "sales.orders",
    "*.orders",
    "public.o*",
    "s*.*",
    "*.*",
    "orders",
    "\"o*s\"",
    "role app",
    "role *",
    "schema public",
    "plpgsql.x",
    "plpgsql.*",
    "datestyle",
    "\"/etc/*\"",
    "large_object *",
    "@mixed",
    "public.\"or.ders\"",
];
const PAIRS: [&str; 30] = [
    "read public.orders",
    "read sales.orders",
    "!update public.orders",
    "update public.orders",
    "read ?.orders",
    "drop ?.nowhere",
    "call pg_catalog.orders",
    "drop public.*",
    "drop *.*",
    "drop role app",
    "drop role other",
    "drop role *",
    "drop schema public",
    "set datestyle",
    "set DateStyle",
    "set plpgsql.x",
    "set PLPGSQL.y",
    "set *",
    "unknown",
    "transaction",
    "read_file /etc/passwd",
    "read_file *",
    "read_file plpgsql.x",
    "drop large_object",
    "read large_object 7",
    "call ?.*",
    "read public.or.ders",
    "drop *.orders",
    "read public.other",
    "update shadow.x",
];
const SET: &str = "set mixed = { public.orders, role app, \"x\", sales.*, }\n";

fn rule(random: &mut Random) -> String {
    let verb = random.pick(&["allow", "allow", "allow", "deny", "hold"]);
    let mut effects: Vec<&str> = (0..=random.below(2)).map(|_| random.pick(&EFFECTS)).collect();
    // An allow of tables alone would be told that a bare name allows nothing.
    effects.extend((verb == "allow").then_some("listen").filter(|_| random.below(6) > 0));
    let mut rule = format!("{verb} {}", effects.join(", "));
    let objects: Vec<&str> = (0..random.below(3)).map(|_| random.pick(&OBJECTS)).collect();
    let bare = effects.iter().all(|effect| !matches!(*effect, "listen" | "set" | "*" | "read_file"));
    let objects: Vec<&str> = match verb == "allow" && bare {
        true => vec!["public.*"],
        false => objects,
    };
    if !objects.is_empty() {
        rule.push_str(&format!(" on {}", objects.join(", ")));
    }
    if random.below(5) == 0 {
        rule.push_str(" when unbounded");
    }
    if random.below(4) == 0 {
        rule.push_str(random.pick(&[" because \"one\"", " because \"two\""]));
    }
    if verb == "hold" {
        rule.push_str(random.pick(&[" for group \"dba\" within 15m", " for group \"boss\" within 1h"]));
    }
    rule
}

fn policies(random: &mut Random) -> Vec<Vec<String>> {
    (0..=random.below(2)).map(|_| (0..random.below(7)).map(|_| rule(random)).collect()).collect()
}

/// Each policy with its number in its name, in the order given.
fn text(policies: &[(usize, Vec<String>)]) -> String {
    let policy = |(number, rules): &(usize, Vec<String>)| {
        format!("policy p{number} for group \"g\" on target \"t\" {{\n{}\n}}\n", rules.join("\n"))
    };
    policies.iter().map(policy).collect()
}

fn random_facts(random: &mut Random) -> Facts {
    let pairs: Vec<&str> = (0..random.below(4)).map(|_| random.pick(&PAIRS)).collect();
    facts(&pairs.join(";"))
}

fn word(decision: &Decision) -> &'static str {
    match decision {
        Decision::Allow => "allow",
        Decision::Deny => "deny",
        Decision::Hold { .. } => "hold",
    }
}

#[test]
fn a_program_equals_its_naive_twin() {
    let mut seen = [0; 3];
    for seed in 0..3_000 {
        let mut random = Random(seed);
        let policies: Vec<_> = policies(&mut random).into_iter().enumerate().collect();
        let text = SET.to_owned() + &text(&policies);
        let set = compiled(&text);
        let program = set.program("u", &[String::from("g")], "t").unwrap();
        let rules: Vec<_> = set.rules().map(|rule| &**rule).collect();
        for _ in 0..20 {
            let facts = random_facts(&mut random);
            let verdict = program.judge(&facts);
            let expected = naive::judge(&rules, &facts);
            assert_eq!(word(&verdict.decision), expected, "seed {seed}: {facts:?}\n{text}");
            seen[["allow", "deny", "hold"].iter().position(|word| *word == expected).unwrap()] += 1;
        }
    }
    assert!(seen.iter().all(|count| *count > 3_000), "each verdict is met: {seen:?}");
}

#[test]
fn no_order_means_anything() {
    for seed in 0..1_500 {
        let mut random = Random(seed);
        let mut policies: Vec<_> = policies(&mut random).into_iter().enumerate().collect();
        let before = compiled(&(SET.to_owned() + &text(&policies)));
        random.shuffle(&mut policies);
        policies.iter_mut().for_each(|(_, rules)| random.shuffle(rules));
        let mut sources: Vec<Source> = policies
            .iter()
            .map(|policy| text(std::slice::from_ref(policy)))
            .chain([SET.to_owned()])
            .map(|text| Source { name: String::from("x"), text })
            .collect();
        random.shuffle(&mut sources);
        let (after, _) = compile(&sources).unwrap();
        let groups = [String::from("g")];
        let (before, after) =
            (before.program("u", &groups, "t").unwrap(), after.program("u", &groups, "t").unwrap());
        for _ in 0..20 {
            let facts = random_facts(&mut random);
            assert_eq!(before.judge(&facts), after.judge(&facts), "seed {seed}: {facts:?}");
        }
        assert_eq!(before.masks(), after.masks());
        assert_ne!(before.id(), after.id());
    }
}

#[test]
fn globs_equal_their_naive_twin() {
    for seed in 0..50_000 {
        let mut random = Random(seed);
        let mut text =
            |letters: &[&str]| -> String { (0..random.below(7)).map(|_| random.pick(letters)).collect() };
        let (pattern, name) = (text(&["a", "b", "*", "ß"]), text(&["a", "b", "ß"]));
        assert_eq!(glob_matches(&pattern, &name), naive::glob(&pattern, &name), "{pattern} {name}");
    }
}

#[test]
fn a_long_glob_costs_linear_time() {
    let pattern = "*a".repeat(20_000) + "b";
    let name = "a".repeat(1_000_000);
    let start = std::time::Instant::now();
    assert!(!glob_matches(&pattern, &name));
    assert!(start.elapsed().as_secs() < 5);
}
