//! One connection to a front: start-up, TLS, SCRAM, and exchanges. It blocks nobody; its buffers are its own.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lockgate_client::scram::{Exchange, Password};
use lockgate_client::wire::{self, Frame};
use monoio::buf::IoBufMut as _;
use monoio::io::{AsyncReadRent as _, AsyncWriteRentExt as _};
use monoio::net::TcpStream;
use rustls::ClientConfig;

use crate::script::{Script, Step, refused};
use crate::tls::Tls;

/// A point's answer fits in it many times over.
const INBOX_BYTES: usize = 8 << 10;
/// From here on an answer counts as bulk, and is read in pieces of this size.
const BULK_BYTES: usize = 256 << 10;

/// A server that is busy with a thousand others needs seconds for it.
const LOGIN: Duration = Duration::from_secs(30);

/// Where to connect, and as whom.
#[derive(Debug)]
pub struct Door {
    /// Host and port.
    pub address: SocketAddr,
    /// Who asks.
    pub user: String,
    /// What for.
    pub database: String,
    /// Proves it.
    pub password: Password,
    /// Inside TLS.
    pub tls: Option<Arc<ClientConfig>>,
}

/// A connection.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    tls: Option<Box<Tls>>,
    /// Plain bytes that came, of which `taken` are dealt with.
    inbox: Vec<u8>,
    taken: usize,
    /// Sealed bytes, where there is TLS.
    sealed: Vec<u8>,
    /// Plain bytes received in all.
    received: u64,
}

impl Client {
    /// Connects and authenticates. Who takes the connection and then says nothing is waited for no longer than
    /// [`LOGIN`].
    pub async fn connect(door: &Door) -> io::Result<Client> {
        let there = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", door.address));
        let late = |_| io::Error::other(format!("nobody was let in within {LOGIN:?}"));
        monoio::time::timeout(LOGIN, Client::log_in(door)).await.map_err(late).flatten().map_err(there)
    }

    async fn log_in(door: &Door) -> io::Result<Client> {
        let stream = TcpStream::connect_addr(door.address).await?;
        stream.set_nodelay(true)?;
        let inbox = Vec::with_capacity(INBOX_BYTES);
        let mut client = Client { stream, tls: None, inbox, taken: 0, sealed: Vec::new(), received: 0 };
        if let Some(config) = &door.tls {
            client.begin_tls(config).await?;
        }
        let parameters = [
            ("user", door.user.as_str()),
            ("database", &door.database),
            ("application_name", "lockgate-bench"),
        ];
        client.send(wire::startup(&parameters)).await?;
        client.authenticate(&door.password).await?;
        Ok(client)
    }

    async fn begin_tls(&mut self, config: &Arc<ClientConfig>) -> io::Result<()> {
        self.send(wire::SSL_REQUEST.to_vec()).await?;
        while self.inbox.is_empty() {
            self.fill().await?;
        }
        if self.inbox != b"S" {
            return Err(io::Error::other("TLS was asked for, and is not offered here"));
        }
        self.inbox.clear();
        self.sealed = Vec::with_capacity(INBOX_BYTES);
        let mut tls = Box::new(Tls::new(config)?);
        while tls.is_handshaking() {
            self.write(tls.seal(&[])?).await?;
            if tls.is_handshaking() {
                let sealed = self.read_sealed().await?;
                tls.open(&sealed, &mut self.inbox)?;
                self.sealed = sealed;
            }
        }
        self.tls = Some(tls);
        Ok(())
    }

    async fn authenticate(&mut self, password: &Password) -> io::Result<()> {
        let (exchange, first) = Exchange::begin()?;
        loop {
            let answer = match self.message(|frame| Greeting::of(&frame)).await?? {
                Greeting::Ready => return Ok(()),
                Greeting::Other => continue,
                Greeting::Mechanisms => wire::sasl_initial(&first),
                Greeting::Challenge(challenge) => {
                    wire::sasl_response(&exchange.answer(&challenge, password)?)
                }
            };
            self.send(answer).await?;
        }
    }

    /// Runs statements of the tool's own to their end.
    pub async fn batch(&mut self, sql: &str) -> io::Result<()> {
        self.send(wire::query(sql)).await?;
        self.until_ready().await
    }

    /// Sends what a script says once, ahead of its exchanges.
    pub async fn prepare(&mut self, script: &Script) -> io::Result<()> {
        match script.prepare.clone() {
            None => Ok(()),
            Some(request) => {
                self.send(request).await?;
                self.until_ready().await
            }
        }
    }

    async fn until_ready(&mut self) -> io::Result<()> {
        loop {
            let ready = self.message(|frame| match frame.kind {
                b'E' => Err(refused(frame.body)),
                kind => Ok(kind == b'Z'),
            });
            if ready.await?? {
                return Ok(());
            }
        }
    }

    /// One exchange of a script; the bytes of its answer.
    pub async fn exchange(&mut self, script: &mut Script) -> io::Result<u64> {
        let before = self.received;
        let request = self.send(script.next()).await?;
        script.sent(request);
        loop {
            match self.step(script)? {
                Step::Done => return Ok(self.received - before),
                Step::Copy => {
                    let copy = self.send(std::mem::take(&mut script.copy)).await?;
                    script.copy = copy;
                }
                Step::More => self.fill().await?,
            }
        }
    }

    /// Goes through the messages that are there.
    fn step(&mut self, script: &mut Script) -> io::Result<Step> {
        while let Some(frame) = wire::frame(self.inbox.get(self.taken..).unwrap_or_default())? {
            let step = script.take(&frame)?;
            self.taken += frame.wire_len();
            if step != Step::More {
                return Ok(step);
            }
        }
        Ok(Step::More)
    }

    async fn message<T>(&mut self, read: impl Fn(Frame<'_>) -> T) -> io::Result<T> {
        loop {
            if let Some(frame) = wire::frame(self.inbox.get(self.taken..).unwrap_or_default())? {
                self.taken += frame.wire_len();
                return Ok(read(frame));
            }
            self.fill().await?;
        }
    }

    /// Says goodbye.
    pub async fn close(mut self) -> io::Result<()> {
        self.send(wire::terminate()).await.map(drop)
    }

    /// Sends bytes and gives them back.
    async fn send(&mut self, bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        match &mut self.tls {
            None => self.write(bytes).await,
            Some(tls) => {
                let sealed = tls.seal(&bytes)?;
                self.write(sealed).await?;
                Ok(bytes)
            }
        }
    }

    async fn write(&mut self, bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        let (done, bytes) = self.stream.write_all(bytes).await;
        done.map(|_| bytes)
    }

    /// Receives more, behind what is not dealt with yet.
    async fn fill(&mut self) -> io::Result<()> {
        self.make_room();
        let before = self.inbox.len();
        if let Some(mut tls) = self.tls.take() {
            let sealed = self.read_sealed().await?;
            tls.open(&sealed, &mut self.inbox)?;
            self.sealed = sealed;
            self.tls = Some(tls);
        } else {
            let mut inbox = std::mem::take(&mut self.inbox);
            let room = before..inbox.capacity();
            let (done, read) = self.stream.read(inbox.slice_mut(room)).await;
            inbox = read.into_inner();
            self.inbox = inbox;
            came(done)?;
        }
        self.received += u64::try_from(self.inbox.len().saturating_sub(before)).unwrap_or(0);
        Ok(())
    }

    /// Keeps half a message at the most, at the front; grows where an answer shows that it is bulk.
    fn make_room(&mut self) {
        let full = self.inbox.len() == self.inbox.capacity();
        self.inbox.drain(..self.taken);
        self.taken = 0;
        if full && self.inbox.capacity() < BULK_BYTES {
            self.inbox.reserve_exact(BULK_BYTES - self.inbox.len());
        } else if self.inbox.len() == self.inbox.capacity() {
            self.inbox.reserve(self.inbox.len());
        }
    }

    async fn read_sealed(&mut self) -> io::Result<Vec<u8>> {
        let mut sealed = std::mem::take(&mut self.sealed);
        if sealed.len() == sealed.capacity() && sealed.capacity() < BULK_BYTES {
            sealed.reserve_exact(BULK_BYTES - sealed.len());
        }
        sealed.clear();
        let (done, sealed) = self.stream.read(sealed).await;
        came(done)?;
        Ok(sealed)
    }
}

fn came(done: io::Result<usize>) -> io::Result<()> {
    match done? {
        0 => Err(io::Error::other("the connection was closed before the answer was whole")),
        _ => Ok(()),
    }
}

/// What a server says before a session stands.
enum Greeting {
    Ready,
    Mechanisms,
    Challenge(String),
    Other,
}

impl Greeting {
    fn of(frame: &Frame<'_>) -> io::Result<Greeting> {
        let code = frame.body.first_chunk::<4>().map(|code| u32::from_be_bytes(*code));
        match (frame.kind, code) {
            (b'E', _) => Err(refused(frame.body)),
            (b'Z', _) => Ok(Greeting::Ready),
            (b'R', Some(10)) => Ok(Greeting::Mechanisms),
            (b'R', Some(11)) => {
                let text = frame.body.get(4..).unwrap_or_default().to_vec();
                String::from_utf8(text).map(Greeting::Challenge).map_err(io::Error::other)
            }
            (b'R', Some(0 | 12)) | (b'S' | b'K' | b'N', _) => Ok(Greeting::Other),
            (kind, _) => Err(io::Error::other(format!(
                "this tool authenticates by SCRAM-SHA-256 or not at all, and something else was asked for \
                 (message {:?}, {code:?})",
                char::from(kind)
            ))),
        }
    }
}
