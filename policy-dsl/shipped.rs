//! Sets that every policy may use without defining them.

/// A set by name: its words.
pub(crate) struct Shipped {
    pub name: &'static str,
    pub words: &'static [&'static str],
}

/// All of them. What changes how SQL text is read (`standard_conforming_strings`), where names are found
/// (`search_path`), or who acts (`role`) is in none; `client_encoding` carries `unknown` beside it whenever it
/// would change how text is read.
pub(crate) const SHIPPED: &[Shipped] = &[Shipped {
    // What libpq, pgjdbc, psycopg, asyncpg, Npgsql, node-postgres, SQLAlchemy and Django set when they connect and
    // when their own methods for time-outs, isolation and read-only mode are called.
    name: "driver_settings",
    words: &[
        "application_name",
        "bytea_output",
        "client_encoding",
        "client_min_messages",
        "datestyle",
        "default_transaction_deferrable",
        "default_transaction_isolation",
        "default_transaction_read_only",
        "extra_float_digits",
        "idle_in_transaction_session_timeout",
        "idle_session_timeout",
        "intervalstyle",
        "jit",
        "lock_timeout",
        "statement_timeout",
        "timezone",
        "transaction_deferrable",
        "transaction_isolation",
        "transaction_read_only",
        "transaction_timeout",
    ],
}];

/// The shipped set of this name.
pub(crate) fn shipped(name: &str) -> Option<&'static Shipped> {
    SHIPPED.iter().find(|set| set.name == name)
}
