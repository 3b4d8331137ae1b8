//! Volumes that lie elsewhere, brought to a pod's own directory: a directory or file of the machine by a bind mount, an
//! export of another machine over NFS.

use std::fs;
use std::io;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use crate::atomic::VolumeError;
use crate::removal;

/// Shows a directory of the machine at `dir`, with what is mounted below it, unless something is mounted there already.
pub fn bind(source: &Path, dir: &Path) -> Result<(), VolumeError> {
    fs::metadata(source).map_err(VolumeError::at("look at", source))?;
    fs::create_dir_all(dir).map_err(VolumeError::at("create", dir))?;
    if removal::is_mount_point(dir)? {
        return Ok(());
    }
    mount(Some(source), dir, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .map_err(|error| VolumeError::at("bind to", dir)(error.into()))
}

/// An export of an NFS server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// The server's name or address.
    pub server: String,
    /// The path that it exports.
    pub path: String,
    /// `ro`.
    pub read_only: bool,
    /// Options of nfs(5), as a volume's `mountOptions` give them.
    pub options: Vec<String>,
}

/// Mounts an export at `dir`, unless something is mounted there already.
pub fn nfs(export: &Export, dir: &Path) -> Result<(), VolumeError> {
    let fail = |source: io::Error| VolumeError::at("mount nfs on", dir)(source);
    fs::create_dir_all(dir).map_err(VolumeError::at("create", dir))?;
    if removal::is_mount_point(dir)? {
        return Ok(());
    }
    let (flags, data) = options(export, address(&export.server).map_err(fail)?);
    let host = if export.server.contains(':') { format!("[{}]", export.server) } else { export.server.clone() };
    let source = format!("{host}:{}", export.path);
    mount(Some(source.as_str()), dir, Some("nfs4"), flags, Some(data.as_str())).map_err(|error| {
        fail(match error {
            Errno::ENODEV => io::Error::other(
                "this machine's kernel has no NFS client: install nfs-common (nfs-utils) and load the module nfsv4",
            ),
            error => error.into(),
        })
    })
}

/// The kernel takes addresses, not names.
fn address(server: &str) -> io::Result<IpAddr> {
    let found = (server, 2049).to_socket_addrs()?.next();
    found.map(|found| found.ip()).ok_or_else(|| io::Error::other(format!("server {server:?} has no address")))
}

/// Flags and data of mount(2): options that are flags there are taken out.
fn options(export: &Export, address: IpAddr) -> (MsFlags, String) {
    let mut flags = if export.read_only { MsFlags::MS_RDONLY } else { MsFlags::empty() };
    let mut data = vec![format!("addr={address}")];
    if !export.options.iter().any(|option| option.starts_with("vers=") || option.starts_with("nfsvers=")) {
        data.push("vers=4.2".into());
    }
    for option in &export.options {
        match option.as_str() {
            "ro" => flags |= MsFlags::MS_RDONLY,
            "rw" | "defaults" | "" => {}
            "noatime" => flags |= MsFlags::MS_NOATIME,
            "nodiratime" => flags |= MsFlags::MS_NODIRATIME,
            "nosuid" => flags |= MsFlags::MS_NOSUID,
            "nodev" => flags |= MsFlags::MS_NODEV,
            "noexec" => flags |= MsFlags::MS_NOEXEC,
            "sync" => flags |= MsFlags::MS_SYNCHRONOUS,
            // A comma would begin an option that nobody gave.
            other => data.extend(other.split(',').filter(|part| !part.starts_with("addr=")).map(str::to_owned)),
        }
    }
    (flags, data.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_flags_or_the_file_systems() {
        let options_of = |read_only, own: &[&str]| {
            let own = own.iter().map(|option| (*option).to_owned()).collect();
            options(&Export { server: "s".into(), path: "/".into(), read_only, options: own }, [10, 0, 0, 1].into())
        };
        assert_eq!(options_of(false, &[]), (MsFlags::empty(), "addr=10.0.0.1,vers=4.2".into()));
        let (flags, data) = options_of(true, &["noexec", "vers=4.1", "soft", "addr=6.6.6.6"]);
        assert_eq!(flags, MsFlags::MS_RDONLY | MsFlags::MS_NOEXEC);
        assert_eq!(data, "addr=10.0.0.1,vers=4.1,soft");
    }

    #[test]
    fn a_directory_is_shown_once_and_left_whole() {
        let dir = tempfile::tempdir().unwrap();
        let (source, shown) = (dir.path().join("source"), dir.path().join("shown"));
        assert!(bind(&source, &shown).is_err(), "what is not there is not made");
        fs::create_dir(&source).unwrap();
        fs::write(source.join("f"), "f").unwrap();
        if let Err(error) = bind(&source, &shown) {
            println!("skipped: bind mounts need root: {}", error.source);
            return;
        }
        bind(&source, &shown).unwrap();
        assert_eq!(fs::read_to_string(shown.join("f")).unwrap(), "f");
        removal::remove_tree(&shown).unwrap();
        assert!(source.join("f").exists() && !shown.exists());
    }
}
