//! The framing of a DataRow message: type byte, length, column count, and for each cell a length and its bytes
//! (PostgreSQL protocol, "Message Formats"). All arithmetic on a peer's lengths is here.

use crate::BrokenRow;

/// Type byte of DataRow.
pub(crate) const DATA_ROW: u8 = b'D';
/// Type byte, length, column count.
pub(crate) const HEADER_BYTES: usize = 7;
/// A cell's length that says NULL.
pub(crate) const NULL: [u8; 4] = [0xff; 4];

/// The bytes behind the header of a message that has `columns` columns and says its own length.
pub(crate) fn body(message: &[u8], columns: usize) -> Result<&[u8], BrokenRow> {
    let (header, body) = message.split_first_chunk::<HEADER_BYTES>().ok_or(BrokenRow)?;
    let expected = Header::parse(header).ok_or(BrokenRow)?;
    if expected.columns != columns || expected.body_bytes != body.len() {
        return Err(BrokenRow);
    }
    Ok(body)
}

/// What a DataRow's first seven bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub columns: usize,
    /// Of all cells with their lengths.
    pub body_bytes: usize,
}

impl Header {
    /// `None`: it is no DataRow, or contradicts itself.
    pub(crate) fn parse(bytes: &[u8; HEADER_BYTES]) -> Option<Header> {
        let [kind, a, b, c, d, high, low] = *bytes;
        // The length counts itself (4) and the column count (2).
        let body_bytes = usize::try_from(i32::from_be_bytes([a, b, c, d])).ok()?.checked_sub(6)?;
        let columns = usize::try_from(i16::from_be_bytes([high, low])).ok()?;
        (kind == DATA_ROW && columns.checked_mul(4)? <= body_bytes).then_some(Header { columns, body_bytes })
    }
}

/// A cell's length: `Ok(None)` is NULL.
pub(crate) fn cell_bytes(length: [u8; 4]) -> Result<Option<usize>, BrokenRow> {
    match i32::from_be_bytes(length) {
        -1 => Ok(None),
        bytes => usize::try_from(bytes).map(Some).map_err(|_| BrokenRow),
    }
}

/// Takes the next cell off `rest`: `Ok(None)` is NULL.
pub(crate) fn take_cell<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>, BrokenRow> {
    let (length, after) = rest.split_first_chunk::<4>().ok_or(BrokenRow)?;
    let Some(bytes) = cell_bytes(*length)? else {
        *rest = after;
        return Ok(None);
    };
    let (cell, after) = after.split_at_checked(bytes).ok_or(BrokenRow)?;
    *rest = after;
    Ok(Some(cell))
}

/// As [`take_cell`], to change it.
pub(crate) fn take_cell_mut<'a>(rest: &mut &'a mut [u8]) -> Result<Option<&'a mut [u8]>, BrokenRow> {
    let (length, after) = std::mem::take(rest).split_first_chunk_mut::<4>().ok_or(BrokenRow)?;
    let Some(bytes) = cell_bytes(*length)? else {
        *rest = after;
        return Ok(None);
    };
    let (cell, after) = after.split_at_mut_checked(bytes).ok_or(BrokenRow)?;
    *rest = after;
    Ok(Some(cell))
}
