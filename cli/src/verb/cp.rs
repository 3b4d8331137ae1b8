//! `gantry cp`: files and directories into and out of containers, by the container's own tar.
//! What comes out is hostile: it is written below the destination and nowhere else, and no link is made.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc as blocking;

use serde_json::Value;
use tokio::sync::mpsc;

use crate::client::{Call, Session};
use crate::failure::Failure;
use crate::kind::Catalog;
use crate::kubeconfig::ConnectArgs;
use crate::output::name_of;
use crate::{pods, screen, stream};

/// Pieces of an archive on the way; each is at most a message.
const PIECES: usize = 16;
const PIECE: usize = 32 << 10;

/// Flags of `gantry cp`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where from: PATH, POD:PATH or NAMESPACE/POD:PATH.
    #[arg(value_name = "FROM")]
    source: String,
    /// Where to: PATH, POD:PATH or NAMESPACE/POD:PATH.
    #[arg(value_name = "TO")]
    destination: String,
    /// The container.
    #[arg(short = 'c', long, value_name = "NAME")]
    container: Option<String>,
    /// Leave owners and modes to the container's tar.
    #[arg(long)]
    no_preserve: bool,
    /// Taken for the sake of kubectl's scripts; a connection that breaks off ends the copy.
    #[arg(long, default_value_t = 0, value_name = "COUNT", allow_negative_numbers = true)]
    retries: i32,
}

/// One side of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Here(PathBuf),
    There { namespace: Option<String>, pod: String, path: String },
}

impl Place {
    fn parse(text: &str) -> Result<Self, Failure> {
        let malformed = || Failure::error("filespec must match the canonical format: [[namespace/]pod:]file/path");
        let Some((pod, path)) = text.split_once(':') else { return Ok(Self::Here(text.into())) };
        let (namespace, pod) = match pod.split('/').collect::<Vec<_>>()[..] {
            [pod] if !pod.is_empty() => (None, pod),
            [namespace, pod] if !namespace.is_empty() && !pod.is_empty() => (Some(namespace.to_owned()), pod),
            _ => return Err(malformed()),
        };
        Ok(Self::There { namespace, pod: pod.to_owned(), path: path.to_owned() })
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Here(path) => path.as_os_str().is_empty(),
            Self::There { path, .. } => path.is_empty(),
        }
    }
}

pub(crate) async fn run(connect: &ConnectArgs, args: &Args) -> Result<ExitCode, Failure> {
    let (source, destination) = (Place::parse(&args.source)?, Place::parse(&args.destination)?);
    if source.is_empty() || destination.is_empty() {
        return Err(Failure::error("filepath can not be empty"));
    }
    match (source, destination) {
        (Place::Here(_), Place::Here(_)) => {
            Err(Failure::error("one of src or dest must be a remote file specification"))
        }
        (Place::There { .. }, Place::There { .. }) => {
            Err(Failure::error("one of src or dest must be a local file specification"))
        }
        (Place::Here(here), Place::There { namespace, pod, path }) => {
            if fs::symlink_metadata(&here).is_err() {
                return Err(Failure::error(format!("{} doesn't exist in local filesystem", here.display())));
            }
            upload(&Remote::open(connect, namespace, &pod, args).await?, here, &path, args.no_preserve).await
        }
        (Place::There { namespace, pod, path }, Place::Here(here)) => {
            download(&Remote::open(connect, namespace, &pod, args).await?, &path, here).await
        }
    }
}

/// A container to run tar in.
struct Remote {
    session: Session,
    path: String,
    container: String,
}

impl Remote {
    async fn open(connect: &ConnectArgs, namespace: Option<String>, pod: &str, args: &Args) -> Result<Self, Failure> {
        let mut session = Session::open(connect).await?;
        if let Some(namespace) = namespace {
            session.namespace = namespace;
        }
        let catalog = Catalog::of(&session).await?;
        let pod = pods::pick(&session, &catalog, pod).await?;
        let phase = pod.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default();
        if matches!(phase, "Succeeded" | "Failed") {
            return Err(Failure::error(format!(
                "cannot exec into a container in a completed pod; current phase is {phase}"
            )));
        }
        let container = pods::container(&pod, args.container.as_deref())?;
        let path = format!("{}/exec", catalog.expect("pods")?.object(&session.namespace, name_of(&pod)));
        Ok(Self { session, path, container })
    }

    fn call(&self, command: &[&str], stdin: bool) -> Call {
        let call = Call::to(self.path.clone())
            .with("container", self.container.clone())
            .with_some("stdin", stdin.then_some("true"))
            .with("stdout", "true")
            .with("stderr", "true");
        command.iter().fold(call, |call, word| call.with("command", *word))
    }
}

/// How the container's tar ended: any failure is ours.
fn ended(status: &Value) -> Result<ExitCode, Failure> {
    let code = stream::outcome(status)?;
    Ok(if code == ExitCode::SUCCESS { code } else { ExitCode::FAILURE })
}

async fn upload(remote: &Remote, here: PathBuf, there: &str, no_preserve: bool) -> Result<ExitCode, Failure> {
    let mut there = there.trim_end_matches('/').to_owned();
    if there.is_empty() {
        there.push('/');
    }
    let is_directory = remote.call(&["test", "-d", &there], false);
    let status = stream::relay(&remote.session, &is_directory, None, false, |_| Ok(())).await?;
    if status["status"] == "Success" {
        let here = fs::canonicalize(&here)?;
        let name = here.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| Failure::error(format!("{}: expected a name in UTF-8", here.display())))?;
        there = format!("{}/{name}", there.trim_end_matches('/'));
    }
    let (directory, name) = match there.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some((directory, name)) => (directory, name),
        None => (".", there.as_str()),
    };
    let mut command = vec!["tar"];
    if no_preserve {
        command.extend(["--no-same-permissions", "--no-same-owner"]);
    }
    command.extend(["-xmf", "-", "-C", directory]);
    let (sender, pieces) = mpsc::channel(PIECES);
    let name = name.to_owned();
    let packing = tokio::task::spawn_blocking(move || pack(&here, &name, Pieces(sender)));
    let status =
        stream::relay(&remote.session, &remote.call(&command, true), Some(pieces), false, |data| screen::put(data))
            .await?;
    // A tar in the container that failed took no more; its words come first.
    let done = ended(&status)?;
    match packing.await.map_err(|error| Failure::error(error.to_string()))? {
        Err(error) if done == ExitCode::SUCCESS => Err(Failure::of(&error)),
        _ => Ok(done),
    }
}

/// The way into a container for a thread that writes.
struct Pieces(mpsc::Sender<Vec<u8>>);

impl Write for Pieces {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let data = &data[..data.len().min(PIECE)];
        let sent = self.0.blocking_send([&[stream::STDIN], data].concat());
        sent.map(|()| data.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes the archive of a file or directory under a name of its own. Links inside stay links.
fn pack(here: &Path, name: &str, pieces: Pieces) -> io::Result<()> {
    let mut archive = tar::Builder::new(io::BufWriter::with_capacity(PIECE, pieces));
    archive.follow_symlinks(false);
    // What is named is copied itself, also behind a link.
    match fs::metadata(here)?.is_dir() {
        true => archive.append_dir_all(name, here)?,
        false => archive.append_file(name, &mut fs::File::open(here)?)?,
    }
    archive.into_inner()?.flush()
}

async fn download(remote: &Remote, there: &str, here: PathBuf) -> Result<ExitCode, Failure> {
    let (sender, pieces) = blocking::sync_channel(PIECES);
    let prefix = plain_parts(Path::new(there));
    let unpacking = tokio::task::spawn_blocking(move || unpack(Arriving { pieces, rest: Vec::new() }, &prefix, &here));
    let call = remote.call(&["tar", "cf", "-", there], false);
    let pass = |data: &[u8]| {
        let sent = sender.send(data.to_vec());
        sent.map_err(|_| Failure::error("the archive could not be unpacked"))
    };
    let status = stream::relay(&remote.session, &call, None, false, pass).await;
    drop(sender);
    // Why no more was taken is the cause of everything else.
    let unpacked = unpacking.await.map_err(|error| Failure::error(error.to_string()))?;
    let done = match status {
        Ok(status) => ended(&status)?,
        Err(failure) => return Err(unpacked.err().map_or(failure, |error| Failure::of(&error))),
    };
    match unpacked {
        Err(error) if done == ExitCode::SUCCESS => Err(Failure::of(&error)),
        _ => Ok(done),
    }
}

/// What arrives from a container, for a thread that reads.
struct Arriving {
    pieces: blocking::Receiver<Vec<u8>>,
    rest: Vec<u8>,
}

impl Read for Arriving {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.pieces.recv() {
                Ok(piece) => self.rest = piece,
                Err(blocking::RecvError) => return Ok(0),
            }
        }
        let count = self.rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.rest[..count]);
        self.rest.drain(..count);
        Ok(count)
    }
}

/// Why an archive was not unpacked.
#[derive(Debug)]
struct UnpackError {
    path: PathBuf,
    source: io::Error,
}

impl std::fmt::Display for UnpackError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", screen::plain(&self.path.display().to_string()))
    }
}

impl std::error::Error for UnpackError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// A path as tar writes it: without root, `.` and `..`.
fn plain_parts(path: &Path) -> PathBuf {
    path.components().filter(|part| matches!(part, Component::Normal(_))).collect()
}

/// Writes the files of an archive whose names begin with `prefix`, which `here` stands for.
fn unpack(arriving: Arriving, prefix: &Path, here: &Path) -> Result<(), UnpackError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| UnpackError { path, source }
    };
    let mut archive = tar::Archive::new(arriving);
    for entry in archive.entries().map_err(failed(here))? {
        let mut entry = entry.map_err(failed(here))?;
        let name = entry.path().map_err(failed(here))?.into_owned();
        let shown = name.display().to_string();
        let is_plain = name.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        let plain = plain_parts(&name);
        let (true, Ok(below)) = (is_plain, plain.strip_prefix(prefix)) else {
            screen::note(format!("warning: file {shown:?} is outside target destination, skipping"));
            continue;
        };
        let target = if below.as_os_str().is_empty() { here.to_owned() } else { here.join(below) };
        let kind = entry.header().entry_type();
        if kind.is_dir() {
            fs::create_dir_all(&target).map_err(failed(&target))?;
        } else if kind.is_file() {
            let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty());
            parent.map_or(Ok(()), fs::create_dir_all).map_err(failed(&target))?;
            let mut file = fs::File::create(&target).map_err(failed(&target))?;
            io::copy(&mut entry, &mut file).map_err(failed(&target))?;
        } else {
            screen::note(format!("warning: skipping {shown:?}: neither a file nor a directory"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_kubectl_reads_them() {
        let there = |namespace: Option<&str>, path: &str| Place::There {
            namespace: namespace.map(str::to_owned),
            pod: "p".into(),
            path: path.into(),
        };
        assert_eq!(Place::parse("p:/a:b").ok(), Some(there(None, "/a:b")));
        assert_eq!(Place::parse("n/p:x").ok(), Some(there(Some("n"), "x")));
        assert_eq!(Place::parse("./x").ok(), Some(Place::Here("./x".into())));
        for text in [":x", "a/b/c:x", "/p:x"] {
            assert!(Place::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn nothing_is_written_outside_the_destination() {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = Vec::new();
        let mut header = |name: &str, kind: tar::EntryType, link: &str, content: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(content.len() as u64);
            // Names that the crate refuses to write are what a hostile container writes.
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
            header.set_cksum();
            bytes.extend_from_slice(header.as_bytes());
            bytes.extend_from_slice(content);
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        };
        use tar::EntryType::{Directory, Link, Regular, Symlink};
        header("src/", Directory, "", b"");
        header("src/../../evil", Regular, "", b"no");
        header("/tmp/gantry-cp-evil", Regular, "", b"no");
        header("other/file", Regular, "", b"no");
        header("src/link", Symlink, "..", b"");
        header("src/hard", Link, "/etc/passwd", b"");
        header("src/link/through", Regular, "", b"inside");
        header("src/a/file", Regular, "", b"yes");
        let (sender, pieces) = blocking::sync_channel(1000);
        bytes.chunks(100).for_each(|piece| sender.send(piece.to_vec()).unwrap());
        drop(sender);
        let here = dir.path().join("x/here");
        unpack(Arriving { pieces, rest: Vec::new() }, Path::new("src"), &here).unwrap();
        assert_eq!(fs::read(here.join("a/file")).unwrap(), b"yes");
        assert_eq!(fs::read(here.join("link/through")).unwrap(), b"inside");
        let names = |dir: &Path| {
            let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&here), ["a", "link"]);
        assert_eq!(names(dir.path()), ["x"]);
        assert_eq!(names(&dir.path().join("x")), ["here"]);
        assert!(!Path::new("/tmp/gantry-cp-evil").exists());
    }
}
