//! Objects that a conversion webhook turned into another version. Reading an object is not the place to ask a webhook:
//! who reads one that is missing here says so, and asks again after somebody has called the webhook.
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of stored objects whose other version is kept, for one served version of one definition.
const MAX_KEPT: usize = 64 << 20;
/// Objects that wait for a call at the same time.
const MAX_WAITING: usize = 10_000;

/// A stored object: its key and the revision that wrote it.
type Stored = (Vec<u8>, u64);

/// What was converted, and what waits for it.
#[derive(Debug, Default)]
pub struct Converted(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    done: HashMap<Stored, Arc<Value>>,
    kept: usize,
    waiting: HashMap<Stored, Value>,
}

impl Converted {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The other version of a stored object, if it is there; else the object waits.
    pub fn get_or_want(&self, key: &[u8], revision: u64, object: &Value) -> Option<Arc<Value>> {
        let mut inner = self.inner();
        let stored = (key.to_vec(), revision);
        let found = inner.done.get(&stored).cloned();
        if found.is_none() && inner.waiting.len() < MAX_WAITING {
            inner.waiting.insert(stored, object.clone());
        }
        found
    }

    /// Everything that waits; whoever takes it converts it.
    pub fn take_waiting(&self) -> Vec<(Stored, Value)> {
        std::mem::take(&mut self.inner().waiting).into_iter().collect()
    }

    /// Keeps what a webhook answered. `size`: bytes of the objects.
    pub fn keep(&self, converted: Vec<(Stored, Value)>, size: usize) {
        let mut inner = self.inner();
        if inner.kept.saturating_add(size) > MAX_KEPT {
            inner.done.clear();
            inner.kept = 0;
        }
        inner.kept = inner.kept.saturating_add(size);
        inner.done.extend(converted.into_iter().map(|(stored, object)| (stored, Arc::new(object))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_missing_waits_and_too_much_is_forgotten() {
        let converted = Converted::default();
        assert!(converted.get_or_want(b"a", 1, &json!({"v": 1})).is_none());
        let waiting = converted.take_waiting();
        assert_eq!(waiting, [((b"a".to_vec(), 1), json!({"v": 1}))]);
        assert!(converted.take_waiting().is_empty());
        converted.keep(vec![((b"a".to_vec(), 1), json!({"v": 2}))], 10);
        assert_eq!(*converted.get_or_want(b"a", 1, &Value::Null).unwrap(), json!({"v": 2}));
        assert!(converted.get_or_want(b"a", 2, &Value::Null).is_none(), "another revision is another object");
        converted.keep(vec![((b"b".to_vec(), 1), json!({}))], MAX_KEPT);
        assert!(converted.get_or_want(b"a", 1, &Value::Null).is_none());
    }
}
