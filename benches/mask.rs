//! Masking rows: in place, by splicing, and where a row passes in pieces.

use std::hint::black_box;
use std::sync::Arc;

use lockgate_mask::{ColumnMasks, ColumnShape, InPlace, Mask, Plan, Rule, StreamMasker, StreamProgress};

use crate::messages::{self, COLUMNS, ROW_BYTES, ROWS, ROWS_BYTES};
use crate::{Bench, Setup, Work};

/// Attribute numbers of the protected columns.
const EMAIL: i16 = 3;
const SSN: i16 = 4;

/// A pool's slot: pieces of a row come in these.
pub(crate) const SLOT_BYTES: usize = 16 << 10;

pub(crate) const BENCHES: &[Bench] = &[
    Bench { name: "mask/plan", work: Work::Items(1), set_up: plan },
    Bench { name: "mask/in_place_64k", work: Work::Bytes(ROWS_BYTES), set_up: in_place },
    Bench { name: "mask/spliced_64k", work: Work::Bytes(ROWS_BYTES), set_up: spliced },
    Bench { name: "mask/streamed_64k", work: Work::Bytes(ROWS_BYTES), set_up: streamed },
];

/// E-mail addresses masked so, and of the numbers the last four digits kept.
pub(crate) fn masks(email: Mask) -> ColumnMasks {
    let mut masks = ColumnMasks::default();
    for (attribute, column, mask) in [(EMAIL, "email", email), (SSN, "ssn", Mask::KeepLast(4))] {
        let place = Arc::from(format!("public.customers.{column}"));
        masks.add(messages::CUSTOMERS, attribute, Rule { name: Arc::from("bench/mask"), place, mask });
    }
    masks
}

fn shapes() -> Vec<ColumnShape> {
    let shape = |&(_, attribute, type_oid): &(_, i16, u32)| ColumnShape {
        table_oid: messages::CUSTOMERS,
        attribute,
        type_oid,
        format: 0,
    };
    COLUMNS.iter().map(shape).collect()
}

fn plan_of(email: Mask) -> Result<Plan, &'static str> {
    Plan::new(&masks(email), &shapes()).ok_or("no column is protected")
}

fn plan() -> Setup {
    let (masks, shapes) = (masks(Mask::Redact), shapes());
    Ok(Box::new(move || Plan::new(black_box(&masks), black_box(&shapes)).is_some()))
}

fn in_place() -> Setup {
    let mut plan = plan_of(Mask::KeepDomain)?;
    let rows = messages::rows();
    let mut scratch = rows.clone();
    Ok(Box::new(move || {
        // What is masked already would be masked otherwise.
        scratch.copy_from_slice(&rows);
        let mut chunks = scratch.chunks_exact_mut(ROW_BYTES);
        chunks.all(|row| plan.mask_row_in_place(black_box(row)) == Ok(InPlace::Masked))
    }))
}

fn spliced() -> Setup {
    let mut plan = plan_of(Mask::Redact)?;
    let (rows, mut out) = (messages::rows(), Vec::new());
    // An address of 31 bytes becomes `[REDACTED]`.
    let expected = ROWS * (ROW_BYTES - 21);
    Ok(Box::new(move || {
        out.clear();
        let mut chunks = rows.chunks_exact(ROW_BYTES);
        chunks.all(|row| plan.mask_row(black_box(row), &mut out).is_ok()) && out.len() == expected
    }))
}

/// One row of about 64 KiB, most of which is a protected cell.
fn streamed() -> Setup {
    let mut plan = plan_of(Mask::Redact)?;
    let row = long_row();
    let mut scratch = row.clone();
    Ok(Box::new(move || {
        scratch.copy_from_slice(&row);
        let mut masker = StreamMasker::new();
        let pieces = scratch.chunks_mut(SLOT_BYTES);
        matches!(
            pieces.map(|piece| masker.feed(&mut plan, black_box(piece))).last(),
            Some(Ok(StreamProgress::Done(_)))
        )
    }))
}

fn long_row() -> Vec<u8> {
    let email = vec![b'x'; 60 << 10];
    let cells: [&[u8]; COLUMNS.len()] = [b"1", b"name", &email, b"123-45-6789", b"4000", b"1970-01-01"];
    let mut body = 6i16.to_be_bytes().to_vec();
    for cell in cells {
        body.extend_from_slice(&i32::try_from(cell.len()).unwrap_or(-1).to_be_bytes());
        body.extend_from_slice(cell);
    }
    messages::plain(lockgate_codecs::postgres::backend::DATA_ROW, &body)
}
