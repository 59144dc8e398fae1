//! What a failed accept means, whichever driver met it.

use std::time::Duration;

/// How long accepting rests after it failed, for want of descriptors or memory for instance: long enough to cost
/// nothing, short enough that a client's patience outlasts it.
pub(crate) const REST: Duration = Duration::from_millis(50);

/// Errors of the one connection that was to be accepted (accept(2) names them). Others would come again at once.
pub(crate) fn is_passing(error: i32) -> bool {
    matches!(
        error,
        libc::ECANCELED
            | libc::ECONNABORTED
            | libc::EINTR
            | libc::EAGAIN
            | libc::ENETDOWN
            | libc::EPROTO
            | libc::ENOPROTOOPT
            | libc::EHOSTDOWN
            | libc::ENONET
            | libc::EHOSTUNREACH
            | libc::ENETUNREACH
    )
}
