//! monoio as this tool wants it: io_uring where it is allowed and epoll where it is not, and timers of nanoseconds.

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use monoio::time::TimeDriver;
use monoio::{FusionDriver, FusionRuntime, IoUringDriver, LegacyDriver, RuntimeBuilder};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

type Runtime = FusionRuntime<TimeDriver<IoUringDriver>, TimeDriver<LegacyDriver>>;

/// Runs a future to its end on this thread.
pub fn block_on<F: Future>(future: F) -> io::Result<F::Output> {
    Ok(runtime()?.block_on(future))
}

/// Completions are worked off where they are waited for, and not in interrupts of whatever runs: a third of a relay's
/// speed. Kernels before 6.1 know nothing of it.
fn runtime() -> io::Result<Runtime> {
    let mut flags = monoio_uring::IoUring::builder();
    flags.setup_single_issuer().setup_defer_taskrun();
    let wanted = RuntimeBuilder::<FusionDriver>::new().uring_builder(flags).enable_timer().build();
    wanted.or_else(|_| RuntimeBuilder::<FusionDriver>::new().enable_timer().build())
}

/// Wakes one task at instants, to the microsecond: monoio's own timers know milliseconds.
#[derive(Debug)]
pub struct Alarm {
    timer: OwnedFd,
    readiness: monoio::net::TcpStream,
}

impl Alarm {
    /// One that is not set.
    pub fn new() -> io::Result<Alarm> {
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        // monoio polls nothing but sockets, and does not look closely: of this one nothing but readiness is asked.
        let readiness = monoio::net::TcpStream::from_std(timer.try_clone()?.into())?;
        Ok(Alarm { timer, readiness })
    }

    /// Comes back at that instant, or at once where it is past.
    pub async fn until(&self, instant: Instant) -> io::Result<()> {
        let wait = instant.saturating_duration_since(Instant::now());
        if wait.is_zero() {
            return Ok(());
        }
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once(wait))?;
        self.readiness.readable(false).await
    }
}

fn once(wait: Duration) -> Itimerspec {
    let value = Timespec {
        tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(wait.subsec_nanos()),
    };
    Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value }
}
