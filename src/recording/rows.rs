//! The streams inside `Rows` and `Copied` records, once they are joined: DataRow and CopyData messages of
//! PostgreSQL's protocol.

use crate::codec::{Decoder, Malformed};

/// The cells of a row; `None` is NULL.
pub type Cells<'a> = Vec<Option<&'a [u8]>>;

/// The rows of a joined stream of DataRow messages, in order; ends at the first that is malformed.
pub fn rows(stream: &[u8]) -> impl Iterator<Item = Result<Cells<'_>, Malformed>> {
    messages(stream, b'D').map(|body| body.and_then(cells))
}

/// The data of a joined stream of CopyData messages, message by message; ends at the first that is malformed.
pub fn copied(stream: &[u8]) -> impl Iterator<Item = Result<&[u8], Malformed>> {
    messages(stream, b'd')
}

fn messages(stream: &[u8], kind: u8) -> impl Iterator<Item = Result<&[u8], Malformed>> {
    let mut rest = Decoder::new(stream);
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let read = message(&mut rest, kind);
        if read.is_err() {
            rest.rest();
        }
        Some(read)
    })
}

fn message<'a>(from: &mut Decoder<'a>, kind: u8) -> Result<&'a [u8], Malformed> {
    if from.u8()? != kind {
        return Err(Malformed::Case);
    }
    // The length counts its own four bytes.
    let len = u32::from_be_bytes(from.array()?).checked_sub(4).ok_or(Malformed::Short)?;
    from.take(len as usize)
}

fn cells(body: &[u8]) -> Result<Cells<'_>, Malformed> {
    let mut from = Decoder::new(body);
    let count = u16::from_be_bytes(from.array()?);
    let mut cells = Vec::with_capacity(usize::from(count).min(from.len() / 4));
    for _ in 0..count {
        cells.push(match i32::from_be_bytes(from.array()?) {
            -1 => None,
            len => Some(from.take(usize::try_from(len).map_err(|_| Malformed::Short)?)?),
        });
    }
    from.finish()?;
    Ok(cells)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_and_cut_ones_are_not() {
        let stream = b"D\0\0\0\x10\0\x02\0\0\0\x02ab\xff\xff\xff\xffD\0\0\0\x06\0\0";
        let read: Result<Vec<_>, _> = rows(stream).collect();
        assert_eq!(read, Ok(vec![vec![Some(&b"ab"[..]), None], vec![]]));
        let whole = [0, 17, 24];
        for len in 0..stream.len() {
            let read: Result<Vec<_>, _> = rows(&stream[..len]).collect();
            assert_eq!(read.is_ok(), whole.contains(&len), "{len}");
        }
    }

    #[test]
    fn hostile_rows_end_in_errors() {
        let check = |stream: &[u8], error| assert_eq!(rows(stream).last(), Some(Err(error)), "{stream:?}");
        check(b"E\0\0\0\x04", Malformed::Case);
        check(b"D\0\0\0\x03", Malformed::Short);
        check(b"D\xff\xff\xff\xff", Malformed::Short);
        check(b"D\0\0\0\x06\xff\xff", Malformed::Short);
        check(b"D\0\0\0\x0a\0\x01\xff\xff\xff\xfe", Malformed::Short);
        check(b"D\0\0\0\x0a\0\x01\x7f\xff\xff\xff", Malformed::Short);
        check(b"D\0\0\0\x07\0\0x", Malformed::Excess);
    }

    #[test]
    fn copied_data_is_read_message_by_message() {
        let read: Vec<_> = copied(b"d\0\0\0\x05xd\0\0\0\x04d\0\0\0\x05").collect();
        assert_eq!(read, [Ok(&b"x"[..]), Ok(&b""[..]), Err(Malformed::Short)]);
    }
}
