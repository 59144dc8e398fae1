//! TLS in memory: both ends, cut anywhere, against each other and against rustls' own buffered connections.

use std::io::{Read, Write};
use std::sync::Arc;

use lockgate_lane::CertificateName;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, SupportedProtocolVersion};

use super::*;

pub(crate) struct Fixture {
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) client: Arc<ClientConfig>,
    pub(crate) certificate: CertificateDer<'static>,
}

pub(crate) fn fixture(versions: &[&'static SupportedProtocolVersion]) -> Fixture {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(vec![String::from("localhost")]).unwrap();
    let certificate = cert.der().clone();
    let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
    let server = ServerConfig::builder_with_protocol_versions(versions)
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let client = ClientConfig::builder_with_protocol_versions(versions)
        .with_root_certificates(roots)
        .with_no_client_auth();
    Fixture { server: Arc::new(server), client: Arc::new(client), certificate }
}

fn front(fixture: &Fixture) -> Arc<Front> {
    Arc::new(Front::new(server_tls(fixture)))
}

/// What a listener is given.
pub(crate) fn server_tls(fixture: &Fixture) -> ServerTls {
    ServerTls {
        config: Arc::clone(&fixture.server),
        certificate: fixture.certificate.clone(),
        client_name: CertificateName::CommonName,
    }
}

pub(crate) fn name() -> ServerName<'static> {
    ServerName::try_from("localhost").unwrap()
}

/// Both ends and what is on its way between them.
struct Pair {
    client: Tls,
    server: Tls,
    to_server: Scratch,
    to_client: Scratch,
    /// What each end has received in clear.
    at_server: Vec<u8>,
    at_client: Vec<u8>,
    seen: (Progress, Progress),
}

impl Pair {
    fn new(fixture: &Fixture) -> Pair {
        let mut pair = Pair {
            client: Tls::client(&fixture.client, name()).unwrap(),
            server: Tls::server(&front(fixture)).unwrap(),
            to_server: Scratch::default(),
            to_client: Scratch::default(),
            at_server: Vec::new(),
            at_client: Vec::new(),
            seen: Default::default(),
        };
        let first = pair.client.receive(&mut [], &mut pair.at_client, &mut pair.to_server);
        assert_eq!(first, Progress::default());
        pair
    }

    /// Carries everything across in pieces of `size` until nothing is on its way.
    fn carry(&mut self, size: usize) {
        while !self.to_server.is_empty() || !self.to_client.is_empty() {
            let mut bytes = self.to_server.filled().to_vec();
            self.to_server.clear();
            for piece in bytes.chunks_mut(size) {
                let progress = self.server.receive(piece, &mut self.at_server, &mut self.to_client);
                merge(&mut self.seen.0, progress);
            }
            let mut bytes = self.to_client.filled().to_vec();
            self.to_client.clear();
            for piece in bytes.chunks_mut(size) {
                let progress = self.client.receive(piece, &mut self.at_client, &mut self.to_server);
                merge(&mut self.seen.1, progress);
            }
        }
    }

    fn established(fixture: &Fixture) -> Pair {
        let mut pair = Pair::new(fixture);
        pair.carry(usize::MAX);
        let done = Progress { established: true, ..Progress::default() };
        assert_eq!(pair.seen, (done, Progress { established: true, ..Progress::default() }));
        pair.seen = Default::default();
        pair
    }
}

fn merge(seen: &mut Progress, new: Progress) {
    assert!(!(seen.established && new.established), "established twice");
    assert!(!(seen.closed && new.closed), "closed twice");
    seen.established |= new.established;
    seen.closed |= new.closed;
    if seen.error.is_none() {
        seen.error = new.error;
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..=250u8).cycle().take(len).collect()
}

#[test]
fn data_passes_both_ways_however_it_is_cut() {
    for versions in [&[&TLS12][..], &[&TLS13], &[&TLS12, &TLS13]] {
        let fixture = fixture(versions);
        for size in [1, 2, 5, 7, 100, 1000, 16_384, usize::MAX] {
            let mut pair = Pair::new(&fixture);
            pair.carry(size);
            assert!(pair.seen.0.established && pair.seen.1.established, "pieces of {size}");
            for len in [0, 1, 100, 16_384, 16_385, 50_000] {
                let data = pattern(len);
                pair.client.seal(&data, &mut pair.to_server).unwrap();
                pair.server.seal(&data, &mut pair.to_client).unwrap();
                pair.carry(size);
                assert_eq!(std::mem::take(&mut pair.at_server), data, "pieces of {size}, {len} bytes");
                assert_eq!(std::mem::take(&mut pair.at_client), data, "pieces of {size}, {len} bytes");
            }
            assert_eq!(pair.seen.0.error, None);
            assert_eq!(pair.seen.1.error, None);
            assert_eq!(
                (pair.client.pending.capacity(), pair.server.pending.capacity()),
                (0, 0),
                "nothing is kept"
            );
        }
    }
}

#[test]
fn two_records_and_the_goodbye_may_be_cut_at_every_byte() {
    let fixture = fixture(&[&TLS13]);
    let mut pair = Pair::established(&fixture);
    let mut stream = Scratch::default();
    pair.client.seal(b"first", &mut stream).unwrap();
    pair.client.seal(b"second", &mut stream).unwrap();
    pair.client.close(&mut stream);
    let len = stream.filled().len();
    for cut in 0..=len {
        // A fresh pair for each cut: record numbers are part of what is sealed.
        let mut pair = Pair::established(&fixture);
        pair.client.seal(b"first", &mut pair.to_server).unwrap();
        pair.client.seal(b"second", &mut pair.to_server).unwrap();
        pair.client.close(&mut pair.to_server);
        let mut bytes = pair.to_server.filled().to_vec();
        let (head, tail) = bytes.split_at_mut(cut);
        let mut seen = pair.server.receive(head, &mut pair.at_server, &mut pair.to_client);
        merge(&mut seen, pair.server.receive(tail, &mut pair.at_server, &mut pair.to_client));
        assert_eq!(pair.at_server, b"firstsecond", "cut at {cut}");
        assert_eq!(seen, Progress { closed: true, ..Progress::default() }, "cut at {cut}");
        assert!(pair.server.is_peer_closed());
    }
}

#[test]
fn after_the_goodbye_nothing_counts_and_the_other_direction_goes_on() {
    let mut pair = Pair::established(&fixture(&[&TLS13]));
    pair.client.close(&mut pair.to_server);
    pair.carry(usize::MAX);
    assert!(pair.seen.0.closed);
    let ignored = pair.server.receive(&mut [0x17; 100], &mut pair.at_server, &mut pair.to_client);
    assert_eq!(ignored, Progress::default());
    assert_eq!(pair.server.pending.capacity(), 0, "what comes after it is not kept");
    pair.server.seal(b"answer", &mut pair.to_client).unwrap();
    pair.carry(usize::MAX);
    assert_eq!(pair.at_client, b"answer");
    assert!(
        pair.client.seal(b"more", &mut pair.to_server).is_err(),
        "after its goodbye a side sends nothing"
    );
    pair.client.close(&mut pair.to_server);
    assert!(pair.to_server.is_empty(), "goodbye is said once");
}

#[test]
fn every_changed_byte_of_a_sealed_record_is_noticed() {
    let fixture = fixture(&[&TLS13]);
    let mut pair = Pair::established(&fixture);
    pair.client.seal(b"drop table", &mut pair.to_server).unwrap();
    let len = pair.to_server.filled().len();
    // From the length on: rustls puts type and version into what is authenticated from its own knowledge.
    for at in 3..len {
        let mut pair = Pair::established(&fixture);
        pair.client.seal(b"drop table", &mut pair.to_server).unwrap();
        let mut bytes = pair.to_server.filled().to_vec();
        bytes[at] ^= 1;
        let seen = pair.server.receive(&mut bytes, &mut pair.at_server, &mut pair.to_client);
        assert_eq!(pair.at_server, b"", "byte {at}");
        // A longer length only waits for more; everything else is an error at once.
        assert!(seen.error.is_some() || (3..5).contains(&at), "byte {at}");
    }
}

#[test]
fn what_is_not_tls_is_an_error_with_an_alert() {
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"\x00\x00\x00\x08\x04\xd2\x16\x2f",
        &[0xff; 64],
        &[0x16, 3, 1, 0xff, 0xff, 0, 0],
    ] {
        let fixture = fixture(&[&TLS13]);
        let mut server = Tls::server(&front(&fixture)).unwrap();
        let (mut plain, mut cipher) = (Vec::new(), Scratch::default());
        let seen = server.receive(&mut garbage.to_vec(), &mut plain, &mut cipher);
        assert!(seen.error.is_some(), "{garbage:?}");
        assert!(!seen.established && plain.is_empty());
        assert_eq!(cipher.filled().first(), Some(&0x15), "an alert for {garbage:?}");
        let again = server.receive(&mut garbage.to_vec(), &mut plain, &mut cipher);
        assert_eq!(again, Progress::default(), "after an error it takes nothing more");
    }
}

#[test]
fn a_client_that_does_not_trust_the_server_tells_it_why() {
    let mut pair = Pair::new(&fixture(&[&TLS13]));
    pair.client = Tls::client(&fixture(&[&TLS13]).client, name()).unwrap();
    pair.to_server.clear();
    pair.client.receive(&mut [], &mut Vec::new(), &mut pair.to_server);
    pair.carry(usize::MAX);
    let (server, client) = (pair.seen.0.error.unwrap(), pair.seen.1.error.unwrap());
    assert!(client.contains("certificate"), "{client}");
    assert!(server.contains("alert"), "{server}");
    assert!(pair.client.seal(b"password", &mut pair.to_server).is_err());
}

#[test]
fn nothing_is_sealed_before_the_handshake_is_done() {
    let mut pair = Pair::new(&fixture(&[&TLS13]));
    pair.to_server.clear();
    assert!(pair.client.seal(b"secret", &mut pair.to_server).is_err());
    pair.client.close(&mut pair.to_server);
    assert!(pair.to_server.is_empty());
}

#[test]
fn the_peer_may_renew_its_keys() {
    let fixture = fixture(&[&TLS13]);
    let mut server = Tls::server(&front(&fixture)).unwrap();
    let mut client = ClientConnection::new(Arc::clone(&fixture.client), name()).unwrap();
    let (mut plain, mut cipher) = (Vec::new(), Scratch::default());
    for round in 0..20 {
        if round >= 10 {
            client.refresh_traffic_keys().unwrap();
            client.writer().write_all(b"ping").unwrap();
        }
        let mut sent = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut sent).unwrap();
        }
        let seen = server.receive(&mut sent, &mut plain, &mut cipher);
        assert_eq!(seen.error, None, "round {round}");
        if round >= 10 {
            server.seal(b"pong", &mut cipher).unwrap();
        }
        let mut received = cipher.filled();
        while !received.is_empty() {
            client.read_tls(&mut received).unwrap();
            client.process_new_packets().unwrap();
        }
        cipher.clear();
    }
    assert_eq!(plain, b"ping".repeat(10));
    let mut pongs = [0; 40];
    client.reader().read_exact(&mut pongs).unwrap();
    assert_eq!(&pongs[..], b"pong".repeat(10));
}

#[test]
fn the_channel_binding_is_the_certificates_hash() {
    let fixture = fixture(&[&TLS13]);
    let pair = Pair::established(&fixture);
    let expected = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &fixture.certificate);
    assert_eq!(pair.client.end_point().as_deref(), Some(expected.as_ref()));
    assert_eq!(pair.server.end_point(), None);
}
