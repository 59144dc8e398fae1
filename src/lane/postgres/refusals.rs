//! Refusals: the server refuses a stand-in in the command's place, so that transaction state and the order of answers
//! are its own; the client reads why.

use lockgate_codecs::postgres::{backend, frontend};
use lockgate_recording::CommandKind;

use super::expect::{Expect, Refused};
use super::legality::ClientState;
use super::session::Session;
use super::{Core, Turn};
use crate::Side;
use crate::judge::Ruling;

/// A name that no Parse of the stand-in ever defines: it fails before that.
const STAND_IN_NAME: &[u8] = b"lockgate_refused";

pub(super) const TOO_MANY_NAMES: &str =
    "this session keeps too many prepared statements and portals: close some";

/// A message that is longer than a limit allows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Oversize {
    pub(super) kind: u8,
    pub(super) bytes: usize,
    pub(super) bytes_max: usize,
}

impl Session {
    /// Refuses the message and, with it, all of its pipeline that has not gone on; up to Sync nothing counts.
    pub(super) fn refuse_pipeline(
        &mut self,
        command: u64,
        ruling: &Ruling,
        core: &Core,
        turn: &mut Turn<'_>,
    ) {
        self.refuse_extended(STAND_IN_NAME, command, ruling, core, turn);
    }

    /// The same for a Parse: one of the unnamed statement ends the statement before it, refused or not.
    pub(super) fn refuse_parse(
        &mut self,
        name: &[u8],
        command: u64,
        ruling: &Ruling,
        core: &Core,
        turn: &mut Turn<'_>,
    ) {
        let stand_in = if name.is_empty() { b"" } else { STAND_IN_NAME };
        self.refuse_extended(stand_in, command, ruling, core, turn);
    }

    fn refuse_extended(
        &mut self,
        stand_in_name: &[u8],
        command: u64,
        ruling: &Ruling,
        core: &Core,
        turn: &mut Turn<'_>,
    ) {
        self.discard(core, turn);
        let text = stand_in(command, core);
        turn.out.send(Side::Server, |arena| frontend::write_parse(arena, stand_in_name, text.as_bytes()));
        self.expects.push(Expect::Refusal(refused(command, ruling, core)));
        self.state = ClientState::Skipping;
    }

    pub(super) fn refuse_query(&mut self, command: u64, ruling: &Ruling, core: &Core, turn: &mut Turn<'_>) {
        self.discard(core, turn);
        let text = stand_in(command, core);
        turn.out.send(Side::Server, |arena| frontend::write_query(arena, text.as_bytes()));
        self.expects.push(Expect::RefusedQuery(refused(command, ruling, core)));
    }

    pub(super) fn refuse_oversize(&mut self, oversize: Oversize, core: &mut Core, turn: &mut Turn<'_>) {
        let Oversize { kind, bytes, bytes_max } = oversize;
        let (kind, setting) = match kind {
            frontend::QUERY => (CommandKind::Query, "limits.statement_bytes_max"),
            frontend::FUNCTION_CALL => (CommandKind::FunctionCall, "limits.statement_bytes_max"),
            frontend::BIND => (CommandKind::Execute, "limits.bind_bytes_max"),
            _ => (CommandKind::Parse, "limits.statement_bytes_max"),
        };
        let reason = format!("a message of {bytes} bytes is longer than {setting} allows ({bytes_max})");
        let ruling = Ruling::limit(&reason);
        let command = self.record(kind, "", b"", None, &ruling, core, turn);
        match kind {
            CommandKind::Query | CommandKind::FunctionCall => self.refuse_query(command, &ruling, core, turn),
            _ => self.refuse_pipeline(command, &ruling, core, turn),
        }
    }
}

fn refused(command: u64, ruling: &Ruling, core: &Core) -> Refused {
    let (sqlstate, message, detail) = (ruling.sqlstate(), ruling.message(), ruling.detail());
    let hint = format!("Quote {}/{command} when you ask whoever keeps the policy.", core.session);
    let mut error = Vec::new();
    let text = backend::ErrorText {
        severity: "ERROR",
        code: sqlstate,
        message: &message,
        detail: &detail,
        hint: &hint,
    };
    backend::write_error(&mut error, &text);
    Refused { command, error, sqlstate, message }
}

/// Text that every PostgreSQL fails to parse, whatever its settings and its transaction's state: it does nothing,
/// and says in the target's log whose it is.
fn stand_in(command: u64, core: &Core) -> String {
    format!("lockgate refused command {}/{command}", core.session)
}
