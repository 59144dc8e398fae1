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

use crate::metrics;
use crate::status::{Reason, Status};

/// What requests read.
#[derive(Debug, Clone)]
pub(crate) struct Admin {
    pub status: Status,
    pub counters: Arc<[Arc<Counters>]>,
    pub started: SystemTime,
}

/// Answers on the socket for ever.
pub(crate) async fn serve(socket: TcpListener, admin: Admin) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let socket = tokio::net::TcpListener::from_std(socket)?;
    axum::serve(socket, router(admin)).await
}

fn router(admin: Admin) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(figures))
        .with_state(admin)
}

/// The process answers: nothing more.
async fn healthz() -> impl IntoResponse {
    typed(StatusCode::OK, "text/plain; charset=utf-8", String::from("ok\n"))
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
