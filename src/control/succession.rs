//! The end of a serving process that another one takes over from, and the beginning of one that takes over.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lockgate_bridge::{Ending, Order};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::{error, info, warn};

use crate::admin::{self, Admin};
use crate::desk::{Desk, Shutdown};
use crate::doors::{self, Door};
use crate::handover::{
    self, FAREWELL, FAREWELL_RELOAD, GIVEN, Item, LINE_BYTES_MAX, NO, READY, SERVING, TAKE_OVER, YOURS,
};
use crate::systemd::Notifier;
use crate::{Event, Reply, siblings};

/// How long a replacement may take until it stands: catalogs to be read, segments to be written, recordings recovered.
const READY_MAX: Duration = Duration::from_secs(600);
/// How long it may take to accept, with everything standing.
const SERVING_MAX: Duration = Duration::from_secs(30);
/// How long workers may take to stop accepting.
const REST_MAX: Duration = Duration::from_secs(10);
/// How long anybody may take to say what it wants.
const WORD_MAX: Duration = Duration::from_secs(10);

/// Something for a successor.
pub(crate) type Gift = (Item, OwnedFd);

/// A process that asks for them, or hears why not.
pub(crate) type Asker = oneshot::Sender<Result<Vec<Gift>, String>>;

/// How far a hand-over has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum HandOver {
    No,
    /// A process prepares to take over; this one serves.
    Asked,
    /// It stands; this one accepts no more.
    Resting,
    /// It serves.
    Done,
}

impl Desk {
    pub(crate) fn is_handing_over(&self) -> bool {
        matches!(self.hand_over, HandOver::Asked | HandOver::Resting)
    }

    /// Tells every worker what to work under, and sockets of the doors that `fresh` names. `done` hears when all do,
    /// and is dropped where one cannot be told.
    pub(crate) fn configure(&mut self, fresh: impl Fn(&Door) -> bool, done: Option<Reply>) {
        let workers = self.workers.len();
        // Answers to what was said before may still be due, and come first.
        let (mut due, before) = std::mem::take(&mut self.unconfigured);
        let mut done = done.or(before);
        for (index, worker) in self.workers.iter_mut().enumerate() {
            match doors::settings(&self.doors, &self.work, (index, workers), &fresh) {
                Ok(settings) => {
                    worker.send(Order::Configure(Box::new(settings)));
                    due += 1;
                }
                // Out of descriptors: the worker goes on as it was.
                Err(error) => {
                    error!(worker = index, %error, "the worker could not be given its listeners");
                    done = None;
                }
            }
        }
        self.unconfigured = (due, done);
    }

    /// A worker has taken what it was told.
    pub(crate) fn configured(&mut self) {
        self.unconfigured.0 = self.unconfigured.0.saturating_sub(1);
        if self.unconfigured.0 == 0
            && let Some(done) = self.unconfigured.1.take()
        {
            let _ = done.send(());
        }
    }

    /// Accepts clients from now on, unless this process is to end: then `done` is dropped.
    pub(crate) fn open(&mut self, doors: Vec<Door>, admin: Option<TcpListener>, done: Reply) {
        if self.shutdown != Shutdown::No {
            return;
        }
        // Cancel requests of the predecessor's clients come in here from now on.
        self.siblings_told(true);
        self.doors = doors;
        self.configure(|_| true, Some(done));
        if let Some(socket) = admin {
            self.serve_admin(socket);
        }
    }

    /// Answers on the admin port, whose socket is kept for a successor.
    pub(crate) fn serve_admin(&mut self, socket: TcpListener) {
        self.admin =
            socket.try_clone().map_err(|error| error!(%error, "the admin port cannot be handed over")).ok();
        let counters = self.workers.iter().map(|worker| Arc::clone(&worker.link.counters)).collect();
        let admin = Admin { status: self.status.clone(), counters, started: SystemTime::now() };
        let rest = Arc::clone(&self.admin_rest);
        tokio::spawn(async move {
            if let Err(error) = admin::serve(socket, admin, rest).await {
                error!(%error, "the admin port has failed; sessions go on");
            }
        });
    }

    /// This process serves. `done` hears when whoever drains judges by the configuration that was read here.
    pub(crate) fn announce(&mut self, predecessor: Option<u32>, done: oneshot::Sender<io::Result<()>>) {
        self.run.sweep();
        let listening = self.run.serve(predecessor).and_then(|socket| answer(socket, self.events.clone()));
        match listening {
            Ok(listening) => {
                tokio::spawn(listening);
                self.announced = true;
                // It counts as long as it is there; of one that is dead already its end is noticed next.
                self.status.state().predecessors = predecessor.into_iter().collect();
                self.siblings_told(predecessor.is_some());
                self.reload_siblings(Event::Announced { done });
            }
            Err(error) => drop(done.send(Err(error))),
        }
    }

    /// Starts a process that is to take over.
    pub(crate) fn start_successor(&self) {
        if let Err(reason) = self.may_be_followed() {
            return warn!("no process is started to take over: {reason}");
        }
        info!("starting another process to take over");
        let (host, events) = (Arc::clone(&self.host), self.events.clone());
        spawn_blocking(move || match host.start_successor() {
            Ok(pid) => info!(pid, "started; it takes over when it stands"),
            Err(error) => {
                let _ = events.blocking_send(Event::SuccessorFailed { error: error.to_string() });
            }
        });
    }

    fn may_be_followed(&self) -> Result<(), &'static str> {
        if self.shutdown != Shutdown::No {
            return Err("it drains already");
        }
        if self.hand_over != HandOver::No || self.asker.is_some() {
            return Err("it hands over to another process already");
        }
        Ok(())
    }

    /// A process asks for all that it takes to serve in this one's place. A reload that is under way comes first: what
    /// it brings is handed over, too.
    pub(crate) fn asked_to_give(&mut self, asker: Asker) {
        match self.may_be_followed() {
            Err(reason) => drop(asker.send(Err(reason.to_owned()))),
            Ok(()) if self.reloading.is_some() => self.asker = Some(asker),
            Ok(()) => drop(asker.send(self.give())),
        }
    }

    fn give(&mut self) -> Result<Vec<Gift>, String> {
        let gifts = self.gifts().map_err(|error| format!("its sockets cannot be duplicated: {error}"))?;
        info!("another process prepares to take over");
        self.hand_over = HandOver::Asked;
        Ok(gifts)
    }

    fn gifts(&self) -> io::Result<Vec<Gift>> {
        let mut gifts = vec![(
            Item::Lock,
            OwnedFd::from(self.lock.as_ref().ok_or(io::ErrorKind::NotFound)?.try_clone()?),
        )];
        if let Some(admin) = &self.admin {
            gifts.push((Item::Admin, admin.try_clone()?.into()));
        }
        for door in &self.doors {
            for socket in &door.sockets {
                gifts.push((Item::Listener(door.bind), socket.try_clone()?.into()));
            }
        }
        Ok(gifts)
    }

    /// A reload is over for which somebody waited.
    pub(crate) fn give_after_reload(&mut self) {
        if let Some(asker) = self.asker.take() {
            self.asked_to_give(asker);
        }
    }

    /// The other process stands: whoever comes now waits for it at the sockets.
    pub(crate) fn rest(&mut self, done: Reply) {
        if self.hand_over == HandOver::Asked {
            self.hand_over = HandOver::Resting;
            let doors = std::mem::take(&mut self.doors);
            self.configure(|_| false, Some(done));
            self.doors = doors;
        }
    }

    /// It will not take over: everything is as it was.
    pub(crate) fn not_handed_over(&mut self, reason: &str) {
        let before = std::mem::replace(&mut self.hand_over, HandOver::No);
        warn!(reason, "the other process has not taken over; this one goes on");
        if self.shutdown != Shutdown::No {
            return self.doors.clear();
        }
        if self.end_due {
            return self.drain();
        }
        if before == HandOver::Resting {
            self.configure(|_| true, None);
        }
        if std::mem::take(&mut self.reload_due) {
            self.reload("asked while another process was to take over");
        }
    }

    /// It serves. What is left here ends by itself. Whether the other one is to reload: what it has read may be older
    /// than what this one was asked to read.
    pub(crate) fn handed_over(&mut self, pid: u32) -> bool {
        self.hand_over = HandOver::Done;
        let timeout = self.handover_timeout;
        info!(pid, seconds = timeout.as_secs(), "handed over; sessions here go on until their clients leave");
        // Before the other process says that it is ready: only the main process is listened to.
        self.notifier.say(&format!("MAINPID={pid}"));
        self.notifier = Notifier::silent();
        self.admin_rest.notify_one();
        self.admin = None;
        self.doors.clear();
        self.lock = None;
        self.status.state().draining = true;
        self.siblings_told(true);
        if self.shutdown == Shutdown::No {
            self.shutdown = Shutdown::HandedOver;
            let deadline_ns = self.deadline_ns(timeout);
            self.tell_all(|| Order::Drain { deadline_ns, ending: Ending::ByThemselves });
        }
        if self.end_due {
            self.drain();
        }
        std::mem::take(&mut self.reload_due)
    }
}

/// Answers other processes of this gateway for ever.
fn answer(listener: UnixListener, events: mpsc::Sender<Event>) -> io::Result<impl Future<Output = ()>> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::UnixListener::from_std(listener)?;
    Ok(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    tokio::spawn(converse(stream, events.clone()));
                }
                Err(error) => {
                    warn!(%error, "another process of this gateway could not be heard");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    })
}

async fn converse(mut stream: UnixStream, events: mpsc::Sender<Event>) {
    if let Err(error) = conversation(&mut stream, &events).await {
        warn!(%error, "a conversation with another process has failed");
    }
}

async fn conversation(stream: &mut UnixStream, events: &mpsc::Sender<Event>) -> io::Result<()> {
    // The folder is private already; a descriptor that was passed on may not be.
    let peer = stream.peer_cred()?;
    if peer.uid() != 0 && peer.uid() != own_user()? {
        return Err(io::Error::other(format!("user {} may not ask for anything", peer.uid())));
    }
    let line = match hear(stream, WORD_MAX).await {
        // It only wanted to know whether somebody is here.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
        heard => heard?,
    };
    if line == TAKE_OVER {
        let pid = peer.pid().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0);
        return give_over(stream, pid, events).await;
    }
    if let Some(request) = siblings::cancel_of(&line) {
        return siblings::serve_cancel(request, stream, events).await;
    }
    if line == "reload" {
        let (done, reloaded) = oneshot::channel();
        let why = "another process of this gateway has";
        let _ = events.send(Event::Reload { why, done: Some(done) }).await;
        let _ = reloaded.await;
        return stream.write_all(siblings::DONE.as_bytes()).await;
    }
    stream
        .write_all(
            format!("{NO}this is not understood; both must be of versions that know each other\n").as_bytes(),
        )
        .await
}

/// The predecessor's side of a hand-over.
async fn give_over(stream: &mut UnixStream, pid: u32, events: &mpsc::Sender<Event>) -> io::Result<()> {
    let (reply, given) = oneshot::channel();
    let _ = events.send(Event::TakeOver { reply }).await;
    let gifts = match given.await {
        Ok(Ok(gifts)) => gifts,
        Ok(Err(reason)) => return stream.write_all(format!("{NO}{reason}\n").as_bytes()).await,
        Err(_) => return Ok(()),
    };
    if let Err(error) = given_over(stream, pid, gifts, events).await {
        let _ = events.send(Event::NotHandedOver { reason: error.to_string() }).await;
        // So that it does not take the silence for this process' death.
        let _ = stream.write_all(format!("{NO}{error}\n").as_bytes()).await;
    }
    Ok(())
}

async fn given_over(
    stream: &mut UnixStream,
    pid: u32,
    gifts: Vec<Gift>,
    events: &mpsc::Sender<Event>,
) -> io::Result<()> {
    for (item, descriptor) in &gifts {
        stream.async_io(Interest::WRITABLE, || handover::give(&*stream, *item, descriptor.as_fd())).await?;
    }
    drop(gifts);
    stream.write_all(format!("{GIVEN}\n").as_bytes()).await?;
    expect(stream, READY, READY_MAX).await?;
    let (done, rested) = oneshot::channel();
    let _ = events.send(Event::Rest { done }).await;
    match timeout(REST_MAX, rested).await {
        Ok(Ok(())) => {}
        _ => return Err(io::Error::other("the workers here do not stop accepting")),
    }
    stream.write_all(format!("{YOURS}\n").as_bytes()).await?;
    expect(stream, SERVING, SERVING_MAX).await?;
    let (done, let_go) = oneshot::channel();
    let _ = events.send(Event::HandedOver { pid, done }).await;
    let word = if let_go.await.unwrap_or(false) { FAREWELL_RELOAD } else { FAREWELL };
    // It serves already: that it has not heard this is its own affair.
    let _ = stream.write_all(format!("{word}\n").as_bytes()).await;
    Ok(())
}

async fn expect(stream: &mut UnixStream, word: &str, within: Duration) -> io::Result<()> {
    let line = hear(stream, within).await?;
    if line == word {
        return Ok(());
    }
    Err(io::Error::other(format!("it says \"{}\" instead of \"{word}\"", line.escape_default())))
}

/// One line. Whoever speaks waits for the answer, so that nothing follows it.
async fn hear(stream: &mut UnixStream, within: Duration) -> io::Result<String> {
    let read = async {
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            if line.len() > LINE_BYTES_MAX {
                return Err(io::Error::other("it says more than can be meant"));
            }
            let mut bytes = [0; LINE_BYTES_MAX];
            let got = stream.read(&mut bytes).await?;
            if got == 0 {
                return Err(handover::ended());
            }
            line.extend_from_slice(bytes.get(..got).unwrap_or_default());
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    };
    timeout(within, read).await.map_err(|_| io::Error::other("it does not answer in time"))?
}

fn own_user() -> io::Result<u32> {
    use std::os::unix::fs::MetadataExt as _;
    Ok(std::fs::metadata("/proc/self")?.uid())
}
