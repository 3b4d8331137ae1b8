//! What one node needs attached, and what not any more: pure.
use api::volume::{attachment_name, in_use_name};
use std::collections::BTreeMap;

/// A volume of a driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attachable {
    pub(super) driver: String,
    pub(super) handle: String,
    /// Several nodes may have it at once.
    pub(super) is_shared: bool,
}

/// A VolumeAttachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attached {
    pub(super) name: String,
    pub(super) node: String,
    /// The PersistentVolume.
    pub(super) volume: String,
    pub(super) is_deleting: bool,
}

/// What is known of a node.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Node<'a> {
    pub(super) exists: bool,
    /// Somebody says that it is off (`node.kubernetes.io/out-of-service`).
    pub(super) is_off: bool,
    /// Unready, and for so long that what it says does not count any more.
    pub(super) is_lost: bool,
    /// `status.volumesInUse`
    pub(super) in_use: &'a [String],
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Make a VolumeAttachment for this PersistentVolume.
    Attach { volume: String },
    /// The volume is elsewhere, and can be in one place only: people are told.
    Elsewhere { volume: String, node: String },
    /// Delete this VolumeAttachment.
    Detach { attachment: String },
}

/// Decides about a node. `wanted` are the volumes that its pods use and that must be attached, by PersistentVolume;
/// `known` finds any volume; `all` are the attachments of all nodes.
pub(super) fn steps(
    name: &str,
    node: Node<'_>,
    wanted: &BTreeMap<String, Attachable>,
    known: impl Fn(&str) -> Option<Attachable>,
    all: &[Attached],
) -> Vec<Step> {
    let mut steps = Vec::new();
    for own in all.iter().filter(|own| own.node == name && !own.is_deleting) {
        if node.exists && wanted.contains_key(&own.volume) && !node.is_off {
            continue;
        }
        // What others made for themselves is theirs; ours is told by its name.
        let Some(volume) = known(&own.volume) else { continue };
        if own.name != attachment_name(&volume.handle, &volume.driver, name) {
            continue;
        }
        let is_used = node.in_use.contains(&in_use_name(&volume.driver, &volume.handle));
        if !node.exists || node.is_off || node.is_lost || !is_used {
            steps.push(Step::Detach { attachment: own.name.clone() });
        }
    }
    if !node.exists || node.is_off {
        return steps;
    }
    for (volume, own) in wanted {
        if all.iter().any(|other| other.node == name && other.volume == *volume) {
            // One that goes comes again once it is gone.
            continue;
        }
        let elsewhere = all.iter().find(|other| other.volume == *volume && other.node != name);
        steps.push(match elsewhere {
            Some(other) if !own.is_shared => Step::Elsewhere { volume: volume.clone(), node: other.node.clone() },
            _ => Step::Attach { volume: volume.clone() },
        });
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(is_shared: bool) -> Attachable {
        Attachable { driver: "d".into(), handle: "h".into(), is_shared }
    }

    fn attached(node: &str, is_deleting: bool) -> Attached {
        let name = attachment_name("h", "d", node);
        Attached { name, node: node.into(), volume: "pv".into(), is_deleting }
    }

    fn told(node: Node<'_>, wanted: Option<Attachable>, all: &[Attached]) -> Vec<Step> {
        let wanted = wanted.map(|own| ("pv".to_owned(), own)).into_iter().collect();
        steps("n", node, &wanted, |_| Some(volume(false)), all)
    }

    const HERE: Node<'static> = Node { exists: true, is_off: false, is_lost: false, in_use: &[] };

    #[test]
    fn what_pods_use_is_attached_once_and_in_one_place_unless_it_is_shared() {
        let attach = vec![Step::Attach { volume: "pv".into() }];
        assert_eq!(told(HERE, Some(volume(false)), &[]), attach);
        assert_eq!(told(HERE, Some(volume(false)), &[attached("n", false)]), []);
        assert_eq!(told(HERE, Some(volume(false)), &[attached("n", true)]), [], "it comes again when it is gone");
        let elsewhere = Step::Elsewhere { volume: "pv".into(), node: "m".into() };
        assert_eq!(told(HERE, Some(volume(false)), &[attached("m", false)]), [elsewhere]);
        assert_eq!(told(HERE, Some(volume(true)), &[attached("m", false)]), attach);
    }

    #[test]
    fn nothing_is_taken_from_a_node_that_uses_it() {
        let in_use = ["kubernetes.io/csi/d^h".to_owned()];
        let (busy, all) = (Node { in_use: &in_use, ..HERE }, [attached("n", false)]);
        let detach = vec![Step::Detach { attachment: attachment_name("h", "d", "n") }];
        assert_eq!(told(busy, None, &all), []);
        assert_eq!(told(HERE, None, &all), detach);
        assert_eq!(told(Node { is_lost: true, ..busy }, None, &all), detach);
        assert_eq!(told(Node { is_off: true, ..busy }, Some(volume(false)), &all), detach, "people say that it is off");
        assert_eq!(told(Node { exists: false, ..busy }, Some(volume(false)), &all), detach);
        assert_eq!(told(HERE, None, &[attached("n", true)]), [], "it goes already");
        let foreign = Attached { name: "by-hand".into(), ..attached("n", false) };
        assert_eq!(told(HERE, None, &[foreign]), [], "somebody else made it");
    }
}
