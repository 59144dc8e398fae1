//! Listening sockets and their multishot accepts.

use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::time::Instant;

use super::kernel::Kernel;
use super::token::{Kind, Token};
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
    armed: bool,
    stopping: bool,
    rests_until: Option<Instant>,
}

impl Listeners {
    pub(super) fn add(&mut self, kernel: &mut Kernel, socket: TcpListener) -> ListenerId {
        let id = u32::try_from(self.all.len()).unwrap_or(u32::MAX);
        self.all.push(Listener { socket: Some(socket), armed: false, stopping: false, rests_until: None });
        self.arm(kernel, id);
        ListenerId(id)
    }

    pub(super) fn stop(&mut self, kernel: &mut Kernel, id: ListenerId) {
        let Some(listener) = self.get_mut(id.0) else { return };
        listener.stopping = true;
        if listener.armed {
            kernel.cancel(Token::new(Kind::Accept, id.0, 0));
        } else {
            listener.socket = None;
        }
    }

    /// A cancel found nothing to cancel, yet the accept is still under way: it was between two waits.
    pub(super) fn cancel_again(&mut self, kernel: &mut Kernel, id: u32) {
        if self.get_mut(id).is_some_and(|listener| listener.armed && listener.stopping) {
            kernel.cancel(Token::new(Kind::Accept, id, 0));
        }
    }

    /// The multishot accept has ended.
    pub(super) fn ended(&mut self, kernel: &mut Kernel, id: u32, result: i32) {
        let Some(listener) = self.get_mut(id) else { return };
        listener.armed = false;
        if listener.stopping {
            listener.socket = None;
        } else if result >= 0 || is_passing(-result) {
            self.arm(kernel, id);
        } else {
            listener.rests_until = Some(Instant::now() + REST);
        }
    }

    /// When a listener that rests is to go on.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.all.iter().filter_map(|listener| listener.rests_until).min()
    }

    pub(super) fn wake_rested(&mut self, kernel: &mut Kernel, now: Instant) {
        for id in 0..u32::try_from(self.all.len()).unwrap_or(u32::MAX) {
            if self.get_mut(id).and_then(|listener| listener.rests_until).is_some_and(|until| until <= now) {
                self.arm(kernel, id);
            }
        }
    }

    fn arm(&mut self, kernel: &mut Kernel, id: u32) {
        let Some(listener) = self.get_mut(id) else { return };
        listener.rests_until = None;
        if let Some(socket) = &listener.socket
            && !listener.stopping
        {
            listener.armed = true;
            kernel.accept(socket.as_raw_fd(), Token::new(Kind::Accept, id, 0));
        }
    }

    fn get_mut(&mut self, id: u32) -> Option<&mut Listener> {
        self.all.get_mut(usize::try_from(id).ok()?)
    }
}
