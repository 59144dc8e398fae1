//! Segment files for workers: made ahead of need, and again and again where a disk refuses.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lockgate_bridge::Order;
use lockgate_recording::{SegmentFile, create_segment, segment_path};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::Event;

/// Time before a file that could not be made is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Where segments go and how large they are.
#[derive(Debug)]
pub(crate) struct Place {
    pub root: PathBuf,
    /// By worker.
    pub series: Vec<u32>,
    pub segment_bytes: u64,
}

/// Makes a segment and sends it. A failure is told once, then the file is tried until it can be made: a disk that has
/// room again lets a gateway go on by itself.
pub(crate) async fn provide(place: Arc<Place>, worker: u32, number: u64, events: mpsc::Sender<Event>) {
    let mut told = false;
    loop {
        match make(Arc::clone(&place), worker, number).await {
            Ok(order) => {
                let _ = events.send(Event::Recording { worker, failure: None }).await;
                let _ = events.send(Event::Answer { worker, order }).await;
                return;
            }
            Err(error) => {
                let failure = Event::Recording { worker, failure: Some(error.clone()) };
                if events.send(failure).await.is_err() {
                    return;
                }
                if !told {
                    told = true;
                    let _ =
                        events.send(Event::Answer { worker, order: Order::SegmentFailed { error } }).await;
                }
            }
        }
        sleep(AGAIN).await;
    }
}

async fn make(place: Arc<Place>, worker: u32, number: u64) -> Result<Order, String> {
    let series = usize::try_from(worker).ok().and_then(|worker| place.series.get(worker).copied());
    let series = series.ok_or_else(|| format!("worker {worker} has no series to record into"))?;
    let path = segment_path(&place.root, series, number).display().to_string();
    let made = spawn_blocking(move || create_segment(&place.root, series, number, place.segment_bytes)).await;
    match made {
        Ok(Ok(SegmentFile { file, direct })) => {
            let (file, direct) = (OwnedFd::from(file), direct.map(OwnedFd::from));
            Ok(Order::Segment { number, file, direct, path })
        }
        Ok(Err(error)) => Err(format!("{path} cannot be made: {error}")),
        Err(_) => Err(format!("{path} cannot be made: the thread that made it died")),
    }
}
