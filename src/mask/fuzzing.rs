//! Bodies of the fuzz targets: whatever the bytes, no panic, and what comes out is framed as what went in.

use crate::{ColumnMasks, ColumnShape, InPlace, Mask, Plan, Rule, StreamMasker, StreamProgress, row};

const MASKS: [Mask; 4] = [Mask::KeepLast(4), Mask::KeepDomain, Mask::Redact, Mask::Null];
const TYPES: [u32; 4] = [25, 23, 16400, 3802];

/// The first byte says how many columns, one byte each what they are, the rest is the row.
///
/// # Panics
/// When an output is not framed, or the three ways to mask disagree.
pub fn rows(bytes: &[u8]) {
    let Some((count, rest)) = bytes.split_first() else { return };
    let Some((choices, message)) = rest.split_at_checked(usize::from(count % 8)) else { return };
    let Some(mut plan) = plan(choices) else { return };
    let mut spliced = Vec::new();
    let outcome = plan.mask_row(message, &mut spliced);
    let mut placed = message.to_vec();
    let in_place = plan.mask_row_in_place(&mut placed);
    assert_eq!(outcome.is_ok(), in_place.is_ok(), "both know a broken row");
    match in_place {
        Ok(InPlace::Masked) => assert_eq!(placed, spliced, "both ways give one row"),
        _ => assert_eq!(placed, message, "what is not masked is not touched"),
    }
    if outcome.is_ok() {
        assert_eq!(cells(&spliced).map(|cells| cells.len()), Some(choices.len()), "framed");
    } else {
        assert!(spliced.is_empty(), "nothing of a broken row comes out");
    }
    stream(&mut plan, message);
}

fn plan(choices: &[u8]) -> Option<Plan> {
    let mut masks = ColumnMasks::default();
    let mut columns = Vec::new();
    for (attribute, choice) in (1_i16..).zip(choices) {
        let of = |bits: u8| usize::from(choice >> bits & 3);
        let type_oid = TYPES.get(of(0)).copied()?;
        columns.push(ColumnShape { table_oid: 1, attribute, type_oid, format: choice >> 6 & 1 });
        if choice & 0x80 != 0 {
            let mask = MASKS.get(of(2)).copied()?;
            masks.add(1, attribute, Rule { name: "fuzz/mask".into(), place: "a.b.c".into(), mask });
        }
    }
    Plan::new(&masks, &columns)
}

/// Whole and cut in the middle come to the same.
fn stream(plan: &mut Plan, message: &[u8]) {
    let mut whole = message.to_vec();
    let at_once = StreamMasker::new().feed(plan, &mut whole);
    let mut pieces = message.to_vec();
    let (left, right) = pieces.split_at_mut(message.len() / 2);
    let mut masker = StreamMasker::new();
    let piecewise = match masker.feed(plan, left) {
        Ok(StreamProgress::More) => masker.feed(plan, right).map(|progress| match progress {
            StreamProgress::Done(bytes) => StreamProgress::Done(left.len() + bytes),
            StreamProgress::More => StreamProgress::More,
        }),
        other => other,
    };
    assert_eq!(at_once, piecewise, "a cut changes nothing");
    if at_once.is_ok() {
        assert_eq!(whole, pieces, "a cut changes no byte");
    }
}

/// The cells of a whole row; `None`: it is not framed.
pub(crate) fn cells(message: &[u8]) -> Option<Vec<Option<Vec<u8>>>> {
    let header = row::Header::parse(message.first_chunk()?)?;
    let mut rest = row::body(message, header.columns).ok()?;
    let mut cells = Vec::new();
    for _ in 0..header.columns {
        cells.push(row::take_cell(&mut rest).ok()?.map(<[u8]>::to_vec));
    }
    rest.is_empty().then_some(cells)
}
