//! What a client sends inside a session.

use super::Malformed;
use super::read::Reader;
use super::write;

/// Query: SQL text.
pub const QUERY: u8 = b'Q';
/// Parse: a statement to prepare.
pub const PARSE: u8 = b'P';
/// Bind: a portal from a statement and parameters.
pub const BIND: u8 = b'B';
/// Describe a statement or portal.
pub const DESCRIBE: u8 = b'D';
/// Execute a portal.
pub const EXECUTE: u8 = b'E';
/// Close a statement or portal.
pub const CLOSE: u8 = b'C';
/// Sync: end of a pipeline.
pub const SYNC: u8 = b'S';
/// Flush: send what there is.
pub const FLUSH: u8 = b'H';
/// FunctionCall, by OID.
pub const FUNCTION_CALL: u8 = b'F';
/// Terminate the session.
pub const TERMINATE: u8 = b'X';
/// CopyData.
pub const COPY_DATA: u8 = b'd';
/// CopyDone.
pub const COPY_DONE: u8 = b'c';
/// CopyFail.
pub const COPY_FAIL: u8 = b'f';
/// PasswordMessage, SASLInitialResponse, SASLResponse.
pub const PASSWORD: u8 = b'p';

/// What a Describe or Close names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// A prepared statement.
    Statement,
    /// A portal.
    Portal,
}

/// Query: the text without its zero.
pub fn query(body: &[u8]) -> Result<&[u8], Malformed> {
    let mut reader = Reader::new(body, "Query");
    let text = reader.string()?;
    reader.end()?;
    Ok(text)
}

/// A Parse message.
#[derive(Debug, Clone, Copy)]
pub struct Parse<'a> {
    /// The statement's name; empty for the unnamed one.
    pub name: &'a [u8],
    /// SQL text.
    pub text: &'a [u8],
    /// Type OIDs, four bytes each; 0 leaves the type to the server.
    pub types: &'a [u8],
}

/// Parse.
pub fn parse(body: &[u8]) -> Result<Parse<'_>, Malformed> {
    let mut reader = Reader::new(body, "Parse");
    let name = reader.string()?;
    let text = reader.string()?;
    let count = reader.count()?;
    let types = reader.bytes(count.saturating_mul(4))?;
    reader.end()?;
    Ok(Parse { name, text, types })
}

/// A Bind message. Iterate its parts with [`formats`] and [`values`].
#[derive(Debug, Clone, Copy)]
pub struct Bind<'a> {
    /// The portal's name; empty for the unnamed one.
    pub portal: &'a [u8],
    /// The statement's name.
    pub statement: &'a [u8],
    /// Parameter format codes, two bytes each: none, one for all, or one for each.
    pub parameter_formats: &'a [u8],
    /// Number of parameters.
    pub parameter_count: usize,
    /// Parameter values: Int32 length or −1, then that many bytes, each.
    pub parameters: &'a [u8],
    /// Result format codes, two bytes each: none, one for all, or one for each.
    pub result_formats: &'a [u8],
}

/// Bind.
pub fn bind(body: &[u8]) -> Result<Bind<'_>, Malformed> {
    let mut reader = Reader::new(body, "Bind");
    let portal = reader.string()?;
    let statement = reader.string()?;
    let formats = reader.count()?;
    let parameter_formats = reader.bytes(formats.saturating_mul(2))?;
    let parameter_count = reader.count()?;
    let before = reader.rest();
    for _ in 0..parameter_count {
        reader.value()?;
    }
    let parameters =
        before.get(..before.len().saturating_sub(reader.rest().len())).ok_or(reader.malformed())?;
    let results = reader.count()?;
    let result_formats = reader.bytes(results.saturating_mul(2))?;
    reader.end()?;
    Ok(Bind { portal, statement, parameter_formats, parameter_count, parameters, result_formats })
}

/// Format codes as numbers.
pub fn formats(codes: &[u8]) -> impl ExactSizeIterator<Item = i16> + '_ {
    codes.chunks_exact(2).map(|code| match code {
        &[a, b] => i16::from_be_bytes([a, b]),
        _ => 0,
    })
}

/// The format of item `index` under a list of codes: none is text, one is for all.
pub fn format_of(codes: &[u8], index: usize) -> i16 {
    let mut list = formats(codes);
    match list.len() {
        0 => 0,
        1 => list.next().unwrap_or(0),
        _ => list.nth(index).unwrap_or(0),
    }
}

/// Values of a Bind, in order; ends early at the first that is not whole.
pub fn values(bytes: &[u8]) -> impl Iterator<Item = Option<&[u8]>> {
    let mut reader = Reader::new(bytes, "Bind");
    std::iter::from_fn(move || reader.value().ok())
}

/// Describe, and Close, which has the same shape: what, and its name.
pub fn named<'a>(body: &'a [u8], what: &'static str) -> Result<(Named, &'a [u8]), Malformed> {
    let mut reader = Reader::new(body, what);
    let kind = match reader.u8()? {
        b'S' => Named::Statement,
        b'P' => Named::Portal,
        _ => return Err(reader.malformed()),
    };
    let name = reader.string()?;
    reader.end()?;
    Ok((kind, name))
}

/// Execute: the portal's name and the most rows to send (0: all).
pub fn execute(body: &[u8]) -> Result<(&[u8], i32), Malformed> {
    let mut reader = Reader::new(body, "Execute");
    let portal = reader.string()?;
    let rows_max = reader.i32()?;
    reader.end()?;
    Ok((portal, rows_max))
}

/// A FunctionCall.
#[derive(Debug, Clone, Copy)]
pub struct FunctionCall<'a> {
    /// The function's OID.
    pub oid: u32,
    /// Argument format codes, two bytes each.
    pub formats: &'a [u8],
    /// Argument values, as in Bind.
    pub arguments: &'a [u8],
}

/// FunctionCall.
pub fn function_call(body: &[u8]) -> Result<FunctionCall<'_>, Malformed> {
    let mut reader = Reader::new(body, "FunctionCall");
    let oid = reader.u32()?;
    let codes = reader.count()?;
    let formats = reader.bytes(codes.saturating_mul(2))?;
    let count = reader.count()?;
    let before = reader.rest();
    for _ in 0..count {
        reader.value()?;
    }
    let arguments =
        before.get(..before.len().saturating_sub(reader.rest().len())).ok_or(reader.malformed())?;
    reader.i16()?;
    reader.end()?;
    Ok(FunctionCall { oid, formats, arguments })
}

/// PasswordMessage: the password without its zero.
pub fn password(body: &[u8]) -> Result<&[u8], Malformed> {
    let mut reader = Reader::new(body, "PasswordMessage");
    let password = reader.string()?;
    reader.end()?;
    Ok(password)
}

/// SASLInitialResponse: mechanism and the client's first message.
pub fn sasl_initial(body: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let mut reader = Reader::new(body, "SASLInitialResponse");
    let mechanism = reader.string()?;
    let response = reader.value()?.ok_or(reader.malformed())?;
    reader.end()?;
    Ok((mechanism, response))
}

/// Writes a PasswordMessage.
pub fn write_password(out: &mut Vec<u8>, password: &[u8]) {
    write::message(out, PASSWORD, |body| {
        body.string(password);
    });
}

/// Writes a SASLInitialResponse.
pub fn write_sasl_initial(out: &mut Vec<u8>, mechanism: &str, response: &[u8]) {
    let length = i32::try_from(response.len()).unwrap_or(i32::MAX);
    write::message(out, PASSWORD, |body| {
        body.string(mechanism.as_bytes()).i32(length).bytes(response);
    });
}

/// Writes a SASLResponse.
pub fn write_sasl_response(out: &mut Vec<u8>, response: &[u8]) {
    write::message(out, PASSWORD, |body| {
        body.bytes(response);
    });
}

/// Writes a Query.
pub fn write_query(out: &mut Vec<u8>, text: &[u8]) {
    write::message(out, QUERY, |body| {
        body.string(text);
    });
}

/// Writes a Parse without parameter types.
pub fn write_parse(out: &mut Vec<u8>, name: &[u8], text: &[u8]) {
    write::message(out, PARSE, |body| {
        body.string(name).string(text).i16(0);
    });
}

/// Writes a Describe.
pub fn write_describe(out: &mut Vec<u8>, what: Named, name: &[u8]) {
    let what = match what {
        Named::Statement => b'S',
        Named::Portal => b'P',
    };
    write::message(out, DESCRIBE, |body| {
        body.u8(what).string(name);
    });
}

/// Writes a message that has no body (Sync, Flush, Terminate, CopyDone).
pub fn write_empty(out: &mut Vec<u8>, kind: u8) {
    write::message(out, kind, |_| {});
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out);
        out.split_off(5)
    }

    /// Whatever is cut off a message, or added to it, makes it malformed.
    fn check<T>(bytes: &[u8], read: impl Fn(&[u8]) -> Result<T, Malformed>) {
        assert!(read(bytes).is_ok());
        for cut in 0..bytes.len() {
            assert!(read(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        let mut longer = bytes.to_vec();
        longer.push(0);
        assert!(read(&longer).is_err(), "one byte more");
    }

    #[test]
    fn every_message_is_whole_or_malformed() {
        check(b"SELECT 1\0", |b| query(b).map(<[u8]>::len));
        check(b"s\0SELECT $1\0\0\x01\0\0\0\x17", |b| parse(b).map(|m| m.text.len()));
        check(b"p\0s\0\0\x01\0\x01\0\x02\xff\xff\xff\xff\0\0\0\x01x\0\x01\0\0", |b| {
            bind(b).map(|m| m.parameter_count)
        });
        check(b"Sname\0", |b| named(b, "Describe").map(|m| m.1.len()));
        check(b"p\0\0\0\0\x05", |b| execute(b).map(|m| m.1));
        check(b"\0\0\0\x05\0\x01\0\0\0\x01\0\0\0\x02ab\0\0", |b| function_call(b).map(|m| m.oid));
        check(&body(|out| write_password(out, b"secret")), |b| password(b).map(<[u8]>::len));
        check(&body(|out| write_sasl_initial(out, "SCRAM-SHA-256", b"n,,n=,r=x")), |b| {
            sasl_initial(b).map(|m| m.0.len())
        });
    }

    #[test]
    fn a_bind_has_up_to_65535_parameters() {
        let values = [0xff; 4 * 65535];
        let whole = [&b"\0\0\0\0\xff\xff"[..], &values, b"\0\0"].concat();
        assert_eq!(bind(&whole).map(|m| m.parameter_count), Ok(65535));
    }

    #[test]
    fn counts_of_what_is_not_there_and_negative_lengths_are_malformed() {
        assert!(parse(b"\0\0\xff\xff").is_err());
        assert!(bind(b"\0\0\xff\xff\0\0\0\0").is_err());
        assert!(bind(b"\0\0\0\0\0\x01\xff\xff\xff\xfe\0\0").is_err(), "length of −2");
    }

    #[test]
    fn formats_apply_to_none_all_or_each() {
        assert_eq!(format_of(b"", 3), 0);
        assert_eq!(format_of(b"\0\x01", 3), 1);
        assert_eq!(format_of(b"\0\x01\0\0", 1), 0);
        assert_eq!(format_of(b"\0\x01\0\0", 7), 0);
    }
}
