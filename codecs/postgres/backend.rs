//! What a server sends.

use super::Malformed;
use super::read::Reader;
use super::write;

/// Authentication request of any kind.
pub const AUTHENTICATION: u8 = b'R';
/// ParameterStatus.
pub const PARAMETER_STATUS: u8 = b'S';
/// BackendKeyData.
pub const BACKEND_KEY_DATA: u8 = b'K';
/// ReadyForQuery.
pub const READY_FOR_QUERY: u8 = b'Z';
/// RowDescription.
pub const ROW_DESCRIPTION: u8 = b'T';
/// DataRow.
pub const DATA_ROW: u8 = b'D';
/// CommandComplete.
pub const COMMAND_COMPLETE: u8 = b'C';
/// EmptyQueryResponse.
pub const EMPTY_QUERY: u8 = b'I';
/// ErrorResponse.
pub const ERROR: u8 = b'E';
/// NoticeResponse.
pub const NOTICE: u8 = b'N';
/// NotificationResponse.
pub const NOTIFICATION: u8 = b'A';
/// ParseComplete.
pub const PARSE_COMPLETE: u8 = b'1';
/// BindComplete.
pub const BIND_COMPLETE: u8 = b'2';
/// CloseComplete.
pub const CLOSE_COMPLETE: u8 = b'3';
/// NoData.
pub const NO_DATA: u8 = b'n';
/// ParameterDescription.
pub const PARAMETER_DESCRIPTION: u8 = b't';
/// PortalSuspended.
pub const PORTAL_SUSPENDED: u8 = b's';
/// CopyInResponse.
pub const COPY_IN: u8 = b'G';
/// CopyOutResponse.
pub const COPY_OUT: u8 = b'H';
/// CopyBothResponse.
pub const COPY_BOTH: u8 = b'W';
/// CopyData.
pub const COPY_DATA: u8 = b'd';
/// CopyDone.
pub const COPY_DONE: u8 = b'c';
/// FunctionCallResponse.
pub const FUNCTION_RESULT: u8 = b'V';
/// NegotiateProtocolVersion.
pub const NEGOTIATE: u8 = b'v';

/// An authentication request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authentication<'a> {
    /// Nothing more is asked.
    Ok,
    /// The password as it is.
    Cleartext,
    /// The password hashed with MD5 and this salt.
    Md5([u8; 4]),
    /// SASL with one of these mechanisms.
    Sasl(Vec<&'a [u8]>),
    /// A SASL challenge.
    SaslContinue(&'a [u8]),
    /// The end of SASL.
    SaslFinal(&'a [u8]),
    /// Some other kind (Kerberos, GSSAPI, SSPI…).
    Other(u32),
}

/// Authentication.
pub fn authentication(body: &[u8]) -> Result<Authentication<'_>, Malformed> {
    let mut reader = Reader::new(body, "Authentication");
    let kind = reader.u32()?;
    let request = match kind {
        0 => Authentication::Ok,
        3 => Authentication::Cleartext,
        5 => {
            let salt = reader.bytes(4)?;
            Authentication::Md5(salt.try_into().map_err(|_| reader.malformed())?)
        }
        10 => return mechanisms(reader).map(Authentication::Sasl),
        11 => return Ok(Authentication::SaslContinue(reader.rest())),
        12 => return Ok(Authentication::SaslFinal(reader.rest())),
        other => return Ok(Authentication::Other(other)),
    };
    reader.end()?;
    Ok(request)
}

fn mechanisms(mut reader: Reader<'_>) -> Result<Vec<&[u8]>, Malformed> {
    let mut list = Vec::new();
    loop {
        let name = reader.string()?;
        if name.is_empty() {
            reader.end()?;
            return Ok(list);
        }
        list.push(name);
    }
}

/// ParameterStatus: name and value.
pub fn parameter_status(body: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let mut reader = Reader::new(body, "ParameterStatus");
    let pair = (reader.string()?, reader.string()?);
    reader.end()?;
    Ok(pair)
}

/// BackendKeyData: process id and key.
pub fn backend_key_data(body: &[u8]) -> Result<(u32, &[u8]), Malformed> {
    let mut reader = Reader::new(body, "BackendKeyData");
    let process_id = reader.u32()?;
    match reader.rest() {
        key if (4..=super::startup::CANCEL_KEY_BYTES_MAX).contains(&key.len()) => Ok((process_id, key)),
        _ => Err(reader.malformed()),
    }
}

/// ReadyForQuery: `I` idle, `T` in a transaction, `E` in a failed one.
pub fn ready_for_query(body: &[u8]) -> Result<u8, Malformed> {
    match body {
        &[status @ (b'I' | b'T' | b'E')] => Ok(status),
        _ => Err(Malformed { what: "ReadyForQuery" }),
    }
}

/// CommandComplete: the tag.
pub fn command_complete(body: &[u8]) -> Result<&[u8], Malformed> {
    let mut reader = Reader::new(body, "CommandComplete");
    let tag = reader.string()?;
    reader.end()?;
    Ok(tag)
}

/// One column of a RowDescription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// Its label.
    pub name: &'a [u8],
    /// The table it comes from; 0 when it comes from none.
    pub table_oid: u32,
    /// Its number there.
    pub attribute: i16,
    /// Its type.
    pub type_oid: u32,
    /// 0 text, 1 binary; 0 when it was a statement that was described.
    pub format: i16,
}

/// RowDescription.
pub fn row_description(body: &[u8]) -> Result<Vec<Field<'_>>, Malformed> {
    let mut reader = Reader::new(body, "RowDescription");
    let count = reader.count()?;
    let mut fields = Vec::new();
    for _ in 0..count {
        let name = reader.string()?;
        let table_oid = reader.u32()?;
        let attribute = reader.i16()?;
        let type_oid = reader.u32()?;
        reader.bytes(6)?; // type size and modifier
        fields.push(Field { name, table_oid, attribute, type_oid, format: reader.i16()? });
    }
    reader.end()?;
    Ok(fields)
}

/// ParameterDescription: type OIDs, four bytes each. Of more than 65,535 PostgreSQL sends all, and what of their number
/// fits into the field of 16 bits.
pub fn parameter_description(body: &[u8]) -> Result<&[u8], Malformed> {
    let mut reader = Reader::new(body, "ParameterDescription");
    let count = reader.count()?;
    let types = reader.rest();
    let sound = types.len().is_multiple_of(4) && (types.len() / 4) & 0xffff == count;
    if sound { Ok(types) } else { Err(Malformed { what: "ParameterDescription" }) }
}

/// NotificationResponse: process id, channel, payload.
pub fn notification(body: &[u8]) -> Result<(u32, &[u8], &[u8]), Malformed> {
    let mut reader = Reader::new(body, "NotificationResponse");
    let parts = (reader.u32()?, reader.string()?, reader.string()?);
    reader.end()?;
    Ok(parts)
}

/// What of an ErrorResponse or NoticeResponse a gateway looks at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report<'a> {
    /// ERROR, FATAL, PANIC, WARNING, NOTICE…, never translated.
    pub severity: &'a [u8],
    /// SQLSTATE.
    pub code: &'a [u8],
    /// The message.
    pub message: &'a [u8],
}

impl Report<'_> {
    /// The server ends the session after this.
    pub fn is_fatal(&self) -> bool {
        matches!(self.severity, b"FATAL" | b"PANIC")
    }
}

/// ErrorResponse and NoticeResponse.
pub fn report(body: &[u8]) -> Result<Report<'_>, Malformed> {
    let mut reader = Reader::new(body, "ErrorResponse");
    let mut report = Report::default();
    loop {
        let field = reader.u8()?;
        if field == 0 {
            reader.end()?;
            return Ok(report);
        }
        let value = reader.string()?;
        match field {
            b'V' => report.severity = value,
            b'S' if report.severity.is_empty() => report.severity = value,
            b'C' => report.code = value,
            b'M' => report.message = value,
            _ => {}
        }
    }
}

/// An ErrorResponse to be written.
#[derive(Debug, Clone, Copy)]
pub struct ErrorText<'a> {
    /// `ERROR` or `FATAL`.
    pub severity: &'a str,
    /// SQLSTATE.
    pub code: &'a str,
    /// What happened.
    pub message: &'a str,
    /// More of it; empty for none.
    pub detail: &'a str,
    /// What to do; empty for none.
    pub hint: &'a str,
}

/// Writes an ErrorResponse.
pub fn write_error(out: &mut Vec<u8>, error: &ErrorText<'_>) {
    write::message(out, ERROR, |body| {
        for (field, value) in
            [(b'S', error.severity), (b'V', error.severity), (b'C', error.code), (b'M', error.message)]
        {
            body.u8(field).string(value.as_bytes());
        }
        for (field, value) in [(b'D', error.detail), (b'H', error.hint)] {
            if !value.is_empty() {
                body.u8(field).string(value.as_bytes());
            }
        }
        body.u8(0);
    });
}

/// Writes an Authentication request with its data.
pub fn write_authentication(out: &mut Vec<u8>, kind: u32, data: &[u8]) {
    write::message(out, AUTHENTICATION, |body| {
        body.u32(kind).bytes(data);
    });
}

/// Writes a BackendKeyData.
pub fn write_backend_key_data(out: &mut Vec<u8>, process_id: u32, key: &[u8]) {
    write::message(out, BACKEND_KEY_DATA, |body| {
        body.u32(process_id).bytes(key);
    });
}

/// Writes a ReadyForQuery.
pub fn write_ready_for_query(out: &mut Vec<u8>, status: u8) {
    write::message(out, READY_FOR_QUERY, |body| {
        body.u8(status);
    });
}

/// Writes a NegotiateProtocolVersion: the newest minor version spoken, and the options not known.
pub fn write_negotiate(out: &mut Vec<u8>, newest_minor: u16, options: &[&[u8]]) {
    let count = i32::try_from(options.len()).unwrap_or(i32::MAX);
    write::message(out, NEGOTIATE, |body| {
        body.u32(u32::from(newest_minor) | 3 << 16).i32(count);
        for option in options {
            body.string(option);
        }
    });
}

/// NegotiateProtocolVersion: the newest version the server speaks.
pub fn negotiate(body: &[u8]) -> Result<super::startup::Version, Malformed> {
    let mut reader = Reader::new(body, "NegotiateProtocolVersion");
    let [a, b, c, d] = reader.u32()?.to_be_bytes();
    let (major, minor) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    for _ in 0..reader.i32()?.max(0) {
        reader.string()?;
    }
    reader.end()?;
    // The documentation says "minor version", servers send major and minor: read both.
    Ok(super::startup::Version { major: if major == 0 { 3 } else { major }, minor })
}

#[cfg(test)]
mod tests {
    use super::*;

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
        check(&[0, 0, 0, 5, 1, 2, 3, 4], |b| authentication(b).map(|_| ()));
        check(b"\0\0\0\x0aSCRAM-SHA-256\0\0", |b| authentication(b).map(|_| ()));
        check(b"TimeZone\0UTC\0", |b| parameter_status(b).map(|p| p.0.len()));
        check(b"I", ready_for_query);
        check(b"SELECT 1\0", |b| command_complete(b).map(<[u8]>::len));
        check(b"\0\x01id\0\0\0\x40\0\0\x01\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0", |b| {
            row_description(b).map(|f| f.len())
        });
        check(b"\0\x01\0\0\0\x17", |b| parameter_description(b).map(<[u8]>::len));
        check(b"\0\0\0\x09chan\0load\0", |b| notification(b).map(|n| n.0));
        check(b"SERROR\0C42501\0Mno\0\0", |b| report(b).map(|r| r.code.len()));
    }

    #[test]
    fn a_statement_may_have_as_many_parameters_as_two_bytes_count() {
        let mut body = [&[0xff, 0xff][..], &[0; 65_535 * 4]].concat();
        assert_eq!(parameter_description(&body).map(<[u8]>::len), Ok(65_535 * 4));
        body.extend([0; 8]);
        assert!(parameter_description(&body).is_err(), "65,537 with a count of 65,535");
        body.splice(..2, [0, 1]);
        assert_eq!(parameter_description(&body).map(<[u8]>::len), Ok(65_537 * 4));
    }

    #[test]
    fn a_key_may_be_long_but_not_endless() {
        assert!(backend_key_data(&[0; 7]).is_err());
        assert_eq!(backend_key_data(&[0; 8]).unwrap().1.len(), 4);
        assert_eq!(backend_key_data(&[0; 260]).unwrap().1.len(), 256);
        assert!(backend_key_data(&[0; 261]).is_err());
    }

    #[test]
    fn errors_read_as_they_were_written() {
        let mut out = Vec::new();
        let error = ErrorText { severity: "FATAL", code: "42501", message: "no", detail: "d", hint: "" };
        write_error(&mut out, &error);
        let read = report(&out[5..]).unwrap();
        assert!(read.is_fatal());
        assert_eq!((read.code, read.message), (&b"42501"[..], &b"no"[..]));
    }
}
