//! What policies mean: three known ones, the shipped examples, and each rule of the language by cases.

use super::{compiled, facts, program};
use crate::*;

const CORPUS: &str = r#"
policy read_only for group "corpus_read_only" on target "corpus" {
    allow read, copy_out, transaction, set, listen on *
    allow call on public.*, sales.*, billing.*, shadow.*, pg_temp.*, ext.*, pg_catalog.set_config
}

policy no_customer_writes for group "corpus_no_customer_writes" on target "corpus" {
    allow read, copy_out, transaction, set, listen, notify, lock, maintain, call on *
    allow write, create, alter, drop, grant, revoke on public.*, sales.*, billing.*, shadow.*, pg_temp.*
    deny  write, create, alter, drop, grant, revoke on public.customers
}

policy no_customers for group "corpus_no_customers" on target "corpus" {
    allow read, copy_out, transaction, set, listen, notify, lock, maintain, call on *
    allow write, create, alter, drop, grant, revoke on public.*, sales.*, billing.*, shadow.*, pg_temp.*
    deny  * on public.customers
}
"#;

/// Facts, and whether `read_only`, `no_customer_writes` and `no_customers` allow them.
const CORPUS_VERDICTS: &[(&str, [bool; 3])] = &[
    ("", [true, true, true]),
    ("read public.orders; transaction", [true, true, true]),
    ("read public.customers", [true, true, false]),
    ("copy_out public.customers; read public.customers", [true, true, false]),
    ("read large_object 7003", [true, true, true]),
    ("read information_schema.tables", [true, true, true]),
    ("read ?.k", [false, false, false]),
    ("delete ?.customers", [false, false, false]),
    ("delete public.customers", [false, false, false]),
    ("delete public.cust\"omers", [false, true, true]),
    ("delete public.orders; delete public.customers", [false, false, false]),
    ("delete public.orders; read public.customers", [false, true, false]),
    ("drop public.*", [false, false, false]),
    ("drop shadow.*", [false, true, true]),
    ("grant public.*", [false, false, false]),
    ("drop *.*", [false, false, false]),
    ("drop schema public", [false, false, false]),
    ("create role corpus_evil", [false, false, false]),
    ("alter system log_statement", [false, false, false]),
    ("alter database corpus", [false, false, false]),
    ("create large_object", [false, false, false]),
    ("create reporting.t", [false, false, false]),
    ("create pg_temp.customers", [false, true, true]),
    ("delete shadow.customers", [false, true, true]),
    ("merge public.customers; read public.staging", [false, false, false]),
    ("copy_in public.staging; insert public.staging", [false, true, true]),
    ("call public.wipe", [true, true, true]),
    ("call pg_catalog.set_config; set work_mem", [true, true, true]),
    ("call pg_catalog.lo_unlink", [false, true, true]),
    ("call ?.@-", [false, false, false]),
    ("set search_path", [true, true, true]),
    // RESET ALL resets whatever has this name, too.
    ("set *", [true, true, false]),
    ("impersonate corpus_reader", [false, false, false]),
    ("read_file /etc/hostname", [false, false, false]),
    ("read_file *", [false, false, false]),
    ("write_file /dev/null", [false, false, false]),
    ("execute_program cat > /dev/null", [false, false, false]),
    ("replicate", [false, false, false]),
    ("unknown", [false, false, false]),
    ("read public.orders; unknown", [false, false, false]),
    ("maintain", [false, true, true]),
    ("maintain public.customers", [false, true, false]),
    ("listen updates", [true, true, true]),
    ("notify orders", [false, true, true]),
    ("lock public.customers", [false, true, false]),
];

#[test]
fn the_corpus_policies() {
    let set = compiled(CORPUS);
    for (at, name) in ["read_only", "no_customer_writes", "no_customers"].into_iter().enumerate() {
        let program = set.program("anybody", &[format!("corpus_{name}")], "corpus").unwrap();
        for (spelled, expected) in CORPUS_VERDICTS {
            let verdict = program.judge(&facts(spelled));
            assert_eq!(verdict.decision == Decision::Allow, expected[at], "{name}: {spelled}: {verdict:?}");
        }
    }
}

#[track_caller]
fn check(rules: &str, spelled: &str, decision: &str, rule: &str, reason: &str) {
    let verdict = program(rules).judge(&facts(spelled));
    let decided = match verdict.decision {
        Decision::Allow => String::from("allow"),
        Decision::Deny => String::from("deny"),
        Decision::Hold { group, within_s } => format!("hold {group} {within_s}"),
    };
    assert_eq!((&*decided, &*verdict.rule, &*verdict.reason), (decision, rule, reason), "{rules}\n{spelled}");
}

#[test]
fn verdicts_name_the_rule_and_the_reason() {
    let rules = "allow read on sales.*\n\
                 deny drop, truncate, alter because \"schema changes go through migrations\"\n\
                 deny update, delete when unbounded\n\
                 hold write on sales.orders for group \"dba\" within 15m because \"ledger\"\n\
                 hold grant for group \"dba\" within 1h";
    check(rules, "", "allow", "no effects", "");
    check(rules, "read sales.orders", "allow", "p/allow read on sales.*", "");
    check(
        rules,
        "read sales.orders; drop sales.orders",
        "deny",
        "p/deny drop, truncate, alter",
        "schema changes go through migrations",
    );
    check(
        rules,
        "!delete sales.notes",
        "deny",
        "p/deny update, delete when unbounded",
        "policy denies delete without bounds on sales.notes",
    );
    check(rules, "delete sales.notes", "deny", "default deny", "no rule allows delete on sales.notes");
    check(rules, "insert sales.orders", "hold dba 900", "p/hold write on sales.orders", "ledger");
    check(rules, "grant role x", "hold dba 3600", "p/hold grant", "grant on role x waits for a yes of dba");
    check(rules, "transaction", "deny", "default deny", "no rule allows transaction");
    check(
        rules,
        "read ?.orders",
        "deny",
        "default deny",
        "no rule allows read on ?.orders, a name that cannot be resolved",
    );
    // A hold is a yes to the whole command; a deny beats it.
    check(
        rules,
        "read billing.x; update sales.orders",
        "hold dba 900",
        "p/hold write on sales.orders",
        "ledger",
    );
    check(
        rules,
        "alter sales.orders; update sales.orders",
        "deny",
        "p/deny drop, truncate, alter",
        "schema changes go through migrations",
    );
}

#[test]
fn why_something_is_unknown_is_told() {
    let program = program("allow read on *");
    let mut seen = facts("unknown; read a.b");
    seen.unknown.push(String::from("EXECUTE runs text that is made when it runs"));
    let verdict = program.judge(&seen);
    assert_eq!(&*verdict.reason, "no rule allows unknown: EXECUTE runs text that is made when it runs");
    // A reason without the effect is a mistake of whoever made the facts: it does not open the gate.
    seen.pairs.retain(|pair| pair.effect != Effect::Unknown);
    assert_eq!(program.judge(&seen).decision, Decision::Deny);
}

#[track_caller]
fn allows(rules: &str, cases: &[(&str, bool)]) {
    let program = program(rules);
    for (spelled, expected) in cases {
        let verdict = program.judge(&facts(spelled));
        assert_eq!(verdict.decision == Decision::Allow, *expected, "{rules}: {spelled}: {verdict:?}");
    }
}

#[test]
fn what_an_allow_covers() {
    allows(
        "allow * on *",
        &[("unknown", true), ("drop ?.x", true), ("read_file *", true), ("call ?.*", true)],
    );
    allows("allow *", &[("unknown", true), ("drop ?.x", true)]);
    allows("allow * when unbounded", &[("unknown", false), ("!delete ?.x", false), ("!delete a.x", true)]);
    allows(
        "allow * on *.*",
        &[("unknown", false), ("transaction", false), ("read a.b", true), ("read *.*", true)],
    );
    allows("allow * on *.*", &[("read_file a.b", false), ("execute_program a.b", false), ("set a.b", true)]);
    allows("allow unknown", &[("unknown", true), ("read a.b", false)]);
    allows(
        "allow read",
        &[("read a.b", true), ("read ?.b", false), ("unknown", false), ("read role x", true)],
    );
    allows(
        "allow read on a.*",
        &[("read a.*", true), ("read *.*", false), ("read *.b", false), ("read a.b", true)],
    );
    allows("allow read on a.b*", &[("read a.*", false), ("read a.bc", true), ("read a.cb", false)]);
    allows("allow read on a.\"B c\"", &[("read a.B c", true), ("read a.b c", false)]);
    allows(
        "allow write on a.b",
        &[("insert a.b", true), ("copy_in a.b", true), ("merge a.b", true), ("drop a.b", false)],
    );
    allows(
        "allow create, drop on role app_*",
        &[("create role app_x", true), ("drop role x", false), ("drop role *", false)],
    );
    allows(
        "allow create on large_object *",
        &[("create large_object", true), ("create large_object 7", true)],
    );
    allows(
        "allow create on large_object 7",
        &[("create large_object", false), ("create large_object 7", true)],
    );
    allows(
        "allow read_file on \"/srv/in/*\"",
        &[("read_file /srv/in/x", true), ("read_file /etc/x", false), ("read_file *", false)],
    );
    allows("allow listen, notify on updates", &[("listen updates", true), ("notify orders", false)]);
    allows(
        "allow impersonate on corpus_reader",
        &[("impersonate corpus_reader", true), ("impersonate corpus_writer", false)],
    );
    allows("allow read when unbounded", &[("read a.b", false), ("!read a.b", true)]);
}

#[test]
fn settings_are_the_same_in_any_case() {
    let cases = [("set datestyle", true), ("set DateStyle", true), ("set TimeZone", false), ("set *", false)];
    allows("allow set on DateStyle", &cases);
    allows(
        "allow set on PlPgSQL.x",
        &[("set plpgsql.x", true), ("set PLPGSQL.X", true), ("set plpgsql.y", false)],
    );
    allows(
        "allow *\ndeny set on WORK_MEM",
        &[("set work_mem", false), ("set Work_Mem", false), ("set *", false)],
    );
    allows("allow set on @driver_settings", &[("set client_encoding", true), ("set search_path", false)]);
    allows(
        "allow set on @driver_settings",
        &[("set standard_conforming_strings", false), ("set role", false)],
    );
}

#[test]
fn what_a_deny_touches() {
    allows(
        "allow *\ndeny call pg_read_file, \"dblink*\"",
        &[
            ("call pg_catalog.pg_read_file", false),
            ("call x.pg_read_file", false),
            ("call ?.pg_read_file", false),
            ("call ext.dblink_exec", false),
            ("call ?.*", false),
            ("call pg_catalog.*", false),
            ("call *.*", false),
            ("read x.pg_read_file", true),
            ("call ?.pg_read", true),
        ],
    );
    allows(
        "allow *\ndeny drop on public.customers",
        &[
            ("drop ?.customers", false),
            ("drop public.*", false),
            ("drop *.customers", false),
            ("drop *.orders", true),
            ("drop sales.*", true),
            ("drop sales.customers", true),
            ("drop role customers", true),
            ("drop schema public", true),
            ("unknown", true),
        ],
    );
    allows(
        "allow *\ndeny read on public.*",
        &[("read ?.x", false), ("read *.*", false), ("read sales.x", true)],
    );
    allows(
        "allow *\ndeny drop on role *",
        &[("drop role x", false), ("drop role *", false), ("drop a.b", true)],
    );
    allows(
        "allow *\ndeny read_file on \"/etc/*\"",
        &[("read_file /etc/x", false), ("read_file *", false), ("read_file /x", true)],
    );
    allows("allow *\ndeny unknown", &[("unknown", false), ("read ?.x", true)]);
    allows(
        "allow *\ndeny create on large_object 7",
        &[("create large_object", false), ("create large_object 8", true)],
    );
    allows("allow *\ndeny update, delete when unbounded", &[("!delete a.b", false), ("delete a.b", true)]);
}

#[test]
fn sets_of_objects_and_of_effects() {
    let text = r#"
        set ledger  = { billing.payments, billing.refunds, @more, }
        set more    = { sales."Totals" }
        set changes = { write, create }
        policy p for group "g" on target "t" {
            allow @changes, read on @ledger, public.notes
        }"#;
    let program = compiled(text).program("u", &[String::from("g")], "t").unwrap();
    for (spelled, expected) in [
        ("insert billing.payments", true),
        ("create sales.Totals", true),
        ("read public.notes", true),
        ("drop billing.payments", false),
        ("read sales.totals", false),
    ] {
        assert_eq!(program.judge(&facts(spelled)).decision == Decision::Allow, expected, "{spelled}");
    }
}

#[test]
fn whom_a_policy_is_for() {
    let text = r#"
        policy a for group "agents", "ci-*" on target "orders" { allow read on a.* }
        policy b for user "eve", group "dba" on target "orders", "billing*" { allow read on b.* }
        policy c for user * on target * { deny drop }
        policy d for group "none" on target "x" { allow * on * }"#;
    let set = compiled(text);
    let check = |user: &str, groups: &[&str], target: &str, spelled: &str, expected: bool| {
        let groups: Vec<String> = groups.iter().map(|group| String::from(*group)).collect();
        let program = set.program(user, &groups, target).unwrap();
        assert_eq!(
            program.judge(&facts(spelled)).decision == Decision::Allow,
            expected,
            "{user} {target} {spelled}"
        );
    };
    check("bob", &["agents"], "orders", "read a.x", true);
    check("bob", &["agents"], "orders", "read b.x", false);
    check("bob", &["agents"], "billing", "read a.x", false);
    check("bob", &["x", "ci-7"], "orders", "read a.x", true);
    check("eve", &["agents"], "orders", "read a.x; read b.x", true);
    check("eve", &[], "billing-eu", "read b.x", true);
    check("bob", &["dba"], "billing", "read b.x", true);
    // A group is no user, and a user no group.
    check("dba", &["eve"], "billing", "read b.x", false);
    let only = compiled("policy a for group \"agents\" on target \"orders\" { allow read }");
    assert!(only.program("u", &[String::from("agents")], "billing").is_none());
    assert!(only.program("agents", &[], "orders").is_none());
}

#[test]
fn the_shipped_examples() {
    let set = compiled(include_str!("../../policies/orders-agents.policy"));
    let program = set.program("agent-7", &[String::from("ai-agents")], "orders").unwrap();
    for (spelled, rule) in [
        ("transaction", "orders_agents/allow transaction"),
        ("set application_name", "orders_agents/allow set on @driver_settings"),
        ("read public.customers", "orders_agents/allow read on public.*, sales.*"),
        ("insert sales.notes", "orders_agents/allow insert on sales.notes"),
        ("drop sales.orders", "orders_agents/deny drop, truncate, alter"),
        ("!update sales.orders", "orders_agents/deny update, delete when unbounded"),
        ("update sales.orders", "default deny"),
        ("unknown", "default deny"),
    ] {
        assert_eq!(&*program.judge(&facts(spelled)).rule, rule, "{spelled}");
    }
    let masks: Vec<_> =
        program.masks().iter().map(|rule| (rule.rule.as_str(), rule.column.as_str(), rule.mask)).collect();
    assert_eq!(
        masks,
        [
            ("orders_agents/mask public.customers.card", "card", MaskKind::Redact),
            ("orders_agents/mask public.customers.email", "email", MaskKind::KeepDomain),
            ("orders_agents/mask public.customers.ssn", "ssn", MaskKind::KeepLast(4)),
        ]
    );
    let set = compiled(include_str!("../../policies/allow-everything.policy"));
    let program = set.program("x", &[String::from("pilot")], "anything").unwrap();
    for spelled in
        ["unknown", "drop ?.x", "replicate", "impersonate postgres", "execute_program x", "create role x"]
    {
        assert_eq!(program.judge(&facts(spelled)).decision, Decision::Allow, "{spelled}");
    }
}

#[test]
fn masks_add_up() {
    let text = r#"
        set pii = { public.customers.email, public.*.ssn }
        policy a for group "g" on target "t" { mask @pii with redact }
        policy b for group "h" on target "t" { mask public.customers."Card" with keep last 4 }
        policy c for group "other" on target "t" { mask x.y.z with null }"#;
    let program = compiled(text).program("u", &[String::from("g"), String::from("h")], "t").unwrap();
    let places: Vec<&str> = program.masks().iter().map(|mask| mask.rule.as_str()).collect();
    assert_eq!(
        places,
        ["a/mask public.*.ssn", "a/mask public.customers.email", "b/mask public.customers.Card"]
    );
    let ssn = &program.masks()[0];
    assert!(!ssn.is_exact() && ssn.names("public", "people", "ssn") && !ssn.names("sales", "people", "ssn"));
    assert!(program.masks()[1].is_exact());
}

#[test]
fn masks_are_ordered_by_strength() {
    let ascending = [
        MaskKind::KeepLast(255),
        MaskKind::KeepLast(4),
        MaskKind::KeepLast(1),
        MaskKind::KeepDomain,
        MaskKind::Redact,
        MaskKind::Null,
    ];
    assert!(ascending.is_sorted());
}

#[test]
fn names_of_rules_are_short() {
    let list: Vec<String> = (0..100).map(|n| format!("public.a_long_table_name_{n}")).collect();
    let program = program(&format!("deny drop on {} because \"no\"", list.join(", ")));
    let verdict = program.judge(&facts("drop public.a_long_table_name_7"));
    assert_eq!(verdict.rule.chars().count(), 120);
    assert!(verdict.rule.ends_with('…'));
    let verdict = program.judge(&facts(&format!("execute_program {}\u{1b}[2J", "x".repeat(10_000))));
    assert!(verdict.reason.len() < 250);
    assert!(verdict.reason.chars().all(|c| !c.is_control()));
    let verdict = program.judge(&facts("execute_program \u{1b}[2J"));
    assert!(verdict.reason.chars().all(|c| !c.is_control()));
}

#[test]
fn pairs_are_spelled_and_read() {
    for spelled in [
        "delete public.customers",
        "delete public.cust\"omers",
        "drop schema x",
        "create large_object",
        "drop large_object 7004",
        "alter system work_mem",
        "grant role corpus_writer",
        "set work_mem",
        "set *",
        "set plpgsql.x",
        "unknown",
        "transaction",
        "call ?.@-",
        "drop public.*",
        "drop *.*",
        "read_file /etc/hosts.conf",
        "execute_program cat > /dev/null",
        "impersonate role with blanks",
    ] {
        let pair: Pair = spelled.parse().unwrap();
        assert_eq!(pair.to_string(), spelled);
    }
    let object = |spelled: &str| spelled.parse::<Pair>().unwrap().object;
    assert_eq!(object("set plpgsql.x"), Object::word("plpgsql.x"));
    assert_eq!(object("read a.b"), Object::qualified("a", "b"));
    assert_eq!(object("read a.b.c"), Object::qualified("a", "b.c"));
    assert_eq!(object("call ?.f"), Object::unresolved("f"));
    assert_eq!(object("drop role x y"), Object::of_kind("role", "x y").unwrap());
    assert_eq!(object("unknown"), Object::None);
    assert!("drap a.b".parse::<Pair>().is_err());
    assert_eq!(Object::of_kind("planet", "x"), None);
    for effect in Effect::ALL {
        assert_eq!(effect.to_string().parse(), Ok(*effect));
    }
    assert_eq!(EffectSet::ALL.iter().count(), 27);
    assert_eq!(Effect::ALL.iter().copied().collect::<EffectSet>(), EffectSet::ALL);
}
