//! The pods of this node, for those who look at all of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agent_pod::protocol::Event;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::execute::{Executor, Host};
use crate::worker::Input;

/// A pod and its worker.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) pod: Arc<Pod>,
    inputs: UnboundedSender<Input>,
}

impl Member {
    /// Tells the worker what happened here.
    pub(crate) fn tell(&self, event: Event) {
        // The worker is gone only when the pod is.
        drop(self.inputs.send(Input::Machine(event)));
    }

    /// Hands to look with, beside the worker's own.
    pub(crate) fn executor(&self, host: &Arc<Host>, uid: &str) -> Executor {
        Executor::new(Arc::clone(host), uid.to_owned(), Arc::clone(&self.pod), self.inputs.clone())
    }

    /// Whether it has ended for good.
    pub(crate) fn is_over(&self) -> bool {
        let phase = self.pod.status.as_ref().and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    }
}

/// All pods, by uid.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    members: Mutex<BTreeMap<String, Member>>,
    is_complete: AtomicBool,
    /// Something has happened to one of them.
    news: watch::Sender<()>,
}

impl Roster {
    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Member>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pod is here, or changed.
    pub(crate) fn put(&self, uid: &str, pod: Arc<Pod>, inputs: UnboundedSender<Input>) {
        self.all().insert(uid.to_owned(), Member { pod, inputs });
        self.news.send_replace(());
    }

    /// A pod is gone.
    pub(crate) fn remove(&self, uid: &str) {
        self.all().remove(uid);
        self.news.send_replace(());
    }

    /// Nothing of a pod runs any more.
    pub(crate) fn has_stopped(&self) {
        self.news.send_replace(());
    }

    /// Waits until something is so of the pods; at most until then.
    pub(crate) async fn until(&self, until: Instant, is_so: impl Fn() -> bool) {
        let mut news = self.news.subscribe();
        let wait = async { while !is_so() && news.changed().await.is_ok() {} };
        drop(tokio::time::timeout_at(until, wait).await);
    }

    /// Everybody who is here is known: a pod that is missing is gone.
    pub(crate) fn complete(&self) {
        self.is_complete.store(true, Ordering::Relaxed);
    }

    /// Whether a pod is gone for good, or has ended.
    pub(crate) fn is_over(&self, uid: &str) -> bool {
        match self.all().get(uid) {
            Some(member) => member.is_over(),
            None => self.is_complete.load(Ordering::Relaxed),
        }
    }

    /// Those that are here now.
    pub(crate) fn members(&self) -> BTreeMap<String, Member> {
        self.all().clone()
    }
}
