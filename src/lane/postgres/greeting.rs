//! The first packets of a connection: requests for encryption, a CancelRequest, the StartupMessage.

use lockgate_codecs::postgres::startup::{self, Version};

use super::inbound::Step;
use super::parameters::Wishes;
use super::prove::Claim;
use super::trouble::Trouble;
use super::{Core, Phase, Turn};
use crate::{Action, CancelRequest, ListenerTls, LoginRequest, Side};

/// Newest minor version of protocol 3 spoken here.
const MINOR_MAX: u16 = 2;

/// Waiting for a first packet.
#[derive(Debug, Default)]
pub(super) struct First {
    tls_asked: bool,
    gss_asked: bool,
}

impl First {
    /// TLS stands without having been asked for.
    pub(super) fn tls_began(&mut self) {
        self.tls_asked = true;
    }

    /// One packet.
    pub(super) fn step(
        self,
        bytes: &[u8],
        core: &mut Core,
        turn: &mut Turn<'_>,
    ) -> (Result<Phase, Trouble>, Step) {
        match startup::packet_bytes(bytes) {
            Err(_) => (Err(Trouble::NotAPacket), Step::Blocked),
            Ok(None) => (Ok(Phase::First(self)), Step::Need(4)),
            Ok(Some(length)) => match bytes.split_at_checked(length) {
                None => (Ok(Phase::First(self)), Step::Need(length)),
                Some((packet, behind)) => {
                    let next = self.packet(packet, !behind.is_empty(), core, turn);
                    (next, Step::Consumed(length))
                }
            },
        }
    }

    fn packet(
        self,
        packet: &[u8],
        more: bool,
        core: &mut Core,
        turn: &mut Turn<'_>,
    ) -> Result<Phase, Trouble> {
        match startup::parse(packet)? {
            startup::First::Ssl if self.tls_asked => {
                Err(Trouble::ClientMalformed { what: "start-up: a second SSLRequest" })
            }
            startup::First::GssEnc if self.gss_asked || core.client_tls => {
                Err(Trouble::ClientMalformed { what: "start-up: a late GSSENCRequest" })
            }
            startup::First::Ssl | startup::First::GssEnc if more => Err(Trouble::BytesBehindTlsRequest),
            startup::First::Ssl => Ok(self.ssl(core, turn)),
            startup::First::GssEnc => {
                turn.out.send(Side::Client, |arena| arena.push(b'N'));
                Ok(Phase::First(First { gss_asked: true, ..self }))
            }
            startup::First::Cancel { process_id, secret } => {
                let request = CancelRequest { process_id, secret: secret.to_vec(), client: core.client };
                turn.out.actions.push(Action::RouteCancel(request));
                Ok(Phase::Closed)
            }
            startup::First::Startup(message) => begin(&message, core, turn),
        }
    }

    fn ssl(self, core: &mut Core, turn: &mut Turn<'_>) -> Phase {
        if core.rules.tls == ListenerTls::Off {
            turn.out.send(Side::Client, |arena| arena.push(b'N'));
        } else {
            turn.out.send(Side::Client, |arena| arena.push(b'S'));
            turn.out.actions.push(Action::StartTls { side: Side::Client });
            core.client_tls = true;
        }
        Phase::First(First { tls_asked: true, ..self })
    }
}

fn begin(message: &startup::Startup<'_>, core: &mut Core, turn: &mut Turn<'_>) -> Result<Phase, Trouble> {
    let Version { major, minor } = message.version;
    if major != 3 {
        return Err(Trouble::UnsupportedProtocol { major, minor });
    }
    if core.rules.tls == ListenerTls::Required && !core.client_tls {
        return Err(Trouble::TlsRequired);
    }
    let wishes = Wishes::read(message, MINOR_MAX)?;
    if minor > MINOR_MAX || !wishes.unknown_options.is_empty() {
        let options: Vec<&[u8]> = wishes.unknown_options.iter().map(Vec::as_slice).collect();
        turn.out.send(Side::Client, |arena| {
            lockgate_codecs::postgres::backend::write_negotiate(arena, minor.min(MINOR_MAX), &options);
        });
    }
    core.claimed = Some((wishes.user.clone(), wishes.database.clone()));
    let request =
        LoginRequest { user: wishes.user.clone(), database: wishes.database.clone(), tls: core.client_tls };
    turn.out.actions.push(Action::Login(request));
    Ok(Phase::Claim(Box::new(Claim { wishes })))
}
