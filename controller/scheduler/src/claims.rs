//! Claims of both sorts, to volumes and to devices, as one: what a node needs for a pod's, and what counts as done of them.
use crate::devices::Pendings;
use crate::filter::Reason;
use crate::node::NodeFacts;
use crate::pod::PodFacts;
use crate::snapshot::Snapshot;
use crate::volumes::{Assumed, Preparation};

impl Snapshot {
    /// What a node would need for the claims of a pod, or why it cannot take it.
    pub(crate) fn preparations(&self, node: &NodeFacts, pod: &PodFacts) -> Result<Vec<Preparation>, Reason> {
        let load = &pod.shape.load;
        let mut work = if load.claims.is_empty() { Vec::new() } else { self.volumes.on(node, pod)? };
        if !load.devices.is_empty() {
            work.extend(self.devices.on(node, pod)?.into_iter().map(Preparation::Devices));
        }
        Ok(work)
    }

    /// Counts as done what is about to be.
    pub fn assume(&mut self, node: &str, work: &[Preparation]) {
        self.volumes.assume(node, work);
        self.devices.assume(work);
    }

    /// What counts as done of claims of both sorts.
    pub(crate) fn assumed(&self) -> (Assumed, Pendings) {
        (self.volumes.assumed(), self.devices.pendings())
    }

    /// Counts as done what was so before, and nothing else.
    pub(crate) fn put_back_assumed(&mut self, (volumes, devices): (Assumed, Pendings)) {
        self.volumes.put_back(volumes);
        self.devices.put_back(devices);
    }

    /// It could not be done.
    pub fn forget(&mut self, work: &[Preparation]) {
        self.volumes.forget(work);
        self.devices.forget(work);
    }
}
