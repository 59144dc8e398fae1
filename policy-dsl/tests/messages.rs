//! What is told of each mistake: the place, the words, the help.

use crate::*;

/// The mistakes of a text: (code, underlined, message, help).
fn told(text: &str) -> Vec<(&'static str, &str, String, String)> {
    let source = Source { name: String::from("test.policy"), text: text.to_owned() };
    let list = match compile(&[source]) {
        Ok((_, warnings)) => warnings,
        Err(list) => list,
    };
    list.into_iter().map(|told| (told.code, text.get(told.span).unwrap(), told.message, told.help)).collect()
}

#[track_caller]
fn check(text: &str, expected: &[(&str, &str, &str, &str)]) {
    let told = told(text);
    let told: Vec<_> =
        told.iter().map(|(code, at, message, help)| (*code, *at, &**message, &**help)).collect();
    assert_eq!(told, expected, "{text}");
}

/// Rules in a policy.
#[track_caller]
fn check_rules(rules: &str, expected: &[(&str, &str, &str, &str)]) {
    check(&format!("policy p for group \"g\" on target \"t\" {{\n{rules}\n}}"), expected);
}

const ON_HELP: &str = "effects are separated by commas, and `on` stands before the objects";
const BEGIN_HELP: &str = "a policy begins `policy name for group \"agents\" on target \"orders\" {`";
const WITHIN_HELP: &str = "write `for group \"dba\" within 15m`";

#[test]
fn misspelt_words() {
    check_rules(
        "deny drop, trucate",
        &[("P020", "trucate", "`trucate` is not an effect", "did you mean `truncate`?")],
    );
    check_rules(
        "allow select on a.b",
        &[("P020", "select", "`select` is not an effect", "did you mean `read`?")],
    );
    check_rules(
        "alow read",
        &[("P011", "alow", "expected a rule or `}`, found `alow`", "did you mean `allow`?")],
    );
    check_rules(
        "allow transaction\ndney drop",
        &[("P011", "dney", "expected a rule or `}`, found `dney`", "did you mean `deny`?")],
    );
    check_rules(
        "deny drop becuase \"x\"",
        &[("P011", "becuase", "expected a part of a rule, found `becuase`", "did you mean `because`?")],
    );
    check_rules(
        "deny drop on a.b becuase \"x\"",
        &[("P011", "becuase", "expected a part of a rule, found `becuase`", "did you mean `because`?")],
    );
    check_rules(
        "deny drop when unbouded",
        &[("P011", "unbouded", "expected a condition, found `unbouded`", "did you mean `unbounded`?")],
    );
    check_rules(
        "mask a.b.c with redcat",
        &[("P011", "redcat", "expected a mask, found `redcat`", "did you mean `redact`?")],
    );
    check_rules(
        "mask a.b.c with keep first 4",
        &[("P011", "first", "expected what to keep, found `first`", "write one of `last`, `domain`")],
    );
    check("polcy x", &[("P011", "polcy", "expected a statement, found `polcy`", "did you mean `policy`?")]);
    check(
        "policy p for gruop \"g\" on target \"t\" { allow read }",
        &[("P011", "gruop", "expected whom the policy is for, found `gruop`", "did you mean `group`?")],
    );
}

#[test]
fn sets() {
    check(
        "set s = { }",
        &[(
            "P010",
            "}",
            "expected a name, found `}`",
            "a set is written `set name = { public.orders, sales.* }`",
        )],
    );
    check(
        "set ledgr = { a.b }\npolicy p for group \"g\" on target \"t\" { allow read on @ledger, @ledgr }",
        &[("P021", "ledger", "no set is named `ledger`", "did you mean `@ledgr`?")],
    );
    check_rules(
        "allow set on @driver_setings",
        &[("P021", "driver_setings", "no set is named `driver_setings`", "did you mean `@driver_settings`?")],
    );
    check_rules(
        "allow read on @nothing_like_it",
        &[(
            "P021",
            "nothing_like_it",
            "no set is named `nothing_like_it`",
            "define it: `set nothing_like_it = { public.orders, sales.* }`",
        )],
    );
    check(
        "set a = { @b }\nset b = { @a }",
        &[("P023", "a", "the set `a` holds itself", "take it out of its own definition")],
    );
    check(
        "set s = { a.b }\nset s = { c.d }\npolicy p for group \"g\" on target \"t\" { allow read on @s }",
        &[(
            "P022",
            "s",
            "the set `s` is defined twice",
            "sets are known in all files: choose another name or join the two",
        )],
    );
    check(
        "set driver_settings = { x }",
        &[
            (
                "P022",
                "driver_settings",
                "the set `driver_settings` is shipped and cannot be defined",
                "choose another name",
            ),
            (
                "P062",
                "driver_settings",
                "the set `driver_settings` is never used",
                "write `@driver_settings` where it is meant, or remove it",
            ),
        ],
    );
    check(
        "set s = { a.b }\npolicy p for group \"g\" on target \"t\" { deny @s }",
        &[(
            "P024",
            "s",
            "the set `s` holds `a.b`, which is not an effect",
            "effects stand before `on`, objects behind it; a set holds one or the other",
        )],
    );
    check(
        "set s = { a.b c.d }",
        &[(
            "P012",
            "c",
            "expected `,` before `c`",
            "put a comma between entries; a name with other characters goes in quotes",
        )],
    );
    check(
        "set s { a.b }",
        &[(
            "P010",
            "{",
            "expected `=`, found `{`",
            "a set is written `set name = { public.orders, sales.* }`",
        )],
    );
}

#[test]
fn names() {
    check_rules(
        "allow read on customers",
        &[(
            "P027",
            "customers",
            "`customers` has no schema, so this allows nothing",
            "write the schema: `public.customers`",
        )],
    );
    check_rules(
        "deny read on Public.Customers",
        &[(
            "P026",
            "Public.Customers",
            "`Public` has capital letters",
            "names are as the catalog stores them: write `public`, or `\"Public\"` if it was created in quotes",
        )],
    );
    check_rules(
        "allow read on a.b.c.d",
        &[(
            "P025",
            "a.b.c.d",
            "the name has too many parts",
            "a table is `schema.name`, a column `schema.table.column`, other things `role name`",
        )],
    );
    check_rules(
        "allow drop on schema",
        &[(
            "P025",
            "schema",
            "which schema?",
            "write `schema *` for every one; a name that is `schema` goes in quotes",
        )],
    );
    check_rules(
        "allow read on a.\"\"",
        &[(
            "P025",
            "\"\"",
            "the name is empty",
            "write a name such as `public.orders`, a set such as `@ledger`, or `*`",
        )],
    );
    check_rules(
        "allow read on on",
        &[(
            "P010",
            "on",
            "expected a name, found `on`",
            "a name that is also a keyword goes in quotes: `\"on\"`",
        )],
    );
    check_rules(
        "allow set on my-setting",
        &[(
            "P010",
            "-",
            "expected the next rule or `}`, found `-`",
            "a name with other characters goes in quotes",
        )],
    );
    check_rules(
        "mask public.customers with redact",
        &[(
            "P028",
            "public.customers",
            "`public.customers` is not a column",
            "a column is `schema.table.column`, with `*` for any characters",
        )],
    );
    check(
        "policy p for group agents on target \"t\" { }",
        &[("P010", "agents", "expected a name in quotes, or `*`, found `agents`", "write `\"agents\"`")],
    );
}

#[test]
fn shape_of_rules() {
    check_rules(
        "deny drop truncate",
        &[("P012", "truncate", "expected `,` or `on` before `truncate`", ON_HELP)],
    );
    check_rules(
        "deny read, drop public.x",
        &[("P012", "public", "expected `,` or `on` before `public`", ON_HELP)],
    );
    check_rules(
        "deny drop on a.b on c.d",
        &[("P013", "on", "`on` stands twice in one rule", "write one rule for each")],
    );
    check_rules(
        "hold drop",
        &[(
            "P014",
            "hold drop",
            "a hold does not say who decides, and until when",
            "end the rule with `for group \"dba\" within 15m`",
        )],
    );
    check_rules(
        "deny drop for group \"dba\" within 1m",
        &[(
            "P014",
            "for",
            "`deny` has no `for`",
            "only `hold` waits for a group; whom a policy is for stands in its first line",
        )],
    );
    check_rules("hold drop for group \"dba\"", &[("P010", "}", "expected `within`, found `}`", WITHIN_HELP)]);
    check_rules(
        "hold drop for group \"dba\" within 15",
        &[(
            "P031",
            "15",
            "expected a time of at most a week, found `15`",
            "write `90s`, `15m`, `4h` or `2d`",
        )],
    );
    check_rules(
        "mask a.b.c with keep last 0",
        &[(
            "P031",
            "0",
            "expected how many characters to keep, found `0`",
            "write a number from 1 to 255, as in `keep last 4`",
        )],
    );
    check_rules(
        "deny drop because \"\"",
        &[(
            "P031",
            "\"\"",
            "a reason has 1 to 500 bytes, this one 0",
            "say in one sentence what the person refused can do",
        )],
    );
    check_rules(
        "deny drop because no",
        &[("P010", "no", "expected the reason in quotes, found `no`", "write `\"no\"`")],
    );
    check_rules(
        "deny drop with redact",
        &[("P010", "with", "`with` does not belong here", "only `mask` has `with`")],
    );
    check_rules(
        "deny drop on \"a",
        &[("P002", "\"a", "the text has no end", "end the text with `\"` on the same line")],
    );
    check_rules(
        "deny drop on \"a\\b\"",
        &[(
            "P003",
            "\\",
            "a lone backslash in a text",
            "write `\\\"` for a quote and `\\\\` for a backslash",
        )],
    );
    check_rules(
        "deny drop on \"a\u{7}b\"",
        &[("P003", "\u{7}", "control character U+0007 in a text", "remove it")],
    );
    check(
        "policy p on target \"t\" { allow read }",
        &[("P010", "on", "expected `for`, found `on`", BEGIN_HELP)],
    );
    check(
        "policy p for group \"g\" on \"t\" { allow read }",
        &[("P010", "\"t\"", "expected `target`, found `\"t\"`", BEGIN_HELP)],
    );
    check(
        "policy p for group \"g\" on target \"t\" {\nallow read",
        &[(
            "P010",
            "",
            "expected the next rule or `}`, found the end of the file",
            "end the policy with `}`",
        )],
    );
    check(
        "policy a for group \"g\" on target \"t\" { allow read }\npolicy a for group \"h\" on target \"t\" { allow read }",
        &[(
            "P022",
            "a",
            "the policy `a` is defined twice",
            "rules are known by their policy's name: choose another name",
        )],
    );
}

#[test]
fn what_is_not_supported_yet_is_an_error() {
    let supported = "allow read";
    for (rule, at, what) in [
        ("limit rows 10_000 per statement", "limit", "a limit"),
        ("limit found card_number 50 per 1h", "limit", "a limit"),
        ("filter public.orders to tenant", "filter", "a row filter"),
        ("observe", "observe", "`observe`"),
        ("mask found card_number, iban with redact", "found", "`mask found`"),
        ("mask a.b.c with pseudonym", "pseudonym", "the mask `pseudonym`"),
        ("mask a.b.c with bucket 10", "bucket", "the mask `bucket`"),
        ("hold commit when rows > 1000 for group \"dba\" within 10m", "rows", "this condition"),
        ("deny * when sends aws_key", "sends", "this condition"),
        ("deny read on a.b.c", "a.b.c", "a rule on a column"),
        ("allow read on a.b.c", "a.b.c", "a rule on a column"),
    ] {
        let text =
            format!("policy p for group \"g\" on target \"t\" {{\n{supported}\n{rule}\n{supported}\n}}");
        let told = told(&text);
        assert_eq!(told.len(), 1, "{rule}: {told:?}");
        let (code, underlined, message, help) = &told[0];
        assert_eq!((*code, *underlined), ("P040", at), "{rule}");
        assert_eq!(*message, format!("{what} cannot be carried out"), "{rule}");
        assert!(
            help.contains("not supported yet") || help.contains("leave the column away"),
            "{rule}: {help}"
        );
    }
    for (statement, at) in [
        ("detector employee_id = pattern \"EMP-[0-9]{6}\"", "detector"),
        ("test \"an agent\" for group \"g\" on target \"t\" {\n\"SELECT 1\" is allowed\n}", "test"),
        ("observe policy q for group \"g\" on target \"t\" { allow read }", "observe"),
        ("policy q for group \"g\" on target \"t\" observe { allow read }", "observe"),
    ] {
        let text = format!("{statement}\npolicy p for group \"g\" on target \"t\" {{\nallow read\n}}");
        let told = told(&text);
        assert_eq!(told.len(), 1, "{statement}: {told:?}");
        assert_eq!((told[0].0, told[0].1), ("P040", at), "{statement}");
    }
}

#[test]
fn warnings_do_not_keep_a_policy_from_being_used() {
    check_rules(
        "deny drop, read\nallow drop on a.b\nallow read, write on a.b",
        &[(
            "P060",
            "allow drop on a.b",
            "this allow has no effect, the policy denies the same",
            "deny beats allow, in whatever order they stand: remove one of the two",
        )],
    );
    check_rules("deny drop when unbounded\nallow drop on a.b", &[]);
    check_rules("allow * on a.*", &[]);
    check_rules(
        "deny unknown, read on a.*",
        &[(
            "P061",
            "deny unknown, read on a.*",
            "`unknown` has no object, so this rule says nothing of it",
            "write a rule of its own: `deny unknown`",
        )],
    );
    check(
        "set s = { a.b }",
        &[("P062", "s", "the set `s` is never used", "write `@s` where it is meant, or remove it")],
    );
}

#[test]
fn all_mistakes_at_once() {
    let text = "set s = { a.b, @gone }\n\
                policy p for group \"g\" on target \"t\" {\n\
                    allow raed on public.*\n\
                    deny drop on Orders, limit x\n\
                    limit rows 5\n\
                    mask ssn with redact\n\
                    allow read on @s\n\
                }\n\
                polcy x\n\
                policy q for group \"g\" on target \"t\" { alow read }";
    let codes: Vec<(&str, &str)> = told(text).iter().map(|told| (told.0, told.1)).collect();
    assert_eq!(
        codes,
        [
            ("P021", "gone"),
            ("P020", "raed"),
            ("P010", "limit"),
            ("P040", "limit"),
            ("P028", "ssn"),
            ("P011", "polcy"),
            ("P011", "alow"),
        ]
    );
}

#[test]
fn rendered_as_rustc_does() {
    let text = "# one\npolicy p for group \"ä\" on target \"t\" {\n\tdeny drop, trucate on a.b\n}";
    let source = Source { name: String::from("orders.policy"), text: text.to_owned() };
    let told = compile(&[source]).unwrap_err();
    assert_eq!(
        told[0].render(text),
        "error[P020]: `trucate` is not an effect\n \
          --> orders.policy:3:13\n  \
            |\n\
          3 |  deny drop, trucate on a.b\n  \
            |             ^^^^^^^\n  \
            = help: did you mean `truncate`?\n"
    );
}

#[test]
fn rendering_survives_any_place() {
    let text = "ä\u{1b}[2J\n".repeat(3) + &"x".repeat(1_000);
    for start in 0..text.len() {
        for end in [start, start + 1, text.len(), usize::MAX] {
            let told = Diagnostic {
                code: "P010",
                severity: Severity::Warning,
                file: String::from("x"),
                span: start..end,
                message: String::new(),
                help: String::new(),
            };
            let rendered = told.render(&text);
            assert!(!rendered.contains('\u{1b}'));
            assert!(rendered.lines().all(|line| line.chars().count() < 250));
        }
    }
}
