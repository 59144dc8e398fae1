//! Limits that hold before anybody has proven who they are: how many connections, and how many from one address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

use crate::Limits;

/// Who is connected and not yet authenticated, by address.
#[derive(Debug)]
pub(crate) struct Admission {
    limits: Limits,
    waiting: HashMap<IpAddr, u32>,
    waiting_total: u32,
}

impl Admission {
    pub(crate) fn new(limits: Limits) -> Admission {
        Admission { limits, waiting: HashMap::new(), waiting_total: 0 }
    }

    /// Other limits hold from now on; who is in stays.
    pub(crate) fn limit(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Lets one more connection from `address` in beside `connections` others; it counts as unauthenticated until
    /// [`Admission::leave`]. The error is what to tell whoever may not come in.
    pub(crate) fn enter(&mut self, address: IpAddr, connections: usize) -> Result<(), &'static str> {
        let total = u32::try_from(connections).unwrap_or(u32::MAX);
        if total >= self.limits.sessions_max {
            return Err("Lockgate has as many clients as it may have; please try again later");
        }
        if self.waiting_total >= self.limits.unauthenticated_max {
            return Err("too many connections to Lockgate are not authenticated yet; please try again later");
        }
        let waiting = self.waiting.entry(network(address)).or_insert(0);
        if *waiting >= self.limits.unauthenticated_per_address_max {
            return Err(
                "too many connections from your address are not authenticated yet; please try again later",
            );
        }
        *waiting += 1;
        self.waiting_total += 1;
        Ok(())
    }

    /// Connections that count as unauthenticated.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        usize::try_from(self.waiting_total).unwrap().max(self.waiting.len())
    }

    /// A connection that entered has been authenticated, or is closed: not before, or one address could hold any
    /// number that fail and linger.
    pub(crate) fn leave(&mut self, address: IpAddr) {
        let network = network(address);
        let Some(waiting) = self.waiting.get_mut(&network) else { return };
        *waiting -= 1;
        if *waiting == 0 {
            self.waiting.remove(&network);
        }
        self.waiting_total -= 1;
    }
}

/// What counts as one address: with IPv6 its /64, because whoever has one address of it has them all.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => IpAddr::V4(v4),
            None => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission() -> Admission {
        Admission::new(Limits {
            sessions_max: 10,
            unauthenticated_max: 5,
            unauthenticated_per_address_max: 2,
            ..Limits::default()
        })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_its_share_until_it_authenticates() {
        let mut admission = admission();
        assert!(admission.enter(ip("10.0.0.1"), 0).is_ok());
        assert!(admission.enter(ip("10.0.0.1"), 1).is_ok());
        assert!(admission.enter(ip("10.0.0.1"), 2).is_err());
        assert!(admission.enter(ip("10.0.0.2"), 2).is_ok(), "another address is not concerned");
        admission.leave(ip("10.0.0.1"));
        assert!(admission.enter(ip("10.0.0.1"), 3).is_ok());
    }

    #[test]
    fn all_unauthenticated_together_and_all_sessions_have_a_limit() {
        let mut admission = admission();
        for n in 0..5u8 {
            assert!(admission.enter(IpAddr::from([10, 0, 1, n]), 0).is_ok());
        }
        assert!(admission.enter(ip("10.0.2.1"), 0).is_err());
        admission.leave(ip("10.0.1.0"));
        assert!(admission.enter(ip("10.0.2.1"), 10).is_err(), "sessions_max");
        assert!(admission.enter(ip("10.0.2.1"), 9).is_ok());
    }

    #[test]
    fn an_ipv6_network_and_a_mapped_address_are_one() {
        let mut admission = admission();
        assert!(admission.enter(ip("2001:db8::1"), 0).is_ok());
        assert!(admission.enter(ip("2001:db8::2"), 0).is_ok());
        assert!(admission.enter(ip("2001:db8::3"), 0).is_err());
        assert!(admission.enter(ip("2001:db8:0:1::1"), 0).is_ok());
        assert!(admission.enter(ip("::ffff:10.0.0.1"), 0).is_ok());
        assert!(admission.enter(ip("10.0.0.1"), 0).is_ok());
        assert!(admission.enter(ip("10.0.0.1"), 0).is_err());
    }

    #[test]
    fn nothing_is_kept_of_who_left() {
        let mut admission = admission();
        admission.enter(ip("10.0.0.1"), 0).unwrap();
        admission.leave(ip("10.0.0.1"));
        admission.leave(ip("10.0.0.1"));
        assert!(admission.waiting.is_empty());
        assert_eq!(admission.waiting_total, 0);
    }
}
