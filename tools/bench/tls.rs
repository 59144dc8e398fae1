//! TLS without a socket: bytes go in and out. monoio's buffers belong to the kernel while it fills them, so that rustls
//! cannot be lent the connection.

use std::io::{self, Read as _, Write as _};
use std::sync::Arc;

use lockgate_client::tls;
use rustls::{ClientConfig, ClientConnection};

/// One session.
#[derive(Debug)]
pub struct Tls(ClientConnection);

impl Tls {
    /// A session that has said nothing yet.
    pub fn new(config: &Arc<ClientConfig>) -> io::Result<Tls> {
        let mut session = tls::session(config)?;
        // A COPY is sealed in one go.
        session.set_buffer_limit(None);
        Ok(Tls(session))
    }

    /// Not yet ready for the caller's bytes.
    pub fn is_handshaking(&self) -> bool {
        self.0.is_handshaking()
    }

    /// What is to go out, after sealing `plain`.
    pub fn seal(&mut self, plain: &[u8]) -> io::Result<Vec<u8>> {
        self.0.writer().write_all(plain)?;
        let mut sealed = Vec::with_capacity(plain.len() + 512);
        while self.0.wants_write() {
            self.0.write_tls(&mut sealed)?;
        }
        Ok(sealed)
    }

    /// Takes what came in and appends what it held to `plain`.
    pub fn open(&mut self, mut sealed: &[u8], plain: &mut Vec<u8>) -> io::Result<()> {
        while !sealed.is_empty() {
            self.0.read_tls(&mut sealed)?;
            let state = self.0.process_new_packets().map_err(io::Error::other)?;
            let begin = plain.len();
            plain.resize(begin + state.plaintext_bytes_to_read(), 0);
            self.0.reader().read_exact(plain.get_mut(begin..).unwrap_or_default())?;
        }
        Ok(())
    }
}
