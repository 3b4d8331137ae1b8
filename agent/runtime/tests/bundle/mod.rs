//! Bundles for tests: busybox in a temporary directory, and the runtime that runs them.
#![allow(dead_code)] // each test program uses its part

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::{Value, json};

/// A bundle that is removed with its containers.
pub(crate) struct Bundle {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) config: Value,
}

const BUSYBOX: &str = "/usr/bin/busybox";

/// Says what is missing for tests that run containers.
pub(crate) fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    // A dynamic program names its loader close to its head.
    let is_static =
        std::fs::read(BUSYBOX).is_ok_and(|bytes| !bytes[..bytes.len().min(4096)].windows(9).any(|w| w == b"ld-linux-"));
    (!is_static).then(|| format!("{BUSYBOX} is not there or not static (package busybox-static)"))
}

/// The program built with these tests.
pub(crate) fn gantry_oci() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    exe.parent().unwrap().parent().unwrap().join("examples/gantry-oci")
}

/// A bundle that runs `script` in the shell.
pub(crate) fn bundle(script: &str) -> Bundle {
    let dir = tempfile::tempdir().unwrap();
    let bin = dir.path().join("rootfs/bin");
    std::fs::create_dir_all(&bin).unwrap();
    std::fs::copy(BUSYBOX, bin.join("busybox")).unwrap();
    for name in [
        "sh", "true", "sleep", "cat", "ls", "id", "mount", "hostname", "readlink", "dd", "grep", "mkdir", "stty",
        "umask",
    ] {
        std::os::unix::fs::symlink("busybox", bin.join(name)).unwrap();
    }
    let mut config = agent_runtime::spec::example();
    config["process"]["terminal"] = json!(false);
    config["process"]["args"] = json!(["sh", "-c", script]);
    config["root"]["readonly"] = json!(false);
    Bundle { dir, config }
}

impl Bundle {
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn save(&self) -> &Path {
        std::fs::write(self.path().join("config.json"), self.config.to_string()).unwrap();
        self.path()
    }
}

/// A runtime under test with a state root of its own.
pub(crate) struct Runtime {
    program: PathBuf,
    root: tempfile::TempDir,
}

impl Runtime {
    pub(crate) fn new(program: PathBuf) -> Runtime {
        Runtime { program, root: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn call(&self, args: &[&str]) -> Output {
        // Output through files: a container that stays behind holds the streams it inherited.
        let out = tempfile::NamedTempFile::new().unwrap();
        let err = tempfile::NamedTempFile::new().unwrap();
        let status = Command::new(&self.program)
            .arg("--root")
            .arg(self.root.path())
            .args(args)
            .stdin(std::process::Stdio::null())
            .stdout(out.reopen().unwrap())
            .stderr(err.reopen().unwrap())
            .status()
            .unwrap();
        Output { status, stdout: std::fs::read(out.path()).unwrap(), stderr: std::fs::read(err.path()).unwrap() }
    }

    /// Runs a bundle to its end: exit code, output, errors.
    pub(crate) fn run(&self, bundle: &Bundle) -> (i32, String, String) {
        let id = unique();
        let path = bundle.save().to_str().unwrap().to_owned();
        let output = self.call(&["run", "--bundle", &path, &id]);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
    }
}

/// A name no other test has.
pub(crate) fn unique() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("t{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Waits for a condition, five seconds at most.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("not within five seconds: {what}");
}
