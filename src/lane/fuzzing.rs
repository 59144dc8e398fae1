//! The body of the lane's fuzz target: whatever two peers send, in whatever cuts, no panic, and nothing after the end.

use std::sync::Arc;

use lockgate_facts::postgres::Catalog;

use crate::rig::{Rig, Settings};
use crate::{Limits, Side};

/// Bytes are read as stretches: one that says whose and how long, then that many. The first says how the rig is set
/// up and whether the session stands already.
pub fn lane(bytes: &[u8]) {
    let Some((&setup, mut rest)) = bytes.split_first() else { return };
    let mut settings = Settings { masked: setup & 1 != 0, ..Settings::default() };
    if setup & 2 != 0 {
        settings.policy =
            String::from("policy p for group \"g\" on target \"t\" { allow read on * allow transaction }");
    }
    if setup & 4 != 0 {
        settings.limits =
            Limits { statement_bytes_max: 64, bind_bytes_max: 64, row_bytes_max: 64, ..Limits::default() };
    }
    let catalog = Arc::new(Catalog::empty());
    let made = if setup & 8 != 0 { Rig::new(&settings, catalog) } else { Rig::standing(&settings, catalog) };
    let Some(mut rig) = made else { return };
    while let Some((&head, tail)) = rest.split_first() {
        let length = usize::from(head >> 1).min(tail.len());
        let (stretch, behind) = tail.split_at(length);
        let side = if head & 1 == 0 { Side::Client } else { Side::Server };
        let was_closed = rig.closed.is_some();
        rig.to_client.clear();
        rig.to_server.clear();
        rig.receive(side, stretch);
        assert!(!was_closed || (rig.to_client.is_empty() && rig.to_server.is_empty()), "bytes after the end");
        rest = behind;
    }
    rig.hang_up(Side::Server, "");
    assert!(rig.closed.is_some(), "a session without a server goes on");
}
