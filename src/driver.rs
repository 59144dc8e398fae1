//! Which of the ring's drivers the workers use: as told, or what the kernel allows.

use clap::ValueEnum;
use lockgate_ring::{DriverKind, ProbeError};
use tracing::{info, warn};

/// `workers.driver`, and `--driver` in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum DriverChoice {
    /// `io_uring` where the kernel allows it, else `epoll` with a warning
    Auto,
    /// Only this: where it is forbidden, the gateway does not start
    IoUring,
    /// Works everywhere, at a higher cost for each command
    Epoll,
}

impl DriverChoice {
    /// From the configuration's word, which has been checked.
    pub fn of(word: &str) -> DriverChoice {
        match word {
            "io_uring" => DriverChoice::IoUring,
            "epoll" => DriverChoice::Epoll,
            _ => DriverChoice::Auto,
        }
    }

    /// Probes the kernel as far as need be, and says what the workers use.
    ///
    /// # Errors
    /// When it must be io_uring and that is not to be had: why, and what to do.
    pub fn settle(self) -> Result<DriverKind, String> {
        match self {
            DriverChoice::Epoll => Ok(DriverKind::Epoll),
            DriverChoice::Auto | DriverChoice::IoUring => {
                let probed = lockgate_ring::probe().inspect(|report| info!("{report}"));
                self.judge(probed.err())
            }
        }
    }

    fn judge(self, error: Option<ProbeError>) -> Result<DriverKind, String> {
        match (self, error) {
            (DriverChoice::Epoll, _) => Ok(DriverKind::Epoll),
            (_, None) => Ok(DriverKind::IoUring),
            (DriverChoice::IoUring, Some(error)) => {
                Err(format!("{error}; or write driver = \"auto\" under [workers], which takes epoll then"))
            }
            (DriverChoice::Auto, Some(error)) => {
                warn!(
                    "the workers use epoll: {error}. Everything works, but each command takes more system calls, and \
                     recordings are written by a helper thread per worker; driver = \"epoll\" under [workers] \
                     says that this is meant"
                );
                Ok(DriverKind::Epoll)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_probe_counts_only_where_io_uring_must_be() {
        let error = || ProbeError {
            what: String::from("io_uring can not be set up"),
            why: String::from("forbidden"),
            remedy: String::from("allow it"),
        };
        for (choice, failed, settled) in [
            (DriverChoice::Auto, false, Some(DriverKind::IoUring)),
            (DriverChoice::Auto, true, Some(DriverKind::Epoll)),
            (DriverChoice::IoUring, false, Some(DriverKind::IoUring)),
            (DriverChoice::IoUring, true, None),
            (DriverChoice::Epoll, false, Some(DriverKind::Epoll)),
            (DriverChoice::Epoll, true, Some(DriverKind::Epoll)),
        ] {
            let judged = choice.judge(failed.then(error));
            assert_eq!(judged.clone().ok(), settled, "{choice:?}");
            if let Err(text) = judged {
                assert!(text.contains("forbidden; allow it; or write driver = \"auto\""), "{text}");
            }
        }
    }

    #[test]
    fn words_are_the_same_in_the_file_and_on_the_command_line() {
        for choice in DriverChoice::value_variants() {
            let word = choice.to_possible_value().unwrap().get_name().to_owned();
            assert_eq!(DriverChoice::of(&word), *choice);
        }
    }
}
