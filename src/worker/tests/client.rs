//! A scripted PostgreSQL client with SCRAM, over plain TCP or TLS.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use rustls::{ClientConnection, StreamOwned};

use super::gate::{Gate, PASSWORD, TARGET, USER};
use super::server::{message, packet};
use crate::tls::tests::name;

pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    fn socket(&self) -> &TcpStream {
        match self {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => &stream.sock,
        }
    }
    pub(crate) fn set_write_timeout(&self, timeout: Option<Duration>) {
        self.socket().set_write_timeout(timeout).unwrap();
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.read(buf),
            Stream::Tls(stream) => stream.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.write(buf),
            Stream::Tls(stream) => stream.write(buf),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(stream) => stream.flush(),
            Stream::Tls(stream) => stream.flush(),
        }
    }
}

pub(crate) struct Client {
    pub(crate) stream: Stream,
    pub(crate) key: (u32, Vec<u8>),
}

impl Client {
    pub(crate) fn connect(gate: &Gate, tls: bool) -> Client {
        Client::try_connect(gate, tls).unwrap()
    }

    /// `Err`: SQLSTATE and message, or what the socket said.
    pub(crate) fn try_connect(gate: &Gate, tls: bool) -> Result<Client, String> {
        Client::come(gate, gate.address, tls)
    }

    pub(crate) fn connect_to(gate: &Gate, address: SocketAddr) -> Client {
        Client::try_connect_to(gate, address).unwrap()
    }

    /// By another listener than the first, without TLS.
    pub(crate) fn try_connect_to(gate: &Gate, address: SocketAddr) -> Result<Client, String> {
        Client::come(gate, address, false)
    }

    fn come(gate: &Gate, address: SocketAddr, tls: bool) -> Result<Client, String> {
        let socket = TcpStream::connect(address).map_err(|error| error.to_string())?;
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        socket.set_nodelay(true).unwrap();
        let mut client = Client { stream: Stream::Plain(socket), key: (0, Vec::new()) };
        client.log_in(gate, tls).map_err(|error| error.to_string())?;
        Ok(client)
    }

    fn log_in(&mut self, gate: &Gate, tls: bool) -> io::Result<()> {
        if tls {
            self.start_tls(gate)?;
        }
        let mut startup = vec![0, 3, 0, 0];
        startup.extend(format!("user\0{USER}\0database\0{TARGET}\0\0").bytes());
        let len = u32::try_from(startup.len() + 4).unwrap().to_be_bytes();
        self.stream.write_all(&[&len[..], &startup].concat())?;
        let mut scram = ScramSha256::new(PASSWORD.as_bytes(), ChannelBinding::unsupported());
        loop {
            let (kind, body) = self.read()?;
            match (kind, body.first_chunk().map(|kind| u32::from_be_bytes(*kind))) {
                (b'R', Some(10)) => {
                    let len = u32::try_from(scram.message().len()).unwrap().to_be_bytes();
                    let answer = [b"SCRAM-SHA-256\0", &len[..], scram.message()].concat();
                    self.stream.write_all(&message(b'p', &answer))?;
                }
                (b'R', Some(11)) => {
                    scram.update(&body[4..])?;
                    self.stream.write_all(&message(b'p', scram.message()))?;
                }
                (b'R', Some(12)) => scram.finish(&body[4..])?,
                (b'K', Some(process_id)) => self.key = (process_id, body[4..].to_vec()),
                (b'E', _) => return Err(io::Error::other(error(&body).join(": "))),
                (b'Z', _) => return Ok(()),
                _ => {}
            }
        }
    }

    fn start_tls(&mut self, gate: &Gate) -> io::Result<()> {
        self.stream.write_all(&[0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f])?;
        let mut answer = [0];
        self.stream.read_exact(&mut answer)?;
        assert_eq!(&answer, b"S");
        let Stream::Plain(socket) = &self.stream else { panic!("TLS in TLS") };
        let connection = ClientConnection::new(Arc::clone(&gate.trusts_gate), name()).unwrap();
        self.stream = Stream::Tls(Box::new(StreamOwned::new(connection, socket.try_clone()?)));
        Ok(())
    }

    fn read(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut kind = [0];
        self.stream.read_exact(&mut kind)?;
        Ok((kind[0], packet(&mut self.stream)?))
    }

    pub(crate) fn send_query(&mut self, sql: &str) {
        assert!(self.try_send_query(sql));
    }

    pub(crate) fn try_send_query(&mut self, sql: &str) -> bool {
        self.stream.write_all(&message(b'Q', format!("{sql}\0").as_bytes())).is_ok()
    }

    pub(crate) fn query(&mut self, sql: &str) -> String {
        self.send_query(sql);
        self.read_answer()
    }

    /// The only cell of the only row.
    pub(crate) fn read_answer(&mut self) -> String {
        let mut answer = String::new();
        loop {
            match self.read().unwrap() {
                (b'D', body) => answer = String::from_utf8(body[6..].to_vec()).unwrap(),
                (b'E', body) => panic!("{}", error(&body).join(": ")),
                (b'Z', _) => return answer,
                _ => {}
            }
        }
    }

    pub(crate) fn rows(&mut self, sql: &str) -> (usize, usize) {
        self.send_query(sql);
        self.read_rows()
    }

    /// How many rows, and their bytes.
    pub(crate) fn read_rows(&mut self) -> (usize, usize) {
        let (mut rows, mut bytes) = (0, 0);
        loop {
            match self.read().unwrap() {
                (b'D', body) => {
                    assert!(body[6..].iter().all(|byte| *byte == b'r'));
                    rows += 1;
                    bytes += body.len() + 5;
                }
                (b'E', body) => panic!("{}", error(&body).join(": ")),
                (b'Z', _) => return (rows, bytes),
                _ => {}
            }
        }
    }

    /// The error that comes next, and then the end.
    pub(crate) fn read_error(&mut self) -> (String, String) {
        loop {
            if let (b'E', body) = self.read().unwrap() {
                let [sqlstate, text] = error(&body);
                let mut rest = Vec::new();
                let _ = self.stream.read_to_end(&mut rest);
                assert!(rest.is_empty(), "{rest:?}");
                return (sqlstate, text);
            }
        }
    }

    pub(crate) fn end(mut self) {
        self.stream.write_all(&message(b'X', b"")).unwrap();
        let mut rest = Vec::new();
        // Without the gateway's close_notify this would be an error.
        self.stream.read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty(), "{rest:?}");
    }
}

/// SQLSTATE and message.
fn error(body: &[u8]) -> [String; 2] {
    let field = |kind| {
        let field = body.split(|byte| *byte == 0).find(|field| field.first() == Some(&kind));
        String::from_utf8(field.unwrap_or(b" ")[1..].to_vec()).unwrap()
    };
    [field(b'C'), field(b'M')]
}

/// Sends a CancelRequest and waits until its connection is closed.
pub(crate) fn cancel(gate: &Gate, process_id: u32, secret: &[u8]) {
    let mut stream = TcpStream::connect(gate.address).unwrap();
    let len = u32::try_from(12 + secret.len()).unwrap().to_be_bytes();
    let request = [&len[..], &80_877_102u32.to_be_bytes(), &process_id.to_be_bytes(), secret].concat();
    stream.write_all(&request).unwrap();
    assert_eq!(super::read_to_end(&mut stream), Vec::<u8>::new());
}
