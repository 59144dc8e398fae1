//! What to do with each cell of a statement's rows, and doing it to rows that are there whole.

use crate::cell::{self, Treatment, carries_text, treatment};
use crate::row::{self, HEADER_BYTES, NULL};
use crate::{BrokenRow, ColumnMasks, ColumnShape, Rule};

/// What to do with each cell of one statement's rows; made once per statement and result format.
#[derive(Debug)]
pub struct Plan {
    /// Of a row.
    columns: usize,
    /// In the order of their columns; never empty.
    masked: Vec<MaskedColumn>,
}

/// A column that is protected.
#[derive(Debug, Clone)]
pub(crate) struct MaskedColumn {
    /// Its place in the row, from 0.
    pub index: usize,
    pub treatment: Treatment,
    /// Whether `*` throughout is a value of its type.
    pub carries_text: bool,
    rule: Rule,
    cells: u64,
    /// Whether the row in work has a value here: counted when the row is done.
    seen: bool,
}

/// What came of masking a row where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InPlace {
    /// The row is masked.
    Masked,
    /// The row is as it was: some cell's length has to change, so [`Plan::mask_row`] has to be used.
    LengthChanges,
}

impl Plan {
    /// `None`: no column of these is protected, rows may pass as they are. A whole row of a table with a protected
    /// column (attribute number 0) becomes NULL.
    pub fn new(masks: &ColumnMasks, columns: &[ColumnShape]) -> Option<Plan> {
        let masked = |(index, shape): (usize, &ColumnShape)| {
            let rule = rule_of(masks, shape)?.clone();
            let treatment = treatment(rule.mask, shape);
            let carries_text = carries_text(shape) && shape.attribute != 0;
            Some(MaskedColumn { index, treatment, carries_text, rule, cells: 0, seen: false })
        };
        let masked: Vec<MaskedColumn> = columns.iter().enumerate().filter_map(masked).collect();
        (!masked.is_empty()).then_some(Plan { columns: columns.len(), masked })
    }

    /// Appends the masked form of a whole DataRow message (type byte, length, body) to `out`, counts the masked
    /// cells by column.
    ///
    /// # Errors
    /// [`BrokenRow`] when the row is not one of these columns; nothing was appended or counted then.
    pub fn mask_row(&mut self, message: &[u8], out: &mut Vec<u8>) -> Result<(), BrokenRow> {
        let start = out.len();
        let spliced = self.splice(message, out);
        if spliced.is_err() {
            out.truncate(start);
        } else {
            self.masked.iter_mut().for_each(|masked| masked.cells += u64::from(masked.seen));
        }
        spliced
    }

    /// Masks a whole DataRow message where it stands, if every protected cell's length can stay.
    ///
    /// # Errors
    /// [`BrokenRow`] when the row is not one of these columns; it is as it was then, and must not be sent.
    pub fn mask_row_in_place(&mut self, message: &mut [u8]) -> Result<InPlace, BrokenRow> {
        if !self.fits_in_place(message)? {
            return Ok(InPlace::LengthChanges);
        }
        let mut rest = message.get_mut(HEADER_BYTES..).ok_or(BrokenRow)?;
        let mut column = 0;
        for masked in &mut self.masked {
            while column < masked.index {
                row::take_cell_mut(&mut rest)?;
                column += 1;
            }
            column += 1;
            if let Some(bytes) = row::take_cell_mut(&mut rest)? {
                cell::mask_in_place(masked.treatment, bytes);
                masked.cells += 1;
            }
        }
        Ok(InPlace::Masked)
    }

    /// Whether every protected column's values can be masked without a change of length, as a
    /// [`StreamMasker`](crate::StreamMasker) needs: if not, a row that is too long has to be refused.
    pub fn is_streamable(&self) -> bool {
        self.masked.iter().all(|masked| masked.carries_text)
    }

    /// Tells masked cells so far by rule, those that were NULL before left out; resets the counts.
    pub fn take_counts(&mut self, mut tell: impl FnMut(&Rule, u64)) {
        let mut rest = self.masked.as_mut_slice();
        while let Some((first, others)) = rest.split_first_mut() {
            let mut cells = std::mem::take(&mut first.cells);
            if cells > 0 {
                // A column may be in a result more than once.
                let same = others.iter_mut().filter(|other| other.rule == first.rule);
                cells += same.map(|other| std::mem::take(&mut other.cells)).sum::<u64>();
                tell(&first.rule, cells);
            }
            rest = others;
        }
    }

    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    pub(crate) fn masked(&self) -> &[MaskedColumn] {
        &self.masked
    }

    pub(crate) fn add_cells(&mut self, masked_column: usize, cells: u64) {
        if let Some(masked) = self.masked.get_mut(masked_column) {
            masked.cells += cells;
        }
    }

    /// Walks the whole row, so that a broken one is known before anything is changed.
    fn fits_in_place(&self, message: &[u8]) -> Result<bool, BrokenRow> {
        let mut rest = row::body(message, self.columns)?;
        let mut masked = self.masked.iter().peekable();
        let mut fits = true;
        for column in 0..self.columns {
            let cell = row::take_cell(&mut rest)?;
            if let Some(masked) = masked.next_if(|masked| masked.index == column) {
                fits = fits && cell.is_none_or(|cell| cell::fits_in_place(masked.treatment, cell));
            }
        }
        if rest.is_empty() { Ok(fits) } else { Err(BrokenRow) }
    }

    fn splice(&mut self, message: &[u8], out: &mut Vec<u8>) -> Result<(), BrokenRow> {
        let start = out.len();
        let mut rest = row::body(message, self.columns)?;
        out.extend_from_slice(message.get(..HEADER_BYTES).ok_or(BrokenRow)?);
        let mut masked = self.masked.iter_mut().peekable();
        // What is not protected is copied in one piece up to the next cell that is.
        let mut kept = rest;
        for column in 0..self.columns {
            let before = rest;
            let cell = row::take_cell(&mut rest)?;
            if let Some(masked) = masked.next_if(|masked| masked.index == column) {
                out.extend_from_slice(kept.get(..kept.len() - before.len()).ok_or(BrokenRow)?);
                push_masked(masked.treatment, cell, out)?;
                masked.seen = cell.is_some();
                kept = rest;
            }
        }
        if !rest.is_empty() {
            return Err(BrokenRow);
        }
        out.extend_from_slice(kept);
        set_length(out, start)
    }
}

/// The rule that protects a result column: its own, or for a whole row the strongest of its table's.
fn rule_of<'m>(masks: &'m ColumnMasks, shape: &ColumnShape) -> Option<&'m Rule> {
    if shape.attribute != 0 || shape.table_oid == 0 {
        return masks.rules.get(&(shape.table_oid, shape.attribute));
    }
    let of_table = masks.rules.iter().filter(|((table_oid, _), _)| *table_oid == shape.table_oid);
    of_table.max_by_key(|((_, attribute), rule)| (rule.mask, *attribute)).map(|(_, rule)| rule)
}

/// Appends a protected cell with its length.
fn push_masked(treatment: Treatment, cell: Option<&[u8]>, out: &mut Vec<u8>) -> Result<(), BrokenRow> {
    let length_at = out.len();
    out.extend_from_slice(&NULL);
    let Some(()) = cell.and_then(|cell| cell::mask_onto(treatment, cell, out)) else { return Ok(()) };
    let bytes = i32::try_from(out.len() - length_at - NULL.len()).map_err(|_| BrokenRow)?;
    put(out, length_at, bytes.to_be_bytes())
}

/// Writes the length of the message that begins at `start` of `out`.
fn set_length(out: &mut [u8], start: usize) -> Result<(), BrokenRow> {
    // A short value that became `[REDACTED]` may have pushed a row of two gigabytes over what a length can say.
    let bytes = i32::try_from(out.len() - start - 1).map_err(|_| BrokenRow)?;
    put(out, start + 1, bytes.to_be_bytes())
}

fn put(out: &mut [u8], at: usize, bytes: [u8; 4]) -> Result<(), BrokenRow> {
    *out.get_mut(at..).and_then(<[u8]>::first_chunk_mut).ok_or(BrokenRow)? = bytes;
    Ok(())
}
