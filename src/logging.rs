//! The log: events become lines on the thread they happen on, and a thread of its own writes them, so that a slow
//! reader of standard error never holds up a worker. Lines that find the queue full are counted and the count is
//! written.

use std::io::{self, Write};
use std::panic::PanicHookInfo;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

use crate::config::Log;

/// Lines that wait to be written, at most.
const LINES_MAX: usize = 8192;
/// Longest line in bytes; what is beyond is cut.
const LINE_BYTES_MAX: usize = 64 << 10;
/// How long the end of the log waits for what is not written yet.
const FLUSH_MAX: Duration = Duration::from_secs(2);

enum Line {
    Text(Vec<u8>),
    End(SyncSender<()>),
}

/// The sending end, which every thread has.
#[derive(Clone)]
struct Queue {
    lines: SyncSender<Line>,
    lost: Arc<AtomicU64>,
}

/// The log as long as it lives; dropping it writes what is left.
pub struct Logging {
    queue: Queue,
    writer: Option<JoinHandle<()>>,
}

impl Logging {
    /// Begins; once per process.
    pub fn begin(log: Log) -> Result<Logging, TryInitError> {
        let (logging, queue) = Logging::to(io::stderr());
        // Dependencies speak at the level of warnings at most: what they would say below may hold what peers sent.
        let level = LevelFilter::from_level(log.level);
        let filter = Targets::new()
            .with_default(level.min(LevelFilter::WARN))
            .with_targets(OURS.map(|target| (target, level)));
        let layer = tracing_subscriber::fmt::layer().with_writer(queue).with_ansi(false);
        let layer = if log.json {
            layer.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
        } else {
            layer.boxed()
        };
        tracing_subscriber::registry().with(layer.with_filter(filter)).try_init()?;
        std::panic::set_hook(Box::new(panicked));
        Ok(logging)
    }

    fn to(out: impl Write + Send + 'static) -> (Logging, Queue) {
        let (lines, waiting) = sync_channel(LINES_MAX);
        let queue = Queue { lines, lost: Arc::default() };
        let lost = Arc::clone(&queue.lost);
        let writer =
            thread::Builder::new().name(String::from("log")).spawn(move || write(out, &waiting, &lost));
        (Logging { queue: queue.clone(), writer: writer.ok() }, queue)
    }
}

/// A panic goes where everything goes.
fn panicked(panic: &PanicHookInfo<'_>) {
    let message = panic.payload_as_str().unwrap_or("(no message)");
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    tracing::error!(panic = message, place, thread = thread::current().name(), "a thread has panicked");
}

/// What `module_path!` of our crates begins with.
const OURS: [&str; 11] = [
    "lockgate",
    "lockgate_bridge",
    "lockgate_codecs",
    "lockgate_control",
    "lockgate_facts",
    "lockgate_lane",
    "lockgate_mask",
    "lockgate_policy_dsl",
    "lockgate_recording",
    "lockgate_ring",
    "lockgate_worker",
];

impl Drop for Logging {
    fn drop(&mut self) {
        let (done, wait) = sync_channel(1);
        if self.writer.take().is_some() && self.queue.lines.send(Line::End(done)).is_ok() {
            // Where nobody reads, the end does not wait for ever.
            let _ = wait.recv_timeout(FLUSH_MAX);
        }
    }
}

fn write(mut out: impl Write, waiting: &Receiver<Line>, lost: &AtomicU64) {
    while let Ok(line) = waiting.recv() {
        match line {
            Line::Text(text) => {
                let _ = out.write_all(&text);
            }
            Line::End(done) => {
                tell_lost(&mut out, lost);
                let _ = out.flush();
                let _ = done.try_send(());
                return;
            }
        }
        tell_lost(&mut out, lost);
    }
}

fn tell_lost(out: &mut impl Write, lost: &AtomicU64) {
    match lost.swap(0, Ordering::Relaxed) {
        0 => {}
        lost => {
            let _ = writeln!(
                out,
                "{{\"level\":\"ERROR\",\"message\":\"{lost} lines of the log were lost: it is read too slowly\"}}"
            );
        }
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Pending<'a>;

    fn make_writer(&'a self) -> Pending<'a> {
        Pending { queue: self, text: Vec::new() }
    }
}

/// One line under way; it is sent when it is dropped.
struct Pending<'a> {
    queue: &'a Queue,
    text: Vec<u8>,
}

impl Write for Pending<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = LINE_BYTES_MAX.saturating_sub(self.text.len());
        self.text.extend(bytes.iter().take(room));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if self.text.is_empty() {
            return;
        }
        if self.text.len() == LINE_BYTES_MAX {
            self.text.extend_from_slice(b" [cut]\n");
        }
        let line = Line::Text(std::mem::take(&mut self.text));
        if let Err(TrySendError::Full(_)) = self.queue.lines.try_send(line) {
            self.queue.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// What was written, and a gate that holds the writing up.
    #[derive(Clone, Default)]
    struct Out(Arc<Mutex<Vec<u8>>>);

    impl Write for Out {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_are_written_whole_and_before_the_end() {
        let out = Out::default();
        let (logging, queue) = Logging::to(out.clone());
        for count in 0..100 {
            let mut line = queue.make_writer();
            write!(line, "line ").unwrap();
            writeln!(line, "{count}").unwrap();
        }
        drop(logging);
        let written = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
        let expected: String = (0..100).map(|count| format!("line {count}\n")).collect();
        assert_eq!(written, expected);
    }

    #[test]
    fn a_slow_reader_costs_lines_and_the_loss_is_told() {
        let out = Out::default();
        let gate = out.0.lock().unwrap();
        let (logging, queue) = Logging::to(out.clone());
        for _ in 0..LINES_MAX + 100 {
            writeln!(queue.make_writer(), "line").unwrap();
        }
        drop(gate);
        drop(logging);
        let written = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
        assert!(written.contains("lines of the log were lost"), "no word of it");
        let lines = written.lines().filter(|line| *line == "line").count();
        assert!((LINES_MAX..LINES_MAX + 100).contains(&lines), "{lines} lines");
    }

    #[test]
    fn a_long_line_is_cut_and_says_so() {
        let out = Out::default();
        let (logging, queue) = Logging::to(out.clone());
        queue.make_writer().write_all(&[b'x'; LINE_BYTES_MAX * 2]).unwrap();
        drop(logging);
        let written = out.0.lock().unwrap().clone();
        assert_eq!(written.len(), LINE_BYTES_MAX + b" [cut]\n".len());
        assert!(written.ends_with(b" [cut]\n"));
    }
}
