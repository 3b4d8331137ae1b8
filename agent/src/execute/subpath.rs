//! `subPath` mounts: a container may swap links inside its volume at any time, so the path is resolved
//! once, beneath the volume, and what was found is bind-mounted by descriptor to a place of ours.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::VolumeMount;
use nix::mount::{MsFlags, mount};
use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, openat2};

use crate::environment;

/// The part of the volume that a mount asks for, its variables put in (`subPathExpr`); it must stay below the volume.
pub(crate) fn wanted(mounted: &VolumeMount, known: &BTreeMap<String, String>) -> Result<Option<String>, String> {
    let expression = mounted.sub_path_expr.as_deref().filter(|text| !text.is_empty());
    let Some(expression) = expression else { return Ok(mounted.sub_path.clone()) };
    let path = environment::expand_known(expression, known).map_err(|missing| {
        format!("failed to expand subPath for volumeMount {:?}: missing value for {missing:?}", mounted.name)
    })?;
    if path.starts_with('/') {
        return Err(format!("error SubPath `{path}` must not be an absolute path"));
    }
    if path.split('/').any(|part| part == "..") {
        return Err(format!("unable to provision SubPath `{path}`: must not contain '..'"));
    }
    Ok(Some(path))
}

/// Whether the kernel makes whole trees read-only: mount_setattr(2), since 5.12.
pub(crate) fn can_be_recursive() -> bool {
    crate::preflight::kernel_is((5, 12))
}

/// Mounts `sub_path` of `volume` at `target`, making directories that are missing. Answers `target`.
pub(crate) fn bind(volume: &Path, sub_path: &str, target: &Path) -> io::Result<PathBuf> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let root = rustix::fs::open(volume, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let open = |path: &Path| openat2(&root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve);
    let sub_path = Path::new(sub_path);
    if let Err(rustix::io::Errno::NOENT) = open(sub_path) {
        let mut so_far = PathBuf::new();
        for part in sub_path.components() {
            let parent = if so_far.as_os_str().is_empty() { open(Path::new("."))? } else { open(&so_far)? };
            match mkdirat(&parent, part.as_os_str(), Mode::from_raw_mode(0o750)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => so_far.push(part),
                Err(error) => return Err(error.into()),
            }
        }
    }
    let found = open(sub_path)?;
    let is_directory = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode).is_dir();
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    match is_directory {
        true => fs::create_dir_all(target)?,
        false => drop(fs::OpenOptions::new().create(true).append(true).open(target)?),
    }
    let source = format!("/proc/self/fd/{}", found.as_raw_fd());
    mount(Some(source.as_str()), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?;
    Ok(target.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_stay_below_the_volume() {
        let known = BTreeMap::from([("A", "x"), ("UP", ".."), ("ABS", "/tmp"), ("NONE", "")]);
        let known = known.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let of = |expression: &str| {
            wanted(&VolumeMount { sub_path_expr: Some(expression.into()), ..Default::default() }, &known)
        };
        assert_eq!(of("$(A)/b"), Ok(Some("x/b".into())));
        assert_eq!(of("$$(A)"), Ok(Some("$(A)".into())));
        for (expression, why) in [
            ("$(UP)", "must not contain '..'"),
            ("a/$(UP)/b", "must not contain '..'"),
            ("$(ABS)", "must not be an absolute path"),
            ("$(NONE)/b", "must not be an absolute path"),
            ("$(OTHER)", "missing value for \"OTHER\""),
        ] {
            assert!(of(expression).unwrap_err().contains(why), "{expression}");
        }
        let plain = VolumeMount { sub_path: Some("p".into()), ..Default::default() };
        assert_eq!(wanted(&plain, &known), Ok(Some("p".into())));
    }

    #[test]
    fn links_out_of_the_volume_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("v");
        fs::create_dir(&volume).unwrap();
        std::os::unix::fs::symlink("/etc", volume.join("out")).unwrap();
        std::os::unix::fs::symlink("../..", volume.join("up")).unwrap();
        for path in ["out", "out/passwd", "up", "../x", "/etc"] {
            assert!(bind(&volume, path, &dir.path().join("t")).is_err(), "{path}");
        }
    }
}
