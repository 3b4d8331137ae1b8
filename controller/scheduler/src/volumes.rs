//! What the claims of a pod say about where it may run, and what has to be done before it may: pure.
use crate::capacity::Capacities;
use crate::devices::Grant;
use crate::filter::Reason;
use crate::node::NodeFacts;
use crate::pod::PodFacts;
use api::affinity;
use api::volume::{Claim, Class, ONE_POD, Volume, best_for};
use api::well_known::PROVISIONER_NONE;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What is done for a claim before its pod is bound to the node that was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Preparation {
    /// A volume that is there is reserved for it.
    Reserve {
        /// `namespace/name` of the claim.
        claim: String,
        /// The volume's name.
        volume: String,
    },
    /// Its provisioner is told the node.
    Provision {
        /// `namespace/name` of the claim.
        claim: String,
    },
    /// A claim to devices is given some, or kept for one more pod.
    Devices(Grant),
}

/// Claims, volumes and classes, with what was decided and is not told by the watches yet.
#[derive(Debug, Default)]
pub struct Volumes {
    /// By `namespace/name`.
    pub claims: HashMap<String, Claim>,
    /// By name.
    pub volumes: BTreeMap<String, Volume>,
    /// By name.
    pub classes: HashMap<String, Class>,
    /// How many volumes of each driver a node takes, by its name.
    pub limits: HashMap<Box<str>, HashMap<String, usize>>,
    /// How much drivers have left.
    pub capacities: Capacities,
    /// Volumes that were reserved, with the claims that they are for.
    reserved: HashMap<String, String>,
    /// Claims whose provisioner is being told a node.
    chosen: HashMap<String, Box<str>>,
}

/// What was decided about volumes and is not told by the watches yet.
#[derive(Debug)]
pub(crate) struct Assumed {
    reserved: HashMap<String, String>,
    chosen: HashMap<String, Box<str>>,
}

/// How far the claims of a pod are, to volumes or to devices, that waits for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// All of them have what they need.
    Ready,
    /// Some are under way.
    UnderWay,
    /// One was given up: its provisioner, its driver, or a person, took the choice back.
    GivenUp,
}

impl Progress {
    /// How far both are.
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::GivenUp, _) | (_, Self::GivenUp) => Self::GivenUp,
            (Self::UnderWay, _) | (_, Self::UnderWay) => Self::UnderWay,
            (Self::Ready, Self::Ready) => Self::Ready,
        }
    }
}

impl Volumes {
    /// What the watch told of a claim.
    pub fn set_claim(&mut self, claim: Claim) {
        if claim.selected_node.is_some() || claim.is_bound() {
            self.chosen.remove(&claim.key());
        }
        self.claims.insert(claim.key(), claim);
    }

    /// What the watch told of a volume.
    pub fn set_volume(&mut self, volume: Volume) {
        if volume.claim.is_some() {
            self.reserved.remove(&volume.name);
        }
        self.volumes.insert(volume.name.clone(), volume);
    }

    /// Counts as done what is about to be.
    pub fn assume(&mut self, node: &str, work: &[Preparation]) {
        for one in work {
            match one {
                Preparation::Reserve { claim, volume } => drop(self.reserved.insert(volume.clone(), claim.clone())),
                Preparation::Provision { claim } => drop(self.chosen.insert(claim.clone(), node.into())),
                Preparation::Devices(_) => {}
            }
        }
    }

    /// What is counted as done.
    pub(crate) fn assumed(&self) -> Assumed {
        Assumed { reserved: self.reserved.clone(), chosen: self.chosen.clone() }
    }

    /// Counts as done what was so before, and nothing else.
    pub(crate) fn put_back(&mut self, assumed: Assumed) {
        (self.reserved, self.chosen) = (assumed.reserved, assumed.chosen);
    }

    /// It could not be done.
    pub fn forget(&mut self, work: &[Preparation]) {
        for one in work {
            match one {
                Preparation::Reserve { volume, .. } => drop(self.reserved.remove(volume)),
                Preparation::Provision { claim } => drop(self.chosen.remove(claim)),
                Preparation::Devices(_) => {}
            }
        }
    }

    fn claims_of<'a>(&'a self, pod: &'a PodFacts) -> impl Iterator<Item = (String, Option<&'a Claim>)> {
        let namespace = &*pod.shape.namespace;
        pod.shape.load.claims.iter().map(move |used| {
            let key = format!("{namespace}/{}", used.name);
            let claim = self.claims.get(&key);
            (key, claim)
        })
    }

    fn waits(&self, claim: &Claim) -> bool {
        self.classes.get(&claim.class).is_some_and(|class| class.waits)
    }

    /// Why no node at all can take the pod, in the words of Kubernetes.
    pub fn refusal(&self, pod: &PodFacts) -> Option<String> {
        for (used, (_, claim)) in pod.shape.load.claims.iter().zip(self.claims_of(pod)) {
            let name = &used.name;
            let Some(claim) = claim else {
                return Some(match used.is_ephemeral {
                    true => {
                        format!("waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}")
                    }
                    false => format!("persistentvolumeclaim {name:?} not found"),
                });
            };
            if used.is_ephemeral && claim.owner.as_deref() != Some(&*pod.uid) {
                return Some(format!("PVC {} was not created for pod {} (pod is not owner)", claim.key(), pod.key));
            }
            if claim.phase == "Lost" {
                return Some(format!(
                    "persistentvolumeclaim {name:?} bound to non-existent persistentvolume {:?}",
                    claim.volume
                ));
            }
            if claim.is_deleting {
                return Some(format!("persistentvolumeclaim {name:?} is being deleted"));
            }
            let is_for_later = claim.volume.is_empty() && self.waits(claim);
            if !(claim.is_bound() || is_for_later) {
                return Some("pod has unbound immediate PersistentVolumeClaims".to_owned());
            }
        }
        None
    }

    /// The driver of a claim's volume, and what tells that volume from others.
    fn attached<'a>(&'a self, key: &'a str) -> Option<(&'a str, &'a str)> {
        let claim = self.claims.get(key)?;
        match self.volumes.get(&claim.volume) {
            Some(volume) => volume.csi.as_ref().map(|(driver, handle)| (driver.as_str(), handle.as_str())),
            None => self.classes.get(&claim.class).map(|class| (class.provisioner.as_str(), key)),
        }
    }

    /// Whether a node with these claims already has room for the volumes of those that would come, both by
    /// `namespace/name`.
    pub(crate) fn has_room(&self, node: &str, there: &[String], new: &[String]) -> bool {
        let Some(limits) = self.limits.get(node) else { return true };
        let of = |keys: &'_ [String]| -> BTreeSet<(String, String)> {
            let attached = keys.iter().filter_map(|key| self.attached(key));
            attached.map(|(driver, handle)| (driver.to_owned(), handle.to_owned())).collect()
        };
        let (there, new) = (of(there), of(new));
        limits.iter().all(|(driver, most)| {
            let count = |set: &mut dyn Iterator<Item = &(String, String)>| set.filter(|(own, _)| own == driver).count();
            let coming = count(&mut new.difference(&there));
            coming == 0 || count(&mut there.iter()) + coming <= *most
        })
    }

    /// The claims of the pod that no two pods may use (`ReadWriteOncePod`), by `namespace/name`.
    pub fn one_pod_claims<'a>(&'a self, pod: &'a PodFacts) -> impl Iterator<Item = String> + 'a {
        let is_exclusive = |claim: &Claim| claim.access_modes.iter().any(|mode| mode == ONE_POD);
        self.claims_of(pod).filter(move |(_, claim)| claim.is_some_and(is_exclusive)).map(|(key, _)| key)
    }

    /// What a node would need for the pod, or why it cannot take it.
    pub(crate) fn on(&self, node: &NodeFacts, pod: &PodFacts) -> Result<Vec<Preparation>, Reason> {
        let facts = affinity::NodeFacts { name: &node.name, labels: &node.labels };
        let mut work: Vec<Preparation> = Vec::new();
        for (key, claim) in self.claims_of(pod) {
            let Some(claim) = claim else { return Err(Reason::NoVolume) };
            if claim.is_bound() {
                match self.volumes.get(&claim.volume) {
                    None => return Err(Reason::VolumeGone),
                    Some(volume) if !volume.is_reached_from(facts) => return Err(Reason::VolumeElsewhere),
                    Some(_) => continue,
                }
            }
            let is_taken = |volume: &Volume| {
                self.reserved.get(&volume.name).is_some_and(|other| *other != key)
                    || work
                        .iter()
                        .any(|own| matches!(own, Preparation::Reserve { volume: own, .. } if *own == volume.name))
            };
            let chosen = self.chosen.get(&key).map(|node| &**node).or(claim.selected_node.as_deref());
            match best_for(claim, self.volumes.values(), Some(facts), true, is_taken) {
                Some(volume) => work.push(Preparation::Reserve { claim: key, volume: volume.name.clone() }),
                None if chosen.is_some_and(|chosen| *chosen != *node.name) => return Err(Reason::NoVolume),
                None => match self.maker(claim).filter(|class| class.allows(&node.labels)) {
                    Some(class) if self.capacities.has_room(class, claim, node) => {
                        work.push(Preparation::Provision { claim: key });
                    }
                    Some(_) => return Err(Reason::NoStorage),
                    None => return Err(Reason::NoVolume),
                },
            }
        }
        Ok(work)
    }

    /// The class of a claim, if somebody makes volumes of it.
    fn maker(&self, claim: &Claim) -> Option<&Class> {
        let class = self.classes.get(&claim.class)?;
        (class.provisioner != PROVISIONER_NONE && !class.provisioner.is_empty()).then_some(class)
    }

    /// How far the claims of a pod are whose node was chosen.
    pub fn progress(&self, pod: &PodFacts, node: &str) -> Progress {
        let mut progress = Progress::Ready;
        for (key, claim) in self.claims_of(pod) {
            let Some(claim) = claim else { return Progress::GivenUp };
            if claim.is_bound() && claim.phase == "Bound" {
                continue;
            }
            let chosen = self.chosen.get(&key).map(|node| &**node).or(claim.selected_node.as_deref());
            let is_reserved =
                self.reserved.values().any(|own| *own == key) || self.volumes.values().any(|own| own.is_for(claim));
            if claim.is_deleting || chosen != Some(node) && !is_reserved && !claim.is_bound() {
                return Progress::GivenUp;
            }
            progress = Progress::UnderWay;
        }
        progress
    }

    /// The two sides of a reservation.
    pub fn sides(&self, claim: &str, volume: &str) -> Option<(&Claim, &Volume)> {
        Some((self.claims.get(claim)?, self.volumes.get(volume)?))
    }
}
