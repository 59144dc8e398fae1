//! Which series each worker records into: the lowest that no process holds. What was left behind by whoever is gone is
//! recovered, whether a worker goes on with it or not.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _};
use std::path::Path;
use std::thread;

use lockgate_recording::{
    Draft, Recovery, SEGMENT_BYTES_MIN, SegmentFile, SeriesStart, Time, Write, Writer, create_segment,
    recover, segment_path, series_dir, workers,
};
use lockgate_worker::{Durability, RecordingSetup, Segment};
use tracing::{error, info, warn};

/// Series in use. While this lives no other process can have them.
#[derive(Debug)]
pub struct Held {
    /// By worker.
    pub numbers: Vec<u32>,
    _locks: Vec<File>,
}

/// What every series is begun with.
#[derive(Debug, Clone, Copy)]
pub struct Beginning<'a> {
    /// Folder of all recordings.
    pub root: &'a Path,
    /// Which run of the gateway; random.
    pub boot: u64,
    /// When.
    pub now: Time,
    /// Bytes of one segment file.
    pub segment_bytes: u64,
    /// When a command may be forwarded.
    pub durability: Durability,
}

/// Takes a series for each of `count` workers, each with its next segment, and closes what nobody goes on with.
pub fn take(beginning: Beginning<'_>, count: usize) -> io::Result<(Held, Vec<RecordingSetup>)> {
    let mut free = Vec::with_capacity(count);
    let there = workers(beginning.root)?;
    for number in there.iter().copied() {
        free.extend(lock(beginning.root, number)?.map(|lock| (number, lock)));
    }
    let mut number = 0;
    while free.len() < count {
        if !there.contains(&number) {
            free.extend(lock(beginning.root, number)?.map(|lock| (number, lock)));
        }
        number += 1;
    }
    free.sort_unstable_by_key(|(number, _)| *number);
    let left = free.split_off(count);
    let numbers: Vec<u32> = free.iter().map(|(number, _)| *number).collect();
    // At once: a segment is written whole before it is used, which takes a disk its time.
    let setups = thread::scope(|scope| {
        let begun: Vec<_> =
            numbers.iter().map(|number| scope.spawn(move || begin(beginning, *number))).collect();
        let died = |_| Err(io::Error::other("the thread that recovered it died"));
        begun.into_iter().map(|begun| begun.join().unwrap_or_else(died)).collect::<io::Result<_>>()
    })?;
    for (number, _lock) in left {
        close(beginning, number)?;
    }
    Ok((Held { numbers, _locks: free.into_iter().map(|(_, lock)| lock).collect() }, setups))
}

/// A series' lock, or `None` if another process has it.
fn lock(root: &Path, number: u32) -> io::Result<Option<File>> {
    let folder = series_dir(root, number);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    let folder = File::open(folder)?;
    match folder.try_lock() {
        Ok(()) => Ok(Some(folder)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn recovered(root: &Path, number: u32) -> io::Result<Recovery> {
    let recovery = recover(root, number)?;
    for alarm in &recovery.alarms {
        error!(series = number, "the recording is damaged: {alarm}");
    }
    if let Some(crash) = &recovery.crash {
        warn!(
            series = number,
            segment = crash.segment,
            blocks = crash.valid_blocks,
            cut_bytes = crash.cut_bytes,
            sessions = crash.sessions.len(),
            "the recording did not end cleanly; it goes on in a new segment"
        );
    }
    Ok(recovery)
}

fn begin(beginning: Beginning<'_>, series: u32) -> io::Result<RecordingSetup> {
    let Beginning { root, boot, now, segment_bytes, durability } = beginning;
    let recovery = recovered(root, series)?;
    let number = recovery.next_segment;
    let SegmentFile { file, direct } = create_segment(root, series, number, segment_bytes)?;
    let path = segment_path(root, series, number).display().to_string();
    Ok(RecordingSetup {
        start: SeriesStart { worker: series, node: 0, boot, recovery, now },
        segment: Segment { number, file: file.into(), direct: direct.map(OwnedFd::from), path },
        durability,
    })
}

/// Writes the end that a series did not get: what happened to it, and that nothing follows.
fn close(beginning: Beginning<'_>, series: u32) -> io::Result<()> {
    let Beginning { root, boot, now, .. } = beginning;
    let recovery = recovered(root, series)?;
    if recovery.crash.is_none() {
        return Ok(());
    }
    let number = recovery.next_segment;
    let SegmentFile { file, .. } = create_segment(root, series, number, SEGMENT_BYTES_MIN)?;
    let mut salt = [0; 8];
    lockgate_ring::random(&mut salt)?;
    let mut writer = Writer::new(SeriesStart { worker: series, node: 0, boot, recovery, now });
    let header = writer.begin_segment(number, SEGMENT_BYTES_MIN, u64::from_ne_bytes(salt), now);
    write(&mut writer, &file, header.map_err(io::Error::other)?)?;
    let mut draft = Draft::default();
    while let Some(block) = writer.seal(&mut draft, now) {
        write(&mut writer, &file, block)?;
    }
    if let Some(last) = writer.finish(now) {
        write(&mut writer, &file, last)?;
    }
    info!(series, "no worker goes on with this recording; it has been closed");
    file.sync_all()
}

fn write(writer: &mut Writer, file: &File, write: Write) -> io::Result<()> {
    file.write_all_at(write.bytes(), write.offset)?;
    writer.acknowledged(write.token, write.buf);
    Ok(())
}

#[cfg(test)]
mod tests {
    use lockgate_recording::{Record, SessionId, verify};

    use super::*;

    fn beginning(root: &Path) -> Beginning<'_> {
        let now = Time { monotonic_ns: 1, wall_us: 2 };
        Beginning { root, boot: 3, now, segment_bytes: SEGMENT_BYTES_MIN, durability: Durability::Os }
    }

    /// Writes a record and no end, as whoever crashes does.
    fn crash(root: &Path, setup: RecordingSetup) {
        let file = File::from(setup.segment.file);
        let now = Time { monotonic_ns: 5, wall_us: 6 };
        let mut writer = Writer::new(setup.start);
        let header = writer.begin_segment(setup.segment.number, SEGMENT_BYTES_MIN, 7, now).unwrap();
        write(&mut writer, &file, header).unwrap();
        let mut draft = Draft::default();
        draft.push(SessionId(0), now, &Record::EpochAdopted { epoch: 1 });
        while let Some(block) = writer.seal(&mut draft, now) {
            write(&mut writer, &file, block).unwrap();
        }
        assert!(root.exists());
    }

    #[test]
    fn a_series_has_one_process_and_the_lowest_free_ones_are_taken() {
        let scratch = crate::scratch::Folder::new("series");
        let root = scratch.path();
        let (first, setups) = take(beginning(root), 2).unwrap();
        assert_eq!(first.numbers, [0, 1]);
        assert_eq!(setups.iter().map(|setup| setup.start.worker).collect::<Vec<_>>(), [0, 1]);
        let (second, _) = take(beginning(root), 3).unwrap();
        assert_eq!(second.numbers, [2, 3, 4]);
        drop(first);
        let (third, _) = take(beginning(root), 3).unwrap();
        assert_eq!(third.numbers, [0, 1, 5]);
    }

    #[test]
    fn what_no_worker_goes_on_with_is_closed() {
        let scratch = crate::scratch::Folder::new("series-left");
        let root = scratch.path();
        let (held, setups) = take(beginning(root), 3).unwrap();
        setups.into_iter().for_each(|setup| crash(root, setup));
        let torn = |root: &Path| recover(root, 2).unwrap().crash.is_some();
        let (other, _) = take(beginning(root), 1).unwrap();
        assert_eq!(other.numbers, [3]);
        assert!(torn(root), "whoever still writes is left alone");
        drop((held, other));
        let (held, _) = take(beginning(root), 1).unwrap();
        assert_eq!(held.numbers, [0]);
        assert!(!torn(root));
        assert!(verify(root).unwrap().ok());
        drop(held);
        let before = recover(root, 2).unwrap().next_segment;
        take(beginning(root), 1).unwrap();
        assert_eq!(recover(root, 2).unwrap().next_segment, before, "once is enough");
    }
}
