//! Carries out the steps of an installation.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use agent::instance::Instance;

use super::{Step, kubeconfig};
use crate::failure::Failure;
use crate::screen;

/// Does one step; taking away what is gone already is none.
pub(crate) fn act(step: &Step) -> Result<(), Failure> {
    let done = match step {
        Step::Copy { from, to } => copy(from, to),
        Step::Link { to, at } => link(to, at),
        Step::Write { path, content } => place(path, 0o644, |file| file.write_all(content.as_bytes())),
        Step::Run(words) => return run(words),
        Step::Adopt { user } => return kubeconfig::hand_over(user),
        Step::Disown { user } => return kubeconfig::take_back(user),
        Step::Reset { data_dir, purge } => return reset(data_dir, *purge),
        Step::Remove(path) => fs::remove_file(path),
        Step::RemoveAll(path) => fs::remove_dir_all(path),
    };
    match done {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && is_removal(step) => Ok(()),
        done => done.map_err(|error| Failure::error(format!("{step}: {error}"))),
    }
}

fn is_removal(step: &Step) -> bool {
    matches!(step, Step::Remove(_) | Step::RemoveAll(_))
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    let mut program = fs::File::open(from)?;
    place(to, 0o755, |file| std::io::copy(&mut program, file).map(drop))
}

/// Writes a file under another name and gives it its own once it is whole.
fn place(path: &Path, mode: u32, write: impl FnOnce(&mut fs::File) -> std::io::Result<()>) -> std::io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(dir)?;
    let mut unnamed = tempfile::NamedTempFile::new_in(dir)?;
    write(unnamed.as_file_mut())?;
    unnamed.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
    unnamed.as_file().sync_all()?;
    unnamed.persist(path).map(drop).map_err(|error| error.error)
}

fn link(to: &str, at: &Path) -> std::io::Result<()> {
    match fs::symlink_metadata(at) {
        Ok(_) => fs::remove_file(at)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    std::os::unix::fs::symlink(to, at)
}

fn run(words: &[&str]) -> Result<(), Failure> {
    let [program, arguments @ ..] = words else { return Ok(()) };
    let words = words.join(" ");
    let status = Command::new(program).args(arguments).status();
    let status = status.map_err(|error| Failure::error(format!("{words}: {error}")))?;
    match status.success() {
        true => Ok(()),
        false => Err(Failure::error(format!("{words}: {status}; `journalctl -u gantry` may say why"))),
    }
}

fn reset(data_dir: &Path, purge: bool) -> Result<(), Failure> {
    if !data_dir.exists() {
        return Ok(());
    }
    let instance = Instance::of(data_dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut failures = runtime.block_on(agent::reset::reset(&instance, purge));
    let Some(last) = failures.pop() else { return Ok(()) };
    failures.iter().for_each(|failure| screen::note(format!("error: {failure}")));
    Err(Failure::error(last))
}
