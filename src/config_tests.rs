//! Configurations and every mistake that is found in them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::keys::{self, Absent, Kind};
use crate::scratch::Folder;

const GOOD: &str = r#"
data_dir = "var"
[workers]
count = 2
[[listener]]
protocol = "postgres"
bind = "127.0.0.1:6432"
tls = "optional"
[[target]]
name = "orders"
protocol = "postgres"
address = "127.0.0.1:5432"
database = "orders"
user = "orders_app"
password = { file = "secrets/orders" }
tls = "disable"
[[user]]
name = "agent-7"
groups = ["ai-agents"]
password = { file = "secrets/agent-7" }
[policy]
paths = ["policies/"]
[admin]
bind = "127.0.0.1:6480"
"#;

/// What is replaced in `GOOD`, by what, and the mistakes that come of it: their keys and some of their words.
type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)]);

/// A folder with all that `GOOD` names, and some things that are wrong.
fn folder() -> Folder {
    let folder = Folder::new("config");
    let write = |name: &str, text: &str, mode: u32| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    write("secrets/orders", "hunter2-orders\n", 0o600);
    write("secrets/agent-7", "hunter2-agent\n", 0o600);
    write("secrets/open", "hunter2-open\n", 0o644);
    write("policies/orders.policy", POLICY, 0o644);
    write(
        "broken/broken.policy",
        "policy x for group \"a\" on target \"orders\" { allow flurble on * }",
        0o644,
    );
    fs::create_dir(folder.path().join("nothing")).unwrap();
    for (name, mode) in [("a", 0o600), ("b", 0o600), ("open", 0o644)] {
        let made = rcgen::generate_simple_self_signed(vec![String::from("localhost")]).unwrap();
        write(&format!("tls/{name}.pem"), &made.cert.pem(), 0o644);
        write(&format!("tls/{name}.key"), &made.signing_key.serialize_pem(), mode);
    }
    write("tls/empty.pem", "nothing here\n", 0o600);
    folder
}

const POLICY: &str = r#"
policy orders_agents for group "ai-agents" on target "orders" {
    allow read on public.customers
}
"#;

/// What is found: mistakes as they are printed, one per line.
fn mistakes(folder: &Folder, text: &str) -> String {
    match Config::parse(folder.path().join("lockgate.toml"), text) {
        Ok(_) => String::new(),
        Err(findings) => findings.mistakes.iter().map(|mistake| format!("{mistake}\n")).collect(),
    }
}

/// `GOOD` with one piece in another's place gives one mistake, at this key, with these words.
fn check(folder: &Folder, from: &str, to: &str, expected: &[(&str, &str)]) {
    assert!(GOOD.contains(from), "{from}");
    let text = GOOD.replacen(from, to, 1);
    let found = match Config::parse(folder.path().join("lockgate.toml"), &text) {
        Ok(_) => Vec::new(),
        Err(findings) => findings.mistakes,
    };
    let shown: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(found.len(), expected.len(), "{to:?}: {shown:#?}");
    for (mistake, (path, words)) in found.iter().zip(expected) {
        assert_eq!(mistake.path, *path, "{to:?}: {mistake}");
        assert!(mistake.text.contains(words), "{to:?}: {mistake}");
        assert!(!mistake.text.contains("hunter2"), "a secret is in a message: {mistake}");
    }
}

#[test]
fn a_good_configuration_means_what_it_says() {
    let folder = folder();
    let config = Config::parse(folder.path().join("lockgate.toml"), GOOD).unwrap();
    assert_eq!(config.data_dir, folder.path().join("var"));
    assert_eq!(config.workers, 2);
    assert_eq!(config.listeners[0].bind.to_string(), "127.0.0.1:6432");
    assert_eq!(config.listeners[0].rules.tls, ListenerTls::Optional);
    assert_eq!(config.listeners[0].rules.auth, ListenerAuth::Scram);
    let target = &config.targets[0];
    let host = &target.hosts[0];
    assert_eq!((host.name.as_str(), host.port, target.hosts.len()), ("127.0.0.1", 5432, 1));
    assert_eq!(target.target.password.as_ref().unwrap().expose(), b"hunter2-orders");
    assert_eq!(target.catalog.user, "orders_app");
    assert!(host.tls.is_none());
    assert_eq!(config.users[0].identity.groups, ["ai-agents"]);
    assert_eq!(config.limits.lane.login_ns_max, 15_000_000_000);
    assert_eq!(config.limits.lane.statement_bytes_max, 16 << 20);
    assert_eq!(config.segment_bytes, 64 << 20);
    assert_eq!(config.admin.unwrap().port(), 6480);
    assert_eq!(config.warnings, []);
    assert_eq!(config.summary(), "1 listener, 1 target, 1 user, 1 policy file, 2 workers");
    assert!(!format!("{config:?}").contains("hunter2"), "a secret is in the debug print");
}

#[test]
fn the_catalog_may_have_an_account_of_its_own() {
    let folder = folder();
    let text = GOOD.replacen(
        "[[user]]",
        "[target.catalog]\nuser = \"reader\"\npassword = { file = \"secrets/agent-7\" }\n[[user]]",
        1,
    );
    let config = Config::parse(folder.path().join("lockgate.toml"), &text).unwrap();
    assert_eq!(config.targets[0].catalog.user, "reader");
    assert_eq!(config.targets[0].catalog.password.as_ref().unwrap().expose(), b"hunter2-agent");
}

#[test]
fn each_mistake_is_found_at_its_key() {
    let folder = folder();
    let cases: &[Case] = &[
        ("count = 2", "count = 0", &[("workers.count", "out of bounds")]),
        ("count = 2", "count = -1", &[("workers.count", "not a whole number")]),
        ("count = 2", "count = \"2\"", &[("workers.count", "not a text")]),
        ("count = 2", "count = 2.0", &[("workers.count", "not a fraction")]),
        ("count = 2", "cuont = 2", &[("workers.cuont", "did you mean \"count\"?")]),
        ("count = 2", "bind = \"x\"", &[("workers.bind", "it stands in [[listener]]")]),
        ("count = 2", "zzzzzz = 2", &[("workers.zzzzzz", "the keys are count")]),
        ("[workers]\ncount = 2", "workers = 2", &[("workers", "write [workers]")]),
        ("data_dir = \"var\"", "data_dir = \"\"", &[("data_dir", "empty")]),
        ("data_dir = \"var\"", "limit = 3", &[("limit", "did you mean \"limits\"?")]),
        ("[workers]", "[limits]\nlogin_timeout = \"15\"\n[workers]", &[("limits.login_timeout", "\"15s\"")]),
        (
            "[workers]",
            "[limits]\nlogin_timeout = 15\n[workers]",
            &[("limits.login_timeout", "not a whole number")],
        ),
        (
            "[workers]",
            "[limits]\nlogin_timeout = \"11m\"\n[workers]",
            &[("limits.login_timeout", "out of bounds")],
        ),
        (
            "[workers]",
            "[limits]\nlogin_timeout = \"999ms\"\n[workers]",
            &[("limits.login_timeout", "out of bounds")],
        ),
        (
            "[workers]",
            "[limits]\nlogin_timeout = \"600500ms\"\n[workers]",
            &[("limits.login_timeout", "out of bounds")],
        ),
        ("[workers]", "[limits]\nrow_bytes_max = \"1MB\"\n[workers]", &[("limits.row_bytes_max", "MiB")]),
        (
            "[workers]",
            "[recording]\ndurability = \"disk\"\n[workers]",
            &[("recording.durability", "\"async\", \"os\"")],
        ),
        (
            "[workers]",
            "[recording]\nsegment_bytes = \"1KiB\"\n[workers]",
            &[("recording.segment_bytes", "4MiB")],
        ),
        ("[workers]", "[log]\nlevel = \"verbose\"\n[workers]", &[("log.level", "is not one of")]),
        (
            "protocol = \"postgres\"\nbind",
            "bind",
            &[("listener[0].protocol", "write protocol = \"postgres\"")],
        ),
        ("bind = \"127.0.0.1:6432\"", "bind = \"localhost:6432\"", &[("listener[0].bind", "127.0.0.1:6432")]),
        ("tls = \"optional\"", "tls = \"option\"", &[("listener[0].tls", "did you mean \"optional\"?")]),
        ("tls = \"optional\"", "tls = true", &[("listener[0].tls", "not true or false")]),
        ("tls = \"optional\"", "tls = \"off\"\nauth = \"password\"", &[("listener[0].auth", "clear text")]),
        (
            "tls = \"optional\"",
            "certificate = \"tls/a.pem\"\nkey = \"tls/b.key\"",
            &[("listener[0].key", "is not the key of the certificate")],
        ),
        (
            "tls = \"optional\"",
            "certificate = \"tls/a.pem\"",
            &[("listener[0].key", "missing beside certificate")],
        ),
        ("tls = \"optional\"", "key = \"tls/a.key\"", &[("listener[0].certificate", "missing beside key")]),
        (
            "tls = \"optional\"",
            "certificate = \"tls/open.pem\"\nkey = \"tls/open.key\"",
            &[("listener[0].key", "chmod 600")],
        ),
        (
            "tls = \"optional\"",
            "certificate = \"tls/empty.pem\"\nkey = \"tls/a.key\"",
            &[("listener[0].certificate", "no certificate in it")],
        ),
        (
            "tls = \"optional\"",
            "tls = \"off\"\ncertificate = \"tls/a.pem\"\nkey = \"tls/a.key\"",
            &[("listener[0].certificate", "of no use"), ("listener[0].key", "of no use")],
        ),
        (
            "tls = \"optional\"",
            "client_certificate = \"required\"",
            &[("listener[0].client_ca", "write client_ca =")],
        ),
        (
            "tls = \"optional\"",
            "client_certificate = \"optional\"\nclient_ca = \"tls/none.pem\"",
            &[("listener[0].client_ca", "cannot be read")],
        ),
        (
            "tls = \"optional\"",
            "client_certificate = \"optional\"\nclient_ca = \"tls/empty.pem\"",
            &[("listener[0].client_ca", "no certificate in it")],
        ),
        (
            "tls = \"optional\"",
            "client_certificate = \"optional\"\nclient_ca = \"tls/a.pem\"\nclient_crl = \"tls/a.pem\"",
            &[("listener[0].client_crl", "no list in it")],
        ),
        (
            "tls = \"optional\"",
            "client_ca = \"tls/a.pem\"\nclient_name = \"uri\"",
            &[("listener[0].client_ca", "of no use"), ("listener[0].client_name", "of no use")],
        ),
        (
            "tls = \"optional\"",
            "tls = \"off\"\nclient_certificate = \"optional\"\nclient_ca = \"tls/a.pem\"",
            &[("listener[0].client_certificate", "inside of TLS")],
        ),
        (
            "tls = \"optional\"",
            "auth = \"certificate\"\nclient_certificate = \"optional\"\nclient_ca = \"tls/a.pem\"",
            &[("listener[0].auth", "client_certificate = \"required\"")],
        ),
        (
            "tls = \"disable\"",
            "tls = \"disable\"\ncertificate = \"tls/a.pem\"\nkey = \"tls/a.key\"",
            &[("target[0].certificate", "of no use")],
        ),
        (
            "tls = \"disable\"",
            "tls = \"require\"\ncertificate = \"tls/a.pem\"",
            &[("target[0].key", "missing beside certificate")],
        ),
        (
            "tls = \"disable\"",
            "tls = \"require\"\nkey = \"tls/a.key\"",
            &[("target[0].certificate", "missing beside key")],
        ),
        (
            "tls = \"disable\"",
            "tls = \"require\"\ncertificate = \"tls/a.pem\"\nkey = \"tls/b.key\"",
            &[("target[0].certificate", "is not the key")],
        ),
        (
            "tls = \"disable\"",
            "tls = \"require\"\ncertificate = \"tls/open.pem\"\nkey = \"tls/open.key\"",
            &[("target[0].key", "chmod 600")],
        ),
        ("name = \"orders\"", "name = \"\"", &[("target[0].name", "empty")]),
        ("name = \"orders\"", "", &[("target[0].name", "write name = \"orders\"")]),
        ("127.0.0.1:5432", "127.0.0.1", &[("target[0].address", "names no port")]),
        ("\"127.0.0.1:5432\"", "[]", &[("target[0].address", "has 0 hosts")]),
        ("\"127.0.0.1:5432\"", "[\"a:1\", \"b\"]", &[("target[0].address[1]", "names no port")]),
        (
            "tls = \"disable\"",
            "tls = \"disable\"\ntarget_session_attrs = \"standbye\"",
            &[("target[0].target_session_attrs", "\"standby\"?")],
        ),
        ("tls = \"disable\"", "tls = \"prefer\"", &[("target[0].tls", "\"verify-full\"")]),
        (
            "tls = \"disable\"",
            "tls = \"require\"\nca = \"tls/a.pem\"",
            &[("target[0].ca", "verifies nothing")],
        ),
        ("tls = \"disable\"", "ca = \"tls/none.pem\"", &[("target[0].ca", "cannot be read")]),
        ("tls = \"disable\"", "ca = \"tls/empty.pem\"", &[("target[0].ca", "no certificate in it")]),
        ("secrets/orders", "secrets/none", &[("target[0].password", "No such file")]),
        ("secrets/orders", "secrets/open", &[("target[0].password", "chmod 600")]),
        ("secrets/orders", "secrets", &[("target[0].password", "is not a file")]),
        ("{ file = \"secrets/orders\" }", "\"hunter2\"", &[("target[0].password", "{ file = \"…\" }")]),
        (
            "{ file = \"secrets/orders\" }",
            "{ env = \"LOCKGATE_NONE\" }",
            &[("target[0].password", "is not set")],
        ),
        (
            "{ file = \"secrets/orders\" }",
            "{ file = \"a\", env = \"b\" }",
            &[("target[0].password", "one of them")],
        ),
        ("{ file = \"secrets/orders\" }", "{ fiel = \"a\" }", &[("target[0].password", "one of them")]),
        (
            "tls = \"disable\"",
            "tls = \"disable\"\n[target.catalog]",
            &[("target[0].catalog.user", "is missing")],
        ),
        (
            "groups = [\"ai-agents\"]",
            "groups = \"ai-agents\"",
            &[("user[0].groups", "a list of texts, not a text")],
        ),
        ("groups = [\"ai-agents\"]", "groups = [\"a\", 7]", &[("user[0].groups[1]", "must be a text")]),
        ("password = { file = \"secrets/agent-7\" }", "", &[("user", "could never connect")]),
        ("policies/", "policys/", &[("policy.paths", "cannot be read")]),
        ("[\"policies/\"]", "[]", &[("policy.paths", "names no file")]),
        ("paths = [\"policies/\"]", "", &[("policy.paths", "is missing")]),
        ("[policy]\npaths = [\"policies/\"]", "", &[("policy", "write [policy]")]),
        ("policies/", "broken", &[("policy.paths", "flurble")]),
        ("127.0.0.1:6480", "0.0.0.0:6480", &[("admin.bind", "nothing asks its readers")]),
        ("127.0.0.1:6480", "127.0.0.1:6432", &[("listener", "more than one has bind")]),
    ];
    for (from, to, expected) in cases {
        check(&folder, from, to, expected);
    }
}

#[test]
fn all_mistakes_are_found_at_once_in_the_order_of_the_file() {
    let folder = folder();
    let text = r#"
data_dirr = "x"
[[listener]]
protocol = "mysql"
bind = "6432"
[[listener]]
bind = "127.0.0.1:7"
protocol = "postgres"
tls = "never"
[[target]]
name = "orders"
tls = "prefer"
[[target]]
name = "orders"
protocol = "postgres"
address = "db:0"
database = "orders"
user = "x"
tls = "disable"
[policy]
paths = ["none"]
"#;
    let found = mistakes(&folder, text);
    let paths: Vec<&str> = found.lines().filter_map(|line| line.split(": ").nth(1)).collect();
    assert_eq!(
        paths,
        [
            "data_dirr",
            "listener[0].protocol",
            "listener[0].bind",
            "listener[1].tls",
            "target[0].protocol",
            "target[0].address",
            "target[0].database",
            "target[0].user",
            "target[0].tls",
            "target[1].address",
            "policy.paths",
        ],
        "{found}"
    );
    assert!(found.starts_with("line 2: data_dirr: there is no such key"), "{found}");
}

#[test]
fn twins_are_refused() {
    let folder = folder();
    for (table, more) in [
        (
            "target",
            "[[target]]\nname = \"orders\"\nprotocol = \"postgres\"\naddress = \"h:1\"\ndatabase = \"d\"\nuser = \"u\"\ntls = \"disable\"\n",
        ),
        ("user", "[[user]]\nname = \"agent-7\"\npassword = { file = \"secrets/agent-7\" }\n"),
        ("listener", "[[listener]]\nprotocol = \"postgres\"\nbind = \"127.0.0.1:6432\"\n"),
    ] {
        let found = mistakes(&folder, &format!("{GOOD}{more}"));
        assert!(
            found.contains(&format!("{table}: more than one has")) && found.lines().count() == 1,
            "{found}"
        );
    }
    let free = GOOD.replace(":6432", ":0").replace(":6480", ":0");
    assert_eq!(mistakes(&folder, &free), "", "port 0 is another port each time");
}

#[test]
fn an_empty_file_says_what_it_takes() {
    let folder = folder();
    let found = mistakes(&folder, "");
    for part in
        ["listener: is missing: write at least one [[listener]]", "target: is missing", "policy: is missing"]
    {
        assert!(found.contains(part), "{found}");
    }
    assert_eq!(found.lines().count(), 3, "{found}");
}

#[test]
fn mistakes_of_syntax_have_a_line_and_show_no_text() {
    let folder = folder();
    for (text, line) in [
        ("data_dir = \"a\"\npassword = \"hunter2\nx = 1\n", "line 2: "),
        ("data_dir = \"a\"\ndata_dir = \"b\"\n", "line 2: "),
        ("[workers\n", "line 1: "),
    ] {
        let found = mistakes(&folder, text);
        assert!(found.starts_with(line), "{text}: {found}");
        assert!(!found.contains("hunter2"), "{found}");
    }
}

#[test]
fn what_is_odd_is_a_warning() {
    let folder = folder();
    let text = GOOD.replacen("[\"ai-agents\"]", "[\"ai-agent\"]", 1).replacen(
        "\"policies/\"",
        "\"policies/\", \"nothing\"",
        1,
    );
    let config = Config::parse(folder.path().join("lockgate.toml"), &text).unwrap();
    let warnings: String = config.warnings.iter().map(|warning| format!("{warning}\n")).collect();
    assert!(
        warnings.contains("no policy lets \"agent-7\" (groups: ai-agent) connect to any target"),
        "{warnings}"
    );
    assert!(warnings.contains("has no *.policy file in it"), "{warnings}");
}

/// Every key is read: a value of a wrong kind is a mistake, whatever the key.
#[test]
fn every_key_is_read() {
    let folder = folder();
    for key in keys::KEYS.iter().filter(|key| !matches!(key.kind, Kind::Table | Kind::Tables)) {
        let header = match key.table {
            "" => String::new(),
            "listener" | "target" | "user" => format!("[[{}]]\n", key.table),
            "target.catalog" => String::from("[[target]]\n[target.catalog]\n"),
            table => format!("[{table}]\n"),
        };
        let found = mistakes(&folder, &format!("{header}{} = 1979-05-27\n", key.name));
        assert!(
            found.contains(&format!(".{}: ", key.name)) || found.contains(&format!(" {}: ", key.name)),
            "{found}"
        );
        assert!(
            found.contains("not a date") || found.contains("a secret does not stand"),
            "{}: {found}",
            key.name
        );
    }
}

/// Every default and every example is a right value of its key.
#[test]
fn defaults_and_examples_are_right() {
    let folder = folder();
    for key in keys::KEYS.iter().filter(|key| !matches!(key.kind, Kind::Table | Kind::Tables | Kind::Secret))
    {
        let quoted = |text: &str| match key.kind {
            Kind::Integer(..) => text.to_owned(),
            _ => format!("\"{text}\""),
        };
        let default = match key.absent {
            Absent::Default(text) => Some(quoted(text)),
            _ => None,
        };
        for value in default.into_iter().chain([key.example.to_owned()]) {
            let header = match key.table {
                "" => String::new(),
                "listener" | "target" | "user" => format!("[[{}]]\n", key.table),
                "target.catalog" => String::from("[[target]]\n[target.catalog]\n"),
                table => format!("[{table}]\n"),
            };
            let found = mistakes(&folder, &format!("{header}{} = {value}\n", key.name));
            let path = match key.table {
                "" => key.name.to_owned(),
                "listener" | "target" | "user" => format!("{}[0].{}", key.table, key.name),
                "target.catalog" => format!("target[0].catalog.{}", key.name),
                table => format!("{table}.{}", key.name),
            };
            let complaint = found.lines().find(|line| line.contains(&format!(": {path}: ")));
            let about_others = complaint.is_some_and(|line| {
                ["cannot be read", "beside", "of no use"].iter().any(|words| line.contains(words))
            });
            assert!(complaint.is_none() || about_others, "{} = {value}: {complaint:?}", key.name);
        }
    }
}

#[test]
fn a_queue_that_nobody_can_join_is_told() {
    let folder = folder();
    for (keys, expected) in [
        ("queue_max = 5", &["target[0].queue_max"][..]),
        ("queue_max = 5\nqueue_timeout = \"5s\"", &["target[0].queue_max", "target[0].queue_timeout"]),
        ("sessions_max = 9\nqueue_timeout = \"5s\"", &["target[0].queue_timeout"]),
        ("sessions_max = 9\nqueue_max = 5\nqueue_timeout = \"5s\"", &[]),
    ] {
        let text = GOOD.replace("tls = \"disable\"", &format!("tls = \"disable\"\n{keys}"));
        let config = Config::parse(folder.path().join("lockgate.toml"), &text).unwrap();
        let told: Vec<_> = config.warnings.iter().map(|warning| warning.path.as_str()).collect();
        assert_eq!(told, expected, "{keys}");
    }
}

#[test]
fn hosts_and_limits_are_as_written() {
    let folder = folder();
    let text = GOOD
        .replace("\"127.0.0.1:5432\"", "[\"db1:5432\", \"[fd00::7]:5433\"]\nsessions_max = 20\nqueue_max = 5")
        .replace("tls = \"disable\"", "tls = \"disable\"\ntarget_session_attrs = \"prefer-standby\"")
        .replace("[workers]", "[limits]\nsessions_per_identity_max = 7\n[workers]");
    let more = "[[user]]\nname = \"olga\"\nsessions_max = 3\npassword = { file = \"secrets/agent-7\" }\n";
    let config = Config::parse(folder.path().join("lockgate.toml"), &format!("{text}{more}")).unwrap();
    let target = &config.targets[0];
    let hosts: Vec<_> = target.hosts.iter().map(|host| (host.name.as_str(), host.port)).collect();
    assert_eq!(hosts, [("db1", 5432), ("fd00::7", 5433)]);
    assert_eq!(target.target.attrs, SessionAttrs::PreferStandby);
    assert_eq!(target.sessions_max, SessionsMax { max: 20, key: "target.sessions_max" });
    assert_eq!(target.queue, Queue { max: 5, ns_max: 30_000_000_000 });
    let users: Vec<_> = config.users.iter().map(|user| user.sessions_max).collect();
    let general = SessionsMax { max: 7, key: "limits.sessions_per_identity_max" };
    assert_eq!(users, [general, SessionsMax { max: 3, key: "user.sessions_max" }]);
}
