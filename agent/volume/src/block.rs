//! Volumes that are block devices: a file of this node behind a loop device, found again by its file.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use agent_sys::Errno;
use agent_sys::loop_device;

use crate::atomic::VolumeError;

/// Others attach devices at the same time; more tries than this say that something else is wrong.
const TRIES: u32 = 32;

/// Makes a file of at least this size that takes room only where it is written.
pub fn make_file(path: &Path, bytes: u64) -> Result<(), VolumeError> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path);
    let file = file.map_err(VolumeError::at("create", path))?;
    let length = file.metadata().map_err(VolumeError::at("look at", path))?.len();
    match length < bytes {
        true => file.set_len(bytes).map_err(VolumeError::at("grow", path)),
        false => Ok(()),
    }
}

/// The loop device that shows a file: the one that does already, as large as the file is now, or a new one.
pub fn attach(path: &Path) -> Result<PathBuf, VolumeError> {
    let path = path.canonicalize().map_err(VolumeError::at("look at", path))?;
    if let Some(device) = shown_by(&path) {
        let held = open(&device).map_err(VolumeError::at("open", &device))?;
        loop_device::resize(held.as_fd()).map_err(|error| VolumeError::at("resize", &device)(error.into()))?;
        return Ok(device);
    }
    let fail = |error: io::Error| VolumeError::at("attach a loop device to", &path)(error);
    let control = Path::new("/dev/loop-control");
    let control = open(control).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => fail(io::Error::other(
            "this machine's kernel has no loop devices: load the module loop (CONFIG_BLK_DEV_LOOP)",
        )),
        _ => VolumeError::at("open", control)(error),
    })?;
    let file = open(&path).map_err(VolumeError::at("open", &path))?;
    for _ in 0..TRIES {
        let number = loop_device::free(control.as_fd()).map_err(|error| fail(error.into()))?;
        let device = PathBuf::from(format!("/dev/loop{number}"));
        let held = open(&device).map_err(VolumeError::at("open", &device))?;
        match loop_device::configure(held.as_fd(), file.as_fd()) {
            Ok(()) => return Ok(device),
            Err(Errno::BUSY) => {}
            Err(error) => return Err(fail(error.into())),
        }
    }
    Err(fail(io::ErrorKind::ResourceBusy.into()))
}

/// Ends the loop device that shows a file, if one does.
pub fn detach(path: &Path) -> Result<(), VolumeError> {
    let Ok(path) = path.canonicalize() else { return Ok(()) };
    let Some(device) = shown_by(&path) else { return Ok(()) };
    let held = open(&device).map_err(VolumeError::at("open", &device))?;
    match loop_device::clear(held.as_fd()) {
        Ok(()) | Err(Errno::NXIO) => Ok(()),
        Err(error) => Err(VolumeError::at("detach", &device)(error.into())),
    }
}

/// The file that a loop device shows.
pub fn file_of(device: &Path) -> Option<PathBuf> {
    let name = device.file_name()?.to_str().filter(|name| name.starts_with("loop"))?;
    let text = fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).ok()?;
    Some(PathBuf::from(text.trim_end_matches('\n')))
}

/// Checks that a path is a block device.
pub fn check(path: &Path) -> Result<(), VolumeError> {
    let metadata = fs::metadata(path).map_err(VolumeError::at("look at", path))?;
    match metadata.file_type().is_block_device() {
        true => Ok(()),
        false => Err(VolumeError::at("use", path)(io::Error::other("it is not a block device"))),
    }
}

fn shown_by(path: &Path) -> Option<PathBuf> {
    let all = fs::read_dir("/sys/block").ok()?.flatten();
    let devices = all.map(|entry| Path::new("/dev").join(entry.file_name()));
    devices.into_iter().find(|device| file_of(device).as_deref() == Some(path))
}

fn open(path: &Path) -> io::Result<fs::File> {
    OpenOptions::new().read(true).write(true).open(path)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _, Write as _};

    use super::*;

    #[test]
    fn a_file_is_a_device_once_and_grows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v");
        make_file(&path, 1 << 20).unwrap();
        let device = match attach(&path) {
            Ok(device) => device,
            Err(error) => {
                return println!("skipped: loop devices need root and a kernel that has them: {}", error.source);
            }
        };
        assert_eq!(attach(&path).unwrap(), device);
        assert_eq!(file_of(&device), Some(path.canonicalize().unwrap()));
        check(&device).unwrap();
        assert!(check(&path).is_err());
        let mut held = open(&device).unwrap();
        held.write_all(b"kept").unwrap();
        held.sync_all().unwrap();
        make_file(&path, 2 << 20).unwrap();
        attach(&path).unwrap();
        assert_eq!(held.seek(io::SeekFrom::End(0)).unwrap(), 2 << 20);
        drop(held);
        detach(&path).unwrap();
        detach(&path).unwrap();
        assert_eq!(shown_by(&path.canonicalize().unwrap()), None);
        let mut kept = [0; 4];
        fs::File::open(&path).unwrap().read_exact(&mut kept).unwrap();
        assert_eq!(&kept, b"kept");
    }
}
