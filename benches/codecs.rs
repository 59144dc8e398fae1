//! Wire formats: framing, and reading what is framed.

use std::hint::black_box;

use lockgate_codecs::postgres::{backend, frame, frontend};

use crate::{Bench, Setup, Work, messages};

/// Rounds of a client's messages.
const ROUNDS: usize = 64;
/// Messages of a round.
const MESSAGES: usize = 8;

pub(crate) const BENCHES: &[Bench] = &[
    Bench { name: "codecs/data_rows_64k", work: Work::Bytes(messages::ROWS_BYTES), set_up: data_rows },
    Bench {
        name: "codecs/frontend_messages",
        work: Work::Items(ROUNDS as u64 * MESSAGES as u64),
        set_up: frontend_messages,
    },
    Bench { name: "codecs/row_description", work: Work::Items(1), set_up: row_description },
];

fn data_rows() -> Setup {
    let stream = messages::rows();
    Ok(Box::new(move || {
        let (mut rest, mut rows) = (black_box(stream.as_slice()), 0);
        while let Ok(Some(message)) = frame::split(rest) {
            rows += usize::from(message.kind == backend::DATA_ROW);
            rest = message.behind;
        }
        rows == messages::ROWS
    }))
}

fn frontend_messages() -> Setup {
    let round = [
        messages::query("SELECT id, name, email FROM customers WHERE id = 42"),
        messages::prepare("s1", "SELECT id, name, email FROM customers WHERE id = $1"),
        messages::execute("s1", "42"),
    ]
    .concat();
    let stream = round.repeat(ROUNDS);
    Ok(Box::new(move || {
        let (mut rest, mut read) = (black_box(stream.as_slice()), 0);
        while let Ok(Some(message)) = frame::split(rest) {
            read += usize::from(is_read(message.kind, message.body));
            rest = message.behind;
        }
        read == ROUNDS * MESSAGES
    }))
}

fn is_read(kind: u8, body: &[u8]) -> bool {
    match kind {
        frontend::QUERY => black_box(frontend::query(body)).is_ok(),
        frontend::PARSE => black_box(frontend::parse(body)).is_ok(),
        frontend::BIND => {
            let bind = black_box(frontend::bind(body));
            bind.is_ok_and(|bind| frontend::values(bind.parameters).flatten().count() == 1)
        }
        frontend::DESCRIBE => black_box(frontend::named(body, "Describe")).is_ok(),
        frontend::EXECUTE => black_box(frontend::execute(body)).is_ok(),
        _ => kind == frontend::SYNC,
    }
}

fn row_description() -> Setup {
    let message = messages::row_description(messages::COLUMNS.len(), messages::CUSTOMERS);
    Ok(Box::new(move || {
        let body = black_box(message.as_slice()).get(frame::HEADER_BYTES..).unwrap_or_default();
        black_box(backend::row_description(body)).is_ok_and(|fields| fields.len() == messages::COLUMNS.len())
    }))
}
