//! Volumes follow what they show: objects by watches, the pod's labels by its own watch, tokens by their age. A failure
//! leaves the old content.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::watch;

use super::certificate::Credential;
use super::{Executor, is_content, set_up_one};
use crate::objects::{Followed, Key, Versions};
use crate::timer::sleep_until;

/// Changes that come together are shown together, and a read that was ahead of its watch is caught up with.
const GATHER: Duration = Duration::from_millis(50);
/// What failed is tried again after this if nothing changes before.
const RETRY: Duration = Duration::from_secs(30);

/// What the volumes of a pod were made of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The versions of objects that can change.
    pub(super) versions: BTreeMap<Key, Versions>,
    /// When a token is to be renewed.
    pub(super) renew_at: Option<Timestamp>,
    /// Nobody knows what is shown: an earlier agent made it.
    is_unknown: bool,
}

impl Seen {
    pub(super) fn and(mut self, other: Self) -> Self {
        self.versions.extend(other.versions);
        self.renew_at = self.renew_at.into_iter().chain(other.renew_at).min();
        self
    }
}

/// A token that was given, and until when it is shown.
#[derive(Debug, Clone)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(super) renew_at: Timestamp,
    pub(crate) expires_at: Timestamp,
}

/// What a token is for: audience and the seconds that were asked for.
pub(super) type TokenKey = (Option<String>, i64);

/// The state of a pod's volumes, shared by its commands.
pub(crate) struct Live {
    /// What they show; `None` while they are not set up.
    shown: watch::Sender<Option<Seen>>,
    pod: watch::Sender<Option<Arc<Pod>>>,
    tokens: Mutex<HashMap<TokenKey, Token>>,
    /// By the source that asks for each, as JSON.
    certificates: Mutex<HashMap<String, Credential>>,
    turn: tokio::sync::Mutex<()>,
}

impl Default for Live {
    fn default() -> Self {
        let (shown, pod) = (watch::Sender::new(None), watch::Sender::new(None));
        Self {
            shown,
            pod,
            tokens: Mutex::default(),
            certificates: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }
}

impl Live {
    /// Whoever writes volumes holds this.
    pub(super) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    pub(super) fn is_shown(&self, seen: Seen) {
        self.shown.send_replace(Some(seen));
    }

    /// The volumes are torn down: nothing is written any more.
    pub(super) fn is_gone(&self) {
        self.shown.send_replace(None);
    }

    /// Whether they are set up.
    pub(crate) fn is_up(&self) -> bool {
        self.shown.borrow().is_some()
    }

    /// The pod goes on with volumes that an earlier agent made.
    pub(crate) fn is_adopted(&self) {
        self.shown.send_replace(Some(Seen { is_unknown: true, ..Seen::default() }));
    }

    /// The pod's object is new or changed.
    pub(crate) fn pod_is(&self, pod: &Arc<Pod>) {
        self.pod.send_replace(Some(Arc::clone(pod)));
    }

    pub(super) fn tokens(&self) -> MutexGuard<'_, HashMap<TokenKey, Token>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn certificates(&self) -> MutexGuard<'_, HashMap<String, Credential>> {
        self.certificates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What of a pod the downward API shows and may change.
fn shown_of(pod: &Pod) -> impl PartialEq + use<> {
    let resources = |pod: &Pod| -> Vec<_> {
        let spec = pod.spec.iter();
        spec.flat_map(|spec| spec.containers.iter().map(|container| container.resources.clone())).collect()
    };
    (pod.metadata.labels.clone(), pod.metadata.annotations.clone(), resources(pod))
}

/// Keeps volumes as what they show is, until dropped.
pub(crate) async fn follow(mut executor: Executor) {
    let volumes = executor.pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref()).into_iter().flatten();
    if !volumes.clone().any(is_content) {
        return;
    }
    let live = Arc::clone(&executor.live);
    let (mut shown, mut pods) = (live.shown.subscribe(), live.pod.subscribe());
    loop {
        let Ok(Some(seen)) = shown.wait_for(Option::is_some).await.map(|seen| seen.clone()) else { return };
        let follow = |key: &Key| executor.host.objects.follow(key);
        let mut followed: Vec<(Arc<Followed>, Versions)> =
            seen.versions.iter().map(|(key, seen)| (follow(key), seen.clone())).collect();
        let (mut retry, is_unknown) = (None, seen.is_unknown);
        loop {
            if !is_unknown || retry.is_some() {
                let last = shown_of(&executor.pod);
                let changed = async {
                    while pods.changed().await.is_ok() {
                        let pod = pods.borrow_and_update().clone();
                        if pod.is_some_and(|pod| shown_of(&pod) != last) {
                            return;
                        }
                    }
                    std::future::pending().await
                };
                tokio::select! {
                    () = first_change(&followed) => {}
                    // What is due and failed is tried again later, not at once.
                    () = sleep_until(retry.or(seen.renew_at)) => {}
                    () = changed => {}
                    // Set up anew, or torn down.
                    _ = shown.wait_for(|now| now.as_ref() != Some(&seen)) => break,
                }
            }
            tokio::time::sleep(GATHER).await;
            if let Some(pod) = live.pod.borrow().clone() {
                executor.pod = pod;
            }
            match refresh(&executor).await {
                Some(Ok(fresh)) => {
                    live.shown.send_if_modified(|now| {
                        let is_up = now.is_some();
                        *now = now.is_some().then_some(fresh);
                        is_up
                    });
                    break;
                }
                // Until something changes again; the server may have been away, so not only then.
                Some(Err(())) => {
                    for (one, seen) in &mut followed {
                        *seen = one.now().unwrap_or_default();
                    }
                    retry = Timestamp::now().checked_add(RETRY).ok();
                }
                None => {
                    drop(shown.wait_for(|now| now.as_ref() != Some(&seen)).await);
                    break;
                }
            }
        }
    }
}

/// Shows the present content; `None` where the pod is on its way down.
async fn refresh(executor: &Executor) -> Option<Result<Seen, ()>> {
    let _order = Arc::clone(&executor.order).try_read_owned().ok()?;
    let _turn = executor.live.turn().await;
    executor.live.shown.borrow().as_ref()?;
    let volumes = executor.pod.spec.as_ref().and_then(|spec| spec.volumes.clone()).unwrap_or_default();
    let mut all = Ok(Seen::default());
    for volume in volumes.iter().filter(|volume| is_content(volume)) {
        match set_up_one(executor, volume).await {
            Ok(seen) => all = all.map(|all: Seen| all.and(seen)),
            Err(failure) => {
                tracing::warn!(uid = executor.uid, message = failure.message, "refreshing a volume");
                all = Err(());
            }
        }
    }
    Some(all)
}

async fn first_change(followed: &[(Arc<Followed>, Versions)]) {
    if followed.is_empty() {
        return std::future::pending().await;
    }
    let changes = followed.iter().map(|(one, seen)| Box::pin(one.differs_from(seen)));
    futures::future::select_all(changes).await;
}
