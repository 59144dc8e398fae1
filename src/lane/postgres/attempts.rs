//! A target's addresses in turn: which of its servers will do (libpq's `target_session_attrs`), and what became of
//! those that did not.

use std::net::SocketAddr;

use super::trouble::Trouble;
use crate::{Dialing, SessionAttrs};

/// Failures that the client is told one by one; of more only the number.
const TOLD_MAX: usize = 8;

/// All attempts of one session to reach its target.
#[derive(Debug)]
pub(super) struct Attempts {
    attrs: SessionAttrs,
    /// Every address was tried for a standby and there was none: any server does now.
    second_pass: bool,
    failures: Vec<Failure>,
    untold: usize,
    /// The address being tried.
    address: Option<SocketAddr>,
}

/// Why an address did not do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// The server's own code, if it was the server who said so.
    pub(super) sqlstate: Option<String>,
    pub(super) text: String,
}

impl Failure {
    /// No session came of it, for a reason that the server did not give.
    pub(super) fn connection(text: impl Into<String>) -> Failure {
        Failure { sqlstate: None, text: text.into() }
    }
}

/// What a server says of itself, as servers from 14 on do in every start-up.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Posture {
    in_hot_standby: Option<bool>,
    default_read_only: Option<bool>,
}

impl Posture {
    /// Takes note of a ParameterStatus.
    pub(super) fn reported(&mut self, name: &[u8], value: &[u8]) {
        match name {
            b"in_hot_standby" => self.in_hot_standby = Some(value == b"on"),
            b"default_transaction_read_only" => self.default_read_only = Some(value == b"on"),
            _ => {}
        }
    }
}

impl Attempts {
    pub(super) fn new(attrs: SessionAttrs) -> Attempts {
        Attempts { attrs, second_pass: false, failures: Vec::new(), untold: 0, address: None }
    }

    pub(super) fn trying(&mut self, address: SocketAddr) {
        self.address = Some(address);
    }

    /// The address at hand does not do.
    pub(super) fn failed(&mut self, mut failure: Failure) {
        if let Some(address) = self.address {
            failure.text = format!("{address}: {}", failure.text);
        }
        // In a second pass the first one's failures say what the second's would.
        if self.failures.contains(&failure) {
            return;
        }
        match self.failures.len() < TOLD_MAX {
            true => self.failures.push(failure),
            false => self.untold += 1,
        }
    }

    /// All addresses have been tried: from the start again, or what the client is told.
    pub(super) fn exhausted(&mut self, target: &str) -> Result<Dialing, Trouble> {
        if self.attrs == SessionAttrs::PreferStandby && !self.second_pass && !self.failures.is_empty() {
            self.second_pass = true;
            return Ok(Dialing::First);
        }
        Err(self.trouble(target))
    }

    fn trouble(&self, target: &str) -> Trouble {
        if let ([Failure { sqlstate: Some(sqlstate), text }], Some(address)) =
            (self.failures.as_slice(), self.address)
        {
            // One server that gave its reason: the client hears it as if it had asked the server itself.
            let own = text.strip_prefix(&format!("{address}: ")).unwrap_or(text);
            return Trouble::TargetRefused { sqlstate: sqlstate.clone(), message: own.to_owned() };
        }
        let mut reasons: Vec<&str> = self.failures.iter().map(|failure| failure.text.as_str()).collect();
        let more = format!("{} more", self.untold);
        match (self.untold, reasons.is_empty()) {
            (0, true) => reasons.push("it has no address yet"),
            (0, false) => {}
            _ => reasons.push(&more),
        }
        let message = format!("target \"{target}\" cannot be reached: {}", reasons.join("; "));
        match self.failures.iter().rev().find_map(|failure| failure.sqlstate.clone()) {
            Some(sqlstate) => Trouble::TargetRefused { sqlstate, message },
            None => Trouble::TargetUnreachable { message },
        }
    }

    /// Whether a server that says this of itself will do; else why not, in libpq's words.
    pub(super) fn suits(&self, posture: Posture) -> Result<(), Failure> {
        let attrs = match self.attrs {
            SessionAttrs::PreferStandby if self.second_pass => SessionAttrs::Any,
            SessionAttrs::PreferStandby => SessionAttrs::Standby,
            attrs => attrs,
        };
        let unsaid = |name: &str| {
            Failure::connection(format!(
                "the server does not report {name}, which target_session_attrs needs"
            ))
        };
        let standby = || posture.in_hot_standby.ok_or_else(|| unsaid("in_hot_standby"));
        let writes = || match (standby()?, posture.default_read_only) {
            (false, None) => Err(unsaid("default_transaction_read_only")),
            (standby, read_only) => Ok(!standby && read_only == Some(false)),
        };
        let (good, else_text) = match attrs {
            SessionAttrs::Any | SessionAttrs::PreferStandby => (true, ""),
            SessionAttrs::ReadWrite => (writes()?, "session is read-only"),
            SessionAttrs::ReadOnly => (!writes()?, "session is not read-only"),
            SessionAttrs::Primary => (!standby()?, "server is in hot standby mode"),
            SessionAttrs::Standby => (standby()?, "server is not in hot standby mode"),
        };
        if good { Ok(()) } else { Err(Failure::connection(else_text)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn posture(standby: Option<bool>, read_only: Option<bool>) -> Posture {
        Posture { in_hot_standby: standby, default_read_only: read_only }
    }

    /// The whole of libpq's table: what each kind of server is good for.
    #[test]
    fn servers_do_as_they_do_for_libpq() {
        use SessionAttrs as A;
        let check = |name: &str, posture: Posture, good: &[SessionAttrs]| {
            for attrs in [A::Any, A::ReadWrite, A::ReadOnly, A::Primary, A::Standby, A::PreferStandby] {
                let suits = Attempts::new(attrs).suits(posture);
                assert_eq!(suits.is_ok(), good.contains(&attrs), "{name}, {attrs:?}: {suits:?}");
            }
        };
        check("primary", posture(Some(false), Some(false)), &[A::Any, A::ReadWrite, A::Primary]);
        check("reading primary", posture(Some(false), Some(true)), &[A::Any, A::ReadOnly, A::Primary]);
        let of_standby = [A::Any, A::ReadOnly, A::Standby, A::PreferStandby];
        check("standby", posture(Some(true), Some(false)), &of_standby);
        check("reading standby", posture(Some(true), Some(true)), &of_standby);
        check("one that says nothing", posture(None, None), &[A::Any]);
    }

    #[test]
    fn a_standby_is_preferred_once_and_then_anybody_does() {
        let mut attempts = Attempts::new(SessionAttrs::PreferStandby);
        let primary = posture(Some(false), Some(false));
        attempts.failed(attempts.suits(primary).unwrap_err());
        assert_eq!(attempts.exhausted("t"), Ok(Dialing::First));
        assert_eq!(attempts.suits(primary), Ok(()));
        assert!(attempts.exhausted("t").is_err(), "there is no third pass");
    }

    #[test]
    fn the_client_hears_what_it_would_have_heard_of_one_server_and_of_several_all() {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let starting = Failure {
            sqlstate: Some(String::from("57P03")),
            text: String::from("the database system is starting up"),
        };
        let check = |failures: &[(u16, Failure)], code: &str, text: &str| {
            let mut attempts = Attempts::new(SessionAttrs::Any);
            for (port, failure) in failures {
                attempts.trying(address(*port));
                attempts.failed(failure.clone());
            }
            match attempts.exhausted("t").unwrap_err() {
                Trouble::TargetRefused { sqlstate, message } => {
                    assert_eq!((sqlstate.as_str(), message.as_str()), (code, text))
                }
                Trouble::TargetUnreachable { message } => {
                    assert_eq!(("08001", message.as_str()), (code, text))
                }
                other => panic!("{other:?}"),
            }
        };
        check(&[], "08001", "target \"t\" cannot be reached: it has no address yet");
        check(&[(1, starting.clone())], "57P03", "the database system is starting up");
        let refused = Failure::connection("Connection refused");
        check(
            &[(1, refused.clone())],
            "08001",
            "target \"t\" cannot be reached: 127.0.0.1:1: Connection refused",
        );
        check(
            &[(1, starting), (2, refused.clone())],
            "57P03",
            "target \"t\" cannot be reached: 127.0.0.1:1: the database system is starting up; 127.0.0.1:2: Connection refused",
        );
        let many: Vec<_> = (1..=20).map(|port| (port, refused.clone())).collect();
        let mut attempts = Attempts::new(SessionAttrs::Any);
        for (port, failure) in many {
            attempts.trying(address(port));
            attempts.failed(failure);
        }
        let Err(Trouble::TargetUnreachable { message }) = attempts.exhausted("t") else { panic!("it is") };
        assert!(message.ends_with("127.0.0.1:8: Connection refused; 12 more"), "{message}");
    }
}
