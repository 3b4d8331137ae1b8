//! Who owns whom, by uid; metadata only, and of that the little that matters.
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// An object's uid.
pub(crate) type Uid = Arc<str>;

/// An object in the graph.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Object {
    /// Which of the watched kinds.
    pub(super) kind: usize,
    /// Its namespace, if it has one.
    pub(super) namespace: Option<Box<str>>,
    /// Its name.
    pub(super) name: Box<str>,
    /// Its owners.
    pub(super) owners: Vec<OwnerReference>,
    /// Whether it is being deleted.
    pub(super) is_deleting: bool,
    /// Whether it waits for its dependents to go.
    pub(super) is_foreground: bool,
    /// Whether its dependents are to be orphaned.
    pub(super) is_orphaning: bool,
}

impl Object {
    /// Takes out what matters.
    pub(super) fn new(kind: usize, metadata: ObjectMeta) -> Self {
        let has = |name: &str| metadata.finalizers.iter().flatten().any(|finalizer| finalizer == name);
        Self {
            kind,
            is_foreground: has(api::well_known::FINALIZER_FOREGROUND),
            is_orphaning: has(api::well_known::FINALIZER_ORPHAN),
            is_deleting: metadata.deletion_timestamp.is_some(),
            namespace: metadata.namespace.map(Into::into),
            name: metadata.name.unwrap_or_default().into(),
            owners: metadata.owner_references.unwrap_or_default(),
        }
    }

    /// Whether it is deleted only after its dependents.
    pub(super) fn waits_for_dependents(&self) -> bool {
        self.is_deleting && self.is_foreground
    }
}

/// The graph.
#[derive(Debug, Default)]
pub(super) struct Graph {
    objects: HashMap<Uid, Object>,
    dependents: HashMap<Uid, HashSet<Uid>>,
}

impl Graph {
    /// Takes an object in; gives those that need a look.
    pub(super) fn set(&mut self, uid: &Uid, object: Object) -> Vec<Uid> {
        let mut look = Vec::new();
        if let Some(known) = self.objects.get(uid) {
            if *known == object {
                return look;
            }
            // Who is not named any more may have waited for that.
            let names = |owner: &OwnerReference| object.owners.iter().any(|now| now.uid == owner.uid);
            for owner in known.owners.iter().filter(|owner| !names(owner)) {
                if self.objects.get(owner.uid.as_str()).is_some_and(Object::waits_for_dependents) {
                    look.push(owner.uid.as_str().into());
                }
            }
            self.unlink(uid);
        }
        for owner in &object.owners {
            self.dependents.entry(owner.uid.as_str().into()).or_default().insert(Arc::clone(uid));
            // A dependent that is being deleted may be what its owner waits for.
            if self.objects.get(owner.uid.as_str()).is_some_and(Object::waits_for_dependents) {
                look.push(owner.uid.as_str().into());
            }
        }
        if !object.owners.is_empty() || object.is_deleting {
            look.push(Arc::clone(uid));
        }
        self.objects.insert(Arc::clone(uid), object);
        look
    }

    /// Forgets an object; gives those that need a look.
    pub(super) fn remove(&mut self, uid: &Uid) -> Vec<Uid> {
        self.unlink(uid);
        let mut look: Vec<Uid> = self.dependents(uid);
        for owner in self.objects.remove(uid).map(|object| object.owners).unwrap_or_default() {
            if self.objects.get(owner.uid.as_str()).is_some_and(|owner| owner.is_deleting) {
                look.push(owner.uid.as_str().into());
            }
        }
        look
    }

    fn unlink(&mut self, uid: &Uid) {
        for owner in self.objects.get(uid).into_iter().flat_map(|object| &object.owners) {
            if let Some(set) = self.dependents.get_mut(owner.uid.as_str()) {
                set.remove(uid);
                if set.is_empty() {
                    self.dependents.remove(owner.uid.as_str());
                }
            }
        }
    }

    /// One object.
    pub(super) fn get(&self, uid: &str) -> Option<&Object> {
        self.objects.get(uid)
    }

    /// Those that name `uid` as an owner.
    pub(super) fn dependents(&self, uid: &str) -> Vec<Uid> {
        self.dependents.get(uid).into_iter().flatten().cloned().collect()
    }

    /// The uids of one kind.
    pub(super) fn of_kind(&self, kind: usize) -> HashSet<Uid> {
        self.objects.iter().filter(|(_, object)| object.kind == kind).map(|(uid, _)| Arc::clone(uid)).collect()
    }

    /// All uids that have owners or are being deleted.
    pub(super) fn candidates(&self) -> Vec<Uid> {
        let wanted = self.objects.iter().filter(|(_, object)| !object.owners.is_empty() || object.is_deleting);
        wanted.map(|(uid, _)| Arc::clone(uid)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(by: &[&str]) -> Object {
        let owners = by.iter().map(|uid| OwnerReference { uid: (*uid).to_owned(), ..OwnerReference::default() });
        Object { owners: owners.collect(), ..Object::default() }
    }

    #[test]
    fn news_wake_those_they_concern() {
        let mut graph = Graph::default();
        assert!(graph.set(&"o".into(), owned(&[])).is_empty());
        assert_eq!(graph.set(&"d".into(), owned(&["o"])), ["d".into()]);
        assert!(graph.set(&"d".into(), owned(&["o"])).is_empty(), "nothing new");
        let waiting = Object { is_deleting: true, is_foreground: true, ..Object::default() };
        assert_eq!(graph.set(&"o".into(), waiting), ["o".into()]);
        graph.set(&"both".into(), owned(&["o", "other"]));
        let freed = graph.set(&"both".into(), owned(&["other"]));
        assert!(freed.contains(&"o".into()), "the owner waited to be named no more: {freed:?}");
        graph.remove(&"both".into());
        assert_eq!(graph.remove(&"d".into()), ["o".into()], "the owner waited for it");
        graph.set(&"e".into(), owned(&["o"]));
        assert_eq!(graph.remove(&"o".into()), ["e".into()], "the dependent has lost its owner");
        graph.set(&"e".into(), owned(&[]));
        assert!(graph.dependents("o").is_empty() && graph.dependents.is_empty());
    }
}
