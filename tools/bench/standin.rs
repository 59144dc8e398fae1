//! A server that speaks just enough of the protocol for sessions to begin, ask and rest by the thousand, where a process
//! for each would fill the machine. The catalog's role is passed on to a real server: what it reads cannot be made up.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use lockgate_client::wire::{self, message};
use monoio::io::{AsyncReadRent, AsyncWriteRent, AsyncWriteRentExt, Splitable as _};
use monoio::net::{ListenerOpts, TcpListener, TcpStream};

use crate::runtime::block_on;

/// Of the stand-in.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Where to listen.
    #[arg(long)]
    listen: SocketAddr,
    /// The role whose connections go to the real server.
    #[arg(long)]
    catalog: String,
    /// The real server.
    #[arg(long)]
    server: SocketAddr,
}

/// What a server says of itself when a session begins.
const PARAMETERS: &[(&str, &str)] = &[
    ("server_version", "15.0"),
    ("server_encoding", "UTF8"),
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO, MDY"),
    ("standard_conforming_strings", "on"),
    ("integer_datetimes", "on"),
];
const BACKLOG: i32 = 4096;
/// Requests are short, and thousands of sessions wait for one.
const BUF_BYTES: usize = 512;
const COPY_BYTES: usize = 64 << 10;

static SESSIONS: AtomicU32 = AtomicU32::new(1);

/// Serves for ever.
pub fn run(options: &Options) -> io::Result<()> {
    block_on(serve(options.clone()))?
}

async fn serve(options: Options) -> io::Result<()> {
    let listener = TcpListener::bind_with_config(options.listen, &ListenerOpts::new().backlog(BACKLOG))?;
    loop {
        let (stream, _) = listener.accept().await?;
        let options = options.clone();
        // A session that ends roughly is no concern of the others.
        drop(monoio::spawn(async move { session(stream, &options).await }));
    }
}

async fn session(mut stream: TcpStream, options: &Options) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buf = Vec::with_capacity(BUF_BYTES);
    let startup = loop {
        buf = more(&mut stream, buf).await?;
        match first_packet(&buf) {
            Some(packet) if packet == wire::SSL_REQUEST => {
                write(&mut stream, b"N".to_vec()).await?;
                buf.clear();
            }
            Some(packet) => break packet.to_vec(),
            None => {}
        }
    };
    let parts: Vec<&[u8]> = startup.get(8..).unwrap_or_default().split(|byte| *byte == 0).collect();
    if parts.chunks(2).any(|pair| pair == [b"user", options.catalog.as_bytes()]) {
        return pass_on(stream, startup, options.server).await;
    }
    write(&mut stream, greeting()).await?;
    answer(stream, buf.split_off(startup.len())).await
}

fn first_packet(buf: &[u8]) -> Option<&[u8]> {
    let length = buf.first_chunk::<4>().map(|length| u32::from_be_bytes(*length))?;
    buf.get(..usize::try_from(length).ok()?)
}

fn greeting() -> Vec<u8> {
    let mut greeting = message(b'R', &[0; 4]);
    for (name, value) in PARAMETERS {
        greeting.extend(message(b'S', &[name.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat()));
    }
    let process = SESSIONS.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    greeting.extend(message(b'K', &[process, process].concat()));
    greeting.extend(message(b'Z', b"I"));
    greeting
}

/// One row of one column to every Query, whatever it says.
async fn answer(mut stream: TcpStream, mut buf: Vec<u8>) -> io::Result<()> {
    let column = b"\0\x01?column?\0\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0";
    let row =
        [message(b'T', column), message(b'D', &wire::row(&[b"1"])), message(b'C', b"SELECT 1\0")].concat();
    loop {
        while let Some(frame) = wire::frame(&buf)? {
            let (kind, length) = (frame.kind, frame.wire_len());
            buf.drain(..length);
            match kind {
                b'Q' => write(&mut stream, [&row[..], &message(b'Z', b"I")].concat()).await?,
                b'X' => return Ok(()),
                _ => return Err(io::Error::other("only simple queries are spoken here")),
            }
        }
        buf = more(&mut stream, buf).await?;
    }
}

/// Both ways, until both have ended.
async fn pass_on(client: TcpStream, startup: Vec<u8>, server: SocketAddr) -> io::Result<()> {
    let mut server = TcpStream::connect_addr(server).await?;
    write(&mut server, startup).await?;
    let (from_server, to_server) = server.into_split();
    let (from_client, to_client) = client.into_split();
    drop(monoio::spawn(copied(from_client, to_server)));
    copied(from_server, to_client).await
}

async fn copied(mut from: impl AsyncReadRent, mut to: impl AsyncWriteRent) -> io::Result<()> {
    let mut buf = Vec::with_capacity(COPY_BYTES);
    loop {
        let (done, read) = from.read(buf).await;
        if done? == 0 {
            return to.shutdown().await;
        }
        let (done, written) = to.write_all(read).await;
        done?;
        buf = written;
        buf.clear();
    }
}

async fn write(stream: &mut TcpStream, bytes: Vec<u8>) -> io::Result<()> {
    stream.write_all(bytes).await.0.map(drop)
}

/// Appends what comes next.
async fn more(stream: &mut TcpStream, mut buf: Vec<u8>) -> io::Result<Vec<u8>> {
    let (done, chunk) = stream.read(Vec::with_capacity(BUF_BYTES)).await;
    if done? == 0 {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
    }
    buf.extend_from_slice(&chunk);
    Ok(buf)
}
