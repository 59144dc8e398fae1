//! Target names to addresses, again and again: workers never resolve.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::Event;

/// Time between two look-ups of a name.
const AGAIN: Duration = Duration::from_secs(30);
/// Time before a look-up that failed is tried again.
const AGAIN_FAILED: Duration = Duration::from_secs(2);
/// Time that one look-up gets.
const LOOKUP_MAX: Duration = Duration::from_secs(10);
/// Most addresses of one name that are kept.
const ADDRESSES_MAX: usize = 16;

/// The address of a host that is one already.
pub(crate) fn literal(host: &str, port: u16) -> Option<SocketAddr> {
    host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, port))
}

/// Resolves the name of one of a target's hosts for ever; ends when nobody listens any more.
pub(crate) async fn watch(target: usize, host: usize, name: String, port: u16, events: mpsc::Sender<Event>) {
    loop {
        let looked_up = timeout(LOOKUP_MAX, lookup_host((name.as_str(), port))).await;
        let (event, pause) =
            match looked_up.map(|found| found.map(|found| found.take(ADDRESSES_MAX).collect::<Vec<_>>())) {
                Ok(Ok(addresses)) if !addresses.is_empty() => {
                    (Event::Addresses { target, host, addresses }, AGAIN)
                }
                Ok(Ok(_)) => (failed(target, host, &name, "it has no address"), AGAIN_FAILED),
                Ok(Err(error)) => (failed(target, host, &name, &error.to_string()), AGAIN_FAILED),
                Err(_) => (failed(target, host, &name, "no answer"), AGAIN_FAILED),
            };
        if events.send(event).await.is_err() {
            return;
        }
        sleep(pause).await;
    }
}

fn failed(target: usize, host: usize, name: &str, reason: &str) -> Event {
    Event::AddressesFailed { target, host, error: format!("\"{name}\" cannot be resolved: {reason}") }
}
