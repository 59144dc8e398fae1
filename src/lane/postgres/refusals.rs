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
        let refused = refused(command, "42501", ruling.message(), &ruling.detail(), core);
        self.refuse_extended(refused, core, turn);
    }

    pub(super) fn refuse_extended(&mut self, refused: Refused, core: &Core, turn: &mut Turn<'_>) {
        self.discard(core, turn);
        let text = stand_in(refused.command, core);
        turn.out.send(Side::Server, |arena| frontend::write_parse(arena, STAND_IN_NAME, text.as_bytes()));
        self.expects.push(Expect::Refusal(refused));
        self.state = ClientState::Skipping;
    }

    pub(super) fn refuse_query(&mut self, command: u64, ruling: &Ruling, core: &Core, turn: &mut Turn<'_>) {
        let refused = refused(command, "42501", ruling.message(), &ruling.detail(), core);
        self.refuse_simple(refused, core, turn);
    }

    pub(super) fn refuse_simple(&mut self, refused: Refused, core: &Core, turn: &mut Turn<'_>) {
        self.discard(core, turn);
        let text = stand_in(refused.command, core);
        turn.out.send(Side::Server, |arena| frontend::write_query(arena, text.as_bytes()));
        self.expects.push(Expect::RefusedQuery(refused));
    }

    pub(super) fn refuse_oversize(&mut self, oversize: Oversize, core: &mut Core, turn: &mut Turn<'_>) {
        let Oversize { kind, bytes, bytes_max } = oversize;
        let (simple, setting) = match kind {
            frontend::QUERY | frontend::FUNCTION_CALL => (true, "limits.statement_bytes_max"),
            frontend::BIND => (false, "limits.bind_bytes_max"),
            _ => (false, "limits.statement_bytes_max"),
        };
        let message = format!("a message of {bytes} bytes is longer than {setting} allows ({bytes_max})");
        let refused = self.refused_by_limit(message, core, turn);
        if simple {
            self.refuse_simple(refused, core, turn)
        } else {
            self.refuse_extended(refused, core, turn)
        }
    }

    pub(super) fn refuse_for_room(&mut self, core: &mut Core, turn: &mut Turn<'_>) {
        let refused = self.refused_by_limit(String::from(TOO_MANY_NAMES), core, turn);
        self.refuse_extended(refused, core, turn);
    }

    pub(super) fn refused_by_limit(&self, message: String, core: &mut Core, turn: &mut Turn<'_>) -> Refused {
        let ruling = Ruling::limit(&message);
        let command = self.record(CommandKind::Query, "", b"", None, &ruling, core, turn);
        refused(command, "54000", message, "", core)
    }
}

pub(super) fn refused(
    command: u64,
    sqlstate: &'static str,
    message: String,
    detail: &str,
    core: &Core,
) -> Refused {
    let hint = format!("Quote {}/{command} when you ask whoever keeps the policy.", core.session);
    let mut error = Vec::new();
    let text =
        backend::ErrorText { severity: "ERROR", code: sqlstate, message: &message, detail, hint: &hint };
    backend::write_error(&mut error, &text);
    Refused { command, error, sqlstate, message }
}

/// Text that every PostgreSQL fails to parse, whatever its settings and its transaction's state: it does nothing,
/// and says in the target's log whose it is.
fn stand_in(command: u64, core: &Core) -> String {
    format!("lockgate refused command {}/{command}", core.session)
}
