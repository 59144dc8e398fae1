//! Other processes of the same gateway, which drain or have taken over: cancel requests and reloads go to all of them.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lockgate_bridge::{CancelFrom, Order, worker_of};
use lockgate_lane::CancelRequest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tracing::{debug, info, warn};

use crate::desk::{Desk, Shutdown};
use crate::handover::LINE_BYTES_MAX;
use crate::succession::HandOver;
use crate::{Event, Reply};

/// Cancel requests under way to other processes at once; whoever floods finds the way closed, and nothing else is.
pub(crate) const CANCELS_MAX: usize = 64;
/// How long another process may take to carry one out, or to reload.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Said when it has been.
pub(crate) const DONE: &str = "done\n";

impl Desk {
    /// A worker has a cancel request whose key nobody here knows.
    pub(crate) fn cancel_elsewhere(&mut self, worker: u32, ticket: u64, request: CancelRequest) {
        let others = self.run.others(self.has_own_name());
        let events = self.events.clone();
        let done = Event::Answer { worker, order: Order::CancelDone { ticket } };
        let Ok(permit) = Arc::clone(&self.cancels_out).try_acquire_owned() else {
            debug!("a cancel request finds too many under way to other processes");
            return self.event(done);
        };
        tokio::spawn(async move {
            let line = cancel_line(&request);
            for path in others {
                if let Err(error) = ask(&path, &line).await {
                    debug!(%error, path = %path.display(), "another process took no cancel request");
                }
            }
            drop(permit);
            let _ = events.send(done).await;
        });
    }

    /// Another process has a cancel request: to the worker that the key names.
    pub(crate) fn cancel_here(&mut self, request: CancelRequest, done: Reply) {
        let workers = u32::try_from(self.workers.len()).unwrap_or(u32::MAX);
        let worker = worker_of(&request.secret, workers).and_then(|worker| usize::try_from(worker).ok());
        let post = worker.and_then(|worker| self.workers.get_mut(worker)).filter(|post| !post.is_gone());
        // Without one, whoever asks hears at once that nothing came of it.
        let Some(post) = post else { return };
        self.last_ticket += 1;
        let ticket = self.last_ticket;
        self.cancels_in.retain(|_, waiting| !waiting.is_closed());
        self.cancels_in.insert(ticket, done);
        post.send(Order::Cancel { request, from: CancelFrom::Control, ticket });
    }

    /// A worker has carried it out.
    pub(crate) fn cancelled_here(&mut self, ticket: u64) {
        if let Some(done) = self.cancels_in.remove(&ticket) {
            let _ = done.send(());
        }
    }

    /// Whoever drains judges by the same rules as whoever serves: each is told to reload, and `then` is due when all
    /// have, or cannot.
    pub(crate) fn reload_siblings(&self, then: Event) {
        let others = if self.shutdown == Shutdown::No { self.run.others(true) } else { Vec::new() };
        let events = self.events.clone();
        tokio::spawn(async move {
            let asked: Vec<_> = others
                .into_iter()
                .map(|path| tokio::spawn(async move { ask(&path, "reload\n").await }))
                .collect();
            for asked in asked {
                if let Ok(Err(error)) = asked.await {
                    warn!(%error, "a process that drains could not be told to reload; it judges by older rules");
                }
            }
            let _ = events.send(then).await;
        });
    }

    /// The serving process' name is this one's: before, its predecessor has it; afterwards, its successor.
    fn has_own_name(&self) -> bool {
        self.announced && self.shutdown == Shutdown::No
    }

    /// Looks who drains, in a moment and not here: a folder may be slow.
    pub(crate) fn watch_siblings(&self) {
        let (run, events, serves) = (Arc::clone(&self.run), self.events.clone(), self.has_own_name());
        tokio::task::spawn_blocking(move || {
            if serves {
                run.sweep();
            }
            let _ = events.try_send(Event::Siblings { drainers: run.drainers() });
        });
    }

    /// Workers are told when the first comes and when the last has gone.
    pub(crate) fn siblings(&mut self, drainers: Vec<u32>) {
        let own = std::process::id();
        let drainers: Vec<u32> = drainers.into_iter().filter(|pid| *pid != own).collect();
        let any = self.shutdown != Shutdown::No || !drainers.is_empty();
        let gone: Vec<u32> = {
            let mut state = self.status.state();
            let before = std::mem::replace(&mut state.predecessors, drainers.clone());
            before.into_iter().filter(|pid| !drainers.contains(pid)).collect()
        };
        for pid in &gone {
            info!(pid, "a process that had handed over has ended");
        }
        if !gone.is_empty() {
            self.listen_again();
        }
        self.siblings_told(any);
    }

    /// A process that is killed while it waits at the sockets may take a wake-up with it into death: somebody would
    /// then wait there until the next one comes. Whoever listens anew looks first.
    fn listen_again(&mut self) {
        if self.has_own_name() && self.hand_over != HandOver::Resting {
            self.configure(|_| true, None);
        }
    }

    pub(crate) fn siblings_told(&mut self, any: bool) {
        if self.any_siblings != any {
            self.any_siblings = any;
            self.tell_all(|| Order::Siblings { any });
        }
    }
}

/// Says a line to another process and waits until it has done what the line says.
async fn ask(path: &PathBuf, line: &str) -> io::Result<()> {
    let asked = async {
        let mut stream = UnixStream::connect(path).await?;
        stream.write_all(line.as_bytes()).await?;
        let mut answer = String::new();
        stream.take(64).read_to_string(&mut answer).await?;
        if answer == DONE {
            Ok(())
        } else {
            Err(io::Error::other(format!("it says \"{}\"", answer.trim_end())))
        }
    };
    timeout(ANSWER_MAX, asked).await.map_err(|_| io::Error::other("it does not answer"))?
}

/// `cancel PROCESS SECRET CLIENT`, the secret in hexadecimal digits.
fn cancel_line(request: &CancelRequest) -> String {
    let secret: String = request.secret.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("cancel {} {secret} {}\n", request.process_id, request.client)
}

/// The other way round.
pub(crate) fn cancel_of(line: &str) -> Option<CancelRequest> {
    let mut words = line.strip_prefix("cancel ")?.split(' ');
    let (process_id, secret, client) = (words.next()?, words.next()?, words.next()?);
    let digits: Vec<u8> =
        secret.chars().map(|digit| u8::try_from(digit.to_digit(16)?).ok()).collect::<Option<_>>()?;
    let bytes = digits.chunks_exact(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit));
    let whole = digits.len().is_multiple_of(2) && words.next().is_none();
    let client: SocketAddr = client.parse().ok()?;
    whole.then_some(CancelRequest { process_id: process_id.parse().ok()?, secret: bytes.collect(), client })
}

/// Hands a cancel request from another process to the desk, and says when it is done.
pub(crate) async fn serve_cancel(
    request: CancelRequest,
    stream: &mut UnixStream,
    events: &mpsc::Sender<Event>,
) -> io::Result<()> {
    let (done, carried_out) = oneshot::channel();
    if events.send(Event::Cancel { request, done }).await.is_ok() {
        let _ = timeout(ANSWER_MAX, carried_out).await;
    }
    stream.write_all(DONE.as_bytes()).await
}

const _: () = assert!(LINE_BYTES_MAX > 2 * 256 + 100, "the longest key of the protocol has 256 bytes");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancel_request_survives_the_way() {
        for secret in [vec![], vec![0, 1, 0xfe, 0xff], vec![7; 256]] {
            for client in ["127.0.0.1:5", "[2001:db8::1]:65535"] {
                let request = CancelRequest {
                    process_id: u32::MAX,
                    secret: secret.clone(),
                    client: client.parse().unwrap(),
                };
                let line = cancel_line(&request);
                assert!(line.len() <= LINE_BYTES_MAX);
                // A key without a secret cannot be one of ours: it need not arrive.
                let arrived = cancel_of(line.trim_end());
                assert_eq!(arrived, Some(request), "{line}");
            }
        }
        for line in [
            "cancel",
            "cancel 1 0 127.0.0.1:1",
            "cancel 1 zz 127.0.0.1:1",
            "cancel 1 00 here",
            "cancel -1 00 127.0.0.1:1",
            "cancel 1 00 127.0.0.1:1 more",
            "reload",
        ] {
            assert_eq!(cancel_of(line), None, "{line}");
        }
    }
}
