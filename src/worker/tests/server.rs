//! A scripted PostgreSQL server: trusts everybody, echoes simple queries, sends bulk on demand.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

pub(crate) const PROCESS_ID: u32 = 4711;
pub(crate) const SECRET: [u8; 4] = [1, 2, 3, 4];
/// A DataRow's bytes, header included.
pub(crate) const ROW_BYTES: usize = 10_011;

#[derive(Default)]
struct Seen {
    cancels: Mutex<Vec<(u32, Vec<u8>)>>,
    startups: AtomicUsize,
    rows: AtomicUsize,
    waiting: AtomicUsize,
    go_on: AtomicBool,
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    seen: Arc<Seen>,
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

impl Server {
    pub(crate) fn start(tls: Option<Arc<ServerConfig>>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let shared = Arc::clone(&seen);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, tls) = (Arc::clone(&shared), tls.clone());
                std::thread::spawn(move || {
                    // A peer that goes away ends its connection, not the test.
                    let _ = serve(stream, tls, &seen);
                });
            }
        });
        Server { address, seen }
    }

    pub(crate) fn cancels(&self) -> Vec<(u32, Vec<u8>)> {
        self.seen.cancels.lock().unwrap().clone()
    }
    pub(crate) fn startups(&self) -> usize {
        self.seen.startups.load(Ordering::SeqCst)
    }
    pub(crate) fn rows_sent(&self) -> usize {
        self.seen.rows.load(Ordering::SeqCst)
    }
    pub(crate) fn waiting(&self) -> usize {
        self.seen.waiting.load(Ordering::SeqCst)
    }
    pub(crate) fn go_on(&self) {
        self.seen.go_on.store(true, Ordering::SeqCst);
    }
}

fn serve(mut stream: TcpStream, tls: Option<Arc<ServerConfig>>, seen: &Seen) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let first = packet(&mut stream)?;
    if first[..4] == 80_877_103i32.to_be_bytes() {
        let Some(config) = tls else {
            stream.write_all(b"N")?;
            return Ok(());
        };
        stream.write_all(b"S")?;
        let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), stream);
        let first = packet(&mut stream)?;
        let result = session(&mut stream, &first, seen);
        stream.conn.send_close_notify();
        let _ = stream.flush();
        return result;
    }
    assert!(tls.is_none(), "a server with TLS must be asked for it");
    session(&mut stream, &first, seen)
}

fn session(stream: &mut dyn Stream, first: &[u8], seen: &Seen) -> io::Result<()> {
    if first[..4] == 80_877_102i32.to_be_bytes() {
        let process_id = u32::from_be_bytes(first[4..8].try_into().unwrap());
        seen.cancels.lock().unwrap().push((process_id, first[8..].to_vec()));
        return Ok(());
    }
    seen.startups.fetch_add(1, Ordering::SeqCst);
    let mut hello = message(b'R', &[0, 0, 0, 0]);
    hello.extend(message(b'S', b"client_encoding\0UTF8\0"));
    hello.extend(message(b'S', b"standard_conforming_strings\0on\0"));
    hello.extend(message(b'K', &[&PROCESS_ID.to_be_bytes()[..], &SECRET].concat()));
    hello.extend(message(b'Z', b"I"));
    stream.write_all(&hello)?;
    loop {
        let mut kind = [0];
        stream.read_exact(&mut kind)?;
        let body = packet(stream)?;
        match kind[0] {
            b'Q' => query(stream, std::str::from_utf8(&body[..body.len() - 1]).unwrap(), seen)?,
            b'X' => return Ok(()),
            other => panic!("unexpected message {other}"),
        }
    }
}

fn query(stream: &mut dyn Stream, text: &str, seen: &Seen) -> io::Result<()> {
    if text == "SLEEP" {
        std::thread::sleep(Duration::from_secs(5));
    }
    if text == "WAIT" {
        seen.waiting.fetch_add(1, Ordering::SeqCst);
        while !seen.go_on.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    stream.write_all(&message(
        b'T',
        &[&[0, 1][..], b"c\0", &[0; 6], &[0, 0, 0, 25, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]].concat(),
    ))?;
    if let Some(rows) = text.strip_prefix("BULK ") {
        let cell = [b'r'; ROW_BYTES - 11];
        for _ in 0..rows.parse().unwrap() {
            stream.write_all(&row(&cell))?;
            seen.rows.fetch_add(1, Ordering::SeqCst);
        }
    } else {
        stream.write_all(&row(format!("echo {text}").as_bytes()))?;
    }
    stream.write_all(&[message(b'C', b"SELECT 1\0"), message(b'Z', b"I")].concat())
}

fn row(cell: &[u8]) -> Vec<u8> {
    let len = u32::try_from(cell.len()).unwrap().to_be_bytes();
    message(b'D', &[&[0, 1][..], &len, cell].concat())
}

pub(crate) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
    [&[kind][..], &len, body].concat()
}

/// Length and body, the length left out.
pub(crate) fn packet(stream: &mut (impl Read + ?Sized)) -> io::Result<Vec<u8>> {
    let mut len = [0; 4];
    stream.read_exact(&mut len)?;
    let mut body = vec![0; usize::try_from(u32::from_be_bytes(len)).unwrap() - 4];
    stream.read_exact(&mut body)?;
    Ok(body)
}
