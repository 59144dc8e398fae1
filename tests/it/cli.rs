//! The binary from outside: what it prints, and with which exit, before it serves anyone.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

const POLICY: &str = "policy everything for group \"pilot\" on target \"orders\" {\n    allow * on *\n}\n";
const CONFIG: &str = r#"
data_dir = "var"

[[listener]]
protocol = "postgres"
bind = "127.0.0.1:0"
tls = "off"

[[target]]
name = "orders"
protocol = "postgres"
address = "127.0.0.1:5432"
database = "orders"
user = "orders_app"
password = { file = "secret" }
tls = "disable"

[[user]]
name = "agent-7"
groups = ["pilot"]
password = { file = "secret" }

[policy]
paths = ["policies/"]
"#;

/// A folder with a configuration that is right.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("policies")).unwrap();
    fs::write(folder.path().join("policies/everything.policy"), POLICY).unwrap();
    fs::write(folder.path().join("secret"), "a password nobody should print\n").unwrap();
    fs::set_permissions(folder.path().join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(folder.path().join("lockgate.toml"), CONFIG).unwrap();
    folder
}

fn lockgate(folder: &Path, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lockgate")).args(words).current_dir(folder).output().unwrap()
}

fn printed(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

/// Replaces text in the configuration; `check` and `serve` must both refuse it, with these words.
fn refused(what: &str, by: &str, words: &[&str]) {
    let folder = folder();
    let config = CONFIG.replace(what, by);
    assert_ne!(config, CONFIG, "{what} is not in the configuration");
    fs::write(folder.path().join("lockgate.toml"), config).unwrap();
    refused_as_it_is(folder.path(), words);
}

fn refused_as_it_is(folder: &Path, words: &[&str]) {
    for command in ["check", "serve"] {
        let out = lockgate(folder, &[command, "--config", "lockgate.toml"]);
        assert_eq!(out.status.code(), Some(1), "{command}: {}", printed(&out));
        for word in words {
            assert!(printed(&out).contains(word), "{command} does not say {word:?}:\n{}", printed(&out));
        }
        assert!(!printed(&out).contains("nobody should print"), "{command} prints a secret");
    }
}

#[test]
fn a_right_configuration_is_accepted() {
    let folder = folder();
    let out = lockgate(folder.path(), &["check", "--config", "lockgate.toml"]);
    assert!(out.status.success(), "{}", printed(&out));
    assert!(!printed(&out).contains("nobody should print"));
}

#[test]
fn unknown_keys_are_mistakes() {
    refused("[policy]", "[policy]\npath = []", &["policy", "path"]);
    refused("data_dir =", "data_dirs = 1\ndata_dir =", &["data_dirs"]);
    refused("[policy]", "[polices]\n[policy]", &["polices"]);
}

#[test]
fn all_mistakes_are_named_at_once() {
    let folder = folder();
    let config = CONFIG
        .replace("tls = \"off\"", "tls = \"maybe\"")
        .replace("127.0.0.1:5432", "nowhere")
        .replace("groups = [\"pilot\"]", "groups = 7")
        .replace("policies/", "missing/");
    fs::write(folder.path().join("lockgate.toml"), config).unwrap();
    refused_as_it_is(
        folder.path(),
        &["listener[0].tls", "target[0].address", "user[0].groups", "policy.paths", "missing"],
    );
}

#[test]
fn secrets_that_others_can_read_are_refused() {
    for mode in [0o640, 0o604, 0o666] {
        let folder = folder();
        fs::set_permissions(folder.path().join("secret"), fs::Permissions::from_mode(mode)).unwrap();
        refused_as_it_is(folder.path(), &["target[0].password", "user[0].password", "chmod"]);
    }
}

#[test]
fn a_mistake_in_a_policy_is_shown_with_its_place() {
    let folder = folder();
    fs::write(folder.path().join("policies/everything.policy"), POLICY.replace("allow *", "alow *")).unwrap();
    refused_as_it_is(folder.path(), &["everything.policy:2:5", "alow", "^^^^"]);
}

#[test]
fn every_command_has_a_page() {
    let folder = folder();
    for words in
        [&["--help"][..], &["help", "serve"], &["help", "check"], &["serve", "--help"], &["check", "--help"]]
    {
        let out = lockgate(folder.path(), words);
        assert!(out.status.success() && printed(&out).contains("Usage:"), "{words:?}: {}", printed(&out));
    }
    assert_eq!(lockgate(folder.path(), &["swerve"]).status.code(), Some(2));
    assert_eq!(lockgate(folder.path(), &["serve", "--config", "none.toml"]).status.code(), Some(1));
}
