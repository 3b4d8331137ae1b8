use super::*;
use serde_json::{Value, from_value};

const DRIVER: &str = "d.example";

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn claim(more: Value) -> PersistentVolumeClaim {
    let mut whole = json!({"metadata": {"namespace": "n", "name": "c", "uid": "u", "resourceVersion": "7",
        "annotations": {"volume.kubernetes.io/storage-provisioner": DRIVER}},
        "spec": {"storageClassName": "k", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        "status": {"phase": "Pending"}});
    merge(&mut whole, more);
    from_value(whole).unwrap()
}

fn class(more: Value) -> StorageClass {
    let mut whole = json!({"metadata": {"name": "k"}, "provisioner": DRIVER, "reclaimPolicy": "Delete"});
    merge(&mut whole, more);
    from_value(whole).unwrap()
}

fn decide(more: Value, class: Option<&StorageClass>, is_made: bool) -> Step {
    let claim = claim(more);
    step(DRIVER, &claim, &Claim::new(claim.clone()), class, is_made)
}

fn marked() -> Value {
    json!({"metadata": {"finalizers": [FINALIZER_PROVISIONING]}})
}

#[test]
fn volumes_are_made_for_whoever_asks_this_driver() {
    let now = class(json!({}));
    assert_eq!(decide(json!({}), Some(&now), false), Step::Create);
    assert_eq!(decide(json!({}), Some(&now), true), Step::Leave);
    assert_eq!(decide(json!({}), None, false), Step::Leave);
    assert_eq!(decide(json!({}), Some(&class(json!({"provisioner": "other"}))), false), Step::Leave);
    let other = json!({"metadata": {"annotations": {"volume.kubernetes.io/storage-provisioner": "other"}}});
    assert_eq!(decide(other, Some(&now), false), Step::Leave);
    assert_eq!(decide(json!({"spec": {"volumeName": "v"}}), Some(&now), false), Step::Leave);
    let later = class(json!({"volumeBindingMode": "WaitForFirstConsumer"}));
    assert_eq!(decide(json!({}), Some(&later), false), Step::Leave);
    let chosen = json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "m"}}});
    assert_eq!(decide(chosen, Some(&later), false), Step::Create);
}

#[test]
fn what_was_begun_is_looked_up_whatever_became_of_the_claim() {
    let now = class(json!({}));
    let gone = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
    assert_eq!(decide(gone.clone(), Some(&now), false), Step::Leave);
    let mut both = marked();
    merge(&mut both, gone);
    assert_eq!(decide(both.clone(), Some(&now), false), Step::Create);
    assert_eq!(decide(both, Some(&now), true), Step::LetGo, "its volume is known, and goes after it");
    let mut elsewhere = marked();
    merge(&mut elsewhere, json!({"spec": {"volumeName": "other"}}));
    assert_eq!(decide(elsewhere, Some(&now), false), Step::Create);
}

#[test]
fn sources_are_claims_or_are_refused_by_name() {
    let of = |spec: Value| source(&claim(json!({"spec": spec})));
    assert_eq!(of(json!({})), Ok(Source::Empty));
    let own = json!({"kind": "PersistentVolumeClaim", "name": "s"});
    assert_eq!(of(json!({"dataSource": own})), Ok(Source::Claim("s".into())));
    assert_eq!(of(json!({"dataSourceRef": own})), Ok(Source::Claim("s".into())));
    let snapshot = json!({"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "s"});
    assert!(of(json!({"dataSource": snapshot})).unwrap_err().starts_with("spec.dataSource: kind VolumeSnapshot"));
    let mut far = own;
    far["namespace"] = "other".into();
    assert!(of(json!({"dataSourceRef": far})).unwrap_err().starts_with("spec.dataSourceRef.namespace"));
    let filled = json!({"apiGroup": "fill.example", "kind": "Well", "name": "w"});
    assert_eq!(of(json!({"dataSourceRef": filled})), Ok(Source::Populator("Well.fill.example".into())));
}

#[test]
fn only_a_bound_claim_of_the_driver_that_is_not_larger_is_copied() {
    let bound = |more: Value| {
        let mut whole = json!({"metadata": {"name": "s", "uid": "su"}, "spec": {"volumeName": "v"},
            "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}});
        merge(&mut whole, more);
        claim(whole)
    };
    let volume = |driver: &str| -> PersistentVolume {
        from_value(json!({"metadata": {"name": "v"}, "spec": {"claimRef": {"uid": "su"},
            "csi": {"driver": driver, "volumeHandle": "h"}}}))
        .unwrap()
    };
    let own = volume(DRIVER);
    assert_eq!(cloned(DRIVER, &claim(json!({})), &bound(json!({})), Some(&own)), Ok("h".into()));
    let gone = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
    assert_eq!(cloned(DRIVER, &claim(gone.clone()), &bound(gone), Some(&own)), Ok("h".into()), "both go");
    for (held, volume, part) in [
        (bound(json!({"status": {"phase": "Lost"}})), &own, "is not bound"),
        (bound(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})), &own, "is being deleted"),
        (bound(json!({"spec": {"volumeMode": "Block"}})), &own, "another volumeMode"),
        (bound(json!({"status": {"capacity": {"storage": "2Gi"}}})), &own, "expected at least the 2Gi"),
        (bound(json!({"metadata": {"uid": "x"}})), &own, "is not bound to its volume"),
        (bound(json!({})), &volume("other"), "of no volume of driver"),
    ] {
        let why = cloned(DRIVER, &claim(json!({})), &held, Some(volume)).unwrap_err();
        assert!(why.contains(part), "{why}");
    }
}

fn parameters(class: &StorageClass) -> Parameters {
    Parameters::read(&class.parameters.clone().unwrap_or_default(), "pvc-u", &claim(json!({}))).unwrap()
}

#[test]
fn a_driver_is_told_what_claim_and_class_say() {
    let class =
        class(json!({"mountOptions": ["noatime"], "parameters": {"pool": "fast", "csi.storage.k8s.io/fstype": "xfs"}}));
    let own = parameters(&class);
    let claim = claim(json!({"spec": {"accessModes": ["ReadWriteOnce", "ReadOnlyMany"]}}));
    let abilities = Abilities { creates: true, knows_single_writers: true, ..Abilities::default() };
    let asked = Asked {
        abilities,
        claim: &claim,
        class: &class,
        parameters: &own,
        cloned: None,
        place: None,
        secrets: HashMap::from([("key".into(), "opens".into())]),
    };
    let made = request(asked.clone()).unwrap();
    assert_eq!((made.name.as_str(), made.secrets["key"].as_str()), ("pvc-u", "opens"));
    assert_eq!(made.capacity_range.unwrap().required_bytes, 1 << 30);
    assert_eq!(made.parameters, HashMap::from([("pool".into(), "fast".into())]));
    let options = ["noatime".to_owned()];
    assert_eq!(
        made.volume_capabilities,
        [VolumeCapability::new(false, "xfs", &options, 7), VolumeCapability::new(false, "xfs", &options, 3)]
    );
    let why = request(Asked { cloned: Some("h".into()), ..asked }).unwrap_err();
    assert!(why.contains("CLONE_VOLUME"), "{why}");
    assert!(refusal(Abilities::default(), &claim).unwrap().contains("CREATE_DELETE_VOLUME"));
    let selecting = super::tests::claim(json!({"spec": {"selector": {}}}));
    assert!(refusal(abilities, &selecting).unwrap().starts_with("spec.selector"));
    assert_eq!(refusal(abilities, &claim), None);
}

#[test]
fn the_volume_says_all_that_its_end_needs() {
    let class = class(json!({"parameters": {
        "csi.storage.k8s.io/provisioner-secret-name": "${pvc.name}",
        "csi.storage.k8s.io/provisioner-secret-namespace": "${pvc.namespace}",
        "csi.storage.k8s.io/node-stage-secret-name": "s", "csi.storage.k8s.io/node-stage-secret-namespace": "n"}}));
    let own = parameters(&class);
    let made = Volume { capacity_bytes: 3 << 29, volume_id: "h".into(), ..Volume::default() };
    let object = json!(volume(DRIVER, &claim(json!({})), &class, &own, &made).unwrap());
    assert_eq!(object["metadata"]["name"], "pvc-u");
    assert_eq!(object["metadata"]["finalizers"], json!([FINALIZER_PROVISIONER]));
    assert_eq!(
        object["metadata"]["annotations"],
        json!({"pv.kubernetes.io/provisioned-by": DRIVER, "volume.kubernetes.io/provisioner-deletion-secret-name": "c",
            "volume.kubernetes.io/provisioner-deletion-secret-namespace": "n"})
    );
    let spec = &object["spec"];
    assert_eq!((&spec["capacity"]["storage"], &spec["claimRef"]["uid"]), (&json!("1536Mi"), &json!("u")));
    assert_eq!(spec["csi"]["nodeStageSecretRef"], json!({"name": "s", "namespace": "n"}));
    assert_eq!((&spec["csi"]["fsType"], &spec["nodeAffinity"]), (&Value::Null, &Value::Null));
    let kept = super::tests::class(json!({"reclaimPolicy": "Retain"}));
    let object = json!(volume(DRIVER, &claim(json!({})), &kept, &own, &made).unwrap());
    assert_eq!(
        (&object["metadata"]["finalizers"], &object["spec"]["persistentVolumeReclaimPolicy"]),
        (&json!([]), &json!("Retain"))
    );
}

#[test]
fn a_volume_that_is_not_what_was_asked_for_is_told() {
    let asked = |clone: bool| CreateRequest {
        capacity_range: Some(CapacityRange { required_bytes: 100, limit_bytes: 0 }),
        volume_content_source: clone.then(ContentSource::default),
        ..CreateRequest::default()
    };
    let made = |capacity_bytes| Volume { capacity_bytes, ..Volume::default() };
    assert_eq!((misfit(&asked(false), &made(0)), misfit(&asked(false), &made(100))), (None, None));
    assert!(misfit(&asked(false), &made(99)).unwrap().contains("99 less than requested capacity 100"));
    assert!(misfit(&asked(true), &made(100)).unwrap().contains("empty volume"));
}
