//! PostgreSQL, protocols 3.0 and 3.2.
use crate::{Answer, Grant, Judge, Opening, Outbox, Side, Standing};
use lockgate_recording::Time;
use std::net::SocketAddr;
use std::sync::Arc;

/// The conversation.
#[derive(Debug)]
pub struct Lane {}
#[expect(unused_variables, missing_docs, reason = "contract only")]
impl Lane {
    pub fn new(opening: Opening) -> Lane {
        Lane {}
    }
    pub fn receive(&mut self, side: Side, input: &mut [u8], now: Time, judge: &mut Judge, out: &mut Outbox) {}
    pub fn answer(&mut self, answer: Answer, now: Time, judge: &mut Judge, out: &mut Outbox) {}
    pub fn closed(&mut self, side: Side, error: &str, now: Time, out: &mut Outbox) {}
    pub fn deadline_ns(&self) -> Option<u64> {
        None
    }
    pub fn expire(&mut self, now: Time, out: &mut Outbox) {}
    pub fn adopt(&mut self, standing: Arc<Standing>) {}
    pub fn cancel_requested(&mut self, client: SocketAddr, now: Time, out: &mut Outbox) {}
    pub fn terminate(&mut self, sqlstate: &str, message: &str, now: Time, out: &mut Outbox) {}
    pub fn is_idle(&self) -> bool {
        true
    }
    pub fn grant(&self) -> Option<&Grant> {
        None
    }
}
