//! Whole workers on each real driver, between a scripted client and a scripted server.

mod client;
mod gate;
mod server;
mod sim;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use lockgate_bridge::{CancelFrom, Ending, Order};
use lockgate_lane::CancelRequest;
use lockgate_ring::DriverKind;

use crate::{Durability, Limits};
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
    a_client_that_says_all_before_it_reads_is_heard,
    a_server_that_does_not_read_stops_its_client,
    a_cancel_key_works_and_a_foreign_one_does_nothing,
    a_flood_of_cancels_for_one_session_lets_everybody_go,
    too_many_unauthenticated_connections_are_refused_until_one_leaves,
    a_silent_connection_is_closed_at_its_deadline_and_holds_nobody_up,
    a_drain_lets_a_command_end_and_then_ends_everything,
    a_drain_ends_at_its_deadline,
    a_worker_that_has_handed_over_lets_sessions_be_until_they_leave_or_the_deadline,
    listeners_come_and_go_and_sessions_notice_nothing,
    a_ping_is_answered_by_whoever_turns,
    a_cancel_key_that_nobody_knows_is_asked_about_elsewhere_only_while_there_is_an_elsewhere,
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
        let last = taken_for_one_that_does_not_read(&gate, || {
            assert_eq!(other.query("SELECT 1"), "echo SELECT 1");
        });
        // Socket buffers on four ends, and the worker's share; far less than what was asked for.
        assert!(last * server::ROW_BYTES < 64 << 20, "{last} rows were taken from the server");
        assert_eq!(slow.read_rows(), (20_000, 20_000 * server::ROW_BYTES));
        slow.end();
        other.end();
        gate.stop_and_verify("slow client");
    }
}

/// Rows that the server has sent when it must wait.
fn taken_for_one_that_does_not_read(gate: &Gate, mut meanwhile: impl FnMut()) -> usize {
    let mut last = 0;
    let started = Instant::now();
    loop {
        meanwhile();
        std::thread::sleep(Duration::from_millis(100));
        let sent = gate.server.rows_sent();
        if sent == last && sent > 0 {
            return last;
        }
        last = sent;
        assert!(started.elapsed() < Duration::from_secs(20), "the server never had to wait");
    }
}

fn a_client_that_says_all_before_it_reads_is_heard(driver: DriverKind) {
    for client_tls in [false, true] {
        let gate = Gate::start(Options::on(driver));
        let mut client = Client::connect(&gate, client_tls);
        client.send_query("BULK 8000");
        taken_for_one_that_does_not_read(&gate, || ());
        // More than its own kernel and ours keep, by two million bytes.
        client.stream.set_write_timeout(Some(Duration::from_secs(10)));
        let padding = "x".repeat(100 << 10);
        for _ in 0..64 {
            client.send_query(&format!("SELECT '{padding}'"));
        }
        assert_eq!(client.read_rows(), (8_000, 8_000 * server::ROW_BYTES));
        for _ in 0..64 {
            assert_eq!(client.read_answer().len(), "echo SELECT ''".len() + padding.len());
        }
        client.end();
        gate.stop_and_verify(&format!("client that says all, TLS {client_tls}"));
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

fn a_flood_of_cancels_for_one_session_lets_everybody_go(driver: DriverKind) {
    let gate = Gate::start(Options::on(driver));
    let client = Client::connect(&gate, false);
    let (process_id, secret) = client.key.clone();
    std::thread::scope(|scope| {
        for _ in 0..24 {
            scope.spawn(|| client::cancel(&gate, process_id, &secret));
        }
    });
    // Everybody was let go; how many reached the server depends on how they fell together.
    let delivered = gate.server.cancels().len();
    assert!((1..=24).contains(&delivered), "{delivered}");
    client.end();
    gate.stop_and_verify("cancels");
}

fn too_many_unauthenticated_connections_are_refused_until_one_leaves(driver: DriverKind) {
    let limits = crate::Limits { unauthenticated_per_address_max: 2, ..Default::default() };
    let gate = Gate::start(Options { limits, ..Options::on(driver) });
    let first = TcpStream::connect(gate.address).unwrap();
    let _second = TcpStream::connect(gate.address).unwrap();
    let mut third = TcpStream::connect(gate.address).unwrap();
    let told = String::from_utf8_lossy(&read_to_end(&mut third)).into_owned();
    assert!(told.starts_with('E') && told.contains("C53300\0"), "{told:?}");
    assert!(told.contains("too many connections from your address"), "{told:?}");
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
    gate.drain(Duration::from_secs(20), Ending::WhenIdle);
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
    gate.drain(Duration::from_millis(300), Ending::WhenIdle);
    assert_eq!(busy.read_error().0, "57P01");
    gate.server.go_on();
    gate.stopped_and_verified("drain deadline");
}

fn a_worker_that_has_handed_over_lets_sessions_be_until_they_leave_or_the_deadline(driver: DriverKind) {
    let gate = Gate::start(Options::on(driver));
    let mut idle = Client::connect(&gate, false);
    let mut other = Client::connect(&gate, false);
    gate.drain(Duration::from_secs(60), Ending::ByThemselves);
    assert!(gate::until(|| TcpStream::connect(gate.address).is_err().then_some(true)));
    assert_eq!(idle.query("SELECT 1"), "echo SELECT 1");
    idle.end();
    assert_eq!(other.query("SELECT 2"), "echo SELECT 2");
    gate.drain(Duration::from_secs(60), Ending::WhenIdle);
    assert_eq!(other.read_error().0, "57P01", "a harder drain ends who is idle");
    gate.stopped_and_verified("handed over, then asked to end");

    let gate = Gate::start(Options::on(driver));
    let mut client = Client::connect(&gate, false);
    gate.drain(Duration::from_millis(300), Ending::ByThemselves);
    assert_eq!(client.read_error().0, "57P01");
    gate.stopped_and_verified("handed over, at the deadline");
}

fn listeners_come_and_go_and_sessions_notice_nothing(driver: DriverKind) {
    let gate = Gate::start(Options::on(driver));
    let mut first = Client::connect(&gate, false);
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, kept) = (socket.local_addr().unwrap(), socket.try_clone().unwrap());
    let again = socket.try_clone().unwrap();
    gate.configure(vec![(address, vec![socket])], Limits::default());
    assert!(gate::until(|| TcpStream::connect(gate.address).is_err().then_some(true)));
    assert_eq!(first.query("SELECT 1"), "echo SELECT 1");
    let mut second = Client::connect_to(&gate, address);
    assert_eq!(second.query("SELECT 2"), "echo SELECT 2");
    // It listens anew, in place of what it listened on.
    gate.configure(vec![(address, vec![again])], Limits::default());
    let mut another = Client::connect_to(&gate, address);
    assert_eq!(another.query("SELECT 2"), "echo SELECT 2");
    another.end();

    // It rests: whoever comes waits at the socket, for whoever listens next.
    gate.configure(Vec::new(), Limits::default());
    let waiting = TcpStream::connect(address).unwrap();
    gate.configure(vec![(address, vec![kept])], Limits { sessions_max: 2, ..Limits::default() });
    let told = String::from_utf8(read_to_end(&mut { waiting })).unwrap();
    assert!(told.contains("C53300\0"), "there is room for two: {told:?}");
    first.end();
    let mut third = gate::until(|| Client::try_connect_to(&gate, address).ok());
    assert_eq!(third.query("SELECT 3"), "echo SELECT 3");
    gate.stop_and_verify("listeners");
}

fn a_ping_is_answered_by_whoever_turns(driver: DriverKind) {
    let gate = Gate::start(Options::on(driver));
    for number in 0..3 {
        gate.order(Order::Ping { number });
        gate::until(|| (gate.answers() == number + 1).then_some(()));
    }
    gate.stop_and_verify("pings");
}

fn a_cancel_key_that_nobody_knows_is_asked_about_elsewhere_only_while_there_is_an_elsewhere(
    driver: DriverKind,
) {
    let gate = Gate::start(Options::on(driver));
    let client = Client::connect(&gate, false);
    client::cancel(&gate, 1, b"alone");
    assert_eq!(gate.elsewhere(), Vec::<Vec<u8>>::new());
    gate.order(Order::Siblings { any: true });
    client::cancel(&gate, 1, b"asked");
    assert_eq!(gate.elsewhere(), [b"asked"]);

    // From another process: what is known is cancelled, what is not goes nowhere, and both are answered.
    let (process_id, secret) = client.key.clone();
    for (secret, cancels) in [(b"nobody's".to_vec(), 0), (secret, 1)] {
        let answers = gate.answers();
        let request = CancelRequest { process_id, secret, client: "127.0.0.1:9".parse().unwrap() };
        gate.order(Order::Cancel { request, from: CancelFrom::Control, ticket: 7 });
        gate::until(|| (gate.answers() == answers + 1).then_some(()));
        assert_eq!(gate.server.cancels().len(), cancels);
    }
    assert_eq!(gate.elsewhere().len(), 1);
    client.end();
    gate.stop_and_verify("elsewhere");
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
