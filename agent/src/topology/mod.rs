//! Processors and devices of one container from the same NUMA nodes, if the node is told to see to that. Each who has some to
//! give hints where; the policy settles on nodes, or refuses the pod. Kubernetes documentation, "Control Topology Management
//! Policies on a node". Start reading at `place`, then `hint` and `merge`.

mod hint;
mod merge;
mod place;

pub(crate) use hint::{Hint, Hints, Nodes, Supply};
pub(crate) use place::place;

/// More NUMA nodes than that have too many choices; a kubelet refuses to start with them too.
pub const NODES_MAX: usize = 8;

/// What is done where things cannot be had close together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// Nobody is asked where things are.
    #[default]
    None,
    /// The pod is taken all the same.
    BestEffort,
    /// It is taken if they are as close as they can be on this machine.
    Restricted,
    /// It is taken if they are on one NUMA node.
    SingleNumaNode,
}

/// What is to be close together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scope {
    /// What a container has.
    #[default]
    Container,
    /// What all containers of a pod have.
    Pod,
}

/// What the node was told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Settings {
    /// `--topology-manager-policy`
    pub policy: Policy,
    /// `--topology-manager-scope`
    pub scope: Scope,
}

impl Settings {
    /// Whether a machine of so many NUMA nodes can do it.
    ///
    /// # Errors
    ///
    /// There are more than can be looked at.
    pub(crate) fn check(&self, nodes: usize) -> Result<(), String> {
        match self.policy != Policy::None && nodes > NODES_MAX {
            true => Err(format!(
                "--topology-manager-policy: this machine has {nodes} NUMA nodes; with more than {NODES_MAX} it can only be none"
            )),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_of_too_many_nodes_is_refused() {
        let settings = Settings { policy: Policy::BestEffort, scope: Scope::Pod };
        assert!(settings.check(NODES_MAX).is_ok() && Settings::default().check(NODES_MAX + 1).is_ok());
        assert!(settings.check(NODES_MAX + 1).unwrap_err().contains("has 9 NUMA nodes"));
    }
}
