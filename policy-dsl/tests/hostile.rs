//! Any bytes: no panic, bounded time, bounded output.

use super::Random;
use crate::*;

fn compile_text(text: String) -> Result<(PolicySet, Vec<Diagnostic>), Vec<Diagnostic>> {
    compile(&[Source { name: String::from("hostile.policy"), text }])
}

const GOOD: &str = include_str!("../../policies/orders-agents.policy");

#[test]
fn every_cut_of_a_good_file() {
    for cut in (0..GOOD.len()).filter(|cut| GOOD.is_char_boundary(*cut)) {
        fuzzing::compile(&GOOD.as_bytes()[..cut]);
    }
}

#[test]
fn a_good_file_with_bytes_changed_and_pieces_moved() {
    for seed in 0..3_000 {
        let mut random = Random(seed);
        let mut bytes = GOOD.as_bytes().to_vec();
        for _ in 0..=random.below(4) {
            let at = random.below(bytes.len());
            match random.below(3) {
                0 => bytes[at] = random.next().to_be_bytes()[0],
                1 => bytes.rotate_left(at),
                _ => drop(bytes.drain(at..(at + 20).min(bytes.len()))),
            }
        }
        fuzzing::compile(&bytes);
    }
}

#[test]
fn tokens_in_any_order() {
    let words = [
        "set",
        "policy",
        "p",
        "for",
        "group",
        "user",
        "\"g\"",
        "on",
        "target",
        "{",
        "}",
        ",",
        ".",
        "=",
        "@",
        "@s",
        "allow",
        "deny",
        "hold",
        "mask",
        "read",
        "write",
        "*",
        "public",
        "with",
        "keep",
        "last",
        "4",
        "domain",
        "when",
        "unbounded",
        "because",
        "within",
        "15m",
        "role",
        "schema",
        "\n",
        "test",
        "observe",
        "detector",
        "limit",
        "filter",
        "found",
        "\"",
        "\\",
        "#",
        "?",
        "\u{0}",
    ];
    for seed in 0..20_000 {
        let mut random = Random(seed);
        let text: Vec<&str> = (0..random.below(60)).map(|_| random.pick(&words)).collect();
        fuzzing::compile(text.join(" ").as_bytes());
    }
}

#[test]
fn a_file_that_is_too_large_is_told_and_not_read() {
    let told = compile_text(" ".repeat(SOURCE_BYTES_MAX + 1)).unwrap_err();
    assert_eq!(told[0].code, "P001");
    assert!(compile_text(" ".repeat(SOURCE_BYTES_MAX)).is_ok());
    let file = Source { name: String::from("x"), text: " ".repeat(SOURCE_BYTES_MAX) };
    let told = compile(&vec![file; 5]).unwrap_err();
    assert_eq!(told.len(), 1);
}

#[test]
fn mistakes_are_bounded() {
    for text in [
        "}",
        "policy",
        "@ ",
        "set x = {@y}\n",
        "\u{1}",
        "\"\n",
        "policy p for group \"g\" on target * {\ndeny x\n",
    ] {
        let told = compile_text(text.repeat(100_000)).unwrap_err();
        assert!(told.len() <= 201, "{text}: {}", told.len());
    }
}

#[test]
fn what_sets_stand_for_is_bounded() {
    let names: Vec<String> = (0..50_000).map(|n| format!("s.t{n}")).collect();
    let mut text = format!("set big = {{ {} }}\n", names.join(","));
    for n in 0..10_000 {
        text.push_str(&format!("set s{n} = {{ @big }}\n"));
    }
    let told = compile_text(text).unwrap_err();
    assert_eq!(told.iter().filter(|told| told.severity == Severity::Error).count(), 1);
    assert!(told.iter().any(|told| told.code == "P050"));
}

#[test]
fn sets_nested_without_end() {
    let mut text = String::from("set s0 = { a.b }\n");
    (1..5_000).for_each(|n| text.push_str(&format!("set s{n} = {{ @s{} }}\n", n - 1)));
    let mut reversed: Vec<&str> = text.lines().rev().collect();
    reversed.push("");
    let told = compile_text(reversed.join("\n")).unwrap_err();
    assert!(told.iter().any(|told| told.code == "P023"));
}

#[test]
fn ten_thousand_rules_compile_in_time_and_cost_little() {
    let mut text = String::from("policy p for group \"g\" on target \"t\" {\n");
    for n in 0..10_000 {
        text.push_str(&format!("allow read, insert on s{}.t{n}\n", n % 50));
    }
    text.push('}');
    let start = std::time::Instant::now();
    let (set, _) = compile_text(text).unwrap();
    let program = set.program("u", &[String::from("g")], "t").unwrap();
    assert!(start.elapsed().as_secs() < 10, "unoptimised");
    assert_eq!(program.cost_max(), 10_000);
    assert_eq!(program.judge(&super::facts("read s7.t57")).decision, Decision::Allow);
    assert_eq!(program.judge(&super::facts("read s7.t58")).decision, Decision::Deny);
}
