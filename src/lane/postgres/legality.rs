//! Which message is legal when: two total tables, one for each side.
//!
//! The client's follows `SocketBackend` and `PostgresMain` of the server; the server's follows the documentation,
//! section "Message Flow".

use lockgate_codecs::postgres::{backend, frontend};

use super::expect::Awaited;

/// Where the client stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientState {
    /// Anything may be asked.
    Open,
    /// After an error or a refusal: everything up to Sync is skipped.
    Skipping,
    /// The server takes COPY data.
    CopyIn,
    /// Both sides send COPY data (replication).
    CopyBoth,
}

#[cfg(test)]
impl ClientState {
    pub(super) const ALL: [ClientState; 4] =
        [ClientState::Open, ClientState::Skipping, ClientState::CopyIn, ClientState::CopyBoth];
}

/// What is done with a client's message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientMove {
    /// Judged.
    Judge,
    /// COPY data: passed on.
    Copy,
    /// Read and dropped, as the server does.
    Skip,
    /// A protocol error.
    Illegal,
}

/// The client's table.
pub(super) fn client(state: ClientState, kind: u8) -> ClientMove {
    use ClientMove::{Copy, Illegal, Judge, Skip};
    use frontend as f;
    match (state, kind) {
        (_, f::TERMINATE) => Judge,
        (ClientState::CopyIn | ClientState::CopyBoth, f::COPY_DATA | f::COPY_DONE | f::COPY_FAIL) => Copy,
        (ClientState::CopyIn, f::SYNC | f::FLUSH) => Skip,
        (ClientState::CopyIn | ClientState::CopyBoth, _) => Illegal,
        (ClientState::Skipping, f::SYNC) => Judge,
        (ClientState::Open, f::QUERY | f::PARSE | f::BIND | f::DESCRIBE | f::EXECUTE | f::CLOSE) => Judge,
        (ClientState::Open, f::SYNC | f::FLUSH | f::FUNCTION_CALL) => Judge,
        (ClientState::Skipping, f::QUERY | f::PARSE | f::BIND | f::DESCRIBE | f::EXECUTE | f::CLOSE) => Skip,
        (ClientState::Skipping, f::FLUSH | f::FUNCTION_CALL) => Skip,
        // A client may still be sending when the server has given a COPY up.
        (ClientState::Open | ClientState::Skipping, f::COPY_DATA | f::COPY_DONE | f::COPY_FAIL) => Skip,
        (ClientState::Open | ClientState::Skipping, _) => Illegal,
    }
}

/// The server's table: may it send this while that is awaited? `copying_out`: CopyOutResponse or CopyBothResponse
/// has come and CopyDone has not.
pub(super) fn server(awaited: Awaited, copying_out: bool, kind: u8) -> bool {
    use Awaited as A;
    use backend as b;
    match kind {
        b::NOTICE | b::PARAMETER_STATUS | b::NOTIFICATION | b::ERROR => true,
        b::PARSE_COMPLETE => awaited == A::Parse,
        b::BIND_COMPLETE => awaited == A::Bind,
        b::CLOSE_COMPLETE => awaited == A::Close,
        b::PARAMETER_DESCRIPTION => awaited == A::StatementParameters,
        b::NO_DATA => matches!(awaited, A::StatementColumns | A::PortalColumns),
        b::ROW_DESCRIPTION => {
            matches!(awaited, A::StatementColumns | A::PortalColumns | A::Query) && !copying_out
        }
        b::DATA_ROW | b::EMPTY_QUERY | b::COMMAND_COMPLETE => {
            matches!(awaited, A::Query | A::Execute) && !copying_out
        }
        b::COPY_IN | b::COPY_OUT | b::COPY_BOTH => matches!(awaited, A::Query | A::Execute) && !copying_out,
        b::COPY_DATA | b::COPY_DONE => matches!(awaited, A::Query | A::Execute) && copying_out,
        b::PORTAL_SUSPENDED => awaited == A::Execute && !copying_out,
        b::FUNCTION_RESULT => awaited == A::FunctionCall,
        b::READY_FOR_QUERY => matches!(awaited, A::Ready | A::Query | A::FunctionCall) && !copying_out,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;

    fn printable(kinds: impl Iterator<Item = u8>) -> String {
        kinds
            .map(|kind| {
                if kind.is_ascii_graphic() { char::from(kind).to_string() } else { format!("\\x{kind:02x}") }
            })
            .collect()
    }

    /// The whole of both tables, illegal pairs by their absence. A change of either must change this.
    #[test]
    fn the_tables_are_what_they_were() {
        let mut drawn = String::new();
        for state in ClientState::ALL {
            for want in [ClientMove::Judge, ClientMove::Copy, ClientMove::Skip] {
                let kinds = printable((0..=255).filter(|&kind| client(state, kind) == want));
                writeln!(drawn, "client {state:?} {want:?}: {kinds}").unwrap();
            }
        }
        for awaited in Awaited::ALL {
            for copying in [false, true] {
                let kinds = printable((0..=255).filter(|&kind| server(awaited, copying, kind)));
                writeln!(drawn, "server {awaited:?}{}: {kinds}", if copying { " copying" } else { "" })
                    .unwrap();
            }
        }
        assert_eq!(drawn, include_str!("legality.snapshot"));
    }
}
