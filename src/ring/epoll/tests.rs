//! What is true of this driver alone.

use std::io::Write;
use std::net::Shutdown;

use super::*;
use crate::tests::{Rig, pattern};

/// Two peers that have sent so much that it waits in the kernel, and one that has sent a byte.
#[test]
fn a_flood_gets_its_share_of_a_turn_and_no_more() {
    for bundles in [false, true] {
        let mut rig = Rig::<Poller>::new(Config { bundles, ..Config::default() });
        let flood = pattern(1, 256 << 10);
        let floods: Vec<_> = (0..2)
            .map(|_| {
                let (conn, mut peer) = rig.pair();
                peer.write_all(&flood).unwrap();
                peer.shutdown(Shutdown::Write).unwrap();
                (conn, peer)
            })
            .collect();
        let (modest, mut modest_peer) = rig.pair();
        modest_peer.write_all(b"1").unwrap();
        rig.turn();
        floods.iter().for_each(|(conn, _)| rig.driver.resume(*conn));
        rig.driver.resume(modest);
        let (mut got, mut ended, mut turns) = ([Vec::new(), Vec::new(), Vec::new()], 0, 0);
        while ended < 2 {
            let mut in_turn = [0; 3];
            for event in rig.turn() {
                match event {
                    Event::Received { conn, lease } => {
                        let who = floods.iter().position(|(flood, _)| *flood == conn).unwrap_or(2);
                        in_turn[who] += lease.len();
                        got[who].extend_from_slice(rig.driver.bytes(&lease));
                        rig.driver.release(lease);
                    }
                    Event::EndOfStream { .. } => ended += 1,
                    event => panic!("{event:?}"),
                }
            }
            turns += 1;
            let share = usize::try_from(TURN_BYTES_MAX).unwrap();
            assert!(in_turn.iter().all(|bytes| *bytes <= share), "{in_turn:?}");
            assert!(turns > 1 || in_turn[2] == 1, "the modest one had to wait");
        }
        assert!(got[0] == flood && got[1] == flood && got[2] == b"1");
    }
}
