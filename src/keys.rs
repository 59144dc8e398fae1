//! Every key of the configuration, once: its kind, its default, what it means. The reader checks against this table
//! and the reference page is printed from it.

use std::fmt::Write as _;

/// What a value must look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A name: 1 to 63 bytes, no control characters.
    Name,
    /// Any text that is not empty.
    Text,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A whole number from the first to the second.
    Integer(u64, u64),
    /// A time such as `"15s"`, from the first to the second.
    Duration(&'static str, &'static str),
    /// A number of bytes such as `"16MiB"`, from the first to the second.
    Size(u64, u64),
    /// A path, relative to the configuration file's folder.
    Path,
    /// IP address and port.
    Socket,
    /// Host (name or IP address) and port, or a list of them.
    HostPorts,
    /// A list of texts.
    Texts,
    /// A list of paths.
    Paths,
    /// `{ file = "…" }` or `{ env = "…" }`.
    Secret,
    /// A table of its own.
    Table,
    /// A list of tables.
    Tables,
}

/// What happens when the key is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// A mistake.
    Mistake,
    /// The key has no effect; the text says what happens then.
    Means(&'static str),
    /// It is as if this were written.
    Default(&'static str),
}

/// One key.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// The table it stands in, as its header is written; empty for the top.
    pub table: &'static str,
    /// Its name.
    pub name: &'static str,
    /// What its value must look like.
    pub kind: Kind,
    /// What its absence means.
    pub absent: Absent,
    /// A right value as TOML, for messages and the reference.
    pub example: &'static str,
    /// What it is for.
    pub doc: &'static str,
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

const fn key(
    table: &'static str,
    name: &'static str,
    kind: Kind,
    absent: Absent,
    example: &'static str,
    doc: &'static str,
) -> Key {
    Key { table, name, kind, absent, example, doc }
}

use Absent::{Default, Means, Mistake};
use Kind::{
    Choice, Duration, HostPorts, Integer, Name, Path, Paths, Secret, Size, Socket, Table, Tables, Text, Texts,
};

/// All of them, in the order of the reference.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    key("", "data_dir", Path, Default("var"), "\"var\"",
        "Folder of all state: recordings, the certificate made on first start. Made with mode 0700. One gateway at a time; `--take-over` replaces it."),
    key("", "workers", Table, Means("defaults"), "", "The threads that carry sessions."),
    key("", "limits", Table, Means("defaults"), "", "What bounds every peer. A limit that cuts says so to the peer."),
    key("", "recording", Table, Means("defaults"), "", "How sessions are recorded."),
    key("", "listener", Tables, Mistake, "", "Where clients connect. At least one."),
    key("", "target", Tables, Mistake, "", "What stands behind the gateway. At least one."),
    key("", "user", Tables, Means("nobody can connect"), "", "Identities that the gateway itself knows."),
    key("", "policy", Table, Mistake, "", "The rules. What no rule allows is denied."),
    key("", "admin", Table, Means("no admin port"), "", "Health and metrics over HTTP."),
    key("", "log", Table, Means("defaults"), "", "The log, written to standard error."),

    key("workers", "count", Integer(1, 256), Means("one per core that the process may use"), "2",
        "Number of worker threads, each pinned to a core."),
    key("workers", "driver", Choice(&["auto", "io_uring", "epoll"]), Default("auto"), "\"auto\"",
        "How they reach the kernel. `auto`: `io_uring` where it is allowed, else `epoll` with a warning. `io_uring` alone: where it is forbidden, the gateway does not start. `serve --driver` stands in its place."),
    key("workers", "spin", Duration("0us", "1000us"), Default("0us"), "\"60us\"",
        "How long a worker with nothing to do looks for something before it sleeps, with io_uring, while one peer is at work and that pays: to be woken takes longer than most answers of a near server. For gateways with cores of their own. `0us`: not at all."),

    key("limits", "login_timeout", Duration("1s", "10m"), Default("15s"), "\"15s\"",
        "A client that is not authenticated by then is closed."),
    key("limits", "connect_timeout", Duration("1s", "10m"), Default("10s"), "\"10s\"",
        "Time that one address of a target gets until the session stands: connecting, TLS, authentication."),
    key("limits", "drain_timeout", Duration("0s", "24h"), Default("30s"), "\"30s\"",
        "After SIGTERM no client is accepted and sessions end when they are idle; what is left after this time is cut."),
    key("limits", "handover_timeout", Duration("0s", "168h"), Default("1h"), "\"1h\"",
        "When another process has taken over, sessions of this one go on until their clients leave; what is left after this time is cut."),
    key("limits", "sessions_max", Integer(1, 1_000_000), Default("20000"), "20000",
        "Client connections at once, authenticated or not. Each worker enforces its share."),
    key("limits", "unauthenticated_max", Integer(1, 1_000_000), Default("2000"), "2000",
        "Of those, not yet authenticated. Each worker enforces its share."),
    key("limits", "unauthenticated_per_address_max", Integer(1, 1_000_000), Default("128"), "128",
        "Of those, from one address. Each worker enforces its share."),
    key("limits", "sessions_per_identity_max", Integer(1, 1_000_000), Means("no limit"), "100",
        "Sessions of one identity at once, over all workers and targets; one more is refused with SQLSTATE 53300. After a hand-over the old process and the new one count apart."),
    key("limits", "statement_bytes_max", Size(1024, GIB), Default("16MiB"), "\"16MiB\"",
        "Longest Query, Parse and FunctionCall message; a longer one is refused with SQLSTATE 54000."),
    key("limits", "bind_bytes_max", Size(1024, GIB), Default("64MiB"), "\"64MiB\"",
        "Longest Bind message (parameters)."),
    key("limits", "row_bytes_max", Size(1024, GIB), Default("1MiB"), "\"1MiB\"",
        "Longest row of which cells can be masked."),
    key("limits", "scram_iterations_max", Integer(4096, 100_000_000), Default("1000000"), "1000000",
        "Most SCRAM iterations that a target may demand; more is refused, because they cost the gateway's time."),

    key("recording", "durability", Choice(&["async", "os"]), Default("async"), "\"async\"",
        "When a command is forwarded: `async` when its record is queued, `os` when the operating system has it (it survives a crash of the gateway)."),
    key("recording", "segment_bytes", Size(4 * MIB, 64 * GIB), Default("64MiB"), "\"64MiB\"",
        "Size of one file of a recording; two per worker are allocated ahead."),

    key("listener", "protocol", Choice(&["postgres"]), Mistake, "\"postgres\"",
        "What clients speak here."),
    key("listener", "bind", Socket, Mistake, "\"127.0.0.1:6432\"",
        "IP address and port. Port 0 takes a free one and logs it."),
    key("listener", "tls", Choice(&["off", "optional", "required"]), Default("required"), "\"required\"",
        "Whether clients may (`optional`) or must (`required`) use TLS."),
    key("listener", "certificate", Path, Means("a self-signed certificate is made on first start, under data_dir/tls"), "\"tls/server.pem\"",
        "PEM file: the certificate that clients see, then its chain."),
    key("listener", "key", Path, Means("as for `certificate`"), "\"tls/server.key\"",
        "PEM file: the certificate's private key, readable by its owner only."),
    key("listener", "auth", Choice(&["scram", "password", "certificate"]), Default("scram"), "\"scram\"",
        "How clients prove who they are: `scram`: SCRAM-SHA-256, inside TLS also with channel binding (SCRAM-SHA-256-PLUS); `password`: the password itself, inside TLS only; `certificate`: their certificate alone."),
    key("listener", "client_certificate", Choice(&["off", "optional", "required"]), Default("off"), "\"required\"",
        "Whether clients are asked for a certificate, beside what `auth` asks. One that is shown must be valid, of `client_ca`, and bear the name of the user that the client claims to be; with `optional`, a client may show none."),
    key("listener", "client_ca", Path, Means("must be given where certificates are asked for"), "\"tls/clients.pem\"",
        "PEM file: the authorities whose certificates clients may show. Read again at every reload, as `client_crl` is."),
    key("listener", "client_crl", Path, Means("nothing is revoked"), "\"tls/clients.crl\"",
        "PEM file: lists of revoked certificates, one of every authority that a chain goes through. A chain that no list speaks of is refused, and so is one whose list is older than it says it may be."),
    key("listener", "client_name", Choice(&["cn", "dns", "email", "uri"]), Default("cn"), "\"cn\"",
        "Where a certificate bears its holder's name: the subject's one common name, or any of the alternative names of this kind. It is held against the user's `certificate_name`."),

    key("target", "name", Name, Mistake, "\"orders\"",
        "What clients name as their database, and policies as their target."),
    key("target", "protocol", Choice(&["postgres"]), Mistake, "\"postgres\"",
        "What the target speaks."),
    key("target", "address", HostPorts, Mistake, "[\"db1:5432\", \"db2:5432\"]",
        "Host and port, or a list of them: every address of every host is tried in this order. The next one has its turn when one refuses, is too slow, breaks, starts up or shuts down, or is not what `target_session_attrs` asks for; not after another error of the server's. All must be one database, a primary and its physical standbys: policies and masks go by the catalog of one of them. A host name is resolved again every 30 s."),
    key("target", "target_session_attrs", Choice(&["any", "read-write", "read-only", "primary", "standby", "prefer-standby"]), Default("any"), "\"read-write\"",
        "As libpq's: which of the servers takes sessions. All but `any` need PostgreSQL 14 or newer."),
    key("target", "database", Name, Mistake, "\"orders\"",
        "The database on the target."),
    key("target", "user", Name, Mistake, "\"orders_app\"",
        "The role that sessions use on the target. Clients never learn its password."),
    key("target", "password", Secret, Means("a target that asks for one cannot be connected"), "{ file = \"secrets/orders\" }",
        "That role's password."),
    key("target", "tls", Choice(&["disable", "require", "verify-ca", "verify-full"]), Default("verify-full"), "\"verify-full\"",
        "As libpq's sslmode: no TLS; TLS with whoever answers; with a certificate of a trusted authority; and for this very host. Never downgraded."),
    key("target", "ca", Path, Means("the system's authorities"), "\"tls/ca.pem\"",
        "PEM file: the authorities (or the very certificate) to trust with `verify-ca` and `verify-full`."),
    key("target", "certificate", Path, Means("no certificate is shown"), "\"tls/client.pem\"",
        "PEM file: the gateway's own certificate for a target that asks for one, then its chain. Shown whatever role connects, the catalog's too."),
    key("target", "key", Path, Means("as for `certificate`"), "\"tls/client.key\"",
        "PEM file: that certificate's private key, readable by its owner only."),
    key("target", "sessions_max", Integer(1, 1_000_000), Means("no limit of its own"), "80",
        "Sessions on the target at once, over all workers; a server's connection counts until it is closed. Keep it below the server's `max_connections`, whose own refusals (SQLSTATE 53300) clients get as they are. A reload that raises it seats who waits, one that lowers it ends nobody. After a hand-over the old process and the new one count apart, so for a while there may be more."),
    key("target", "queue_max", Integer(0, 1_000_000), Default("0"), "500",
        "Clients that may wait, already authenticated, when `sessions_max` is reached: first come, first served. Who finds no room is refused with SQLSTATE 53300; with 0 nobody waits."),
    key("target", "queue_timeout", Duration("1s", "1h"), Default("30s"), "\"30s\"",
        "How long a client waits before it is refused with SQLSTATE 53300."),
    key("target", "catalog", Table, Means("the target's own role"), "",
        "The role that reads the target's catalog, which names in policies and masks are resolved with. It needs no rights on tables."),
    key("target", "catalog_poll", Duration("1s", "24h"), Default("1s"), "\"1s\"",
        "Time between two looks at the target's catalog: what is changed behind the gateway's back is found within it. Each look after a change is a short transaction, which VACUUM on the target sees as it sees any."),

    key("target.catalog", "user", Name, Mistake, "\"lockgate_catalog\"",
        "Role on the target."),
    key("target.catalog", "password", Secret, Means("no password is sent"), "{ env = \"CATALOG_PASSWORD\" }",
        "That role's password."),

    key("user", "name", Name, Mistake, "\"agent-7\"",
        "What the client gives as its user."),
    key("user", "groups", Texts, Means("no group"), "[\"ai-agents\"]",
        "The groups that policies speak of."),
    key("user", "password", Secret, Means("it comes in by certificate alone, where a listener has that `auth`"), "{ file = \"secrets/agent-7\" }",
        "What the client proves to know."),
    key("user", "certificate_name", Text, Means("the user's `name`"), "\"agent-7.example.net\"",
        "The name that its certificate bears, as the listener's `client_name` says."),
    key("user", "sessions_max", Integer(1, 1_000_000), Means("limits.sessions_per_identity_max"), "20",
        "Sessions of this identity at once, over all workers and targets; one more is refused with SQLSTATE 53300."),

    key("policy", "paths", Paths, Mistake, "[\"policies/\"]",
        "Policy files, or folders whose `*.policy` files are read. All together are the policy; order means nothing."),

    key("admin", "bind", Socket, Means("no admin port"), "\"127.0.0.1:6480\"",
        "IP address and port of `/healthz`, `/readyz` and `/metrics`. Loopback only."),

    key("log", "format", Choice(&["json", "text"]), Default("json"), "\"json\"",
        "One JSON object per line, or text for a terminal."),
    key("log", "level", Choice(&["error", "warn", "info", "debug"]), Default("info"), "\"info\"",
        "The least level that is written."),
];

/// The keys of one table.
pub fn of_table(table: &str) -> impl Iterator<Item = &'static Key> + use<'_> {
    KEYS.iter().filter(move |key| key.table == table)
}

/// The key of this name in this table.
pub fn find(table: &str, name: &str) -> Option<&'static Key> {
    of_table(table).find(|key| key.name == name)
}

/// The reference page, in Markdown.
pub fn reference() -> String {
    let mut page = String::from(INTRODUCTION);
    for table in [
        "",
        "workers",
        "limits",
        "recording",
        "listener",
        "target",
        "target.catalog",
        "user",
        "policy",
        "admin",
        "log",
    ] {
        section(&mut page, table);
    }
    page
}

const INTRODUCTION: &str = "\
# Configuration

<!-- Printed by `lockgate check --reference`; a test keeps it so. -->

`lockgate serve --config FILE` and `lockgate check --config FILE` read one TOML file. Paths are relative to the
file's folder. Times are written `\"500ms\"`, `\"15s\"`, `\"10m\"`, `\"1h\"`; sizes `\"512B\"`, `\"64KiB\"`, `\"16MiB\"`, `\"1GiB\"`.
A key that is not on this page is a mistake. `check` reports all mistakes at once, each with its key.

A secret is never written into the file: `{ file = \"…\" }` names a file that only its owner can read (mode 0600; one
line end at its end is not part of the secret), `{ env = \"…\" }` an environment variable.
";

fn section(page: &mut String, table: &str) {
    let title = match table {
        "" => String::from("At the top"),
        "listener" | "target" | "user" => format!("`[[{table}]]`"),
        _ => format!("`[{table}]`"),
    };
    let about = KEYS.iter().find(|key| path_of(key) == table && !table.is_empty()).map_or("", |key| key.doc);
    let _ = write!(page, "\n## {title}\n\n");
    if !about.is_empty() {
        let _ = write!(page, "{about}\n\n");
    }
    page.push_str("| key | value | without it | meaning |\n| --- | --- | --- | --- |\n");
    for key in of_table(table).filter(|key| !matches!(key.kind, Table | Tables)) {
        let _ = writeln!(
            page,
            "| `{}` | {}, e.g. `{}` | {} | {} |",
            key.name,
            value_words(key.kind),
            key.example,
            absent_words(key),
            key.doc
        );
    }
}

fn path_of(key: &Key) -> String {
    if key.table.is_empty() { String::from(key.name) } else { format!("{}.{}", key.table, key.name) }
}

fn absent_words(key: &Key) -> String {
    match key.absent {
        Mistake => String::from("must be given"),
        Means(text) => String::from(text),
        Default(text) => format!("`{text}`"),
    }
}

/// A kind in words, as messages and the reference say it.
pub fn value_words(kind: Kind) -> String {
    match kind {
        Name => String::from("a name (1 to 63 bytes)"),
        Text => String::from("a text"),
        Choice(words) => {
            let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
            quoted.join(" or ")
        }
        Integer(min, max) => format!("a whole number from {min} to {max}"),
        Duration(min, max) => format!("a time from {min} to {max}"),
        Size(min, max) => format!("a size from {} to {}", bytes(min), bytes(max)),
        Path => String::from("a path"),
        Socket => String::from("an IP address and port"),
        HostPorts => String::from("a host and port, or a list of them"),
        Texts => String::from("a list of texts"),
        Paths => String::from("a list of paths"),
        Secret => String::from("a secret"),
        Table => String::from("a table"),
        Tables => String::from("a list of tables"),
    }
}

fn bytes(count: u64) -> String {
    match count {
        count if count % GIB == 0 => format!("{}GiB", count / GIB),
        count if count % MIB == 0 => format!("{}MiB", count / MIB),
        count if count % 1024 == 0 => format!("{}KiB", count / 1024),
        count => format!("{count}B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Run with `LOCKGATE_WRITE_REFERENCE=1` to write the page anew.
    #[test]
    fn the_reference_page_is_as_printed() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
        if std::env::var_os("LOCKGATE_WRITE_REFERENCE").is_some() {
            std::fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/docs")).unwrap();
            std::fs::write(path, reference()).unwrap();
        }
        let page = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            page == reference(),
            "docs/configuration.md has drifted: write it with `lockgate check --reference > docs/configuration.md`"
        );
    }

    #[test]
    fn every_key_is_in_the_reference_and_stands_once() {
        let page = reference();
        for (index, key) in KEYS.iter().enumerate() {
            let again =
                KEYS.iter().skip(index + 1).any(|other| (other.table, other.name) == (key.table, key.name));
            assert!(!again, "{} stands twice", path_of(key));
            assert!(
                matches!(key.kind, Table | Tables) || page.contains(&format!("\n| `{}` |", key.name)),
                "{} is not on the page",
                path_of(key)
            );
        }
    }

    #[test]
    fn every_table_has_a_key_that_announces_it() {
        for key in KEYS.iter().filter(|key| !key.table.is_empty()) {
            let announced =
                KEYS.iter().any(|other| path_of(other) == key.table && matches!(other.kind, Table | Tables));
            assert!(announced, "{}", key.table);
        }
    }
}
