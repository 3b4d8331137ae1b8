//! CustomResourceDefinitions at work: one task watches them, serves what they define, tells so in their status, and
//! deletes the objects of those that go. What a definition means is `controller_object::custom`'s to say.

mod cleanup;
pub(crate) mod convert;
mod known;

use std::sync::{Arc, Weak};
use std::time::Duration;

use controller_store::model::{CommitError, Compare, Op, RangeRequest, Revision};
use controller_store::watch::Watcher;
use futures::future::select_all;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::registry::{Registry, stored_bytes};
use crate::server::State;
use known::Known;

pub(crate) const GROUP: &str = "apiextensions.k8s.io";
pub(crate) const PLURAL: &str = "customresourcedefinitions";
/// Holds a definition until its objects are gone.
pub(crate) const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";
/// How soon the objects of a definition that goes are looked at again, after those that others held have changed or
/// something went wrong: each look reads them all.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// How long a write of a definition waits until it is served.
const SERVED_WITHIN: Duration = Duration::from_secs(5);

/// Up to which revision definitions are served.
pub(crate) struct Served {
    seen: watch::Sender<Revision>,
}

impl Default for Served {
    fn default() -> Self {
        // Until the task runs, nobody waits for it.
        Self { seen: watch::Sender::new(Revision(u64::MAX)) }
    }
}

impl Served {
    /// Waits until the definitions of a revision are served: whoever wrote one may use it at once.
    pub(crate) async fn wait(&self, revision: Revision) {
        let mut seen = self.seen.subscribe();
        // A server that ends, or that is very slow, does not keep a write that is done from being answered.
        let _ = tokio::time::timeout(SERVED_WITHIN, seen.wait_for(|seen| *seen >= revision)).await;
    }
}

/// Serves the definitions that are stored, and gives what is needed to go on with those that are written.
pub(crate) struct Definitions {
    known: Known,
    watcher: Option<Watcher>,
    /// When the objects of definitions that go are looked at again.
    look: Option<Instant>,
    /// Say when objects of such definitions that others hold have changed.
    held: Vec<Watcher>,
}

impl Definitions {
    /// Serves what is stored.
    pub(crate) fn open(registry: &Registry) -> Self {
        let mut definitions = Self { known: Known::default(), watcher: None, look: None, held: Vec::new() };
        definitions.read(registry);
        definitions
    }

    /// Reads all definitions and serves those that may be. Answers the revision that was read.
    fn read(&mut self, registry: &Registry) -> Revision {
        let Some(resource) = registry.builtin().find(GROUP, "v1", PLURAL) else { return Revision::EMPTY };
        let request = RangeRequest { prefix: registry.prefix(resource, None), ..RangeRequest::default() };
        // A read of the newest state cannot be refused.
        let Ok(page) = registry.store.range(&request) else { return Revision::EMPTY };
        if self.known.update(resource, &page.items, &crate::time::now()) {
            self.known.serve(registry);
        }
        page.revision
    }

    /// Follows the definitions until the server ends.
    pub(crate) async fn follow(mut self, state: Weak<State>) {
        let Some(first) = state.upgrade() else { return };
        let shutdown = first.shutdown.clone();
        let mut revision = self.settle(&first).await;
        drop(first);
        loop {
            let look = self.look;
            let wait = async {
                match &mut self.watcher {
                    Some(watcher) => watcher.next_batch().await.is_ok(),
                    None => std::future::pending().await,
                }
            };
            let goes = tokio::select! {
                goes = wait => goes,
                () = any_changes(&mut self.held), if look.is_none() => {
                    self.look = Some(Instant::now() + LOOK_AGAIN);
                    continue;
                }
                () = sleep_until(look.unwrap_or_else(Instant::now)), if look.is_some() => true,
                () = shutdown.cancelled() => return,
            };
            let Some(state) = state.upgrade() else { return };
            if !goes {
                // Too far behind: what is there now counts.
                self.watcher = None;
            }
            revision = revision.max(self.settle(&state).await);
        }
    }

    /// Serves, then tells: a client that sees Established may send requests.
    async fn settle(&mut self, state: &State) -> Revision {
        let registry = &state.registry;
        let revision = self.read(registry);
        if self.watcher.is_none()
            && let Some(resource) = registry.builtin().find(GROUP, "v1", PLURAL)
        {
            self.watcher = registry.store.watch(registry.prefix(resource, None), revision).ok();
        }
        registry.served.seen.send_replace(revision);
        self.tell(registry).await;
        let rest = cleanup::run(registry, &mut self.known).await;
        let pause = if rest.goes_on { Some(Duration::ZERO) } else { rest.failed.then_some(LOOK_AGAIN) };
        self.look = pause.map(|pause| Instant::now() + pause);
        self.held = rest.held;
        revision
    }

    /// Writes what became of definitions into their status.
    async fn tell(&mut self, registry: &Registry) {
        let Some(resource) = registry.builtin().find(GROUP, "v1", PLURAL) else { return };
        for (key, revision, status) in self.known.untold() {
            let Some(kv) = registry.store.get(&key).filter(|kv| kv.mod_revision == revision) else { continue };
            let Ok(mut object) = crate::registry::to_value(resource, &kv, revision) else { continue };
            object["status"] = status;
            let put = Op::Put { key: key.clone(), value: stored_bytes(resource, &object), ttl: None };
            match registry.store.commit(&[Compare::ModRevision(key, revision)], vec![put]).await {
                // Who was faster wakes this task again.
                Ok(_) | Err(CommitError::Conflict { .. }) => {}
                Err(CommitError::Unavailable { reason }) => {
                    tracing::warn!(kind = "CustomResourceDefinition", reason, "its status is written later");
                }
            }
        }
    }
}

/// Ends when one of the watchers has something to say.
async fn any_changes(watchers: &mut [Watcher]) {
    if watchers.is_empty() {
        return std::future::pending().await;
    }
    // Behind or not: everything is read anew.
    drop(select_all(watchers.iter_mut().map(|watcher| Box::pin(watcher.next_batch()))).await);
}

/// Follows the definitions in a task of its own.
pub(crate) fn spawn(definitions: Definitions, state: &Arc<State>) {
    state.registry.served.seen.send_replace(Revision::EMPTY);
    tokio::spawn(definitions.follow(Arc::downgrade(state)));
}
