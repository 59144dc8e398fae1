//! The body of the fuzz target: any bytes as a segment file, as a block's records, and as rows.

use crate::entries::{Joiner, Raws};
use crate::reader::{Depth, Opened, SegmentReader, Source, Step};

/// Reads `bytes` in every way the crate reads; whatever they are, it returns.
pub fn fuzz(bytes: &[u8]) {
    segment(bytes);
    records(bytes);
    rows(bytes);
}

fn segment(bytes: &[u8]) {
    match SegmentReader::open(bytes, Depth::Everything) {
        Ok(Opened::Segment(reader) | Opened::Headless(reader, _)) => steps(reader),
        Ok(Opened::Unused) | Err(_) => {}
    }
}

fn steps<S: Source>(mut reader: SegmentReader<S>) {
    while let Ok(Some(step)) = reader.step() {
        if let Step::Block(block) = step {
            records(block.payload);
        }
    }
}

fn records(payload: &[u8]) {
    let mut joiner = Joiner::default();
    for raw in Raws::new(payload).flatten() {
        if let Ok(Some(entry)) = joiner.join(raw) {
            let _ = format!("{entry:?}");
        }
    }
}

fn rows(stream: &[u8]) {
    let _ = crate::rows(stream).count();
    let _ = crate::copied(stream).count();
}
