//! Whole workers on each real driver, between a scripted client and a scripted server.

mod client;
mod gate;
mod server;
mod sim;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use lockgate_ring::DriverKind;

use crate::Durability;
use client::Client;
use gate::{Gate, Options};

/// Makes a test of each function for each driver.
macro_rules! stamp {
    ($($name:ident,)*) => {
        mod io_uring {
            $(#[test] fn $name() { super::$name(super::DriverKind::IoUring); })*
        }
        mod epoll {
            $(#[test] fn $name() { super::$name(super::DriverKind::Epoll); })*
        }
    };
}

stamp! {
    a_session_goes_through_with_and_without_tls_on_either_leg,
    bulk_arrives_whole_on_every_leg,
    a_client_that_does_not_read_stops_the_server_and_nobody_else,
    a_server_that_does_not_read_stops_its_client,
    a_cancel_key_works_and_a_foreign_one_does_nothing,
    too_many_unauthenticated_connections_are_refused_until_one_leaves,
    a_silent_connection_is_closed_at_its_deadline_and_holds_nobody_up,
    a_drain_lets_a_command_end_and_then_ends_everything,
    a_drain_ends_at_its_deadline,
    a_snapshot_that_admits_nobody_ends_sessions_and_is_announced,
    a_recording_that_fails_lets_no_command_pass_until_it_goes_on,
    the_next_address_is_tried_when_one_refuses,
    a_server_whose_certificate_is_not_trusted_gets_no_password,
    bytes_behind_the_request_for_tls_close_the_session,
}

fn a_session_goes_through_with_and_without_tls_on_either_leg(driver: DriverKind) {
    for client_tls in [false, true] {
        for server_tls in [false, true] {
            for durability in [Durability::Async, Durability::Os] {
                let gate = Gate::start(Options { server_tls, durability, ..Options::on(driver) });
                let mut client = Client::connect(&gate, client_tls);
                for n in 0..20 {
                    assert_eq!(client.query(&format!("SELECT {n}")), format!("echo SELECT {n}"));
                }
                client.end();
                let case = format!("client TLS {client_tls}, server TLS {server_tls}, {durability:?}");
                gate.stop_and_verify(&case);
            }
        }
    }
}

fn bulk_arrives_whole_on_every_leg(driver: DriverKind) {
    for (client_tls, server_tls) in [(false, false), (true, false), (false, true), (true, true)] {
        let gate = Gate::start(Options { server_tls, ..Options::on(driver) });
        let mut client = Client::connect(&gate, client_tls);
        for _ in 0..3 {
            assert_eq!(client.rows("BULK 400"), (400, 400 * server::ROW_BYTES));
        }
        client.end();
        gate.stop_and_verify(&format!("client TLS {client_tls}, server TLS {server_tls}"));
    }
}

fn a_client_that_does_not_read_stops_the_server_and_nobody_else(driver: DriverKind) {
    for client_tls in [false, true] {
        let gate = Gate::start(Options::on(driver));
        let mut slow = Client::connect(&gate, client_tls);
        slow.send_query("BULK 20000");
        let mut other = Client::connect(&gate, false);
        let mut last = 0;
        let started = Instant::now();
        loop {
            assert_eq!(other.query("SELECT 1"), "echo SELECT 1");
            std::thread::sleep(Duration::from_millis(100));
            let sent = gate.server.rows_sent();
            if sent == last && sent > 0 {
                break;
            }
            last = sent;
            assert!(started.elapsed() < Duration::from_secs(20), "the server never had to wait");
        }
        // Socket buffers on four ends, and the worker's share; far less than what was asked for.
        assert!(last * server::ROW_BYTES < 64 << 20, "{last} rows were taken from the server");
        assert_eq!(slow.read_rows(), (20_000, 20_000 * server::ROW_BYTES));
        slow.end();
        other.end();
        gate.stop_and_verify("slow client");
    }
}

fn a_server_that_does_not_read_stops_its_client(driver: DriverKind) {
    let gate = Gate::start(Options::on(driver));
    let mut client = Client::connect(&gate, false);
    client.send_query("SLEEP");
    let padding = "x".repeat(100 << 10);
    let mut sent = 0;
    client.stream.set_write_timeout(Some(Duration::from_millis(500)));
    while sent < 640 && client.try_send_query(&format!("SELECT '{padding}'")) {
        sent += 1;
    }
    assert!(sent < 640, "64 MiB were taken for a server that reads nothing");
    drop(client);
    gate.stop_and_verify("slow server");
}

fn a_cancel_key_works_and_a_foreign_one_does_nothing(driver: DriverKind) {
    for server_tls in [false, true] {
        let gate = Gate::start(Options { server_tls, ..Options::on(driver) });
        let mut client = Client::connect(&gate, false);
        let (process_id, secret) = client.key.clone();
        assert_eq!(process_id, server::PROCESS_ID);
        assert_ne!(secret, server::SECRET, "the server's secret is not the client's to know");

        let mut wrong = secret.clone();
        wrong[3] ^= 1;
        client::cancel(&gate, process_id, &wrong);
        client::cancel(&gate, process_id + 1, &secret);
        assert_eq!(gate.server.cancels(), vec![]);

        client::cancel(&gate, process_id, &secret);
        assert_eq!(gate.server.cancels(), vec![(server::PROCESS_ID, server::SECRET.to_vec())]);
        assert_eq!(client.query("SELECT 1"), "echo SELECT 1");
        client.end();
        gate.stop_and_verify("cancel");
    }
}

fn too_many_unauthenticated_connections_are_refused_until_one_leaves(driver: DriverKind) {
    let limits = crate::Limits { unauthenticated_per_address_max: 2, ..Default::default() };
    let gate = Gate::start(Options { limits, ..Options::on(driver) });
    let first = TcpStream::connect(gate.address).unwrap();
    let _second = TcpStream::connect(gate.address).unwrap();
    let mut third = TcpStream::connect(gate.address).unwrap();
    assert_eq!(read_to_end(&mut third), Vec::<u8>::new(), "closed at once");
    drop(first);
    let mut fourth = gate::until(|| Client::try_connect(&gate, false).ok());
    assert_eq!(fourth.query("SELECT 1"), "echo SELECT 1");
    let mut fifth = Client::connect(&gate, false);
    assert_eq!(fifth.query("SELECT 2"), "echo SELECT 2", "an authenticated session counts no more");
    gate.stop_and_verify("limits");
}

fn a_silent_connection_is_closed_at_its_deadline_and_holds_nobody_up(driver: DriverKind) {
    let lane_limits = lockgate_lane::Limits { login_ns_max: 300_000_000, ..Default::default() };
    let gate = Gate::start(Options { lane_limits, ..Options::on(driver) });
    let mut silent = TcpStream::connect(gate.address).unwrap();
    let started = Instant::now();
    let mut client = Client::connect(&gate, false);
    assert_eq!(client.query("SELECT 1"), "echo SELECT 1");
    read_to_end(&mut silent);
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(250) && took < Duration::from_secs(5), "{took:?}");
    assert_eq!(client.query("SELECT 2"), "echo SELECT 2", "whoever has logged in stays");
    gate.stop_and_verify("deadline");
}

fn a_drain_lets_a_command_end_and_then_ends_everything(driver: DriverKind) {
    let gate = Gate::start(Options::on(driver));
    let mut idle = Client::connect(&gate, false);
    let mut busy = Client::connect(&gate, true);
    busy.send_query("WAIT");
    gate::until(|| (gate.server.waiting() == 1).then_some(()));
    gate.drain(Duration::from_secs(20));
    assert_eq!(idle.read_error().0, "57P01");
    assert!(gate::until(|| TcpStream::connect(gate.address).is_err().then_some(true)));
    gate.server.go_on();
    assert_eq!(busy.read_answer(), "echo WAIT");
    assert_eq!(busy.read_error().0, "57P01");
    gate.stopped_and_verified("drain");
}

fn a_drain_ends_at_its_deadline(driver: DriverKind) {
    let gate = Gate::start(Options::on(driver));
    let mut busy = Client::connect(&gate, false);
    busy.send_query("WAIT");
    gate::until(|| (gate.server.waiting() == 1).then_some(()));
    gate.drain(Duration::from_millis(300));
    assert_eq!(busy.read_error().0, "57P01");
    gate.server.go_on();
    gate.stopped_and_verified("drain deadline");
}

fn a_snapshot_that_admits_nobody_ends_sessions_and_is_announced(driver: DriverKind) {
    let gate = Gate::start(Options::on(driver));
    let mut client = Client::connect(&gate, false);
    assert_eq!(client.query("SELECT 1"), "echo SELECT 1");
    gate.adopt(2, true);
    gate::until(|| gate.adopted(2).then_some(()));
    assert_eq!(client.query("SELECT 2"), "echo SELECT 2");
    gate.adopt(3, false);
    assert_eq!(client.read_error().0, "57P01");
    gate.stop_and_verify("adoption");
}

fn a_recording_that_fails_lets_no_command_pass_until_it_goes_on(driver: DriverKind) {
    for durability in [Durability::Async, Durability::Os] {
        let gate = Gate::start(Options { durability, broken_segment: true, ..Options::on(driver) });
        gate::until(|| match Client::try_connect(&gate, false) {
            Err(error) if error.starts_with("58030") => Some(()),
            _ => None,
        });
        gate.supply_segments();
        let mut client = gate::until(|| Client::try_connect(&gate, false).ok());
        assert_eq!(client.query("SELECT 1"), "echo SELECT 1");
        client.end();
        gate.stop_and_verify("recording");
    }
}

fn the_next_address_is_tried_when_one_refuses(driver: DriverKind) {
    let gate = Gate::start(Options { dead_address_first: true, ..Options::on(driver) });
    let mut client = Client::connect(&gate, false);
    assert_eq!(client.query("SELECT 1"), "echo SELECT 1");
    gate.stop_and_verify("addresses");
}

fn a_server_whose_certificate_is_not_trusted_gets_no_password(driver: DriverKind) {
    let gate = Gate::start(Options { server_tls: true, distrust: true, ..Options::on(driver) });
    let error = Client::try_connect(&gate, false).err().unwrap();
    assert!(error.contains("ertificate"), "{error}");
    assert_eq!(gate.server.startups(), 0);
    gate.stop_and_verify("distrust");
}

fn bytes_behind_the_request_for_tls_close_the_session(driver: DriverKind) {
    let gate = Gate::start(Options::on(driver));
    let mut stream = TcpStream::connect(gate.address).unwrap();
    stream.write_all(&[0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f, 0x16, 3, 1]).unwrap();
    let answer = read_to_end(&mut stream);
    assert!(!answer.starts_with(b"S"), "{answer:?}");
    gate.stop_and_verify("smuggled bytes");
}

fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut all = Vec::new();
    match stream.read_to_end(&mut all) {
        Ok(_) => all,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => all,
        Err(error) => panic!("{error}"),
    }
}
