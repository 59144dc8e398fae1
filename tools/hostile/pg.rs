//! A small blocking PostgreSQL client: start-up, SCRAM, simple queries, and its socket to do harm with.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use lockgate_client::scram::{Exchange, Password};
use lockgate_client::tls;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::Door;

/// A peer that says nothing for so long is out of order.
const PATIENCE: Duration = Duration::from_secs(60);
/// No message of these tests is longer, in bytes.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// A connection, with or without TLS.
#[derive(Debug)]
pub enum Stream {
    /// As it is.
    Plain(TcpStream),
    /// Inside TLS.
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    /// The socket below.
    pub fn socket(&self) -> &TcpStream {
        match self {
            Stream::Plain(socket) => socket,
            Stream::Tls(stream) => &stream.sock,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.read(buf),
            Stream::Tls(stream) => stream.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.write(buf),
            Stream::Tls(stream) => stream.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(socket) => socket.flush(),
            Stream::Tls(stream) => stream.flush(),
        }
    }
}

/// A session that stands.
#[derive(Debug)]
pub struct Session {
    /// What it is carried by.
    pub stream: Stream,
    /// Process id and secret, as a CancelRequest names them.
    pub key: Vec<u8>,
    buf: Vec<u8>,
}

/// Connects, with the socket's settings as all of these tests want them.
pub fn connect(address: &str) -> io::Result<TcpStream> {
    let socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket)
}

impl Session {
    /// Connects and authenticates.
    pub fn begin(door: &Door, password: &Password, tls: Option<&Arc<ClientConfig>>) -> io::Result<Session> {
        let mut socket = connect(&door.address)?;
        let mut stream = match tls {
            None => Stream::Plain(socket),
            Some(config) => {
                socket.write_all(&SSL_REQUEST)?;
                let mut answer = [0];
                socket.read_exact(&mut answer)?;
                if answer != *b"S" {
                    return Err(io::Error::other("no TLS here"));
                }
                Stream::Tls(Box::new(StreamOwned::new(tls::session(config)?, socket)))
            }
        };
        stream.write_all(&startup(&door.user, &door.database))?;
        let mut session = Session { stream, key: Vec::new(), buf: Vec::new() };
        session.authenticate(password)?;
        Ok(session)
    }

    fn authenticate(&mut self, password: &Password) -> io::Result<()> {
        let (exchange, first) = Exchange::begin()?;
        loop {
            let (kind, body) = self.message()?;
            match (kind, body.first_chunk::<4>().map(|code| u32::from_be_bytes(*code))) {
                (b'R', Some(10)) => {
                    let mut initial = b"SCRAM-SHA-256\0".to_vec();
                    initial.extend(u32::try_from(first.len()).unwrap_or(0).to_be_bytes());
                    initial.extend(first.as_bytes());
                    self.send(b'p', &initial)?;
                }
                (b'R', Some(11)) => {
                    let challenge = String::from_utf8(body.get(4..).unwrap_or_default().to_vec());
                    let answer = exchange.answer(&challenge.map_err(io::Error::other)?, password)?;
                    self.send(b'p', answer.as_bytes())?;
                }
                (b'K', _) => self.key = body,
                (b'Z', _) => return Ok(()),
                _ => {}
            }
        }
    }

    /// Sends one message.
    pub fn send(&mut self, kind: u8, body: &[u8]) -> io::Result<()> {
        self.stream.write_all(&message(kind, body))
    }

    /// Runs a simple query to its end; the number of rows.
    pub fn query(&mut self, sql: &str) -> io::Result<u64> {
        self.ask(sql)?;
        let mut rows = 0;
        loop {
            match self.message()?.0 {
                b'D' => rows += 1,
                b'Z' => return Ok(rows),
                _ => {}
            }
        }
    }

    /// Sends a simple query and waits for nothing.
    pub fn ask(&mut self, sql: &str) -> io::Result<()> {
        self.send(b'Q', &[sql.as_bytes(), b"\0"].concat())
    }

    /// The next message: its type and its body. ErrorResponse is an error.
    fn message(&mut self) -> io::Result<(u8, Vec<u8>)> {
        loop {
            if let Some((kind, body, length)) = whole(&self.buf)? {
                self.buf.drain(..length);
                if kind == b'E' {
                    return Err(io::Error::other(error_text(&body)));
                }
                return Ok((kind, body));
            }
            let mut more = [0; 4096];
            match self.stream.read(&mut more)? {
                0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                count => self.buf.extend_from_slice(more.get(..count).unwrap_or_default()),
            }
        }
    }
}

/// The first message in a buffer: type, body, length of it all.
pub fn whole(buf: &[u8]) -> io::Result<Option<(u8, Vec<u8>, usize)>> {
    let Some((&kind, rest)) = buf.split_first() else { return Ok(None) };
    let Some(length) = rest.first_chunk::<4>() else { return Ok(None) };
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    if !(4..=MESSAGE_BYTES_MAX).contains(&length) {
        return Err(io::Error::other(format!("a message of {length} bytes")));
    }
    Ok(rest.get(4..length).map(|body| (kind, body.to_vec(), length + 1)))
}

/// A message of a type.
pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    [&[kind][..], &length.to_be_bytes(), body].concat()
}

/// A StartupMessage of protocol 3.0.
pub fn startup(user: &str, database: &str) -> Vec<u8> {
    let body = [b"\0\x03\0\0user\0", user.as_bytes(), b"\0database\0", database.as_bytes(), b"\0\0"].concat();
    [&u32::try_from(body.len() + 4).unwrap_or(u32::MAX).to_be_bytes()[..], &body].concat()
}

/// A CancelRequest with a key as BackendKeyData gave it.
pub fn cancel(key: &[u8]) -> Vec<u8> {
    let length = u32::try_from(key.len() + 8).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], &80_877_102u32.to_be_bytes(), key].concat()
}

fn error_text(body: &[u8]) -> String {
    let fields = body.split(|byte| *byte == 0).filter(|field| matches!(field.first(), Some(b'C' | b'M')));
    let texts: Vec<_> =
        fields.map(|field| String::from_utf8_lossy(field.get(1..).unwrap_or_default())).collect();
    texts.join(": ")
}
