//! Notices to control that are never lost: what does not fit into the mailbox goes at a later turn.

use std::collections::VecDeque;

use lockgate_bridge::{Notice, Outlet};

/// The way to control.
#[derive(Debug)]
pub(crate) struct Mail {
    outlet: Outlet<Notice>,
    unsent: VecDeque<Notice>,
}

impl Mail {
    pub(crate) fn new(outlet: Outlet<Notice>) -> Mail {
        Mail { outlet, unsent: VecDeque::new() }
    }

    /// Sends now or later, in order. What may wait here is bounded: one epoch, one segment, one failure, one answer
    /// to each question of control's, and one salt for each credential at a time.
    pub(crate) fn send(&mut self, notice: Notice) {
        self.unsent.push_back(notice);
        self.retry();
    }

    /// Sends now, in order, or not at all. Whether it was sent.
    pub(crate) fn try_send(&mut self, notice: Notice) -> bool {
        !self.is_waiting() && self.outlet.send(notice).is_ok()
    }

    /// Sends what waits, as far as it fits.
    pub(crate) fn retry(&mut self) {
        while let Some(notice) = self.unsent.pop_front() {
            if let Err(notice) = self.outlet.send(notice) {
                self.unsent.push_front(notice);
                return;
            }
        }
    }

    /// Something waits.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.unsent.is_empty()
    }
}
