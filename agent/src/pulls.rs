//! The pulls that are under way on this node: pods that wait for the same image share one, and it ends when nobody waits
//! for it any more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use agent_image::document::Platform;
use agent_image::reference::Reference;
use agent_image::registry::PullError;
use agent_image::registry::credential::Credential;
use agent_image::registry::pull::{Progress, Puller, Wanted};
use agent_image::store::Image;
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared, WeakShared};
use tokio::sync::Semaphore;

/// Images that come at a time; more wait. Each brings several layers beside each other.
const AT_ONCE: usize = 4;

/// An image that came.
#[derive(Debug, Clone)]
pub(crate) struct Done {
    pub(crate) image: Image,
    /// How long the pull itself took.
    pub(crate) took: Duration,
}

type Outcome = Result<Done, Arc<PullError>>;

/// Who was let in by one set of credentials is not who has others.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    reference: Reference,
    credentials: Vec<Credential>,
}

/// The node's pulls.
pub(crate) struct Pulls {
    puller: Arc<Puller>,
    slots: Arc<Semaphore>,
    running: Mutex<HashMap<Key, WeakShared<BoxFuture<'static, Outcome>>>>,
}

impl Pulls {
    pub(crate) fn new(puller: Puller) -> Self {
        Self { puller: Arc::new(puller), slots: Arc::new(Semaphore::new(AT_ONCE)), running: Mutex::default() }
    }

    /// Pulls, or waits for the pull of the same image that is under way. Dropping the future gives up waiting; the last
    /// who does so ends the pull.
    pub(crate) async fn pull(&self, reference: Reference, credentials: Vec<Credential>) -> Outcome {
        self.join(Key { reference, credentials }).await
    }

    fn join(&self, key: Key) -> Shared<BoxFuture<'static, Outcome>> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|_, pull| pull.upgrade().is_some_and(|pull| pull.peek().is_none()));
        if let Some(pull) = running.get(&key).and_then(WeakShared::upgrade) {
            return pull;
        }
        let pull = run(Arc::clone(&self.puller), Arc::clone(&self.slots), key.clone()).boxed().shared();
        running.extend(pull.downgrade().map(|pull| (key, pull)));
        pull
    }
}

async fn run(puller: Arc<Puller>, slots: Arc<Semaphore>, Key { reference, credentials }: Key) -> Outcome {
    // The semaphore is never closed.
    let _slot = slots.acquire().await;
    let began = Instant::now();
    let name = reference.to_string();
    tracing::info!(image = name, "pulling");
    let wanted = Wanted { reference, credentials, platform: Platform::own() };
    let tell = |progress| {
        if let Progress::Retrying { digest, why, wait } = progress {
            tracing::warn!(%digest, why, ?wait, "a layer's download broke");
        }
    };
    let image = puller.pull(&wanted, &tell).await.map_err(Arc::new)?;
    let took = began.elapsed();
    tracing::info!(image = name, digest = %image.target(), bytes = image.size, ?took, "pulled");
    Ok(Done { image, took })
}

#[cfg(test)]
mod tests {
    use agent_image::registry::config::Registries;
    use agent_image::registry::pull::Patience;
    use agent_image::store::ImageStore;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn who_waits_for_the_same_shares_one_and_the_last_ends_it() {
        let dir = tempfile::tempdir().unwrap();
        let puller = Puller::new(ImageStore::open(dir.path()).unwrap(), Registries::default(), Patience::default());
        let pulls = Pulls::new(puller);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let reference: Reference = format!("{}/a:1", listener.local_addr().unwrap()).parse().unwrap();
        let join = |user: &str| {
            let credentials = vec![Credential::password(user, "p")];
            pulls.join(Key { reference: reference.clone(), credentials })
        };
        let (one, same, other) = (join("u"), join("u"), join("v"));
        assert!(one.ptr_eq(&same) && !one.ptr_eq(&other), "credentials tell pulls apart");
        drop((same, other));
        // The registry takes the connection and the request, and says nothing.
        let hear = async {
            let mut connection = listener.accept().await.unwrap().0;
            let mut heard = vec![0; 22];
            connection.read_exact(&mut heard).await.unwrap();
            (connection, heard)
        };
        let (mut connection, heard) = tokio::select! {
            heard = hear => heard,
            _ = one.clone() => panic!("there is no answer to come"),
        };
        assert_eq!(heard, b"GET /v2/a/manifests/1 ");
        drop(one);
        let mut rest = Vec::new();
        connection.read_to_end(&mut rest).await.expect("the connection ends with the last who waited");
    }
}
