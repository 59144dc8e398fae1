//! One cell: what a mask makes of a text, and which types can carry that.

use crate::{ColumnShape, Mask};

/// What a redacted text says.
pub(crate) const REDACTED: &[u8] = b"[REDACTED]";

/// The first OID that the server hands out to objects that users make (`FirstNormalObjectId`).
const FIRST_USER_OID: u32 = 16384;
/// `bpchar`, `cstring`, `name`, `text`, `unknown`, `varchar`: any text is a value of theirs, the same bytes in both
/// formats.
const TEXT_OIDS: [u32; 6] = [1042, 2275, 19, 25, 705, 1043];

/// What becomes of a column's cells, once its type and format are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Treatment {
    /// NULL: the mask says so, or the type has no value that would be the mask.
    Null,
    Redact,
    KeepLast(u8),
    KeepDomain,
}

/// Whether any text is a value of this column's type. Types that users made (citext, enums, composites) have OIDs of
/// their own: their values are text in text format; in binary format they could be anything.
pub(crate) fn carries_text(shape: &ColumnShape) -> bool {
    TEXT_OIDS.contains(&shape.type_oid) || shape.type_oid >= FIRST_USER_OID && shape.format == 0
}

/// What `mask` comes to in a column of this shape. Numbers, dates, JSON, bytea, arrays: a driver decodes the cell by
/// the type, so what is not of the type must be NULL.
pub(crate) fn treatment(mask: Mask, shape: &ColumnShape) -> Treatment {
    match mask {
        _ if shape.attribute == 0 || !carries_text(shape) => Treatment::Null,
        Mask::Null => Treatment::Null,
        Mask::Redact => Treatment::Redact,
        Mask::KeepLast(kept) => Treatment::KeepLast(kept),
        Mask::KeepDomain => Treatment::KeepDomain,
    }
}

/// Masks a cell where it stands; only for cells that [`fits_in_place`] says yes to.
pub(crate) fn mask_in_place(treatment: Treatment, cell: &mut [u8]) {
    match treatment {
        Treatment::Redact if cell.len() == REDACTED.len() => cell.copy_from_slice(REDACTED),
        // Not reached for cells that fit; should one not fit, nothing of it may show.
        Treatment::Redact | Treatment::Null => cell.fill(b'*'),
        Treatment::KeepLast(_) | Treatment::KeepDomain => {
            let (shown, separators) = shown(treatment, cell);
            let hidden = cell.get_mut(..shown.start).unwrap_or(&mut []);
            for byte in hidden.iter_mut().filter(|byte| !(separators && is_separator(**byte))) {
                *byte = b'*';
            }
        }
    }
}

/// Whether the masked cell is as long as the cell.
pub(crate) fn fits_in_place(treatment: Treatment, cell: &[u8]) -> bool {
    match treatment {
        Treatment::Null => false,
        Treatment::Redact => cell.len() == REDACTED.len(),
        // Elsewhere one character of several bytes becomes one `*`.
        Treatment::KeepLast(_) | Treatment::KeepDomain => {
            cell.is_ascii() || std::str::from_utf8(cell).is_err() || !changes_length(treatment, cell)
        }
    }
}

fn changes_length(treatment: Treatment, cell: &[u8]) -> bool {
    let (shown, _) = shown(treatment, cell);
    cell.get(..shown.start).is_none_or(|hidden| !hidden.is_ascii())
}

/// Appends the masked cell to `out`; `None`: it is NULL and nothing was appended.
pub(crate) fn mask_onto(treatment: Treatment, cell: &[u8], out: &mut Vec<u8>) -> Option<()> {
    match treatment {
        Treatment::Null => return None,
        Treatment::Redact => out.extend_from_slice(REDACTED),
        Treatment::KeepLast(_) | Treatment::KeepDomain => {
            let (shown, separators) = shown(treatment, cell);
            let is_text = std::str::from_utf8(cell).is_ok();
            for byte in cell.get(..shown.start)? {
                if separators && is_separator(*byte) {
                    out.push(*byte);
                } else if !is_text || !is_continuation(*byte) {
                    out.push(b'*');
                }
            }
            out.extend_from_slice(cell.get(shown)?);
        }
    }
    Some(())
}

/// The end of a cell that stays, and whether separators before it stay too. What is no UTF-8 (another client encoding) shows
/// nothing: where a character ends is not known.
fn shown(treatment: Treatment, cell: &[u8]) -> (std::ops::Range<usize>, bool) {
    let nothing = (cell.len()..cell.len(), false);
    let Ok(text) = std::str::from_utf8(cell) else { return nothing };
    let start = match treatment {
        Treatment::KeepLast(kept) => start_of_last(text, kept),
        Treatment::KeepDomain => start_of_domain(text),
        Treatment::Null | Treatment::Redact => None,
    };
    start.map_or(nothing, |start| (start..cell.len(), true))
}

/// Where the last `kept` letters and digits begin; `None` if there are no more than that, or none to be kept.
fn start_of_last(text: &str, kept: u8) -> Option<usize> {
    let mut start = text.len();
    let mut left = usize::from(kept);
    for (at, _) in text.char_indices().rev().filter(|(_, c)| c.is_alphanumeric()) {
        if left == 0 {
            return Some(start);
        }
        left -= 1;
        start = at;
    }
    None
}

/// Where `@domain` begins in an e-mail address: letters, digits, dots and hyphens behind the last `@`, and a letter
/// or digit somewhere before it.
fn start_of_domain(text: &str) -> Option<usize> {
    let (local, domain) = text.rsplit_once('@')?;
    let is_domain =
        !domain.is_empty() && domain.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '-'));
    (is_domain && local.chars().any(char::is_alphanumeric)).then_some(local.len())
}

/// Punctuation and blanks of ASCII; anything beyond could be a letter of some script.
fn is_separator(byte: u8) -> bool {
    byte.is_ascii() && !byte.is_ascii_alphanumeric()
}

fn is_continuation(byte: u8) -> bool {
    byte & 0xc0 == 0x80
}
