//! Files as block devices; loop(4), which no kept crate wraps without a C library.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use crate::{Errno, check};

/// linux/loop.h.
const LOOP_CLR_FD: u64 = 0x4C01;
const LOOP_SET_CAPACITY: u64 = 0x4C07;
const LOOP_CONFIGURE: u64 = 0x4C0A;
const LOOP_CTL_GET_FREE: u64 = 0x4C82;

/// `struct loop_info64`; zeros ask for nothing special.
#[repr(C)]
#[derive(Default)]
struct Info {
    /// Device, inode, device of the file, offset, size limit.
    places: [u64; 5],
    /// Number, encryption type and key size, flags.
    numbers: [u32; 4],
    file_name: [[u8; 32]; 2],
    crypt_name: [[u8; 32]; 2],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

/// The number of a device that is free now; somebody else may be faster. `control` is `/dev/loop-control`.
pub fn free(control: BorrowedFd<'_>) -> Result<u32, Errno> {
    // SAFETY: this request takes no argument and answers a number.
    let number = check(libc::c_long::from(unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) }))?;
    u32::try_from(number).map_err(|_| Errno::RANGE)
}

/// Makes `device` show `file`; EBUSY where it shows another already. Both are open for reading and writing.
pub fn configure(device: BorrowedFd<'_>, file: BorrowedFd<'_>) -> Result<(), Errno> {
    let fd = u32::try_from(file.as_raw_fd()).map_err(|_| Errno::BADF)?;
    let config = Config { fd, block_size: 0, info: Info::default(), reserved: [0; 8] };
    // SAFETY: the kernel reads one loop_config, which lives until the call is over.
    check(libc::c_long::from(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE as _, &raw const config) }))?;
    Ok(())
}

/// Makes a device as large as its file has become.
pub fn resize(device: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: this request takes no argument.
    check(libc::c_long::from(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_SET_CAPACITY as _) })).map(drop)
}

/// Ends it; whoever has the device open keeps it until he closes it.
pub fn clear(device: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: this request takes no argument.
    check(libc::c_long::from(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CLR_FD as _) })).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_are_the_kernels() {
        assert_eq!((size_of::<Info>(), size_of::<Config>()), (232, 304));
    }
}
