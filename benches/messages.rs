//! Messages as peers send them: what bodies are fed with.

use lockgate_codecs::postgres::frontend::{self, Named};
use lockgate_codecs::postgres::{backend, startup, write};

/// OID of `public.customers` in the catalog that the facts' tests have.
pub(crate) const CUSTOMERS: u32 = 16664;

/// Attribute number and type of the columns of [`row`], in their order.
pub(crate) const COLUMNS: [(&[u8], i16, u32); 6] = [
    (b"id", 1, 23),
    (b"name", 2, 25),
    (b"email", 3, 16640),
    (b"ssn", 4, 25),
    (b"card", 5, 20),
    (b"born", 6, 1082),
];

/// How many of them the point select asks for.
pub(crate) const POINT_COLUMNS: usize = 3;

/// Every row of [`rows`] has this length.
pub(crate) const ROW_BYTES: usize = 128;
/// Rows of [`rows`].
pub(crate) const ROWS: usize = 512;
/// Length of [`rows`].
pub(crate) const ROWS_BYTES: u64 = 64 << 10;

const _: () = assert!(ROW_BYTES as u64 * ROWS as u64 == ROWS_BYTES);

/// The first `columns` cells of a customer.
pub(crate) fn row(number: usize, columns: usize) -> Vec<u8> {
    let cells = [
        format!("{number:06}"),
        format!("Customer number {number:04}"),
        format!("customer.{number:06}@mail.example.de"),
        format!("123-45-{number:04}"),
        format!("4000 1234 5678 {number:04}"),
        String::from("1970-01-01"),
    ];
    let mut out = Vec::new();
    write::message(&mut out, backend::DATA_ROW, |body| {
        body.i16(count(columns));
        for cell in cells.iter().take(columns) {
            body.i32(i32::from(count(cell.len()))).bytes(cell.as_bytes());
        }
    });
    out
}

/// 64 KiB of whole customers.
pub(crate) fn rows() -> Vec<u8> {
    (0..ROWS).flat_map(|number| row(number, COLUMNS.len())).collect()
}

/// The columns of a customer's first cells, as if of this table.
pub(crate) fn row_description(columns: usize, table_oid: u32) -> Vec<u8> {
    let mut out = Vec::new();
    write::message(&mut out, backend::ROW_DESCRIPTION, |body| {
        body.i16(count(columns));
        for (name, attribute, type_oid) in COLUMNS.iter().take(columns) {
            body.string(name).u32(table_oid).i16(*attribute).u32(*type_oid).i16(-1).i32(-1).i16(0);
        }
    });
    out
}

/// A message with nothing but these bytes in it.
pub(crate) fn plain(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write::message(&mut out, kind, |writer| {
        writer.bytes(body);
    });
    out
}

/// The end of a command, and of what the client waits for.
pub(crate) fn completed(tag: &str) -> Vec<u8> {
    let mut out = Vec::new();
    write::message(&mut out, backend::COMMAND_COMPLETE, |body| {
        body.string(tag.as_bytes());
    });
    backend::write_ready_for_query(&mut out, b'I');
    out
}

/// Query
pub(crate) fn query(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    frontend::write_query(&mut out, text.as_bytes());
    out
}

/// Parse, Describe of the statement, Sync.
pub(crate) fn prepare(name: &str, text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    frontend::write_parse(&mut out, name.as_bytes(), text.as_bytes());
    frontend::write_describe(&mut out, Named::Statement, name.as_bytes());
    frontend::write_empty(&mut out, frontend::SYNC);
    out
}

/// As libpq executes what is prepared: Bind, Describe of the portal, Execute, Sync.
pub(crate) fn execute(name: &str, value: &str) -> Vec<u8> {
    let mut out = Vec::new();
    write::message(&mut out, frontend::BIND, |body| {
        body.string(b"").string(name.as_bytes()).i16(0);
        body.i16(1).i32(i32::from(count(value.len()))).bytes(value.as_bytes());
        body.i16(1).i16(0);
    });
    frontend::write_describe(&mut out, Named::Portal, b"");
    write::message(&mut out, frontend::EXECUTE, |body| {
        body.string(b"").i32(0);
    });
    frontend::write_empty(&mut out, frontend::SYNC);
    out
}

/// A StartupMessage.
pub(crate) fn start_up(user: &str, database: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let version = startup::Version { major: 3, minor: 0 };
    startup::write_startup(
        &mut out,
        version,
        &[(b"user", user.as_bytes()), (b"database", database.as_bytes())],
    );
    out
}

/// What a server says that asks for no password.
pub(crate) fn welcome() -> Vec<u8> {
    let mut out = Vec::new();
    backend::write_authentication(&mut out, 0, b"");
    for (name, value) in [("client_encoding", "UTF8"), ("standard_conforming_strings", "on")] {
        write::message(&mut out, backend::PARAMETER_STATUS, |body| {
            body.string(name.as_bytes()).string(value.as_bytes());
        });
    }
    backend::write_backend_key_data(&mut out, 77, b"1234");
    backend::write_ready_for_query(&mut out, b'I');
    out
}

/// Counts and lengths here are all small.
fn count(count: usize) -> i16 {
    i16::try_from(count).unwrap_or(i16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_the_length_they_are_said_to_have() {
        for number in [0, 1, ROWS - 1] {
            assert_eq!(row(number, COLUMNS.len()).len(), ROW_BYTES);
        }
        assert_eq!(u64::try_from(rows().len()), Ok(ROWS_BYTES));
    }
}
