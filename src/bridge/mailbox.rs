//! A bounded, lock-free mailbox whose receiver is woken: many senders, one receiver, neither ever waits.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};

/// Something that ends the receiver's wait: a ring's waker, or a runtime's notification.
pub trait Wake: Send + Sync {
    /// Ends the wait; many wakes may become one.
    fn wake(&self);
}

impl Wake for lockgate_ring::Waker {
    fn wake(&self) {
        lockgate_ring::Waker::wake(self);
    }
}

/// The sending end.
pub struct Outlet<T> {
    sender: SyncSender<T>,
    wake: Arc<dyn Wake>,
}

/// The receiving end.
#[derive(Debug)]
pub struct Inbox<T> {
    receiver: Receiver<T>,
}

/// Makes a mailbox for at most `capacity` messages.
pub fn mailbox<T>(capacity: usize, wake: Arc<dyn Wake>) -> (Outlet<T>, Inbox<T>) {
    let (sender, receiver) = sync_channel(capacity);
    (Outlet { sender, wake }, Inbox { receiver })
}

impl<T> Outlet<T> {
    /// Puts a message in and wakes the receiver. A full mailbox, or one whose receiver is gone, gives it back: the
    /// sender decides what a lost message means, it never waits.
    pub fn send(&self, message: T) -> Result<(), T> {
        match self.sender.try_send(message) {
            Ok(()) => {
                self.wake.wake();
                Ok(())
            }
            Err(TrySendError::Full(message) | TrySendError::Disconnected(message)) => Err(message),
        }
    }
}

impl<T> Inbox<T> {
    /// The next message, if one is there.
    pub fn take(&self) -> Option<T> {
        match self.receiver.try_recv() {
            Ok(message) => Some(message),
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => None,
        }
    }
}

impl<T> Clone for Outlet<T> {
    fn clone(&self) -> Outlet<T> {
        Outlet { sender: self.sender.clone(), wake: Arc::clone(&self.wake) }
    }
}

impl<T> std::fmt::Debug for Outlet<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Outlet")
    }
}
