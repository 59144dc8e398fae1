//! Listening sockets, and which of them have somebody waiting.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Instant;

use super::interest::{Interest, Source};
use crate::ListenerId;
use crate::accepting::{REST, is_passing};

#[derive(Debug, Default)]
pub(super) struct Listeners {
    all: Vec<Listener>,
}

#[derive(Debug)]
struct Listener {
    /// `None` when it has stopped.
    socket: Option<TcpListener>,
    /// Somebody may be waiting.
    ready: bool,
    rests_until: Option<Instant>,
}

impl Listeners {
    pub(super) fn add(&mut self, interest: &Interest, socket: TcpListener) -> io::Result<ListenerId> {
        let id = u32::try_from(self.all.len()).unwrap_or(u32::MAX);
        interest.add(socket.as_raw_fd(), Source::Listener(id))?;
        self.all.push(Listener { socket: Some(socket), ready: false, rests_until: None });
        Ok(ListenerId(id))
    }

    pub(super) fn stop(&mut self, interest: &Interest, id: ListenerId) {
        if let Some(listener) = self.get_mut(id.0)
            && let Some(socket) = listener.socket.take()
        {
            listener.rests_until = None;
            // Whoever takes over from this process may have a copy.
            interest.remove(socket.as_raw_fd());
        }
    }

    /// Somebody knocked.
    pub(super) fn ready(&mut self, id: u32) {
        if let Some(listener) = self.get_mut(id) {
            listener.ready = true;
        }
    }

    /// Some can be accepted from, as far as is known.
    pub(super) fn any_ready(&self) -> bool {
        self.all.iter().any(Listener::may_accept)
    }

    /// When a listener that rests is to go on.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.all.iter().filter_map(|listener| listener.rests_until).min()
    }

    pub(super) fn wake_rested(&mut self, now: Instant) {
        for listener in &mut self.all {
            listener.rests_until = listener.rests_until.filter(|until| *until > now);
        }
    }

    pub(super) fn ids(&self) -> std::ops::Range<u32> {
        0..u32::try_from(self.all.len()).unwrap_or(u32::MAX)
    }

    /// Takes one of those who wait; `None` when there is nobody, or nothing to be had for now.
    pub(super) fn accept(&mut self, id: u32) -> Option<io::Result<(TcpStream, SocketAddr)>> {
        let listener = self.get_mut(id).filter(|listener| listener.may_accept())?;
        let socket = listener.socket.as_ref()?;
        let accepted = accept(socket);
        if let Err(error) = &accepted {
            match error.raw_os_error() {
                Some(libc::EAGAIN) => {
                    listener.ready = false;
                    return None;
                }
                Some(error) if is_passing(error) => {}
                _ => listener.rests_until = Some(Instant::now() + REST),
            }
        }
        Some(accepted)
    }

    fn get_mut(&mut self, id: u32) -> Option<&mut Listener> {
        self.all.get_mut(usize::try_from(id).ok()?)
    }
}

impl Listener {
    fn may_accept(&self) -> bool {
        self.ready && self.rests_until.is_none() && self.socket.is_some()
    }
}

fn accept(socket: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (stream, peer) = socket.accept()?;
    stream.set_nonblocking(true)?;
    Ok((stream, peer))
}
