//! The kinds that the collector watches. Each keeps its number for ever, so that objects of the graph can name it.
use crate::discovered::{self, Discovered};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::task::AbortHandle;

/// All kinds that were ever seen.
#[derive(Default)]
pub(super) struct Kinds(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    all: Vec<Arc<Discovered>>,
    /// By group and plural: the number of those that are served now, and their watches.
    served: HashMap<(String, String), (usize, Option<AbortHandle>)>,
}

/// What a discovery changed.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Change {
    /// Kinds to watch.
    pub(super) new: Vec<usize>,
    /// Kinds whose objects count no more; their watches have ended.
    pub(super) gone: Vec<usize>,
}

impl Kinds {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, kind: usize) -> Option<Arc<Discovered>> {
        self.inner().all.get(kind).cloned()
    }

    /// The number of a kind that is served.
    pub(super) fn position(&self, group: &str, kind: &str) -> Option<usize> {
        let inner = self.inner();
        let is_it = |number: &usize| {
            inner.all.get(*number).is_some_and(|one| one.resource.kind == kind && one.resource.group == group)
        };
        inner.served.values().map(|(number, _)| *number).find(is_it)
    }

    /// Takes over what is served now. A kind whose version changed is another one; those of a group that does not
    /// answer stay.
    pub(super) fn change(&self, found: discovered::Kinds) -> Change {
        let mut inner = self.inner();
        let mut change = Change::default();
        let mut before = std::mem::take(&mut inner.served);
        // Events are owned by nobody and are many.
        for kind in found.served.into_iter().filter(|kind| kind.is_collectable && kind.resource.plural != "events") {
            let key = (kind.resource.group.clone(), kind.resource.plural.clone());
            let known = before.get(&key).and_then(|(number, _)| inner.all.get(*number));
            if known.is_some_and(|known| known.resource == kind.resource && known.is_namespaced == kind.is_namespaced) {
                let kept = before.remove(&key);
                inner.served.extend(kept.map(|kept| (key, kept)));
                continue;
            }
            let number = inner.all.len();
            inner.all.push(Arc::new(kind));
            inner.served.insert(key, (number, None));
            change.new.push(number);
        }
        let (kept, gone) = before.into_iter().partition(|((group, _), _)| found.silent.contains(group));
        before = gone;
        inner.served.extend::<HashMap<_, _>>(kept);
        for (number, watch) in before.into_values() {
            if let Some(watch) = watch {
                watch.abort();
            }
            change.gone.push(number);
        }
        change
    }

    /// Remembers the watch of a kind.
    pub(super) fn watched(&self, kind: usize, watch: AbortHandle) {
        let mut inner = self.inner();
        if let Some(entry) = inner.served.values_mut().find(|(number, _)| *number == kind) {
            entry.1 = Some(watch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::ApiResource;

    fn kind(group: &str, version: &str, kind: &str) -> Discovered {
        let plural = format!("{}s", kind.to_lowercase());
        let api_version = format!("{group}/{version}");
        let resource =
            ApiResource { group: group.into(), version: version.into(), api_version, kind: kind.into(), plural };
        Discovered { resource, is_namespaced: true, is_collectable: true, has_delete_collection: true }
    }

    #[test]
    fn kinds_come_go_and_change_their_version() {
        let kinds = Kinds::default();
        let (foo, bar) = (kind("a.b", "v1", "Foo"), kind("a.b", "v1", "Bar"));
        let served = |served| discovered::Kinds { served, ..discovered::Kinds::default() };
        assert_eq!(kinds.change(served(vec![foo.clone(), bar.clone()])), Change { new: vec![0, 1], gone: vec![] });
        assert_eq!(kinds.change(served(vec![foo.clone(), bar])), Change::default());
        let silent = discovered::Kinds { served: vec![], silent: ["a.b".to_owned()].into() };
        assert_eq!(kinds.change(silent), Change::default(), "what does not answer is not gone");
        assert_eq!(kinds.change(served(vec![foo])), Change { new: vec![], gone: vec![1] });
        assert_eq!((kinds.position("a.b", "Foo"), kinds.position("a.b", "Bar")), (Some(0), None));
        let newer = kinds.change(served(vec![kind("a.b", "v2", "Foo")]));
        assert_eq!(newer, Change { new: vec![2], gone: vec![0] });
        assert_eq!(kinds.get(2).unwrap().resource.version, "v2");
    }
}
