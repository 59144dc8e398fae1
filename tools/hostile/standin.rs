//! A server that speaks just enough of the protocol for a session to begin, ask and end, without a process for each.
//! The catalog's own role is passed on to a real server, because what it reads cannot be made up.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use lockgate_client::wire::{self, message};

use crate::tell;

/// Of the stand-in.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Where to listen.
    #[arg(long)]
    listen: String,
    /// The role whose connections go to the real server.
    #[arg(long)]
    catalog: String,
    /// The real server.
    #[arg(long)]
    server: String,
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

static SESSIONS: AtomicU32 = AtomicU32::new(1);

/// Serves for ever.
pub fn run(options: &Options) -> io::Result<()> {
    let listener = TcpListener::bind(&options.listen)?;
    tell("ready")?;
    for stream in listener.incoming() {
        let (stream, options) = (stream?, options.clone());
        // A small stack: thousands of sessions stand at a time.
        thread::Builder::new().stack_size(64 << 10).spawn(move || {
            // A session that ends roughly is what this is for.
            let _ = serve(stream, &options);
        })?;
    }
    Ok(())
}

fn serve(mut stream: TcpStream, options: &Options) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let startup = first_packet(&mut stream)?;
    let parts: Vec<&[u8]> = startup.get(8..).unwrap_or_default().split(|byte| *byte == 0).collect();
    let catalog = parts.chunks(2).any(|pair| pair == [b"user", options.catalog.as_bytes()]);
    if catalog || startup.get(4..8) == Some(&80_877_102u32.to_be_bytes()) {
        return if catalog { pass_on(stream, &startup, &options.server) } else { Ok(()) };
    }
    greet(&mut stream)?;
    answer(&mut stream)
}

fn first_packet(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut packet = vec![0; 4];
    stream.read_exact(&mut packet)?;
    let length = packet.first_chunk::<4>().map_or(0, |length| u32::from_be_bytes(*length));
    if !(8..=10_000).contains(&length) {
        return Err(io::Error::other("not a first packet"));
    }
    packet.resize(usize::try_from(length).unwrap_or(8), 0);
    stream.read_exact(packet.get_mut(4..).unwrap_or_default())?;
    Ok(packet)
}

fn greet(stream: &mut TcpStream) -> io::Result<()> {
    let mut greeting = message(b'R', &[0; 4]);
    for (name, value) in PARAMETERS {
        greeting.extend(message(b'S', &[name.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat()));
    }
    let process = SESSIONS.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    greeting.extend(message(b'K', &[process, process].concat()));
    greeting.extend(message(b'Z', b"I"));
    stream.write_all(&greeting)
}

/// One row of one column to every Query, whatever it says.
fn answer(stream: &mut TcpStream) -> io::Result<()> {
    let column = b"\0\x01?column?\0\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0";
    let rows = [
        message(b'T', column),
        message(b'D', &wire::row(&[b"1"])),
        message(b'C', b"SELECT 1\0"),
        message(b'Z', b"I"),
    ]
    .concat();
    let mut buf = Vec::new();
    let mut more = [0; 4096];
    loop {
        while let Some(frame) = wire::frame(&buf)? {
            let (kind, length) = (frame.kind, frame.wire_len());
            buf.drain(..length);
            match kind {
                b'Q' => stream.write_all(&rows)?,
                b'X' => return Ok(()),
                _ => return Err(io::Error::other("only simple queries are spoken here")),
            }
        }
        match stream.read(&mut more)? {
            0 => return Ok(()),
            count => buf.extend_from_slice(more.get(..count).unwrap_or_default()),
        }
    }
}

/// Both ways, until both have ended.
fn pass_on(client: TcpStream, startup: &[u8], server: &str) -> io::Result<()> {
    let mut server = TcpStream::connect(server)?;
    server.write_all(startup)?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    let mut client = client;
    io::copy(&mut server, &mut client)?;
    client.shutdown(Shutdown::Write)
}
