//! What the kernel offers, for the log; and when it does not offer enough: what, why, and what to do.

use std::fmt;
use std::io;

use io_uring::{IoUring, Probe, opcode};

use crate::system;

/// Entries of the ring that the probe makes.
const PROBE_ENTRIES: u32 = 8;
/// Completions that fit for each entry of the submission queue: a multishot operation makes many.
const COMPLETIONS_PER_ENTRY: u32 = 4;

/// What the kernel offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// As `uname -r` says.
    pub kernel: String,
    /// Several slots in one receive completion (6.10).
    pub bundles: bool,
    /// Messages from ring to ring (5.18).
    pub msg_ring: bool,
    /// Waits that do not count as waiting for a disk (6.15).
    pub no_iowait: bool,
    /// Zero-copy send (6.0).
    pub send_zc: bool,
    /// Locked memory, in bytes: soft and hard limit. Old kernels count rings against it.
    pub memlock_bytes: (u64, u64),
    /// Open files: soft and hard limit. A session takes two.
    pub open_files: (u64, u64),
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let yes = |offered: bool| if offered { "yes" } else { "no" };
        write!(
            f,
            "io_uring on kernel {}: single issuer, deferred task work, buffer rings, multishot accept and receive: \
             yes; bundles: {}; msg_ring: {}; no_iowait: {}; send_zc: {}; memlock: {}; open files: {}",
            self.kernel,
            yes(self.bundles),
            yes(self.msg_ring),
            yes(self.no_iowait),
            yes(self.send_zc),
            Limits(self.memlock_bytes),
            Limits(self.open_files),
        )
    }
}

struct Limits((u64, u64));

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |limit: u64| match limit {
            libc::RLIM_INFINITY => "unlimited".to_owned(),
            limit => limit.to_string(),
        };
        write!(f, "{} of {}", text(self.0.0), text(self.0.1))
    }
}

/// Why io_uring can not be used here, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeError {
    /// What failed.
    pub what: String,
    /// Why, as far as it can be told.
    pub why: String,
    /// What the operator can do.
    pub remedy: String,
}

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.what, self.why, self.remedy)
    }
}

impl std::error::Error for ProbeError {}

impl From<ProbeError> for io::Error {
    fn from(error: ProbeError) -> io::Error {
        io::Error::new(io::ErrorKind::Unsupported, error)
    }
}

/// Finds out what the kernel offers, by making a small ring and taking it down again.
///
/// # Errors
/// When a [`Ring`](crate::uring::Ring) can not be made here.
pub fn probe() -> Result<Report, ProbeError> {
    let ring = build(PROBE_ENTRIES).map_err(|error| explain(&error))?;
    let mut operations = Probe::new();
    ring.submitter().register_probe(&mut operations).map_err(|error| explain(&error))?;
    let needed = [
        ("accept", opcode::AcceptMulti::CODE),
        ("connect", opcode::Connect::CODE),
        ("recv", opcode::RecvMulti::CODE),
        ("send", opcode::Send::CODE),
        ("sendmsg", opcode::SendMsg::CODE),
        ("write", opcode::Write::CODE),
        ("fsync", opcode::Fsync::CODE),
        ("poll_add", opcode::PollAdd::CODE),
        ("async_cancel", opcode::AsyncCancel2::CODE),
    ];
    if let Some((name, _)) = needed.iter().find(|(_, code)| !operations.is_supported(*code)) {
        return Err(ProbeError {
            what: format!("io_uring here has no operation {name}"),
            why: "it is blocked, or the kernel was built without it".to_owned(),
            remedy: REMEDY_KERNEL.to_owned(),
        });
    }
    Ok(Report {
        kernel: kernel_release(),
        bundles: ring.params().is_feature_recvsend_bundle(),
        msg_ring: operations.is_supported(opcode::MsgRingData::CODE),
        no_iowait: ring.params().is_feature_no_iowait(),
        send_zc: operations.is_supported(opcode::SendZc::CODE),
        memlock_bytes: limit(libc::RLIMIT_MEMLOCK),
        open_files: limit(libc::RLIMIT_NOFILE),
    })
}

const REMEDY_KERNEL: &str = "use Linux 6.1 or later";
const REMEDY_ALLOW: &str = "allow io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp \
     profile, and set the sysctl kernel.io_uring_disabled to 0";

/// A ring with everything that the driver depends on.
pub(crate) fn build(entries: u32) -> io::Result<IoUring> {
    let ring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        // Tells without a system call whether there is deferred work.
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_clamp()
        .setup_cqsize(entries.saturating_mul(COMPLETIONS_PER_ENTRY))
        .dontfork()
        .build(entries)?;
    let params = ring.params();
    let complete = params.is_feature_nodrop()
        && params.is_feature_submit_stable()
        && params.is_feature_ext_arg()
        && params.is_feature_fast_poll()
        && params.is_feature_skip_cqe_on_success();
    if complete { Ok(ring) } else { Err(io::Error::from_raw_os_error(libc::EINVAL)) }
}

/// What an error of [`build`] means to an operator.
pub(crate) fn explain(error: &io::Error) -> ProbeError {
    let kernel = kernel_release();
    let (why, remedy) = match error.raw_os_error() {
        Some(libc::ENOSYS) => (
            "the kernel was built without it, or a seccomp profile hides it (many containers do)".to_owned(),
            REMEDY_ALLOW.to_owned(),
        ),
        Some(libc::EPERM | libc::EACCES) => {
            let setting = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
            let setting = setting.as_deref().map_or("not there", str::trim);
            (
                format!(
                    "it is forbidden to this process (kernel.io_uring_disabled is {setting}; \
                     0 means that a seccomp or security policy forbids it)"
                ),
                REMEDY_ALLOW.to_owned(),
            )
        }
        Some(libc::EINVAL) => (
            format!("kernel {kernel} lacks single-issuer rings with deferred task work"),
            REMEDY_KERNEL.to_owned(),
        ),
        Some(libc::ENOMEM) => (
            "there is not enough memory, or the limit of locked memory is too low".to_owned(),
            "raise the memlock limit (LimitMEMLOCK= in a systemd unit, ulimit -l)".to_owned(),
        ),
        Some(libc::EMFILE | libc::ENFILE) => (
            "there are too many open files".to_owned(),
            "raise the open files limit (LimitNOFILE= in a systemd unit, ulimit -n)".to_owned(),
        ),
        _ => (error.to_string(), REMEDY_KERNEL.to_owned()),
    };
    ProbeError { what: "io_uring can not be set up".to_owned(), why, remedy }
}

fn kernel_release() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    match release.trim() {
        "" => "unknown".to_owned(),
        release => release.to_owned(),
    }
}

/// Soft and hard; nothing when the kernel does not say.
fn limit(resource: libc::__rlimit_resource_t) -> (u64, u64) {
    system::limits(resource).map_or((0, 0), |limit| (limit.rlim_cur, limit.rlim_max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_is_reported() {
        let report = probe().unwrap();
        let text = report.to_string();
        assert!(text.contains(&report.kernel), "{text}");
        assert!(report.open_files.0 > 0 && report.open_files.0 <= report.open_files.1, "{text}");
    }

    #[test]
    fn every_error_says_what_to_do() {
        for (code, why, remedy) in [
            (libc::ENOSYS, "seccomp", "allow io_uring_setup"),
            (libc::EPERM, "kernel.io_uring_disabled is", "allow io_uring_setup"),
            (libc::EINVAL, "lacks", "6.1 or later"),
            (libc::ENOMEM, "locked memory", "LimitMEMLOCK"),
            (libc::EMFILE, "open files", "LimitNOFILE"),
            (libc::EIO, "os error 5", "6.1 or later"),
        ] {
            let error = explain(&io::Error::from_raw_os_error(code));
            assert!(error.why.contains(why), "{error}");
            assert!(error.remedy.contains(remedy), "{error}");
            assert_eq!(io::Error::from(error).kind(), io::ErrorKind::Unsupported);
        }
    }
}
