//! Whether everybody turns: workers are asked again and again, and the service manager hears of it.

use std::time::{Duration, Instant};

use lockgate_bridge::Order;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::desk::Desk;
use crate::systemd::Notifier;

/// How often workers are asked at most: often enough that whoever is stuck is known within seconds, seldom enough that
/// it costs an idle gateway nothing.
const PULSE: Duration = Duration::from_secs(1);

/// How often health is looked at: the manager's watchdog wants to hear of it twice in its time.
pub(crate) fn pulse(notifier: &Notifier) -> Interval {
    let watchdog = notifier.watchdog().map_or(PULSE, |watchdog| watchdog / 3);
    let mut pulse = interval(PULSE.min(watchdog).max(Duration::from_millis(1)));
    pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pulse
}

impl Desk {
    /// Asks every worker that owes no answer, and tells the service manager that all is well if it is.
    pub(crate) fn look_after(&mut self) {
        let now = Instant::now();
        self.pings += 1;
        let number = self.pings;
        let mut due = Vec::new();
        let well = {
            let mut state = self.status.state();
            state.looked_after = Some(now);
            for (index, worker) in state.workers.iter_mut().enumerate() {
                if worker.asked.is_none() && !worker.stopped && worker.failed.is_none() {
                    worker.asked = Some(now);
                    due.push(index);
                }
            }
            state.ailments(now).is_empty()
        };
        for index in due {
            if let Some(worker) = self.workers.get_mut(index) {
                worker.send(Order::Ping { number });
            }
        }
        if well && self.notifier.watchdog().is_some() {
            self.notifier.say("WATCHDOG=1");
        }
        self.watch_siblings();
    }
}
