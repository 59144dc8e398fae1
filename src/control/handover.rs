//! A replacement takes the listeners over: what the two processes say to each other, and the replacement's side of it.
//!
//! ```text
//!   replacement                                  predecessor
//!   take-over 1            ─────────────────────►
//!                          ◄───────────────────── give lock | give admin | give listener ADDRESS   (a descriptor each)
//!                          ◄───────────────────── given
//!   (reads its configuration, policies and catalogs, recovers, starts its workers; accepts nobody)
//!   ready                  ─────────────────────►
//!                                                 (its workers stop accepting: who comes waits at the sockets)
//!                          ◄───────────────────── yours
//!   (accepts)
//!   serving                ─────────────────────►
//!                                                 (lets go of sockets and lock, drains)
//!                          ◄───────────────────── farewell | farewell, reload
//! ```
//!
//! The sockets are shared and never closed in between, so nobody who connects is refused; nobody accepts for the moment
//! between `yours` and `serving`, and the kernel's queue bridges it. If the replacement ends before `serving`, the
//! predecessor accepts again, as if nothing had been. If the predecessor changes its mind, it says `no` and why, and the
//! replacement gives up; if it dies, the replacement has all that it takes and serves.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use rustix::process::{PidfdFlags, pidfd_open};
use tracing::warn;

use crate::run::RunFolder;

/// The first words; the number changes with what is said after them.
pub(crate) const TAKE_OVER: &str = "take-over 1";
pub(crate) const GIVEN: &str = "given";
pub(crate) const READY: &str = "ready";
pub(crate) const YOURS: &str = "yours";
pub(crate) const SERVING: &str = "serving";
pub(crate) const FAREWELL: &str = "farewell";
/// The predecessor was asked to reload meanwhile, and whoever serves now is to do it.
pub(crate) const FAREWELL_RELOAD: &str = "farewell, reload";
/// Before a reason: it is refused.
pub(crate) const NO: &str = "no ";
/// Longest line in bytes: a cancel request with the longest key of the protocol.
pub(crate) const LINE_BYTES_MAX: usize = 1024;
/// Most descriptors that are taken: 256 workers on some hundred addresses would be more than can be meant.
const DESCRIPTORS_MAX: usize = 16_384;
/// How long the predecessor may take for each of its answers.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// How long a process may take to end that has closed its sockets.
const DEATH_MAX: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };

/// One thing that is handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Item {
    /// The lock on the data folder.
    Lock,
    /// The admin port's socket.
    Admin,
    /// A socket of the listener that was configured with this address.
    Listener(SocketAddr),
}

impl Item {
    pub(crate) fn line(self) -> String {
        match self {
            Item::Lock => String::from("give lock\n"),
            Item::Admin => String::from("give admin\n"),
            Item::Listener(bind) => format!("give listener {bind}\n"),
        }
    }

    fn parse(line: &str) -> Option<Item> {
        match line.strip_prefix("give ")? {
            "lock" => Some(Item::Lock),
            "admin" => Some(Item::Admin),
            other => other.strip_prefix("listener ")?.parse().ok().map(Item::Listener),
        }
    }
}

/// Sends a line with a descriptor.
pub(crate) fn give(socket: impl AsFd, item: Item, descriptor: BorrowedFd<'_>) -> io::Result<()> {
    let line = item.line();
    let descriptors = [descriptor];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    let sent = sendmsg(socket, &[IoSlice::new(line.as_bytes())], &mut control, SendFlags::NOSIGNAL)?;
    // A line is far smaller than any socket's buffer.
    if sent == line.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// A replacement's hold on its predecessor. Dropped before [`TakeOver::serving`], it leaves the predecessor serving.
#[derive(Debug)]
pub struct TakeOver {
    conversation: Conversation,
    /// The predecessor's process, where it can be watched.
    process: Option<OwnedFd>,
    /// The predecessor's process id.
    pub pid: u32,
    /// The lock on the data folder.
    pub lock: File,
    /// The admin port.
    pub admin: Option<TcpListener>,
    /// Listening sockets, each with the address that it was configured with.
    pub listeners: Vec<(SocketAddr, TcpListener)>,
}

impl TakeOver {
    /// Asks the process that serves, by the folder of its socket. `Ok(None)`: none does.
    ///
    /// # Errors
    /// It refuses, and why; or what it says is not understood.
    pub fn ask(run: &Path) -> Result<Option<TakeOver>, String> {
        if !run.exists() {
            return Ok(None);
        }
        let found = RunFolder::open(run).and_then(|run| run.serving());
        let found = found.map_err(|error| format!("the gateway that serves cannot be asked: {error}"))?;
        let Some(stream) = found else { return Ok(None) };
        let asked = TakeOver::asked(stream);
        asked.map(Some).map_err(|error| format!("the gateway that serves does not hand over: {error}"))
    }

    fn asked(stream: UnixStream) -> io::Result<TakeOver> {
        let peer = rustix::net::sockopt::socket_peercred(&stream)?.pid;
        let process = pidfd_open(peer, PidfdFlags::empty()).ok();
        let pid = u32::try_from(peer.as_raw_nonzero().get()).unwrap_or(0);
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        stream.set_write_timeout(Some(ANSWER_MAX))?;
        let mut conversation = Conversation { stream, unread: Vec::new(), descriptors: VecDeque::new() };
        conversation.say(TAKE_OVER)?;
        let (mut lock, mut admin, mut listeners) = (None, None, Vec::new());
        loop {
            let line = conversation.hear()?;
            if line == GIVEN {
                break;
            }
            let item = Item::parse(&line).ok_or_else(|| not_understood(&line))?;
            let descriptor = conversation.descriptors.pop_front();
            let descriptor = descriptor.ok_or_else(|| io::Error::other("a descriptor did not arrive"))?;
            match item {
                Item::Lock => lock = Some(File::from(descriptor)),
                Item::Admin => admin = Some(TcpListener::from(descriptor)),
                Item::Listener(bind) => listeners.push((bind, TcpListener::from(descriptor))),
            }
        }
        let lock = lock.ok_or_else(|| io::Error::other("it has no lock to give"))?;
        Ok(TakeOver { conversation, process, pid, lock, admin, listeners })
    }

    /// Everything stands but the accepting. Returns when the predecessor accepts no more, or has died.
    ///
    /// # Errors
    /// The predecessor has changed its mind: it goes on serving.
    pub fn ready(&mut self) -> io::Result<()> {
        let said = self.conversation.say(READY).and_then(|()| self.conversation.expect(YOURS));
        self.unless_dead(said, ())
    }

    /// Whoever connects is accepted here. Returns when the predecessor has let go or has died, and whether a reload is
    /// due that it was asked for meanwhile.
    ///
    /// # Errors
    /// It did not hear it, and goes on serving: this process must end.
    pub fn serving(mut self) -> io::Result<bool> {
        let said = self.conversation.say(SERVING).and_then(|()| self.conversation.hear());
        match self.unless_dead(said, FAREWELL.to_owned())?.as_str() {
            FAREWELL => Ok(false),
            FAREWELL_RELOAD => Ok(true),
            other => Err(not_understood(other)),
        }
    }

    /// What a predecessor would have said that says nothing any more.
    fn unless_dead<T>(&self, said: io::Result<T>, instead: T) -> io::Result<T> {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        match said {
            Err(error)
                if matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof) && self.is_dead() =>
            {
                warn!(pid = self.pid, "the gateway that served has died; this one takes its place");
                Ok(instead)
            }
            said => said,
        }
    }

    /// Its sockets are closed a moment before its process has ended.
    fn is_dead(&self) -> bool {
        let Some(process) = &self.process else { return false };
        let mut ended = [PollFd::new(process, PollFlags::IN)];
        poll(&mut ended, Some(&DEATH_MAX)).is_ok_and(|count| count > 0)
    }
}

/// Lines and descriptors, one after the other.
#[derive(Debug)]
struct Conversation {
    stream: UnixStream,
    unread: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
}

impl Conversation {
    fn say(&mut self, line: &str) -> io::Result<()> {
        self.stream.write_all(format!("{line}\n").as_bytes())
    }

    fn hear(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                return match line.strip_prefix(NO) {
                    Some(reason) => Err(io::Error::other(reason.to_owned())),
                    None => Ok(line),
                };
            }
            if self.unread.len() > LINE_BYTES_MAX || self.descriptors.len() > DESCRIPTORS_MAX {
                return Err(io::Error::other("it says more than can be meant"));
            }
            self.receive()?;
        }
    }

    fn receive(&mut self) -> io::Result<()> {
        let mut bytes = [0; LINE_BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut into = [IoSliceMut::new(&mut bytes)];
        let got = match recvmsg(&self.stream, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => return Ok(()),
            Err(Errno::AGAIN) => return Err(io::Error::other("it does not answer in time")),
            got => got?.bytes,
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        if got == 0 {
            return Err(ended());
        }
        self.unread.extend_from_slice(bytes.get(..got).unwrap_or_default());
        Ok(())
    }

    fn expect(&mut self, word: &str) -> io::Result<()> {
        let line = self.hear()?;
        if line == word { Ok(()) } else { Err(not_understood(&line)) }
    }
}

pub(crate) fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "it has ended the conversation")
}

fn not_understood(line: &str) -> io::Error {
    io::Error::other(format!("it says \"{}\", which this version does not understand", line.escape_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a predecessor says, scripted: items with a descriptor each, then lines.
    fn predecessor(items: Vec<Item>, lines: &'static str) -> UnixStream {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        std::thread::spawn(move || {
            for item in items {
                let socket = TcpListener::bind("127.0.0.1:0").unwrap();
                give(&theirs, item, socket.as_fd()).unwrap();
            }
            theirs.write_all(lines.as_bytes()).unwrap();
            // Until the other end is gone.
            let _ = io::copy(&mut theirs, &mut io::sink());
        });
        ours
    }

    #[test]
    fn all_that_is_given_arrives_with_its_name() {
        let bind: SocketAddr = "127.0.0.1:6432".parse().unwrap();
        let mut items = vec![Item::Lock, Item::Admin];
        items.extend([Item::Listener(bind); 300]);
        let mut taken = TakeOver::asked(predecessor(items, "given\nyours\nfarewell\n")).unwrap();
        assert_eq!(taken.pid, std::process::id());
        assert!(taken.admin.is_some());
        assert_eq!(taken.listeners.len(), 300);
        let mut ports = std::collections::HashSet::new();
        for (named, socket) in &taken.listeners {
            assert_eq!(*named, bind);
            assert!(ports.insert(socket.local_addr().unwrap().port()), "each its own");
        }
        taken.ready().unwrap();
        assert!(!taken.serving().unwrap());
        let lines = "given\nyours\nfarewell, reload\n";
        let mut taken = TakeOver::asked(predecessor(vec![Item::Lock], lines)).unwrap();
        taken.ready().unwrap();
        assert!(taken.serving().unwrap(), "a reload is due");
    }

    #[test]
    fn what_goes_wrong_is_said() {
        let check = |items: Vec<Item>, lines, expected: &str| {
            let error = TakeOver::asked(predecessor(items, lines)).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(vec![], "no it drains already\n", "it drains already");
        check(vec![], "given\n", "no lock");
        check(vec![], "give lock\ngiven\n", "did not arrive");
        check(vec![Item::Lock], "give everything\n", "does not understand");
        let (stream, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert!(TakeOver::asked(stream).is_err());
    }

    #[test]
    fn a_predecessor_that_changes_its_mind_is_heard() {
        let mut taken = TakeOver::asked(predecessor(vec![Item::Lock], "given\nno not now\n")).unwrap();
        assert_eq!(taken.ready().unwrap_err().to_string(), "not now");
    }
}
