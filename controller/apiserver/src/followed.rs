//! Something that is made of all objects below a prefix of the store, and made again after they changed.
//!
//! It follows the store on demand: whoever asks first takes in what changed since the last time, so an object counts
//! from the moment its creation was answered, and nothing is done at rest.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use controller_store::model::{KeyValue, RangeRequest};
use controller_store::store::Store;
use controller_store::watch::Watcher;
use serde::de::DeserializeOwned;

/// The objects of stored values. One that cannot be read is told of and left out.
pub(crate) fn objects<T: DeserializeOwned>(items: &[KeyValue]) -> impl Iterator<Item = T> {
    items.iter().filter_map(|kv| match serde_json::from_slice(&kv.value) {
        Ok(object) => Some(object),
        Err(error) => {
            tracing::error!(key = %String::from_utf8_lossy(&kv.key), %error, "an object that cannot be read does not count");
            None
        }
    })
}

/// See the module.
pub(crate) struct Followed<T> {
    store: Arc<Store>,
    prefix: &'static str,
    make: fn(&[KeyValue]) -> T,
    state: Mutex<(Option<Watcher>, Arc<T>)>,
}

impl<T: Default> Followed<T> {
    /// Nothing is read before somebody asks.
    pub(crate) fn new(store: Arc<Store>, prefix: &'static str, make: fn(&[KeyValue]) -> T) -> Self {
        Self { store, prefix, make, state: Mutex::default() }
    }

    /// As the store is now.
    pub(crate) fn now(&self) -> Arc<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = match &mut state.0 {
            // A watch that fell behind has missed something.
            Some(watcher) => watcher.poll_batch().map_or(true, |events| !events.is_empty()),
            None => true,
        };
        if changed {
            let request = RangeRequest { prefix: Bytes::from_static(self.prefix.as_bytes()), ..Default::default() };
            // A read of the newest state cannot be refused.
            if let Ok(page) = self.store.range(&request) {
                state.1 = Arc::new((self.make)(&page.items));
                state.0 = self.store.watch(request.prefix, page.revision).ok();
            }
        }
        Arc::clone(&state.1)
    }
}
