//! Who has to see an object again, because somebody after them changed it.
//! Kubernetes documentation, "Dynamic Admission Control", reinvocation policy.

use std::collections::BTreeSet;

use serde_json::Value;

/// What the webhooks, or the policies, of one request did so far.
#[derive(Debug, Default)]
pub(super) struct Reinvocation {
    /// Asked, and willing to be asked again.
    willing: BTreeSet<String>,
    /// Willing, and somebody changed the object after them.
    due: BTreeSet<String>,
    /// What the last of them left.
    left: Option<Value>,
}

impl Reinvocation {
    /// The second round begins: others may have changed the object since the first.
    pub(super) fn begin(&mut self, object: Option<&Value>) {
        if self.left.as_ref() != object {
            self.changed();
        }
    }

    /// Whether one is asked again in the second round; nobody is asked for the first time then.
    pub(super) fn is_due(&self, id: &str) -> bool {
        self.due.contains(id)
    }

    /// Somebody changed the object.
    pub(super) fn changed(&mut self) {
        self.due.append(&mut self.willing);
    }

    /// One was asked and wants to be asked again if need be.
    pub(super) fn asked(&mut self, id: &str) {
        self.willing.insert(id.to_owned());
    }

    /// The round ends.
    pub(super) fn end(&mut self, object: Option<&Value>) {
        self.left = object.cloned();
    }
}
