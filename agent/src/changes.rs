//! Wakes when something in a directory changes.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use tokio::io::unix::AsyncFd;

/// A watch of one directory, without those below it.
pub(crate) struct Changes(AsyncFd<OwnedFd>);

impl Changes {
    /// What happens from now on.
    pub(crate) fn of(dir: &Path) -> io::Result<Self> {
        let inotify = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let flags = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVE | WatchFlags::DELETE;
        add_watch(&inotify, dir, flags)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe; here the AsyncFd alone owns the descriptor, so it stays open"
        )]
        AsyncFd::new(inotify).map(Self)
    }

    /// Returns when something has changed since the last time.
    pub(crate) async fn next(&self) {
        // An error here ends the wait; the reader then finds out what is wrong.
        if let Ok(mut ready) = self.0.readable().await {
            let mut buffer = [0u8; 4096];
            while rustix::io::read(self.0.get_ref(), &mut buffer).is_ok_and(|count| count > 0) {}
            ready.clear_ready();
        }
    }
}
