//! What a worker counts. One writer, its worker; control reads. Relaxed throughout: each figure stands alone.

use std::sync::atomic::{AtomicU64, Ordering};

/// One figure.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; only the owning worker does.
    pub fn add(&self, amount: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }
    /// Sets a gauge; only the owning worker does.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
    /// The figure now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Declares the table: field, metric kind, help text. `/metrics` prints it row by row, so a figure cannot be
/// counted and not shown.
macro_rules! counters {
    ($($field:ident $kind:literal $help:literal),* $(,)?) => {
        /// One worker's figures.
        #[derive(Debug, Default)]
        pub struct Counters { $(#[doc = $help] pub $field: Counter),* }
        impl Counters {
            /// Every figure: name, Prometheus kind, help, value.
            pub fn rows(&self) -> Vec<(&'static str, &'static str, &'static str, u64)> {
                vec![$((stringify!($field), $kind, $help, self.$field.get())),*]
            }
        }
    };
}

counters! {
    connections_accepted "counter" "Client connections accepted.",
    connections_refused "counter" "Client connections closed before a lane saw them (limits).",
    sessions_opened "counter" "Sessions authenticated and connected to their target.",
    sessions_open "gauge" "Sessions now.",
    sessions_failed "counter" "Connections that ended before a session stood.",
    sessions_waiting "gauge" "Sessions that wait because their target has as many as it may.",
    sessions_over_limit "counter" "Sessions refused because their target or identity has as many as it may.",
    commands "counter" "Commands judged.",
    commands_denied "counter" "Commands that policy denied.",
    cells_masked "counter" "Cells masked.",
    bytes_from_clients "counter" "Plaintext bytes received from clients.",
    bytes_to_clients "counter" "Plaintext bytes sent to clients.",
    cancels "counter" "Cancel requests received.",
    turns "counter" "Turns of the loop.",
    sleeps "counter" "Turns that slept until something came.",
    facts_hits "counter" "Statements found in the cache of facts.",
    facts_misses "counter" "Statements parsed.",
    recording_bytes "counter" "Bytes of recording written.",
    recording_blocks "counter" "Blocks of recording written.",
    recording_failures "counter" "Failed recording writes.",
    recording_stalls "counter" "Times the recording held everything back.",
    epoch "gauge" "Epoch this worker judges by.",
    io_uring "gauge" "1 while the worker drives its connections by io_uring, 0 by readiness (epoll).",
}
