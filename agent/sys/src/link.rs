//! The one thing about links that a new network namespace needs at once: its loopback, up.

use crate::{Errno, check};

/// Brings `lo` up in the calling thread's network namespace.
pub fn loopback_up() -> Result<(), Errno> {
    // SAFETY: takes numbers only.
    let socket = check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) }.into())?;
    // SAFETY: ifreq is plain data for which zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which lives on this stack.
    let result = check(unsafe { libc::ioctl(socket as i32, libc::SIOCSIFFLAGS, &raw const request) }.into());
    // SAFETY: the socket was opened above and nobody else knows it.
    unsafe { libc::close(socket as i32) };
    result.map(|_| ())
}
