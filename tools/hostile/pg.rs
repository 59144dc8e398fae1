//! A small blocking PostgreSQL client: start-up, SCRAM, simple queries, and its socket to do harm with.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use lockgate_client::scram::{Exchange, Password};
use lockgate_client::{tls, wire};
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::Door;

/// A peer that says nothing for so long is out of order.
const PATIENCE: Duration = Duration::from_secs(60);

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

/// The first message to a door.
pub fn startup(door: &Door) -> Vec<u8> {
    wire::startup(&[("user", &door.user), ("database", &door.database)])
}

impl Session {
    /// Connects and authenticates.
    pub fn begin(door: &Door, password: &Password, tls: Option<&Arc<ClientConfig>>) -> io::Result<Session> {
        let mut socket = connect(&door.address)?;
        let mut stream = match tls {
            None => Stream::Plain(socket),
            Some(config) => {
                socket.write_all(&wire::SSL_REQUEST)?;
                let mut answer = [0];
                socket.read_exact(&mut answer)?;
                if answer != *b"S" {
                    return Err(io::Error::other("no TLS here"));
                }
                Stream::Tls(Box::new(StreamOwned::new(tls::session(config)?, socket)))
            }
        };
        stream.write_all(&startup(door))?;
        let mut session = Session { stream, key: Vec::new(), buf: Vec::new() };
        session.authenticate(password)?;
        Ok(session)
    }

    fn authenticate(&mut self, password: &Password) -> io::Result<()> {
        let (exchange, first) = Exchange::begin()?;
        loop {
            let (kind, body) = self.message()?;
            match (kind, body.first_chunk::<4>().map(|code| u32::from_be_bytes(*code))) {
                (b'R', Some(10)) => self.stream.write_all(&wire::sasl_initial(&first))?,
                (b'R', Some(11)) => {
                    let challenge = String::from_utf8(body.get(4..).unwrap_or_default().to_vec());
                    let answer = exchange.answer(&challenge.map_err(io::Error::other)?, password)?;
                    self.stream.write_all(&wire::sasl_response(&answer))?;
                }
                (b'K', _) => self.key = body,
                (b'Z', _) => return Ok(()),
                _ => {}
            }
        }
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
        self.stream.write_all(&wire::query(sql))
    }

    /// The next message: its type and its body. ErrorResponse is an error.
    fn message(&mut self) -> io::Result<(u8, Vec<u8>)> {
        loop {
            if let Some(frame) = wire::frame(&self.buf)? {
                let (kind, body, length) = (frame.kind, frame.body.to_vec(), frame.wire_len());
                self.buf.drain(..length);
                if kind == b'E' {
                    return Err(io::Error::other(wire::error_text(&body)));
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
