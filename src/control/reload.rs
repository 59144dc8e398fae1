//! SIGHUP: everything that may change in a running gateway changes at once, or nothing does.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::desk::{Desk, FIRST_CATALOGS_MAX, Shutdown, Watched};
use crate::doors::{Door, Work};
use crate::identity::{self, User};
use crate::recordings::Place;
use crate::status::Status;
use crate::{Event, Policies, TargetHost, TargetSetup, UserSetup, catalog, resolve};

/// What control asks of the binary around it.
pub trait Host: Send + Sync {
    /// Loads configuration and policies anew, and binds what listeners are not among `held`; none at all where nothing
    /// can be held any more. Blocks.
    ///
    /// # Errors
    /// Every mistake there is; then nothing has changed.
    fn reload(&self, held: Option<&[SocketAddr]>) -> Result<Reload, Vec<String>>;

    /// Starts this program once more, to take over from this process. Blocks for a moment.
    ///
    /// # Errors
    /// It could not be started.
    fn start_successor(&self) -> io::Result<u32>;
}

/// A configuration that was loaded anew.
#[derive(Debug)]
pub struct Reload {
    /// As in [`Setup`](crate::Setup).
    pub targets: Vec<TargetSetup>,
    /// As in [`Setup`](crate::Setup).
    pub users: Vec<UserSetup>,
    /// As in [`Setup`](crate::Setup).
    pub policies: Policies,
    /// Every listener; without sockets those that are held already.
    pub doors: Vec<Door>,
    /// As in [`Setup`](crate::Setup).
    pub work: Work,
    /// As in [`Setup`](crate::Setup).
    pub segment_bytes: u64,
    /// As in [`Setup`](crate::Setup).
    pub drain_timeout: Duration,
    /// As in [`Setup`](crate::Setup).
    pub handover_timeout: Duration,
    /// What is odd about it.
    pub warnings: Vec<String>,
    /// What is not as it was.
    pub changes: Vec<String>,
    /// What is not as it was, and cannot change in a running process.
    pub fixed: Vec<String>,
}

/// A reload whose passwords have been derived.
#[derive(Debug)]
pub(crate) struct Derived {
    reload: Reload,
    users: Vec<User>,
}

/// A reload under way.
#[derive(Debug)]
pub(crate) struct Reloading {
    /// Another one was asked for meanwhile.
    again: bool,
    /// New targets whose catalogs are being read, and how long they are waited for.
    catalogs: Option<(HashSet<usize>, Instant)>,
    changes: Vec<String>,
}

impl Desk {
    /// Begins a reload, or notes that another one is due.
    pub(crate) fn reload(&mut self, why: &str) {
        info!(why, "reloading");
        if self.shutdown == Shutdown::Stopping {
            self.reload_waiters.clear();
            return warn!("not reloaded: every session is being cut");
        }
        if self.is_handing_over() || !self.announced {
            self.reload_due = true;
            return info!(
                "a process is about to take over: the reload comes when it serves, or has failed to"
            );
        }
        if let Some(reloading) = &mut self.reloading {
            reloading.again = true;
            return;
        }
        self.reloading = Some(Reloading { again: false, catalogs: None, changes: Vec::new() });
        self.notifier.reloading();
        let serves = self.shutdown == Shutdown::No;
        let held = serves.then(|| self.doors.iter().map(|door| door.bind).collect::<Vec<_>>());
        let (host, events) = (Arc::clone(&self.host), self.events.clone());
        tokio::spawn(async move {
            let loaded = spawn_blocking(move || load(&*host, held.as_deref())).await;
            let died = |_| Err(vec![String::from("the thread that loaded the configuration died")]);
            let _ = events.send(Event::Reloaded(loaded.unwrap_or_else(died))).await;
        });
    }

    /// The configuration is there, or is refused.
    pub(crate) fn reloaded(&mut self, loaded: Result<Box<Derived>, Vec<String>>) {
        match loaded {
            Ok(derived) => self.apply(*derived),
            Err(mistakes) => {
                for mistake in &mistakes {
                    error!(mistake, "the reload is refused");
                }
                let count = mistakes.len();
                error!(mistakes = count, "nothing has changed: correct the configuration and reload again");
                let mut state = self.status.state();
                state.reloads.refused += 1;
                state.reloads.mistakes = Some(count);
                drop(state);
                let mistakes = if count == 1 { "a mistake" } else { "mistakes" };
                self.reload_ended(&format!("the last reload was refused for {mistakes}; see the log"));
            }
        }
    }

    fn apply(&mut self, derived: Derived) {
        let Derived { reload, users } = derived;
        reload.warnings.iter().for_each(|warning| warn!("{warning}"));
        for key in &reload.fixed {
            warn!(
                key,
                "this cannot change in a running process: restart the gateway, or hand over to another"
            );
        }
        self.drain_timeout = reload.drain_timeout;
        self.handover_timeout = reload.handover_timeout;
        self.place = Arc::new(Place {
            root: self.place.root.clone(),
            series: self.place.series.clone(),
            segment_bytes: reload.segment_bytes,
        });
        self.work = reload.work;
        self.rehang(reload.doors);
        let (targets, new) = self.retarget(reload.targets);
        self.status.retarget(targets.iter().map(|(id, setup)| (*id, setup.target.name.clone())));
        self.watched.iter().for_each(|target| target.count_literals(&self.status));
        self.publisher.stage(users, reload.policies, targets);
        if let Some(reloading) = &mut self.reloading {
            reloading.changes = reload.changes;
            reloading.catalogs = Some((new, Instant::now() + FIRST_CATALOGS_MAX));
        }
        self.finish_reload();
    }

    /// Gives the workers other doors. A process that has handed over has none, and gets none.
    fn rehang(&mut self, wanted: Vec<Door>) {
        if self.shutdown == Shutdown::No {
            let mut held = std::mem::take(&mut self.doors);
            let mut fresh = HashSet::new();
            for mut door in wanted {
                match held.iter().position(|held| held.bind == door.bind) {
                    Some(at) if door.sockets.is_empty() => door.sockets = held.remove(at).sockets,
                    _ => {
                        fresh.insert(door.bind);
                    }
                }
                self.doors.push(door);
            }
            for door in &held {
                info!(bind = %door.bind, "no longer listening");
            }
            self.configure(|door| fresh.contains(&door.bind), None);
        }
    }

    /// Every target with its id, and the ids of those that are new. A target stays what it is while its name, its
    /// addresses and its database do: what was read of it holds, and its sessions go on.
    fn retarget(&mut self, setups: Vec<TargetSetup>) -> (Vec<(usize, TargetSetup)>, HashSet<usize>) {
        let mut before = std::mem::take(&mut self.watched);
        let (mut all, mut new) = (Vec::with_capacity(setups.len()), HashSet::new());
        for setup in setups {
            let known = before.iter().position(|watched| is_same(&watched.setup.borrow(), &setup));
            let watched = match known {
                Some(at) => before.swap_remove(at),
                None => {
                    self.last_target += 1;
                    new.insert(self.last_target);
                    Watched::begin(self.last_target, setup.clone(), &self.events)
                }
            };
            watched.setup.send_replace(setup.clone());
            all.push((watched.id, setup));
            self.watched.push(watched);
        }
        (all, new)
    }

    /// Lets the staged configuration hold when the new targets' catalogs are there, or have been waited for.
    pub(crate) fn finish_reload(&mut self) {
        let Some(Reloading { catalogs: Some((missing, deadline)), changes, .. }) = &self.reloading else {
            return;
        };
        if !missing.is_empty() && Instant::now() < *deadline {
            return;
        }
        match changes.is_empty() {
            true => info!(
                "reloaded; the configuration says what it said, and certificates and revocation lists were read again"
            ),
            false => info!(changes = changes.join("; "), "reloaded"),
        }
        self.publisher.adopt_staged();
        if let Some(reloading) = &mut self.reloading {
            reloading.catalogs = None;
        }
        self.reload_siblings(Event::ReloadedEverywhere);
    }

    /// Whoever drains has reloaded, too.
    pub(crate) fn reloaded_everywhere(&mut self) {
        let mut state = self.status.state();
        state.reloads.done += 1;
        state.reloads.mistakes = None;
        drop(state);
        self.reload_ended("serving");
    }

    /// When the catalogs of new targets have been waited for long enough.
    pub(crate) fn reload_deadline(&self) -> Option<Instant> {
        Some(self.reloading.as_ref()?.catalogs.as_ref()?.1)
    }

    /// Something has been heard of a target.
    pub(crate) fn heard_of(&mut self, target: usize) {
        self.waiting.remove(&target);
        if let Some(Reloading { catalogs: Some((missing, _)), .. }) = &mut self.reloading {
            missing.remove(&target);
        }
    }

    fn reload_ended(&mut self, status: &str) {
        self.notifier.say(&format!("READY=1\nSTATUS={status}"));
        if self.reloading.take().is_some_and(|reloading| reloading.again) {
            return self.reload("asked again meanwhile");
        }
        for waiter in self.reload_waiters.drain(..) {
            let _ = waiter.send(());
        }
        self.give_after_reload();
    }
}

fn load(host: &dyn Host, held: Option<&[SocketAddr]>) -> Result<Box<Derived>, Vec<String>> {
    let mut reload = host.reload(held)?;
    let users = identity::derive(std::mem::take(&mut reload.users))
        .map_err(|_| vec![String::from("the operating system gives no random numbers")])?;
    Ok(Box::new(Derived { reload, users }))
}

fn is_same(before: &TargetSetup, now: &TargetSetup) -> bool {
    before.target.name == now.target.name
        && addresses(before).eq(addresses(now))
        && before.target.database == now.target.database
}

fn addresses(setup: &TargetSetup) -> impl Iterator<Item = (&str, u16)> {
    setup.hosts.iter().map(|host| (host.name.as_str(), host.port))
}

impl Watched {
    /// Notes those of its hosts that are addresses already, and not names.
    pub(crate) fn count_literals(&self, status: &Status) {
        let setup = self.setup.borrow();
        let literal = |(_, host): &(usize, &TargetHost)| resolve::literal(&host.name, host.port).is_some();
        status.target(self.id, |state| {
            setup.hosts.iter().enumerate().filter(literal).for_each(|(place, _)| state.resolved(place, 1));
        });
    }

    /// Begins to read a target's catalog and to resolve its names.
    pub(crate) fn begin(id: usize, setup: TargetSetup, events: &tokio::sync::mpsc::Sender<Event>) -> Watched {
        let mut tasks = Vec::new();
        for (place, host) in setup.hosts.iter().enumerate() {
            if resolve::literal(&host.name, host.port).is_none() {
                let resolving = resolve::watch(id, place, host.name.clone(), host.port, events.clone());
                tasks.push(tokio::spawn(resolving));
            }
        }
        let (setup, setups) = watch::channel(setup);
        tasks.push(tokio::spawn(catalog::watch(id, setups, events.clone())));
        Watched { id, setup, tasks }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
