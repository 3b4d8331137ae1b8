//! Command-line clients of a cluster: the stock kubectl and `gantry` itself.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A client program with its kubeconfig.
#[derive(Debug, Clone)]
pub struct Client {
    program: PathBuf,
    kubeconfig: PathBuf,
}

/// What a finished command said.
#[derive(Debug, Clone)]
pub struct Said {
    /// Exit code; -1 for a signal.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    /// The output of a command that had to succeed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.out, self.err);
        self.out
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Client {
    /// A client of the cluster that a kubeconfig names.
    pub fn new(program: &Path, kubeconfig: &Path) -> Self {
        Self { program: program.into(), kubeconfig: kubeconfig.into() }
    }

    fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args).env("KUBECONFIG", &self.kubeconfig).env("HOME", "/nonexistent");
        command
    }

    /// Runs to the end; the output as it is of a command that had to succeed.
    #[track_caller]
    pub fn run_bytes(&self, args: &[&str]) -> Vec<u8> {
        let output = self.command(args).output().expect("the client runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// Runs to the end.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> Said {
        self.command(args).stdin(Stdio::null()).output().expect("the client program runs").into()
    }

    /// Runs to the end with input.
    #[track_caller]
    pub fn run_with(&self, args: &[&str], input: &str) -> Said {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the client program runs");
        let mut stdin = child.stdin.take().expect("piped");
        std::thread::scope(|scope| {
            // Written beside the reading: a client may print while it still reads.
            scope.spawn(move || match stdin.write_all(input.as_bytes()) {
                // A client may fail before it reads: its exit code tells.
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe, "{error}"),
                Ok(()) => drop(stdin),
            });
            child.wait_with_output().expect("the client ends").into()
        })
    }

    /// One object as JSON.
    #[track_caller]
    pub fn get(&self, args: &[&str]) -> Value {
        let mut all = vec!["get", "-o", "json"];
        all.extend(args);
        serde_json::from_str(&self.run(&all).ok()).expect("JSON")
    }

    /// Starts a command whose lines are read as they come.
    #[track_caller]
    pub fn stream(&self, args: &[&str]) -> Lines {
        let mut child =
            self.command(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("runs");
        let (sender, lines) = channel();
        let out = BufReader::new(child.stdout.take().expect("piped"));
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Lines { child, lines }
    }
}

/// The lines of a running command; it is ended with the value.
pub struct Lines {
    child: Child,
    lines: Receiver<String>,
}

impl Lines {
    /// The first line that fits, within the time.
    #[track_caller]
    pub fn wait(&self, what: &str, within: Duration, fits: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + within;
        let mut seen = Vec::new();
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) if fits(&line) => return line,
                Ok(line) => seen.push(line),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("no line with {what} within {within:?}; seen: {seen:#?}")
                }
            }
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        // It may have ended of itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Asks again until the answer fits; for states that no watch of the client shows.
#[track_caller]
pub fn eventually<T>(what: &str, time: Duration, ask: impl FnMut() -> Option<T>) -> T {
    within(time, ask).unwrap_or_else(|| panic!("{what}: not within {time:?}"))
}

/// The same where the caller tells what did not come.
pub fn within<T>(time: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + time;
    loop {
        let answer = ask();
        if answer.is_some() || Instant::now() >= end {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
