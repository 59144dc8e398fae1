//! Bodies of the fuzz targets: any bytes, in any cut, end in messages or in an error.

use crate::postgres::{backend, frame, frontend, startup};

/// Bytes as a client might send them.
pub fn frontend(bytes: &[u8]) {
    if let Ok(Some(length)) = startup::packet_bytes(bytes) {
        let _ = bytes.get(..length).map(startup::parse);
    }
    each(bytes, |kind, body| match kind {
        frontend::QUERY => drop(frontend::query(body)),
        frontend::PARSE => drop(frontend::parse(body)),
        frontend::BIND => {
            if let Ok(bind) = frontend::bind(body) {
                assert_eq!(frontend::values(bind.parameters).count(), bind.parameter_count);
            }
        }
        frontend::DESCRIBE | frontend::CLOSE => drop(frontend::named(body, "Describe")),
        frontend::EXECUTE => drop(frontend::execute(body)),
        frontend::FUNCTION_CALL => drop(frontend::function_call(body)),
        frontend::PASSWORD => drop((frontend::password(body), frontend::sasl_initial(body))),
        _ => {}
    });
}

/// Bytes as a server might send them.
pub fn backend(bytes: &[u8]) {
    each(bytes, |kind, body| match kind {
        backend::AUTHENTICATION => drop(backend::authentication(body)),
        backend::PARAMETER_STATUS => drop(backend::parameter_status(body)),
        backend::BACKEND_KEY_DATA => drop(backend::backend_key_data(body)),
        backend::ROW_DESCRIPTION => drop(backend::row_description(body)),
        backend::ERROR | backend::NOTICE => drop(backend::report(body)),
        backend::NOTIFICATION => drop(backend::notification(body)),
        backend::PARAMETER_DESCRIPTION => drop(backend::parameter_description(body)),
        backend::NEGOTIATE => drop(backend::negotiate(body)),
        backend::COMMAND_COMPLETE => drop(backend::command_complete(body)),
        _ => {}
    });
}

fn each(bytes: &[u8], mut look: impl FnMut(u8, &[u8])) {
    let mut rest = bytes;
    while let Ok(Some(message)) = frame::split(rest) {
        look(message.kind, message.body);
        rest = message.behind;
    }
}
