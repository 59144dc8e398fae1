//! TLS on either leg of a session; the one module that knows rustls, so that a better engine can take its place.
//!
//! rustls' unbuffered API hands out one allocation and copy for each opened record, and seals straight into a
//! buffer of ours. What is kept between two inputs is the ciphertext of a record that is not whole yet, and
//! nothing when there is none.

use std::fmt;
use std::sync::Arc;

use lockgate_bridge::ServerTls;
use lockgate_lane::ClientTls;
use rustls::ClientConfig;
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic,
};

use crate::{binding, holder};

/// Most bytes one record or one batch of queued handshake records may ask of the output: rustls refuses handshake
/// messages above 64 KiB, and a record is 16 KiB and a little.
const ROOM_MAX: usize = 256 << 10;

/// Room asked for at first: one whole record with its header and tag.
const ROOM: usize = (16 << 10) + 256;

/// One end of a TLS connection, without its socket.
pub(crate) struct Tls {
    engine: Engine,
    /// Ciphertext that does not make a whole record yet.
    pending: Vec<u8>,
    established: bool,
    peer_closed: bool,
    close_sent: bool,
    /// After an error nothing more is taken or sent.
    broken: bool,
}

/// The gateway's side of TLS with the clients of one listener, and what they may bind their proofs to.
#[derive(Debug)]
pub(crate) struct Front {
    tls: ServerTls,
    end_point: Option<Vec<u8>>,
}

impl Front {
    pub(crate) fn new(tls: ServerTls) -> Front {
        Front { end_point: binding::end_point(tls.certificate.as_ref()), tls }
    }
}

enum Engine {
    Server(Box<UnbufferedServerConnection>, Arc<Front>),
    Client(Box<UnbufferedClientConnection>),
}

/// What came of an input.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The handshake has just been completed.
    pub established: bool,
    /// The peer has just said that nothing more comes.
    pub closed: bool,
    /// The connection is of no further use; an alert for the peer may have been written.
    pub error: Option<String>,
}

impl Tls {
    /// The gateway's end towards a client.
    pub(crate) fn server(front: &Arc<Front>) -> Result<Tls, String> {
        UnbufferedServerConnection::new(Arc::clone(&front.tls.config))
            .map(|connection| Tls::new(Engine::Server(Box::new(connection), Arc::clone(front))))
            .map_err(|error| error.to_string())
    }

    /// The gateway's end towards a server; [`Tls::receive`] of nothing writes the first flight.
    pub(crate) fn client(config: &Arc<ClientConfig>, name: ServerName<'static>) -> Result<Tls, String> {
        UnbufferedClientConnection::new(Arc::clone(config), name)
            .map(|connection| Tls::new(Engine::Client(Box::new(connection))))
            .map_err(|error| error.to_string())
    }

    fn new(engine: Engine) -> Tls {
        Tls {
            engine,
            pending: Vec::new(),
            established: false,
            peer_closed: false,
            close_sent: false,
            broken: false,
        }
    }

    /// What both ends agreed to speak (ALPN).
    pub(crate) fn protocol(&self) -> Option<&[u8]> {
        match &self.engine {
            Engine::Server(connection, _) => connection.alpn_protocol(),
            Engine::Client(connection) => connection.alpn_protocol(),
        }
    }

    /// The peer has said that nothing more comes; an end of stream without it is a truncation.
    pub(crate) fn is_peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// Takes ciphertext that came; appends what it meant to `plain` and what must go back to `cipher`.
    pub(crate) fn receive(
        &mut self,
        input: &mut [u8],
        plain: &mut Vec<u8>,
        cipher: &mut Scratch,
    ) -> Progress {
        if self.peer_closed || self.broken {
            return Progress::default();
        }
        let mut progress = Progress::default();
        let step = if self.pending.is_empty() {
            let step = self.engine.step(input, plain, cipher);
            self.pending.extend_from_slice(input.get(step.used..).unwrap_or_default());
            step
        } else {
            self.pending.extend_from_slice(input);
            let step = self.engine.step(&mut self.pending, plain, cipher);
            self.pending.drain(..step.used.min(self.pending.len()));
            step
        };
        self.peer_closed = step.closed;
        progress.closed = step.closed;
        progress.error = step.error;
        self.broken = progress.error.is_some();
        if self.pending.is_empty() || self.peer_closed || self.broken {
            self.pending = Vec::new();
        }
        if progress.error.is_none() && !self.established && !self.engine.is_handshaking() {
            self.established = true;
            progress.established = true;
        }
        progress
    }

    /// Seals `plain`, appending records to `cipher`. Only once established.
    pub(crate) fn seal(&mut self, plain: &[u8], cipher: &mut Scratch) -> Result<(), String> {
        if !self.established || self.close_sent || self.broken {
            return Err(String::from("TLS does not stand"));
        }
        for chunk in plain.chunks(16 << 10) {
            self.engine.write(&mut self.pending, cipher, Put::Data(chunk))?;
        }
        Ok(())
    }

    /// Tells the peer that nothing more comes. Nothing happens before the handshake is done, or the second time.
    pub(crate) fn close(&mut self, cipher: &mut Scratch) {
        if self.established && !self.close_sent && !self.broken {
            // What cannot be written here is only the goodbye of a connection that is done either way.
            let _ = self.engine.write(&mut self.pending, cipher, Put::CloseNotify);
        }
        self.close_sent = true;
    }

    /// What a client is told of, and what it has told of itself, once TLS with it stands.
    pub(crate) fn client_tls(&self) -> ClientTls {
        let Engine::Server(connection, front) = &self.engine else { return ClientTls::default() };
        let certificate = connection.peer_certificates().and_then(|chain| chain.first());
        ClientTls {
            end_point: front.end_point.clone(),
            certificate: certificate.map(|certificate| holder::holder(certificate, front.tls.client_name)),
        }
    }

    /// The tls-server-end-point channel binding of the server's certificate, if there is one.
    pub(crate) fn end_point(&self) -> Option<Vec<u8>> {
        match &self.engine {
            Engine::Server(..) => None,
            Engine::Client(connection) => {
                binding::end_point(connection.peer_certificates()?.first()?.as_ref())
            }
        }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("established", &self.established)
            .field("peer_closed", &self.peer_closed)
            .finish_non_exhaustive()
    }
}

/// What one run over an input found.
#[derive(Debug, Default)]
struct Step {
    used: usize,
    closed: bool,
    error: Option<String>,
}

/// rustls declares `process_tls_records` once for each end; this is what they have in common.
trait Records {
    type Data;
    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Records for UnbufferedServerConnection {
    type Data = rustls::server::ServerConnectionData;
    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }
}

impl Records for UnbufferedClientConnection {
    type Data = rustls::client::ClientConnectionData;
    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }
}

impl Engine {
    fn is_handshaking(&self) -> bool {
        match self {
            Engine::Server(connection, _) => connection.is_handshaking(),
            Engine::Client(connection) => connection.is_handshaking(),
        }
    }

    fn step(&mut self, input: &mut [u8], plain: &mut Vec<u8>, cipher: &mut Scratch) -> Step {
        match self {
            Engine::Server(connection, _) => step(connection.as_mut(), input, plain, cipher),
            Engine::Client(connection) => step(connection.as_mut(), input, plain, cipher),
        }
    }

    fn write(&mut self, pending: &mut Vec<u8>, cipher: &mut Scratch, put: Put<'_>) -> Result<(), String> {
        match self {
            Engine::Server(connection, _) => write(connection.as_mut(), pending, cipher, put),
            Engine::Client(connection) => write(connection.as_mut(), pending, cipher, put),
        }
    }
}

/// Runs the engine over `input` until it can do no more with it.
fn step<R: Records>(connection: &mut R, input: &mut [u8], plain: &mut Vec<u8>, cipher: &mut Scratch) -> Step {
    let mut done = Step::default();
    loop {
        let rest = input.get_mut(done.used..).unwrap_or_default();
        let UnbufferedStatus { discard, state } = connection.process(rest);
        let mut taken = discard;
        let last = match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(Ok(record)) = traffic.next_record() {
                    plain.extend_from_slice(record.payload);
                    taken += record.discard;
                }
                false
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => match encode(&mut data, cipher) {
                Ok(()) => false,
                Err(error) => {
                    done.error = Some(error);
                    true
                }
            },
            Ok(ConnectionState::TransmitTlsData(data)) => {
                data.done();
                false
            }
            Ok(ConnectionState::PeerClosed) => {
                done.closed = true;
                false
            }
            Ok(
                ConnectionState::WriteTraffic(_)
                | ConnectionState::BlockedHandshake
                | ConnectionState::Closed,
            ) => true,
            Ok(_) => {
                done.error = Some(String::from("early data, which was not offered"));
                true
            }
            Err(error) => {
                done.error = Some(error.to_string());
                true
            }
        };
        done.used += taken;
        if last {
            break;
        }
    }
    if done.error.is_some() {
        alert(connection, input.get_mut(done.used..).unwrap_or_default(), cipher);
    }
    done
}

/// After an error: the alert that tells the peer, if the engine has queued one. It is asked once only and shown the
/// same bytes as before: it hands out what it has queued before it looks at them, may have noted places in them,
/// and must not come upon the same error twice.
fn alert<R: Records>(connection: &mut R, rest: &mut [u8], cipher: &mut Scratch) {
    if let Ok(ConnectionState::EncodeTlsData(mut data)) = connection.process(rest).state {
        // Without the alert the peer still sees the connection end.
        let _ = encode(&mut data, cipher);
    }
}

/// Lets the engine write what it has queued itself, and then `put` write into room that suffices.
fn write<R: Records>(
    connection: &mut R,
    pending: &mut Vec<u8>,
    cipher: &mut Scratch,
    put: Put<'_>,
) -> Result<(), String> {
    loop {
        let UnbufferedStatus { discard, state } = connection.process(pending);
        match state {
            Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                return fill(cipher, |room| match put.put(&mut traffic, room) {
                    Ok(written) => Ok(written),
                    Err(EncryptError::InsufficientSize(need)) => Err(Need::Room(need.required_size)),
                    Err(EncryptError::EncryptExhausted) => Err(Need::Nothing("the TLS keys are used up")),
                });
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, cipher)?,
            Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
            Ok(_) => return Err(String::from("TLS cannot send now")),
            Err(error) => return Err(error.to_string()),
        }
        pending.drain(..discard.min(pending.len()));
    }
}

/// What is written through an established connection.
#[derive(Clone, Copy)]
enum Put<'a> {
    Data(&'a [u8]),
    CloseNotify,
}

impl Put<'_> {
    fn put<Data>(self, traffic: &mut WriteTraffic<'_, Data>, room: &mut [u8]) -> Result<usize, EncryptError> {
        match self {
            Put::Data(plain) => traffic.encrypt(plain, room),
            Put::CloseNotify => traffic.queue_close_notify(room),
        }
    }
}

fn encode<Data>(data: &mut EncodeTlsData<'_, Data>, cipher: &mut Scratch) -> Result<(), String> {
    fill(cipher, |room| match data.encode(room) {
        Ok(written) => Ok(written),
        Err(EncodeError::InsufficientSize(need)) => Err(Need::Room(need.required_size)),
        Err(EncodeError::AlreadyEncoded) => Err(Need::Nothing("a TLS record was written twice")),
    })
}

/// Why `fill` was given nothing.
enum Need {
    Room(usize),
    Nothing(&'static str),
}

/// Appends what `put` writes, giving it the room it asks for, once.
fn fill(cipher: &mut Scratch, mut put: impl FnMut(&mut [u8]) -> Result<usize, Need>) -> Result<(), String> {
    let mut room = ROOM;
    loop {
        match put(cipher.room(room)) {
            Ok(written) => {
                cipher.advance(written);
                return Ok(());
            }
            Err(Need::Room(needed)) if needed > room && needed <= ROOM_MAX => room = needed,
            Err(Need::Room(_)) => return Err(String::from("a TLS record is too large")),
            Err(Need::Nothing(why)) => return Err(String::from(why)),
        }
    }
}

/// Bytes on their way out. Grows to what one turn needs and stays; its unused room is not cleared again.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    bytes: Vec<u8>,
    len: usize,
}

impl Scratch {
    /// `size` bytes behind what is filled.
    fn room(&mut self, size: usize) -> &mut [u8] {
        let end = self.len + size;
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes.get_mut(self.len..end).unwrap_or_default()
    }

    fn advance(&mut self, written: usize) {
        self.len = (self.len + written).min(self.bytes.len());
    }

    pub(crate) fn filled(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }
}

#[cfg(test)]
pub(crate) mod tests;
