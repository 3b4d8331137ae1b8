//! The files of container logs: how large they may grow, compressing what monitors have rotated, links for collectors.
//!
//! A monitor rotates by itself (`agent_runtime::monitor::log`): `0.log` becomes `0.log.1`, then there is `0.log.2`. All
//! but the newest of these are compressed here, when the monitor tells that there is one more.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use agent_runtime::monitor::protocol::LogLimits;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;

/// The kubelet's defaults, `containerLogMaxSize` and `containerLogMaxFiles`.
pub(crate) const LIMITS: LogLimits = LogLimits { max_bytes: 10 << 20, max_files: 5 };

/// One log is compressed at a time: a container that writes fast must not take every processor.
static COMPRESSING: Mutex<()> = Mutex::const_new(());

/// Earlier files of a log, by number, oldest first.
pub(crate) fn earlier(log: &Path) -> BTreeMap<u64, PathBuf> {
    let name = log.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(log.parent().unwrap_or(log)).into_iter().flatten().flatten() {
        let own = entry.file_name();
        let Some(rest) = own.to_str().and_then(|own| own.strip_prefix(&name)?.strip_prefix('.')) else { continue };
        let plain = rest.strip_suffix(".gz").unwrap_or(rest);
        let Ok(number) = plain.parse::<u64>() else { continue };
        // For a moment there are both; the plain one is whole.
        if plain == rest || !found.contains_key(&number) {
            found.insert(number, entry.path());
        }
    }
    found
}

/// Compresses what was rotated of the logs of a pod, beside everything else. Losing it is logged: the logs stay as
/// they are.
pub(crate) fn compress(pod_logs: PathBuf) {
    tokio::spawn(async move {
        let _alone = COMPRESSING.lock().await;
        drop(tokio::task::spawn_blocking(move || compress_all(&pod_logs)).await);
    });
}

fn compress_all(pod_logs: &Path) {
    let dirs = fs::read_dir(pod_logs).into_iter().flatten().flatten().map(|entry| entry.path());
    for dir in dirs.filter(|path| path.is_dir()) {
        for (_, log) in attempts(&dir) {
            if let Err(error) = compress_log(&log) {
                tracing::warn!(%error, log = %log.display(), "compressing what was rotated of a log");
            }
        }
    }
}

/// `ATTEMPT.log` files of a container.
fn attempts(dir: &Path) -> Vec<(u32, PathBuf)> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let attempt = |name: &str| name.strip_suffix(".log")?.parse().ok();
    entries.filter_map(|entry| Some((attempt(entry.file_name().to_str()?)?, entry.path()))).collect()
}

fn compress_log(log: &Path) -> io::Result<()> {
    let earlier = earlier(log);
    let Some(newest) = earlier.keys().next_back().copied() else { return Ok(()) };
    for (number, path) in &earlier {
        // The monitor removes what is too old when it rotates; what was compressed meanwhile comes too late for that.
        if number + LIMITS.max_files <= newest + 1 {
            gone(fs::remove_file(path))?;
        } else if *number < newest && path.extension().is_none_or(|extension| extension != "gz") {
            gone(compress_file(path))?;
        }
    }
    Ok(())
}

/// The monitor may have removed it first.
fn gone(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

fn compress_file(path: &Path) -> io::Result<()> {
    let with = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let (part, whole) = (with(".part"), with(".gz"));
    let mut from = File::open(path)?;
    let to = fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o640).open(&part)?;
    let mut encoder = GzEncoder::new(to, Compression::fast());
    io::copy(&mut from, &mut encoder).and_then(|_| encoder.finish()).inspect_err(|_| drop(fs::remove_file(&part)))?;
    fs::rename(&part, &whole)?;
    fs::remove_file(path)
}

/// Removes the logs of starts before the last one: two are kept, as `kubectl logs --previous` reads them.
pub(crate) fn forget_earlier(container_logs: &Path, attempt: u32) {
    for (number, log) in attempts(container_logs) {
        if number.saturating_add(1) < attempt {
            for path in earlier(&log).into_values().chain([log]) {
                if let Err(error) = gone(fs::remove_file(&path)) {
                    tracing::warn!(%error, log = %path.display(), "removing the log of an earlier start");
                }
            }
        }
    }
}

/// Links `POD_NAMESPACE_CONTAINER-ID.log` to a log, as collectors expect it; ID is made of `key`. A collector that
/// misses it loses that log: this is logged, and no reason not to run the container.
pub(crate) fn link(links: &Path, namespace: &str, pod: &str, container: &str, key: &str, log: &Path) {
    let id = hex::encode(Sha256::digest(key));
    // A file name is no longer than 255 bytes: a long name of a pod is cut, as the kubelet cuts it.
    let rest = format!("_{namespace}_{container}-{id}.log");
    let pod = &pod[..pod.len().min(255usize.saturating_sub(rest.len()))];
    let path = links.join(format!("{pod}{rest}"));
    let made = gone(fs::remove_file(&path)).and_then(|()| std::os::unix::fs::symlink(log, &path));
    if let Err(error) = made {
        tracing::warn!(%error, link = %path.display(), "linking a log");
    }
}

/// Removes the links to logs of a pod.
pub(crate) fn unlink(links: &Path, pod_logs: &Path) {
    for entry in fs::read_dir(links).into_iter().flatten().flatten() {
        let is_own = fs::read_link(entry.path()).is_ok_and(|target| target.starts_with(pod_logs));
        if is_own && let Err(error) = gone(fs::remove_file(entry.path())) {
            tracing::warn!(%error, link = %entry.path().display(), "removing the link to a log");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn all_but_the_newest_are_compressed() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        for name in ["0.log", "0.log.1", "0.log.7", "0.log.8", "0.log.9", "0.log.x", "1.log.3"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        compress_log(&log).unwrap();
        let names: Vec<_> = earlier(&log).into_values().map(|p| p.file_name().unwrap().to_owned()).collect();
        assert_eq!(names, ["0.log.7.gz", "0.log.8.gz", "0.log.9"]);
        let mut text = String::new();
        let gz = File::open(dir.path().join("0.log.7.gz")).unwrap();
        flate2::read::GzDecoder::new(gz).read_to_string(&mut text).unwrap();
        assert_eq!(text, "0.log.7");
        assert!(dir.path().join("1.log.3").exists() && dir.path().join("0.log.x").exists());
    }

    #[test]
    fn two_starts_keep_their_logs() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["0.log", "0.log.1.gz", "1.log", "1.log.1", "2.log"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        forget_earlier(dir.path(), 2);
        let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["1.log", "1.log.1", "2.log"]);
    }

    #[test]
    fn links_have_the_name_that_collectors_read_and_go_with_the_pod() {
        let dir = tempfile::tempdir().unwrap();
        let (pod, log) = (dir.path().join("ns_p_u"), dir.path().join("ns_p_u/c/0.log"));
        let links = dir.path().join("links");
        fs::create_dir(&links).unwrap();
        link(&links, "ns", "p", "c", "u_c_0", &log);
        link(&links, "ns", "p", "c", "u_c_0", &log);
        link(&links, "ns", &"long".repeat(60), "c", "other", &dir.path().join("other/c/0.log"));
        let names: Vec<_> =
            fs::read_dir(&links).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        let own = names.iter().find(|name| name.starts_with("p_ns_c-")).unwrap();
        assert_eq!((names.len(), own.len()), (2, "p_ns_c-.log".len() + 64));
        unlink(&links, &pod);
        assert_eq!(fs::read_dir(&links).unwrap().count(), 1);
    }
}
