//! The directory: what stands in its files, and the news of it.
use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use sha2::{Digest as _, Sha256};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use tokio::io::unix::AsyncFd;

/// The largest file that is read.
const SIZE_MAX: u64 = 16 << 20;
/// More files than anybody puts there; what comes behind them is left alone.
const FILES_MAX: usize = 10_000;
const DEPTH_MAX: usize = 8;

/// A file of manifests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct File {
    /// Its path below the directory.
    pub(super) name: String,
    /// The SHA-256 of its content, in hex.
    pub(super) digest: String,
    pub(super) text: String,
}

/// The directory, watched.
pub(super) struct Directory {
    path: PathBuf,
    news: AsyncFd<OwnedFd>,
}

impl Directory {
    /// Makes the directory if need be, and watches it.
    pub(super) fn watch(path: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(path)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe; here the AsyncFd alone owns the descriptor, so it stays open"
        )]
        let news = AsyncFd::new(init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?)?;
        Ok(Self { path: path.to_owned(), news })
    }

    /// Every file of manifests, by name. Directories found on the way are watched from now on, so that nothing which
    /// changes after this is missed.
    pub(super) fn read(&self) -> io::Result<Vec<File>> {
        let mut files = Vec::new();
        self.read_below(&self.path, 0, &mut files)?;
        files.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(files)
    }

    fn read_below(&self, dir: &Path, depth: usize, files: &mut Vec<File>) -> io::Result<()> {
        let changes = WatchFlags::CLOSE_WRITE | WatchFlags::MOVE | WatchFlags::CREATE | WatchFlags::DELETE;
        add_watch(self.news.get_ref(), dir, changes)?;
        for entry in std::fs::read_dir(dir)? {
            let (path, kind) = (entry.as_ref().map(std::fs::DirEntry::path), entry.as_ref().map(|e| e.file_type()));
            let (Ok(path), Ok(Ok(kind))) = (path, kind) else { continue };
            if kind.is_dir() && depth < DEPTH_MAX {
                self.read_below(&path, depth + 1, files)?;
            } else if !kind.is_dir() && is_manifest(&path) && files.len() < FILES_MAX {
                files.extend(self.read_file(&path));
            }
        }
        Ok(())
    }

    fn read_file(&self, path: &Path) -> Option<File> {
        let name = path.strip_prefix(&self.path).unwrap_or(path).display().to_string();
        let size = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        let text = match size <= SIZE_MAX {
            true => std::fs::read_to_string(path),
            false => Err(io::Error::from(io::ErrorKind::FileTooLarge)),
        };
        match text {
            Ok(text) => Some(File { name, digest: hex::encode(Sha256::digest(&text)), text }),
            Err(error) => {
                tracing::warn!(file = name, %error, "a file of manifests cannot be read");
                None
            }
        }
    }

    /// Returns when something changed.
    pub(super) async fn changed(&self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            let mut ready = self.news.readable().await?;
            match ready.try_io(|news| rustix::io::read(news.get_ref(), &mut buffer).map_err(Into::into)) {
                Ok(read) => return read.map(drop),
                Err(_would_block) => {}
            }
        }
    }
}

fn is_manifest(path: &Path) -> bool {
    let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
    let known = path.extension().is_some_and(|end| end == "yaml" || end == "yml" || end == "json");
    // k3s's way to say that a file is not to be applied.
    let mut skipped = path.as_os_str().to_owned();
    skipped.push(".skip");
    known && !hidden && !Path::new(&skipped).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn files_are_found_and_news_come() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("manifests");
        let directory = Directory::watch(&place).unwrap();
        std::fs::create_dir(place.join("below")).unwrap();
        for name in ["b.yaml", "below/a.json", ".hidden.yaml", "notes.txt", "off.yaml", "off.yaml.skip"] {
            std::fs::write(place.join(name), "text").unwrap();
        }
        let names = |directory: &Directory| -> Vec<String> {
            directory.read().unwrap().into_iter().map(|file| file.name).collect()
        };
        assert_eq!(names(&directory), ["b.yaml", "below/a.json"]);
        std::fs::write(place.join("below/c.yml"), "text").unwrap();
        directory.changed().await.unwrap();
        assert_eq!(names(&directory), ["b.yaml", "below/a.json", "below/c.yml"]);
    }
}
