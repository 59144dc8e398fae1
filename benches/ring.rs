//! The drivers: a turn in which nothing happens, and a relay between two connections on loopback.

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use lockgate_ring::epoll::Poller;
use lockgate_ring::uring::Ring;
use lockgate_ring::{Config, ConnId, Driver, Event, Wait, listen_socket};

use crate::{Bench, Setup, Work};

/// Turns of one call.
const TURNS: usize = 64;
/// Messages of one call that go there and come back.
const ROUNDS: usize = 64;
/// Bytes of a message.
const MESSAGE_BYTES: usize = 100;
/// What takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) const BENCHES: &[Bench] = &[
    Bench { name: "ring/turn_io_uring", work: Work::Items(TURNS as u64), set_up: || turn(Ring::new) },
    Bench { name: "ring/turn_epoll", work: Work::Items(TURNS as u64), set_up: || turn(Poller::new) },
    Bench { name: "ring/relay_io_uring", work: Work::Items(2 * ROUNDS as u64), set_up: || relay(Ring::new) },
    Bench { name: "ring/relay_epoll", work: Work::Items(2 * ROUNDS as u64), set_up: || relay(Poller::new) },
];

fn config() -> Config {
    Config { connections_max: 8, ..Config::default() }
}

fn turn<D: Driver + 'static>(make: fn(Config) -> io::Result<D>) -> Setup {
    let mut driver = make(config())?;
    let mut events = Vec::new();
    Ok(Box::new(move || (0..TURNS).all(|_| driver.turn(Wait::No, &mut events).is_ok() && events.is_empty())))
}

/// Two connections of a driver, what one says goes to the other; and both of their peers.
struct Relay<D> {
    driver: D,
    events: Vec<Event>,
    conns: Vec<ConnId>,
    peers: Vec<TcpStream>,
}

impl<D: Driver> Relay<D> {
    fn new(mut driver: D) -> Result<Relay<D>, Box<dyn Error>> {
        let socket = listen_socket(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), 8, false)?;
        let address = socket.local_addr()?;
        driver.listen(socket)?;
        let mut relay = Relay { driver, events: Vec::new(), conns: Vec::new(), peers: Vec::new() };
        while relay.peers.len() < 2 {
            let peer = TcpStream::connect(address)?;
            peer.set_nodelay(true)?;
            peer.set_read_timeout(Some(PATIENCE))?;
            relay.peers.push(peer);
            while relay.conns.len() < relay.peers.len() {
                relay.turn(Wait::Until(Instant::now() + PATIENCE))?;
            }
        }
        Ok(relay)
    }

    /// A turn; how many bytes it has passed on.
    fn turn(&mut self, wait: Wait) -> Result<usize, Box<dyn Error>> {
        self.driver.turn(wait, &mut self.events)?;
        let mut passed = 0;
        for event in self.events.drain(..) {
            match event {
                Event::Accepted { conn, .. } => {
                    self.driver.resume(conn);
                    self.conns.push(conn);
                }
                Event::Received { conn, lease } => {
                    if let Some(other) = self.conns.iter().find(|other| **other != conn) {
                        self.driver.send_slot(*other, &lease, 0..lease.len());
                        passed += lease.len();
                    }
                    self.driver.release(lease);
                }
                event => return Err(format!("nobody asked for {event:?}").into()),
            }
        }
        Ok(passed)
    }

    /// One message from a peer to the other.
    fn pass(&mut self, from: usize) -> Result<(), Box<dyn Error>> {
        let message = [b'x'; MESSAGE_BYTES];
        self.peers.get_mut(from).ok_or("no such peer")?.write_all(&message)?;
        let mut passed = 0;
        while passed < MESSAGE_BYTES {
            match self.turn(Wait::Until(Instant::now() + PATIENCE))? {
                0 => {}
                bytes => passed += bytes,
            }
        }
        // What was queued goes out with the next turn.
        self.turn(Wait::No)?;
        let mut back = [0; MESSAGE_BYTES];
        self.peers.get_mut(1 - from).ok_or("no such peer")?.read_exact(&mut back)?;
        Ok(())
    }
}

fn relay<D: Driver + 'static>(make: fn(Config) -> io::Result<D>) -> Setup {
    let mut relay = Relay::new(make(config())?)?;
    Ok(Box::new(move || (0..ROUNDS).all(|_| relay.pass(0).and_then(|()| relay.pass(1)).is_ok())))
}
