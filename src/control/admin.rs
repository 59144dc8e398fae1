//! The admin port: is it alive, may clients be sent here, and its figures.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use lockgate_bridge::Counters;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::metrics;
use crate::status::{Reason, Status};

/// What requests read.
#[derive(Debug, Clone)]
pub(crate) struct Admin {
    pub status: Status,
    pub counters: Arc<[Arc<Counters>]>,
    pub started: SystemTime,
}

/// Answers on the socket until `rest` is told.
pub(crate) async fn serve(socket: TcpListener, admin: Admin, rest: Arc<Notify>) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let socket = tokio::net::TcpListener::from_std(socket)?;
    axum::serve(socket, router(admin)).with_graceful_shutdown(async move { rest.notified().await }).await
}

fn router(admin: Admin) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(figures))
        .with_state(admin)
}

/// 200: the process lives and its workers turn. 503: restart it, and why.
async fn healthz(State(admin): State<Admin>) -> impl IntoResponse {
    let ailments = admin.status.state().ailments(Instant::now());
    let code = if ailments.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let lines: Vec<String> = ailments.iter().map(|ailment| format!("{ailment}\n")).collect();
    let body = if lines.is_empty() { String::from("ok\n") } else { lines.concat() };
    typed(code, "text/plain; charset=utf-8", body)
}

/// 200: clients may be sent here. 503: they should not, and why.
async fn readyz(State(admin): State<Admin>) -> impl IntoResponse {
    let state = admin.status.state().clone();
    let obstacles = state.obstacles(Instant::now());
    let code = if obstacles.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({
        "ready": obstacles.is_empty(),
        "epoch": state.epoch,
        "reasons": listed(&obstacles),
        "warnings": listed(&state.troubles()),
    });
    typed(code, "application/json", format!("{body}\n"))
}

async fn figures(State(admin): State<Admin>) -> impl IntoResponse {
    let state = admin.status.state().clone();
    let page = metrics::page(&state, &admin.counters, admin.started);
    typed(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", page)
}

fn typed(
    code: StatusCode,
    content_type: &'static str,
    body: String,
) -> (StatusCode, [(HeaderName, &'static str); 2], String) {
    (code, [(header::CONTENT_TYPE, content_type), (header::CACHE_CONTROL, "no-store")], body)
}

fn listed(reasons: &[Reason]) -> Vec<Value> {
    reasons
        .iter()
        .map(|reason| json!({ "what": reason.what, "name": reason.name, "reason": reason.reason }))
        .collect()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    /// An admin port on a free port of loopback, and its state.
    async fn port() -> (std::net::SocketAddr, Status, Vec<Arc<Counters>>) {
        let status = Status::new(2, [String::from("orders"), String::from("a\"b")].into_iter());
        let counters: Vec<Arc<Counters>> = (0..2).map(|_| Arc::default()).collect();
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let admin =
            Admin { status: status.clone(), counters: counters.clone().into(), started: SystemTime::now() };
        tokio::spawn(serve(socket, admin, Arc::default()));
        (address, status, counters)
    }

    async fn get(address: std::net::SocketAddr, request: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let code = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (code, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    async fn reasons(address: std::net::SocketAddr) -> (u16, Vec<String>) {
        let (code, body) = get(address, "GET /readyz").await;
        let body: Value = serde_json::from_str(&body).unwrap();
        let each = |reason: &Value| {
            format!("{} {}", reason["what"].as_str().unwrap(), reason["name"].as_str().unwrap())
        };
        (code, body["reasons"].as_array().unwrap().iter().map(each).collect())
    }

    #[tokio::test]
    async fn ready_means_every_part_is() {
        let (address, status, _) = port().await;
        assert_eq!(get(address, "GET /healthz").await, (200, String::from("ok\n")));
        let all = ["worker 0", "worker 1", "target orders", "target a\"b"].map(String::from).to_vec();
        assert_eq!(reasons(address).await, (503, all));

        status.state().epoch = 3;
        for worker in 0..2 {
            status.worker(worker, |state| state.epoch = 3);
        }
        for target in 0..2 {
            status.target(target, |state| state.catalog_version = 1);
        }
        assert_eq!(reasons(address).await, (200, vec![]));

        status.target(0, |state| state.catalog_failure = Some(String::from("refused")));
        assert_eq!(reasons(address).await, (200, vec![]), "one target's trouble sends nobody away");
        assert!(get(address, "GET /readyz").await.1.contains("cannot be checked: refused"));

        status.target(0, |state| state.catalog_version = 0);
        assert_eq!(reasons(address).await, (200, vec![]), "nor does one that is not there yet");
        assert!(get(address, "GET /readyz").await.1.contains("\"reason\":\"refused\""));
        status.target(1, |state| state.catalog_version = 0);
        let none = ["target orders", "target a\"b"].map(String::from).to_vec();
        assert_eq!(reasons(address).await, (503, none), "but with none there is nothing to serve");
        status.target(0, |state| state.catalog_version = 1);

        status.worker(1, |state| state.recording = Some(String::from("disk full")));
        assert_eq!(reasons(address).await, (503, vec![String::from("recording 1")]));
        status.worker(1, |state| state.recording = None);
        status.worker(0, |state| state.stopped = true);
        assert_eq!(reasons(address).await, (503, vec![String::from("worker 0")]));
        assert_eq!(get(address, "GET /healthz").await, (503, String::from("worker 0: it has stopped\n")));
        status.state().draining = true;
        assert_eq!(reasons(address).await, (503, vec![String::from("gateway ")]));
    }

    #[tokio::test]
    async fn healthy_means_that_everybody_turns() {
        let (address, status, _) = port().await;
        let healthy = async || get(address, "GET /healthz").await;
        let (now, long) = (Instant::now(), std::time::Duration::from_secs(7));
        status.worker(1, |state| state.asked = Some(now));
        assert_eq!(healthy().await, (200, String::from("ok\n")), "it has some time to answer");
        status.worker(1, |state| state.asked = now.checked_sub(long));
        assert_eq!(healthy().await, (503, String::from("worker 1: it has not turned for 7 s\n")));
        status.worker(1, |state| state.asked = None);
        status.worker(0, |state| state.failed = Some(String::from("it panicked")));
        assert_eq!(healthy().await, (503, String::from("worker 0: it has failed: it panicked\n")));
        status.worker(0, |state| state.failed = None);
        status.state().looked_after = now.checked_sub(long);
        assert_eq!(healthy().await, (503, String::from("gateway: control has not turned for 7 s\n")));
        status.state().looked_after = Some(Instant::now());
        assert_eq!(healthy().await.0, 200);
        status.state().draining = true;
        status.worker(0, |state| state.stopped = true);
        assert_eq!(healthy().await.0, 200, "whoever shuts down is well");
    }

    #[tokio::test]
    async fn a_refused_reload_and_a_predecessor_are_told_and_send_nobody_away() {
        let (address, status, _) = port().await;
        status.state().reloads.mistakes = Some(2);
        status.state().predecessors = vec![4711];
        let page = get(address, "GET /readyz").await.1;
        assert!(page.contains("refused for 2 mistakes") && page.contains("\"name\":\"4711\""), "{page}");
        assert!(reasons(address).await.1.iter().all(|reason| !reason.starts_with("configuration")));
        let figures = get(address, "GET /metrics").await.1;
        assert!(figures.contains("lockgate_last_reload_successful 0"), "{figures}");
    }

    #[test]
    fn a_worker_that_lags_is_told_after_a_while() {
        let status = Status::new(1, std::iter::empty());
        status.state().epoch = 2;
        status.worker(0, |state| state.epoch = 1);
        let mut state = status.state().clone();
        assert_eq!(state.obstacles(state.published).len(), 0);
        let later = state.published + std::time::Duration::from_secs(6);
        state.looked_after = Some(later);
        assert_eq!(state.obstacles(later)[0].reason, "it judges by epoch 1, and 2 was published");
    }

    #[tokio::test]
    async fn figures_are_prometheus_text() {
        let (address, status, counters) = port().await;
        counters[1].commands.add(42);
        counters[0].epoch.set(3);
        status.target(1, |state| state.catalog_version = 2);
        let (code, page) = get(address, "GET /metrics").await;
        assert_eq!(code, 200);
        for line in [
            "# TYPE lockgate_commands_total counter",
            "lockgate_commands_total{worker=\"0\"} 0",
            "lockgate_commands_total{worker=\"1\"} 42",
            "lockgate_epoch{worker=\"0\"} 3",
            "lockgate_target_up{target=\"orders\"} 0",
            "lockgate_target_up{target=\"a\\\"b\"} 1",
            "lockgate_target_catalog_version{target=\"a\\\"b\"} 2",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
        }
        let mut announced = std::collections::HashSet::new();
        for line in page.lines().filter(|line| line.starts_with("# TYPE ")) {
            assert!(announced.insert(line), "{line} stands twice");
        }
    }

    #[tokio::test]
    async fn what_is_not_there() {
        let (address, ..) = port().await;
        assert_eq!(get(address, "GET /").await.0, 404);
        assert_eq!(get(address, "POST /metrics").await.0, 405);
    }
}
