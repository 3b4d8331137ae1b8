//! Lets those who wait to be seen come before those who work. The runtime runs its tasks in the order in which they
//! became ready, and what most requests need is done in one go: in a flood no two requests would ever hold seats at
//! once, and somebody modest would stand behind all of the flood. So while many are waiting to run, who got a seat
//! goes to the end of the runtime's queue, seat in hand. A task that yields stays in its worker's own queue, before
//! that of all workers; one that is woken from another thread goes to the end of the latter: hence the thread.

use std::sync::mpsc::{Sender, channel};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// With fewer who wait to run nobody goes to the end.
const CROWD: usize = 16;

pub(super) struct Turnstile {
    through: Sender<oneshot::Sender<()>>,
}

impl Turnstile {
    /// Starts the thread that wakes; it ends with this value.
    pub(super) fn new() -> Self {
        let (through, comers) = channel::<oneshot::Sender<()>>();
        std::thread::spawn(move || {
            for comer in comers {
                // Who went away needs no waking.
                let _ = comer.send(());
            }
        });
        Self { through }
    }

    /// Waits until those who were ready to run before have run, if they are many.
    pub(super) async fn pass(&self) {
        if Handle::current().metrics().global_queue_depth() < CROWD {
            return;
        }
        let (comer, woken) = oneshot::channel();
        if self.through.send(comer).is_ok() {
            let _ = woken.await;
        }
    }
}
