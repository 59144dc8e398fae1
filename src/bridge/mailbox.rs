//! A bounded, lock-free mailbox whose receiver is woken: many senders, one receiver, neither ever waits.

use std::fmt;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};

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

/// A [`Wake`] that is made before its target exists: a worker's ring is made on the worker's own thread, after the
/// mailboxes. Wakes before [`LateWake::fill`] are not lost, because filling wakes.
#[derive(Default)]
pub struct LateWake {
    target: OnceLock<Box<dyn Wake>>,
}

impl LateWake {
    /// Names the target, once, and wakes it: messages may be waiting already. A second call changes nothing.
    pub fn fill(&self, target: impl Wake + 'static) {
        let _ = self.target.set(Box::new(target));
        self.wake();
    }
}

impl Wake for LateWake {
    fn wake(&self) {
        if let Some(target) = self.target.get() {
            target.wake();
        }
    }
}

impl fmt::Debug for LateWake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LateWake").field("filled", &self.target.get().is_some()).finish()
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
        self.receiver.try_recv().ok()
    }
}

impl<T> Clone for Outlet<T> {
    fn clone(&self) -> Outlet<T> {
        Outlet { sender: self.sender.clone(), wake: Arc::clone(&self.wake) }
    }
}

impl<T> fmt::Debug for Outlet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Outlet")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    #[derive(Default)]
    struct Bell(AtomicUsize);

    impl Wake for Bell {
        fn wake(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    impl Wake for Arc<Bell> {
        fn wake(&self) {
            Bell::wake(self);
        }
    }

    fn rung(bell: &Bell) -> usize {
        bell.0.load(Ordering::SeqCst)
    }

    #[test]
    fn messages_arrive_in_order_and_each_wakes() {
        let bell = Arc::new(Bell::default());
        let (outlet, inbox) = mailbox(4, bell.clone());
        assert_eq!(inbox.take(), None);
        for message in 0..4 {
            outlet.send(message).unwrap();
        }
        assert_eq!(rung(&bell), 4);
        assert_eq!(
            (0..5).map(|_| inbox.take()).collect::<Vec<_>>(),
            [Some(0), Some(1), Some(2), Some(3), None]
        );
    }

    #[test]
    fn a_full_mailbox_gives_the_message_back_and_takes_the_next_after_a_take() {
        let (outlet, inbox) = mailbox(2, Arc::new(Bell::default()));
        outlet.send("a").unwrap();
        outlet.send("b").unwrap();
        assert_eq!(outlet.send("c"), Err("c"));
        assert_eq!(inbox.take(), Some("a"));
        outlet.send("c").unwrap();
        assert_eq!((inbox.take(), inbox.take(), inbox.take()), (Some("b"), Some("c"), None));
    }

    #[test]
    fn a_mailbox_without_receiver_gives_the_message_back_and_wakes_nobody() {
        let bell = Arc::new(Bell::default());
        let (outlet, inbox) = mailbox(2, bell.clone());
        drop(inbox);
        assert_eq!(outlet.send(1), Err(1));
        assert_eq!(rung(&bell), 0);
    }

    #[test]
    fn what_was_sent_outlives_its_senders() {
        let (outlet, inbox) = mailbox(2, Arc::new(Bell::default()));
        outlet.clone().send(1).unwrap();
        drop(outlet);
        assert_eq!((inbox.take(), inbox.take()), (Some(1), None));
    }

    #[test]
    fn many_senders_lose_nothing() {
        let (outlet, inbox) = mailbox(8, Arc::new(Bell::default()));
        let senders: Vec<_> = (0..4)
            .map(|sender| {
                let outlet = outlet.clone();
                thread::spawn(move || {
                    for count in 0..1000 {
                        let mut message = (sender, count);
                        while let Err(back) = outlet.send(message) {
                            message = back;
                            thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        let mut next = [0; 4];
        while next != [1000; 4] {
            match inbox.take() {
                Some((sender, count)) => {
                    assert_eq!(count, next[sender], "sender {sender} out of order");
                    next[sender] += 1;
                }
                None => thread::yield_now(),
            }
        }
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        assert_eq!(inbox.take(), None);
    }

    #[test]
    fn a_late_wake_wakes_when_it_is_filled_and_for_every_message_after() {
        let late = Arc::new(LateWake::default());
        let (outlet, _inbox) = mailbox(4, late.clone());
        outlet.send(1).unwrap();
        let bell = Arc::new(Bell::default());
        late.fill(bell.clone());
        assert_eq!(rung(&bell), 1, "what was sent before is announced");
        outlet.send(2).unwrap();
        assert_eq!(rung(&bell), 2);
        let other = Arc::new(Bell::default());
        late.fill(other.clone());
        assert_eq!((rung(&bell), rung(&other)), (3, 0), "the first target stays");
    }
}
