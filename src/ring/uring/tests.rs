//! What is true of this driver alone.

use std::io::{self, Read};
use std::thread;

use super::*;
use crate::tests::{Rig, pattern};

#[test]
fn bundles_are_used_where_the_kernel_offers_them() {
    let offered = crate::probe().unwrap().bundles;
    assert_eq!(Ring::new(Config::default()).unwrap().bundles(), offered);
    assert!(!Ring::new(Config { bundles: false, ..Config::default() }).unwrap().bundles());
}

#[test]
fn a_short_write_is_continued() {
    // A pipe takes what it has room for.
    let mut rig = Rig::<Ring>::small(4, 64);
    let (mut reader, writer) = io::pipe().unwrap();
    let file = rig.driver.open_file(writer.into());
    let bytes = pattern(1, 1 << 20);
    rig.driver.write(file, 0, bytes.clone(), 0, 1);
    rig.driver.close_file(file);
    let reading = thread::spawn(move || {
        let mut got: Vec<u8> = Vec::new();
        reader.read_to_end(&mut got).unwrap();
        got
    });
    rig.until(|_, event| match event {
        Event::Written { result: Ok(()), .. } => Some(()),
        event => panic!("{event:?}"),
    });
    assert!(reading.join().unwrap() == bytes);
}

#[test]
fn completions_of_a_former_owner_touch_nobody() {
    let mut rig = Rig::<Ring>::small(64, 4096);
    let (old, peer) = rig.pair();
    rig.driver.close(old, false);
    rig.wait_closed(old);
    drop(peer);
    let (new, mut peer) = rig.pair();
    assert_eq!(new.index, old.index);
    for kind in [Kind::Receive, Kind::Send, Kind::Connect, Kind::CancelReceive, Kind::CancelSend] {
        let token = Token::new(kind, old.index, old.generation).pack();
        let nop = io_uring::opcode::Nop::new().build().user_data(token);
        // SAFETY: a nop points to no memory.
        unsafe { rig.driver.kernel.push_raw(&nop) };
    }
    rig.for_a_while(30, |_, event| panic!("{event:?}"));
    rig.driver.send_copy(new, b"hello");
    rig.turn();
    let mut got = [0; 5];
    peer.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"hello");
}
