//! The few calls to the operating system that other crates need and that Rust offers only as unsafe.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Silence after which a dialed peer is probed, in seconds.
const KEEPALIVE_IDLE_SECONDS: i32 = 20;
/// Time between two probes, in seconds.
const KEEPALIVE_INTERVAL_SECONDS: i32 = 10;
/// Probes without an answer that mean its end.
const KEEPALIVE_PROBES: i32 = 3;

/// Keeps the calling thread on one core, counted among those that this process may use.
///
/// # Errors
/// When there are not that many cores, or the kernel refuses.
pub fn pin_current_thread(core: usize) -> io::Result<()> {
    // SAFETY: a set of zeroes is a valid, empty set.
    let mut allowed: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer and the size name `allowed`, which outlives the call.
    if unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut allowed) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let cpus = usize::try_from(libc::CPU_SETSIZE).unwrap_or(0);
    // SAFETY: every number is below the size of the set.
    let mut usable = (0..cpus).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &allowed) });
    let Some(cpu) = usable.nth(core) else {
        let text = format!("core {core} does not exist or is not ours to use");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    };
    // SAFETY: a set of zeroes is a valid, empty set.
    let mut wanted: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the number is below the size of the set.
    unsafe { libc::CPU_SET(cpu, &mut wanted) };
    // SAFETY: the pointer and the size name `wanted`, which outlives the call.
    check(unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const wanted) })
}

/// Lets the calling thread run where the process' first thread may, whatever core its own creator is kept on.
pub(crate) fn unpin_current_thread() -> io::Result<()> {
    // SAFETY: a set of zeroes is a valid, empty set.
    let mut allowed: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    let process = i32::try_from(std::process::id()).unwrap_or(0);
    // SAFETY: the pointer and the size name `allowed`, which outlives the call.
    check(unsafe { libc::sched_getaffinity(process, size_of::<libc::cpu_set_t>(), &raw mut allowed) })?;
    // SAFETY: the pointer and the size name `allowed`, which outlives the call.
    check(unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const allowed) })
}

/// A listening TCP socket with SO_REUSEADDR and, so that each worker has its own on the same address,
/// SO_REUSEPORT. `backlog` is in connections.
///
/// # Errors
/// What the kernel says to socket, bind or listen.
pub fn listen_socket(address: SocketAddr, backlog: u32, reuse_port: bool) -> io::Result<TcpListener> {
    let socket = stream_socket(&address)?;
    set_option(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    if reuse_port {
        set_option(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    }
    let address = SocketAddress::from(address);
    let (at, len) = address.raw();
    // SAFETY: the pointer and the length name `address`, which outlives the call.
    check(unsafe { libc::bind(socket.as_raw_fd(), at, len) })?;
    let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
    // SAFETY: takes no pointer.
    check(unsafe { libc::listen(socket.as_raw_fd(), backlog) })?;
    Ok(TcpListener::from(socket))
}

/// Fills `bytes` from the operating system's generator.
///
/// # Errors
/// What the kernel says; there is no fallback.
pub fn random(bytes: &mut [u8]) -> io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        // SAFETY: the pointer and the length name `rest`, which is ours to write.
        let got = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match usize::try_from(got) {
            Ok(got) => rest = rest.get_mut(got..).unwrap_or_default(),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

/// Bytes from which on a block of memory is mapped for itself.
#[cfg(target_env = "gnu")]
const MAPPED_BYTES_MIN: i32 = 64 << 10;

/// Has the C library map every large block for itself, so that it goes back to the system when it is freed. Otherwise it
/// learns from the first that is freed to take such blocks from its heap, too, where they lie between small ones that
/// stay: a burst of traffic would be kept for good.
pub fn map_large_blocks() {
    #[cfg(target_env = "gnu")]
    // SAFETY: two integers; a parameter that is not known is ignored.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES_MIN);
    }
}

/// Raises the limit of open files as far as the hard limit allows; returns the limit that then holds.
///
/// # Errors
/// What the kernel says.
pub fn raise_open_files_limit() -> io::Result<u64> {
    let mut limit = limits(libc::RLIMIT_NOFILE)?;
    if limit.rlim_cur < limit.rlim_max {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: the pointer names `limit`, which outlives the call.
        check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })?;
    }
    Ok(limit.rlim_cur)
}

pub(crate) fn limits(resource: libc::__rlimit_resource_t) -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer names `limit`, which outlives the call.
    check(unsafe { libc::getrlimit(resource, &raw mut limit) })?;
    Ok(limit)
}

/// A blocking socket, as io_uring needs it: on one that is not, it would report EAGAIN instead of waiting.
pub(crate) fn stream_socket(address: &SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: takes no pointer.
    let fd = unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    check(fd.min(0))?;
    // SAFETY: the kernel has just made this descriptor and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A peer that vanished (no FIN, no reset) is asked for a sign of life when it has been silent for this long, in
/// seconds, then at the second interval as often as the third says: two minutes in all, where Linux takes two hours.
const KEEPALIVE: [(i32, i32); 3] =
    [(libc::TCP_KEEPIDLE, 60), (libc::TCP_KEEPINTVL, 10), (libc::TCP_KEEPCNT, 6)];

/// The kernel takes no more for a peer while it has so many bytes for it that it could not send yet. What is on its way
/// does not count, so that no line is too long for it; but of a peer that reads nothing the kernel would take megabytes,
/// all of them judged, masked and recorded for nobody.
const UNSENT_BYTES_MAX: i32 = 128 << 10;

/// What every stream is to have: no delay for the sake of fuller packets, little that waits for a slow peer, and probes
/// that find a dead one. Accepted sockets inherit all of it from their listener, which saves calls for each.
pub(crate) fn prepare_stream(fd: RawFd) -> io::Result<()> {
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, UNSENT_BYTES_MAX)?;
    set_option(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
    KEEPALIVE.iter().try_for_each(|(name, value)| set_option(fd, libc::IPPROTO_TCP, *name, *value))
}

/// The receive buffer of a connection from this machine, in bytes; the kernel doubles it.
///
/// On the loopback interface packets are so long that the kernel promises a peer nearly all of a buffer, more than
/// many short messages fit into. Then it drops what comes, and since Linux 6.17 the acknowledgements in it: a peer that
/// is paused until it takes what is queued to it seems to take nothing. A short way needs no long buffer, and a short
/// one can be emptied.
const NEIGHBOUR_BYTES: i32 = 128 << 10;

/// What an accepted stream does not have from its listener.
pub(crate) fn greet(stream: &TcpStream, peer: SocketAddr) -> io::Result<()> {
    if peer.ip().to_canonical().is_loopback() {
        set_option(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, NEIGHBOUR_BYTES)?;
    }
    Ok(())
}

pub(crate) fn set_option(fd: RawFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of::<i32>()).unwrap_or(0);
    // SAFETY: the pointer and the length name `value`, which outlives the call.
    check(unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), len) })
}

/// Has the kernel find out when a dialed peer is gone without a word while nothing is sent to it, be it that a session
/// idles or that an answer is waited for: within a minute. There is no TCP_USER_TIMEOUT: it would also end connections
/// to a peer that is alive and takes nothing for a while, as a server does whose COPY waits for a lock.
pub(crate) fn probe_peer(fd: RawFd) -> io::Result<()> {
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, KEEPALIVE_IDLE_SECONDS)?;
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, KEEPALIVE_INTERVAL_SECONDS)?;
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_KEEPCNT, KEEPALIVE_PROBES)
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A socket address as the kernel reads it.
#[derive(Clone, Copy)]
pub(crate) union SocketAddress {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
    any: libc::sockaddr_storage,
}

impl SocketAddress {
    pub(crate) fn raw(&self) -> (*const libc::sockaddr, libc::socklen_t) {
        let len = libc::socklen_t::try_from(size_of::<libc::sockaddr_storage>()).unwrap_or(0);
        ((&raw const *self).cast(), len)
    }
}

impl Default for SocketAddress {
    fn default() -> SocketAddress {
        // SAFETY: an address of zeroes is valid: the family that is none.
        SocketAddress { any: unsafe { std::mem::zeroed() } }
    }
}

impl From<SocketAddr> for SocketAddress {
    fn from(address: SocketAddr) -> SocketAddress {
        let mut raw = SocketAddress::default();
        match address {
            SocketAddr::V4(address) => {
                raw.v4 = libc::sockaddr_in {
                    sin_family: family(libc::AF_INET),
                    sin_port: address.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
                    sin_zero: [0; 8],
                }
            }
            SocketAddr::V6(address) => {
                raw.v6 = libc::sockaddr_in6 {
                    sin6_family: family(libc::AF_INET6),
                    sin6_port: address.port().to_be(),
                    sin6_flowinfo: address.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
                    sin6_scope_id: address.scope_id(),
                }
            }
        }
        raw
    }
}

fn family(number: i32) -> libc::sa_family_t {
    libc::sa_family_t::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{ErrorKind, Read, Write};
    use std::time::{Duration, Instant};

    #[test]
    fn two_listeners_share_an_address_when_asked() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let first = listen_socket(address.parse().unwrap(), 8, true).unwrap();
            let address = first.local_addr().unwrap();
            assert!(listen_socket(address, 8, false).is_err(), "a listener of its own is in the way");
            let second = listen_socket(address, 8, true).unwrap();
            assert_eq!(second.local_addr().unwrap(), address);
            TcpStream::connect(address).unwrap();
        }
    }

    #[test]
    fn what_a_neighbour_sends_and_nobody_reads_stays_with_it() {
        let listener = listen_socket("127.0.0.1:0".parse().unwrap(), 8, false).unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        set_option(peer.as_raw_fd(), libc::SOL_SOCKET, libc::SO_SNDBUF, 64 << 10).unwrap();
        let (mut stream, address) = listener.accept().unwrap();
        greet(&stream, address).unwrap();
        // The kernel lets the buffer of one who reads fast grow.
        let reader = std::thread::spawn(move || {
            stream.read_exact(&mut vec![0; 64 << 20]).unwrap();
            stream
        });
        peer.write_all(&vec![0; 64 << 20]).unwrap();
        let unread = reader.join().unwrap();
        peer.set_nonblocking(true).unwrap();
        let (mut sent, mut last) = (0, Instant::now());
        while last.elapsed() < Duration::from_millis(300) {
            match peer.write(&[0; 56]) {
                Ok(count) => (sent, last) = (sent + count, Instant::now()),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        assert!(sent < 1 << 20, "{sent} bytes");
        drop(unread);
    }

    #[test]
    fn a_pinned_thread_has_one_core() {
        std::thread::spawn(|| {
            pin_current_thread(0).unwrap();
            assert_eq!(std::thread::available_parallelism().unwrap().get(), 1);
            assert!(pin_current_thread(1).is_err(), "only one is left to choose from");
        })
        .join()
        .unwrap();
    }

    #[test]
    fn randomness_fills_the_whole_buffer() {
        let mut bytes = vec![0; 1 << 16];
        random(&mut bytes).unwrap();
        for chunk in bytes.chunks(64) {
            assert!(chunk.iter().any(|byte| *byte != 0));
        }
    }

    #[test]
    fn the_open_files_limit_is_the_hard_one() {
        let raised = raise_open_files_limit().unwrap();
        assert_eq!(raised, limits(libc::RLIMIT_NOFILE).unwrap().rlim_max);
    }
}
