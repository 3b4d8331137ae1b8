//! What becomes of a volume that the driver made: pure. As the external provisioner decides.
use super::attach;
use api::volume::Volume;
use api::well_known::FINALIZER_PROVISIONER;

/// What is to be done about a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing.
    Leave,
    /// The finalizers become these.
    Finalizers(Vec<String>),
    /// The driver removes it, once it is attached nowhere; then the object goes.
    Delete,
}

/// Decides about a volume; `is_attached` says whether a VolumeAttachment names it.
pub(super) fn step(driver: &str, volume: &Volume, is_attached: bool) -> Step {
    if volume.csi.as_ref().is_none_or(|(own, _)| own != driver) {
        return Step::Leave;
    }
    let without = |finalizer: &str| volume.finalizers.iter().filter(|own| **own != *finalizer).cloned().collect();
    let has = |finalizer: &str| volume.finalizers.iter().any(|own| own == finalizer);
    let attacher = attach::finalizer(driver);
    if volume.is_deleting && !is_attached && has(&attacher) {
        return Step::Finalizers(without(&attacher));
    }
    // Made by hand: nobody removes its data.
    if volume.provisioned_by.as_deref() != Some(driver) {
        return Step::Leave;
    }
    let is_ours = has(FINALIZER_PROVISIONER);
    match volume.reclaim.as_str() {
        "Delete" if volume.is_deleting && !is_ours => Step::Leave,
        "Delete" if volume.phase == "Released" && !is_attached => Step::Delete,
        "Delete" if !is_ours => {
            let mut finalizers = volume.finalizers.clone();
            finalizers.push(FINALIZER_PROVISIONER.into());
            Step::Finalizers(finalizers)
        }
        "Delete" => Step::Leave,
        // Nobody is to remove it any more.
        _ if is_ours => Step::Finalizers(without(FINALIZER_PROVISIONER)),
        _ => Step::Leave,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json};

    const DRIVER: &str = "d.example";

    fn volume(phase: &str, reclaim: &str, finalizers: &[&str], is_deleting: bool) -> Volume {
        let deleted = is_deleting.then_some("2026-01-01T00:00:00Z");
        Volume::new(
            from_value(json!({"metadata": {"name": "v", "finalizers": finalizers, "deletionTimestamp": deleted,
                "annotations": {"pv.kubernetes.io/provisioned-by": DRIVER}}, "status": {"phase": phase},
                "spec": {"persistentVolumeReclaimPolicy": reclaim, "csi": {"driver": DRIVER, "volumeHandle": "h"}}}))
            .unwrap(),
        )
    }

    #[test]
    fn a_released_volume_goes_once_it_is_attached_nowhere() {
        let own = [FINALIZER_PROVISIONER];
        assert_eq!(step(DRIVER, &volume("Released", "Delete", &own, false), false), Step::Delete);
        assert_eq!(step(DRIVER, &volume("Released", "Delete", &own, true), false), Step::Delete);
        assert_eq!(step(DRIVER, &volume("Released", "Delete", &own, false), true), Step::Leave);
        assert_eq!(step(DRIVER, &volume("Bound", "Delete", &own, true), false), Step::Leave);
        assert_eq!(step(DRIVER, &volume("Released", "Retain", &[], false), false), Step::Leave);
        assert_eq!(step("other", &volume("Released", "Delete", &own, false), false), Step::Leave);
        assert_eq!(step(DRIVER, &volume("Released", "Delete", &[], true), false), Step::Leave, "it was removed");
        let mut by_hand = volume("Released", "Delete", &own, false);
        by_hand.provisioned_by = None;
        assert_eq!(step(DRIVER, &by_hand, false), Step::Leave);
    }

    #[test]
    fn finalizers_follow_the_policy() {
        let kept = || vec!["kubernetes.io/pv-protection".to_owned()];
        let both = ["kubernetes.io/pv-protection", FINALIZER_PROVISIONER];
        let whole = both.map(str::to_owned).to_vec();
        assert_eq!(step(DRIVER, &volume("Bound", "Delete", &both[..1], false), false), Step::Finalizers(whole));
        assert_eq!(step(DRIVER, &volume("Bound", "Delete", &both, false), false), Step::Leave);
        assert_eq!(step(DRIVER, &volume("Bound", "Retain", &both, false), false), Step::Finalizers(kept()));
        let attached = ["kubernetes.io/pv-protection", "external-attacher/d-example"];
        assert_eq!(step(DRIVER, &volume("Bound", "Retain", &attached, true), true), Step::Leave);
        assert_eq!(step(DRIVER, &volume("Bound", "Retain", &attached, true), false), Step::Finalizers(kept()));
    }
}
