//! What claims get, case by case; hostile claims and pools; and never two claims on one device.
use super::*;
use crate::node::NodeFacts;
use proptest::prelude::*;
use serde_json::{Value, from_value, json};

const DRIVER: &str = "d.com";

/// Devices, and the claims of one pod.
struct Scene {
    devices: Devices,
    claims: Vec<Value>,
}

fn node(name: &str) -> NodeFacts {
    let labels = [("zone".to_owned(), format!("zone-of-{name}"))].into();
    NodeFacts { name: name.into(), labels, ..NodeFacts::default() }
}

fn device(name: &str, model: &str) -> Value {
    json!({"name": name, "attributes": {"model": {"string": model}, "d.com/version": {"version": "1.2.0"},
        "other.com/numa": {"int": 0}}, "capacity": {"memory": {"value": "8Gi"}}})
}

fn slice(place: Value, pool: &str, generation: i64, of: i64, devices: &[Value]) -> ResourceSlice {
    let mut spec = json!({"driver": DRIVER, "pool": {"name": pool, "generation": generation, "resourceSliceCount": of},
        "devices": devices});
    spec.as_object_mut().unwrap().extend(place.as_object().unwrap().clone());
    from_value(json!({"metadata": {"name": "s"}, "spec": spec})).unwrap()
}

fn on(node: &str) -> Value {
    json!({"nodeName": node})
}

impl Scene {
    /// A class for all devices, and a pool of these on node `n`.
    fn new(devices: &[Value]) -> Self {
        let mut known = Devices::default();
        known.set_slice("s".into(), slice(on("n"), "p", 1, 1, devices));
        known.set_class("all".into(), from_value(json!({"metadata": {"name": "all"}})).unwrap());
        Self { devices: known, claims: Vec::new() }
    }

    /// A claim for these requests and constraints.
    fn claim(&mut self, requests: Value, constraints: Value) -> &mut Self {
        let name = format!("c{}", self.claims.len());
        let claim = json!({"metadata": {"namespace": "x", "name": name, "uid": name},
            "spec": {"devices": {"requests": requests, "constraints": constraints}}});
        self.devices.set_claim(format!("x/{name}"), from_value(claim).unwrap());
        self.claims.push(json!({"name": name, "resourceClaimName": name}));
        self
    }

    fn pod(&self) -> PodFacts {
        let pod = json!({"metadata": {"namespace": "x", "name": "pod", "uid": format!("u{}", self.devices.version)},
            "spec": {"containers": [], "resourceClaims": self.claims}});
        PodFacts::new(from_value(pod).unwrap())
    }

    fn grants(&self, at: &str) -> Result<Vec<Grant>, Reason> {
        self.devices.on(&node(at), &self.pod())
    }

    /// `request:device` of each claim on node `n`, or why not.
    fn given(&self) -> Result<Vec<String>, String> {
        let grants = self.grants("n").map_err(|reason| reason.to_string())?;
        Ok(grants.iter().map(|grant| shown(grant.allocation.as_ref().unwrap())).collect())
    }
}

fn shown(allocation: &AllocationResult) -> String {
    let results = allocation.devices.as_ref().and_then(|own| own.results.as_deref()).unwrap_or_default();
    results.iter().map(|own| format!("{}:{}", own.request, own.device)).collect::<Vec<_>>().join(" ")
}

fn one(name: &str, more: Value) -> Value {
    let mut exactly = json!({"deviceClassName": "all"});
    exactly.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"name": name, "exactly": exactly})
}

fn cel(expression: &str) -> Value {
    json!({"selectors": [{"cel": {"expression": expression}}]})
}

fn unmet() -> Result<Vec<String>, String> {
    Err("cannot allocate all claims".into())
}

#[test]
fn requests_are_met_as_they_are_written() {
    let devices = [device("a", "x"), device("b", "y"), device("c", "y")];
    let model = |model: &str| cel(&format!("device.attributes['d.com'].model == '{model}'"));
    let alternatives = |parts: Value| json!({"name": "r", "firstAvailable": parts});
    for (requests, constraints, want) in [
        (json!([one("r", json!({}))]), json!([]), Ok("r:a")),
        (json!([one("r", json!({"count": 2}))]), json!([]), Ok("r:a r:b")),
        (json!([one("r", json!({"count": 4}))]), json!([]), Err(())),
        (json!([one("r", model("y"))]), json!([]), Ok("r:b")),
        (json!([one("r", model("z"))]), json!([]), Err(())),
        (json!([one("r", json!({})), one("s", model("x"))]), json!([]), Ok("r:b s:a")),
        (json!([one("r", json!({"allocationMode": "All"}))]), json!([]), Ok("r:a r:b r:c")),
        (json!([one("r", json!({"allocationMode": "All"})), one("s", json!({}))]), json!([]), Err(())),
        (
            json!([one("r", cel("device.capacity['d.com'].memory.isGreaterThan(quantity('4Gi'))"))]),
            json!([]),
            Ok("r:a"),
        ),
        (
            json!([one("r", cel("device.attributes['d.com'].version.isLessThan(semver('1.3.0'))"))]),
            json!([]),
            Ok("r:a"),
        ),
        (json!([one("r", cel("device.attributes['absent.com'].?x.orValue(1) == 1"))]), json!([]), Ok("r:a")),
        (json!([one("r", json!({"capacity": {"requests": {"memory": "8Gi"}}}))]), json!([]), Ok("r:a")),
        (json!([one("r", json!({"capacity": {"requests": {"memory": "9Gi"}}}))]), json!([]), Err(())),
        (json!([one("r", json!({"count": 2}))]), json!([{"matchAttribute": "d.com/model"}]), Ok("r:b r:c")),
        (json!([one("r", json!({"count": 3}))]), json!([{"matchAttribute": "d.com/model"}]), Err(())),
        (json!([one("r", json!({"count": 2}))]), json!([{"distinctAttribute": "d.com/model"}]), Ok("r:a r:b")),
        (json!([one("r", json!({"count": 2}))]), json!([{"matchAttribute": "d.com/absent"}]), Err(())),
        (json!([one("r", json!({"count": 2}))]), json!([{}]), Err(())),
        (
            json!([one("r", json!({})), one("s", json!({}))]),
            json!([{"requests": ["s"], "matchAttribute": "other.com/numa"}, {"requests": ["r", "s"], "matchAttribute": "d.com/model"}]),
            Ok("r:b s:c"),
        ),
        (
            json!([alternatives(
                json!([{"name": "many", "deviceClassName": "all", "count": 9}, {"name": "two", "deviceClassName": "all", "count": 2}])
            )]),
            json!([{"requests": ["r"], "matchAttribute": "d.com/model"}]),
            Ok("r/two:b r/two:c"),
        ),
    ] {
        let mut scene = Scene::new(&devices);
        scene.claim(requests.clone(), constraints.clone());
        let want = want.map(|own| vec![own.to_owned()]).map_err(|()| unmet().unwrap_err());
        assert_eq!(scene.given(), want, "{requests} {constraints}");
    }
}

#[test]
fn claims_of_one_pod_do_not_share_devices() {
    let mut scene = Scene::new(&[device("a", "x"), device("b", "x")]);
    scene.claim(json!([one("r", json!({}))]), json!([])).claim(json!([one("r", json!({}))]), json!([]));
    assert_eq!(scene.given(), Ok(vec!["r:a".into(), "r:b".into()]));
    scene.claim(json!([one("r", json!({}))]), json!([]));
    assert_eq!(scene.given(), unmet());
}

#[test]
fn what_is_given_is_nobody_elses_until_it_is_free() {
    let mut scene = Scene::new(&[device("a", "x")]);
    scene.claim(json!([one("r", json!({}))]), json!([]));
    let grants = scene.grants("n").unwrap();
    let work: Vec<_> = grants.iter().cloned().map(Preparation::Devices).collect();
    scene.devices.assume(&work);
    let mut other = Scene { devices: std::mem::take(&mut scene.devices), claims: vec![] };
    let claim = |name: &str, status: Value| -> ResourceClaim {
        from_value(json!({"metadata": {"namespace": "x", "name": name, "uid": name},
            "spec": {"devices": {"requests": [one("r", json!({}))]}}, "status": status}))
        .unwrap()
    };
    other.devices.set_claim("x/o".into(), claim("o", json!({})));
    other.claims = vec![json!({"name": "o", "resourceClaimName": "o"})];
    assert_eq!(other.given(), unmet(), "it is on its way to the other");
    let mut first = other.pod();
    first.shape = scene.pod().shape;
    assert_eq!(
        other.devices.refusal(&first).unwrap(),
        "resource claim x/c0 is in the process of being allocated",
        "until the watch tells"
    );
    let allocation = grants[0].allocation.as_deref().unwrap();
    let given =
        claim("c0", json!({"allocation": allocation, "reservedFor": [{"resource": "pods", "name": "q", "uid": "q"}]}));
    assert!(!other.devices.set_claim("x/c0".into(), given));
    assert_eq!(other.given(), unmet());
    // Whoever names the claim too goes where its device is, and reserves it.
    assert_eq!(other.devices.refusal(&first), None);
    let shared = other.devices.on(&node("n"), &first).unwrap();
    assert_eq!((shared.len(), shared[0].allocation.is_none()), (1, true));
    assert_eq!(other.devices.on(&node("m"), &first), Err(Reason::ClaimElsewhere));
    // An administrator looks at it all the same, and that takes it from nobody.
    let mut admin = claim("o", json!({}));
    admin.spec = from_value(json!({"devices": {"requests": [one("r", json!({"adminAccess": true}))]}})).unwrap();
    other.devices.set_claim("x/o".into(), admin);
    assert_eq!(other.given(), Ok(vec!["r:a".into()]));
    other.devices.set_claim("x/o".into(), claim("o", json!({})));
    assert!(other.devices.set_claim("x/c0".into(), claim("c0", json!({}))), "it gave something back");
    assert_eq!(other.given(), Ok(vec!["r:a".into()]));
    // What was not written is given up.
    other.devices.assume(&work);
    assert_eq!(other.given(), unmet());
    other.devices.forget(&work);
    assert_eq!(other.given(), Ok(vec!["r:a".into()]));
}

#[test]
fn devices_that_keep_a_pod_from_everywhere_are_given_back_unless_others_have_them() {
    let mut scene = Scene::new(&[device("a", "x")]);
    scene.claim(json!([one("r", json!({}))]), json!([]));
    let pod = scene.pod();
    assert_eq!(scene.devices.stale(&pod), None, "it has none yet");
    let allocation = scene.grants("n").unwrap()[0].allocation.clone();
    let of = |reserved: &[&str]| -> ResourceClaim {
        let reserved: Vec<_> =
            reserved.iter().map(|uid| json!({"resource": "pods", "name": "p", "uid": uid})).collect();
        from_value(json!({"metadata": {"namespace": "x", "name": "c0", "uid": "c0"}, "spec": {},
            "status": {"allocation": allocation, "reservedFor": reserved}}))
        .unwrap()
    };
    for (reserved, is_stale) in [(&[][..], true), (&[&*pod.uid][..], true), (&[&*pod.uid, "other"][..], false)] {
        scene.devices.set_claim("x/c0".into(), of(reserved));
        let stale = scene.devices.stale(&pod);
        assert_eq!(stale.is_some(), is_stale, "{reserved:?}");
        if let Some(grant) = stale {
            assert!(given_back(&of(&["other"]), &grant, &pod).is_none(), "somebody else was faster");
            assert_eq!(given_back(&of(reserved), &grant, &pod), Some(ResourceClaimStatus::default()));
        }
    }
}

#[test]
fn pools_are_used_whole_and_in_their_newest_generation() {
    let mut scene = Scene::new(&[device("old", "x")]);
    scene.claim(json!([one("r", json!({}))]), json!([]));
    scene.devices.set_slice("t".into(), slice(on("n"), "p", 2, 2, &[device("a", "x")]));
    assert_eq!(scene.given(), unmet(), "one of two slices is there, and the old ones do not count");
    scene.devices.set_slice("u".into(), slice(on("n"), "p", 2, 2, &[device("b", "x")]));
    assert_eq!(scene.given(), Ok(vec!["r:a".into()]));
    scene.devices.set_slice("u".into(), slice(on("n"), "p", 2, 2, &[device("a", "x")]));
    assert_eq!(scene.given(), unmet(), "two devices of one name");
    scene.devices.set_slice("v".into(), slice(on("n"), "q", 1, 2, &[device("z", "x")]));
    scene.devices.retain_slices(|name| name != "t" && name != "u");
    assert_eq!(scene.given(), Ok(vec!["r:old".into()]));
    let mut all = Scene { devices: scene.devices, claims: vec![] };
    all.claim(json!([one("r", json!({"allocationMode": "All"}))]), json!([]));
    assert_eq!(all.given(), unmet(), "nobody knows how many all are");
}

#[test]
fn devices_are_given_where_they_are_reached_from() {
    let zone = json!({"nodeSelector": {"nodeSelectorTerms": [{"matchExpressions":
        [{"key": "zone", "operator": "In", "values": ["zone-of-m"]}]}]}});
    let per_device = json!({"perDeviceNodeSelection": true});
    let mut own = device("own", "x");
    own["nodeName"] = "k".into();
    for (place, devices, at, selector) in [
        (
            on("m"),
            vec![device("a", "x")],
            "m",
            json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["m"]}]}),
        ),
        (zone.clone(), vec![device("a", "x")], "m", zone["nodeSelector"]["nodeSelectorTerms"][0].clone()),
        (json!({"allNodes": true}), vec![device("a", "x")], "m", Value::Null),
        (
            per_device,
            vec![own],
            "k",
            json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["k"]}]}),
        ),
    ] {
        let mut scene = Scene::new(&[]);
        scene.devices.set_slice("t".into(), slice(place.clone(), "q", 1, 1, &devices));
        scene.claim(json!([one("r", json!({}))]), json!([]));
        let grants = scene.grants(at).unwrap();
        let allocation = json!(grants[0].allocation.as_ref().unwrap());
        assert_eq!(allocation["nodeSelector"]["nodeSelectorTerms"][0], selector, "{place}");
        let elsewhere = scene.grants("elsewhere");
        assert_eq!(elsewhere.is_ok(), selector.is_null(), "{place}");
    }
}

#[test]
fn tainted_devices_are_for_who_tolerates_them() {
    let mut tainted = device("a", "x");
    tainted["taints"] = json!([{"key": "broken", "value": "fan", "effect": "NoSchedule"}]);
    let mut noted = device("b", "x");
    noted["taints"] = json!([{"key": "note", "effect": "None"}]);
    let mut scene = Scene::new(&[tainted, noted]);
    scene.claim(json!([one("r", json!({}))]), json!([]));
    assert_eq!(scene.given(), Ok(vec!["r:b".into()]));
    let rule = |selector: Value| {
        let spec = json!({"deviceSelector": selector, "taint": {"key": "maintenance", "effect": "NoExecute"}});
        from_value::<DeviceTaintRule>(json!({"metadata": {"name": "r"}, "spec": spec})).unwrap()
    };
    scene.devices.set_rule("r".into(), rule(json!({"device": "b"})));
    assert_eq!(scene.given(), unmet());
    scene.devices.set_rule("r".into(), rule(json!({"driver": "other"})));
    assert_eq!(scene.given(), Ok(vec!["r:b".into()]));
    scene.devices.set_rule("r".into(), rule(Value::Null));
    assert_eq!(scene.given(), Ok(vec!["r:b".into()]), "a rule without a selector is about none");
    scene.devices.set_rule("r".into(), rule(json!({})));
    assert_eq!(scene.given(), unmet(), "an empty one is about all");
    for (toleration, want) in [
        (json!({"operator": "Exists"}), "r:a"),
        (json!({"key": "maintenance", "operator": "Exists", "effect": "NoExecute"}), "r:b"),
    ] {
        scene.claims.clear();
        scene.claim(json!([one("r", json!({"tolerations": [toleration]}))]), json!([]));
        assert_eq!(scene.given(), Ok(vec![want.into()]), "{toleration}");
        let grants = scene.grants("n").unwrap();
        let result = &json!(grants[0].allocation.as_ref().unwrap())["devices"]["results"][0];
        assert_eq!(result["tolerations"][0], toleration);
    }
}

#[test]
fn shared_counters_are_not_overdrawn() {
    let part = |name: &str, slots: i64| {
        let mut part = device(name, "x");
        part["consumesCounters"] = json!([{"counterSet": "card", "counters": {"slots": {"value": slots.to_string()}}}]);
        part
    };
    let mut scene = Scene::new(&[]);
    let mut cards =
        slice(on("n"), "cards", 1, 1, &[part("whole", 4), part("half-0", 2), part("half-1", 2), part("half-2", 2)]);
    cards.spec.shared_counters = from_value(json!([{"name": "card", "counters": {"slots": {"value": "4"}}}])).unwrap();
    scene.devices.set_slice("t".into(), cards);
    scene.claim(json!([one("r", json!({"count": 2}))]), json!([]));
    assert_eq!(scene.given(), Ok(vec!["r:half-0 r:half-1".into()]));
    scene.claim(json!([one("r", json!({}))]), json!([]));
    assert_eq!(scene.given(), unmet(), "the card is used up");
}

#[test]
fn what_nobody_can_honour_is_named_and_not_given() {
    let mut waiting = device("a", "x");
    waiting["nodeAllocatableResources"] = json!({"memory": {}});
    let mut scene = Scene::new(&[waiting]);
    scene.claim(json!([one("r", json!({}))]), json!([]));
    let why = "claim x/c0: request r: devices with nodeAllocatableResources are not supported";
    assert_eq!(scene.given(), Err(why.into()));
    for (expression, why) in [
        (
            "device.attributes['d.com'].absent == 1",
            "claim x/c0: request r: selector #0: runtime error: no such key: absent",
        ),
        ("1 +", "claim x/c0: request r: selector #0: CEL compile error: compilation failed"),
        ("'text'", "claim x/c0: request r: selector #0: runtime error: expression must evaluate to bool"),
        ("lists.range(100000).all(a, lists.range(1000).all(b, a + b >= 0))", "actual cost limit exceeded"),
    ] {
        let mut scene = Scene::new(&[device("a", "x")]);
        scene.claim(json!([one("r", cel(expression))]), json!([]));
        let told = scene.given().unwrap_err();
        assert!(told.contains(why), "{told}");
    }
    let mut scene = Scene::new(&[device("a", "x")]);
    scene.devices.set_class(
        "all".into(),
        from_value(json!({"metadata": {"name": "all"}, "spec": cel("device.nothing")})).unwrap(),
    );
    scene.claim(json!([one("r", json!({}))]), json!([]));
    assert_eq!(scene.given(), Err("claim x/c0: class all: selector #0: runtime error: no such key: nothing".into()));
    for (request, why) in [
        (json!({"name": "r"}), "request r: unsupported request type"),
        (one("r", json!({"allocationMode": "Some"})), "request r: unsupported count mode Some"),
        (one("r", json!({"deviceClassName": "none"})), "request r: device class none does not exist"),
        (
            one("r", json!({"derivedAttributes": [{"name": "a", "expression": "1"}]})),
            "request r: derivedAttributes are not supported",
        ),
    ] {
        let mut scene = Scene::new(&[device("a", "x")]);
        scene.claim(json!([request]), json!([]));
        assert_eq!(scene.devices.refusal(&scene.pod()), Some(why.to_owned()));
    }
    let mut scene = Scene::new(&(0..40).map(|n| device(&format!("a{n}"), "x")).collect::<Vec<_>>());
    scene.claim(json!([one("r", json!({"count": 33}))]), json!([]));
    assert_eq!(scene.given(), Err("claim x/c0: number of requested devices 33 exceeds the claim limit of 32".into()));
}

#[test]
fn hostile_claims_end_the_search_not_the_scheduler() {
    // Fifteen each go together, and sixteen are wanted: all orders of them would have to be tried.
    let devices: Vec<Value> = (0..2_000)
        .map(|n| {
            let mut device = device(&format!("a{n}"), "x");
            device["attributes"]["pair"] = json!({"int": n / 15});
            device
        })
        .collect();
    let mut scene = Scene::new(&devices);
    let requests: Vec<Value> = (0..16).map(|n| one(&format!("r{n}"), json!({}))).collect();
    scene.claim(json!(requests), json!([{"matchAttribute": "d.com/pair"}]));
    let given_up = "cannot allocate all claims (the search took too many steps and was given up)";
    assert_eq!(scene.given(), Err(given_up.into()));
    // The other nodes of the same decision pay from what is left, which is nothing.
    let pod = scene.pod();
    assert_eq!(scene.devices.on(&node("n"), &pod).unwrap_err(), Reason::SearchGivenUp);
    scene.devices.set_slice("m".into(), slice(on("m"), "m", 1, 1, &devices[..5]));
    let pod = scene.pod();
    assert_eq!(
        scene.devices.on(&node("m"), &pod).map(|_| ()),
        Err(Reason::CannotAllocate),
        "another decision begins anew"
    );

    // Claims that lean on each other in a circle, and more of them than a pod can have.
    let mut scene = Scene::new(&devices[..600]);
    let circle = json!([{"requests": ["a", "b"], "matchAttribute": "d.com/model"},
        {"requests": ["b", "c"], "distinctAttribute": "d.com/pair"}, {"requests": ["c", "a"], "matchAttribute": "d.com/pair"}]);
    scene.claim(json!([one("a", json!({})), one("b", json!({})), one("c", json!({}))]), circle);
    assert_eq!(scene.given(), Ok(vec!["a:a0 b:a15 c:a1".into()]));
    let mut scene = Scene::new(&devices[..600]);
    for _ in 0..20 {
        scene.claim(json!([one("r", json!({"count": 32}))]), json!([]));
    }
    assert!(scene.given().is_err(), "640 of 600");
    let mut scene = Scene::new(&devices);
    for _ in 0..17 {
        scene.claim(json!([one("r", json!({"count": 32}))]), json!([]));
    }
    assert!(scene.given().is_err(), "no pod gets more than 512");
}

#[test]
fn settings_of_class_and_claim_go_with_the_devices() {
    let opaque = |of: &str| json!({"opaque": {"driver": DRIVER, "parameters": {"of": of}}});
    let mut scene = Scene::new(&[device("a", "x"), device("b", "x")]);
    let class = json!({"metadata": {"name": "all"}, "spec": {"config": [opaque("class")]}});
    scene.devices.set_class("all".into(), from_value(class).unwrap());
    scene.claim(json!([one("r", json!({})), one("s", json!({}))]), json!([]));
    let with = |requests: Value| {
        let mut config = opaque("claim");
        config["requests"] = requests;
        config
    };
    let mut claim = json!(*scene.devices.claims["x/c0"]);
    claim["spec"]["devices"]["config"] = json!([opaque("claim"), with(json!(["s"])), with(json!(["none"]))]);
    scene.devices.set_claim("x/c0".into(), from_value(claim).unwrap());
    let grants = scene.grants("n").unwrap();
    let config = json!(grants[0].allocation.as_ref().unwrap())["devices"]["config"].clone();
    let short: Vec<_> =
        config.as_array().unwrap().iter().map(|own| (own["source"].clone(), own["requests"].clone())).collect();
    assert_eq!(
        short,
        [
            (json!("FromClass"), json!(["r", "s"])),
            (json!("FromClaim"), Value::Null),
            (json!("FromClaim"), json!(["s"]))
        ]
    );
}

#[test]
fn a_grant_is_written_only_to_the_claim_that_it_was_decided_for() {
    let mut scene = Scene::new(&[device("a", "x")]);
    scene.claim(json!([one("r", json!({}))]), json!([]));
    let (grants, pod) = (scene.grants("n").unwrap(), scene.pod());
    let claim = (*scene.devices.claims["x/c0"]).clone();
    let now = jiff::Timestamp::UNIX_EPOCH;
    let status = granted(&claim, &grants[0], &pod, now, || "share".into()).unwrap();
    assert_eq!(status.reserved_for.as_ref().unwrap()[0].uid, *pod.uid);
    let given = ResourceClaim { status: Some(status.clone()), ..claim.clone() };
    assert_eq!(
        granted(&given, &grants[0], &pod, now, || "share".into()).unwrap_err(),
        "the claim was given other devices"
    );
    let again = Grant { allocation: None, ..grants[0].clone() };
    assert_eq!(granted(&given, &again, &pod, now, || "share".into()).unwrap(), status, "once is enough");
    assert_eq!(granted(&claim, &again, &pod, now, || "share".into()).unwrap_err(), "the claim has lost its devices");
    let other = Grant { uid: "other".into(), ..grants[0].clone() };
    assert_eq!(granted(&claim, &other, &pod, now, || "share".into()).unwrap_err(), "the claim is gone");
}

/// A device of 8 GiB for several.
fn shared(name: &str) -> Value {
    let mut shared = device(name, name);
    shared["allowMultipleAllocations"] = true.into();
    shared
}

fn part(name: &str, amount: &str) -> Value {
    one(name, json!({"capacity": {"requests": {"memory": amount}}}))
}

#[test]
fn claims_share_a_device_until_its_capacity_is_used_up() {
    let mut scene = Scene::new(&[shared("a")]);
    scene.claim(json!([part("r", "5Gi")]), json!([])).claim(json!([part("r", "3Gi")]), json!([]));
    assert_eq!(scene.given(), Ok(vec!["r:a".into(), "r:a".into()]));
    let grants = scene.grants("n").unwrap();
    let consumed = json!(grants[1].allocation)["devices"]["results"][0]["consumedCapacity"].clone();
    assert_eq!(consumed, json!({"memory": "3Gi"}));
    // One that was written and one that is on its way count alike.
    let pod = scene.pod();
    let claim = (*scene.devices.claims["x/c0"]).clone();
    let status = granted(&claim, &grants[0], &pod, jiff::Timestamp::UNIX_EPOCH, || "share".into()).unwrap();
    assert_eq!(json!(status)["allocation"]["devices"]["results"][0]["shareID"], "share");
    scene.devices.set_claim("x/c0".into(), ResourceClaim { status: Some(status), ..claim });
    scene.devices.assume(&[Preparation::Devices(grants[1].clone())]);
    scene.claims.clear();
    scene.devices.set_claim(
        "x/late".into(),
        from_value(json!({"metadata": {"namespace": "x", "name": "late", "uid": "l"},
        "spec": {"devices": {"requests": [part("r", "1Mi")]}}}))
        .unwrap(),
    );
    scene.claims.push(json!({"name": "late", "resourceClaimName": "late"}));
    assert_eq!(scene.given(), unmet());
    scene.devices.put_back(Pendings::default());
    assert_eq!(scene.given(), Ok(vec!["r:a".into()]));
}

#[test]
fn one_claim_may_have_several_shares_of_a_device() {
    for (devices, requests, constraints, want) in [
        (
            vec![shared("a")],
            json!([one("r", json!({"count": 2, "capacity": {"requests": {"memory": "3Gi"}}}))]),
            json!([]),
            Ok("r:a r:a"),
        ),
        (
            vec![shared("a")],
            json!([one("r", json!({"count": 3, "capacity": {"requests": {"memory": "3Gi"}}}))]),
            json!([]),
            Err(()),
        ),
        (vec![shared("a")], json!([one("r", json!({}))]), json!([]), Ok("r:a")),
        (vec![shared("a")], json!([one("r", json!({})), part("s", "1Gi")]), json!([]), Err(())),
        (vec![shared("a"), shared("b")], json!([part("r", "6Gi"), part("s", "6Gi")]), json!([]), Ok("r:a s:b")),
        (
            vec![shared("a"), shared("b")],
            json!([part("r", "1Gi"), part("s", "1Gi")]),
            json!([{"distinctAttribute": "d.com/model"}]),
            Ok("r:a s:b"),
        ),
        (vec![shared("a"), shared("b")], json!([one("r", json!({"allocationMode": "All"}))]), json!([]), Ok("r:a r:b")),
        (
            vec![device("a", "x"), shared("b")],
            json!([one("r", cel("device.allowMultipleAllocations"))]),
            json!([]),
            Ok("r:b"),
        ),
        (vec![shared("a")], json!([part("r", "9Gi")]), json!([]), Err(())),
    ] {
        let mut scene = Scene::new(&devices);
        scene.claim(requests.clone(), constraints);
        let want = want.map(|want| vec![want.to_owned()]).or_else(|()| unmet());
        assert_eq!(scene.given(), want, "{requests}");
    }
}

#[test]
fn who_shares_a_device_takes_its_counters_once() {
    let mut part_of = shared("a");
    part_of["consumesCounters"] = json!([{"counterSet": "card", "counters": {"slots": {"value": "2"}}}]);
    let mut other = device("b", "x");
    other["consumesCounters"] = part_of["consumesCounters"].clone();
    let mut scene = Scene::new(&[]);
    let mut cards = slice(on("n"), "cards", 1, 1, &[part_of, other]);
    cards.spec.shared_counters = from_value(json!([{"name": "card", "counters": {"slots": {"value": "3"}}}])).unwrap();
    scene.devices.set_slice("t".into(), cards);
    scene.claim(json!([part("r", "1Gi"), part("s", "1Gi")]), json!([]));
    assert_eq!(scene.given(), Ok(vec!["r:a s:a".into()]));
    scene.claim(json!([one("r", cel("!device.allowMultipleAllocations"))]), json!([]));
    assert_eq!(scene.given(), unmet(), "the card is used up");
}

#[test]
fn a_pod_waits_for_the_drivers_of_its_devices() {
    let mut late = device("a", "x");
    late["bindingConditions"] = json!(["attached"]);
    late["bindingFailureConditions"] = json!(["broken"]);
    late["bindsToNode"] = true.into();
    let mut scene = Scene::new(&[]);
    scene.devices.set_slice("everywhere".into(), slice(json!({"allNodes": true}), "q", 1, 1, &[late]));
    scene.claim(json!([one("r", json!({}))]), json!([]));
    let (grants, pod) = (scene.grants("n").unwrap(), scene.pod());
    let given = json!(grants[0].allocation);
    assert_eq!(given["devices"]["results"][0]["bindingConditions"], json!(["attached"]));
    assert_eq!(given["devices"]["results"][0]["bindingFailureConditions"], json!(["broken"]));
    let fields = &given["nodeSelector"]["nodeSelectorTerms"][0]["matchFields"][0];
    assert_eq!(fields["values"], json!(["n"]), "it stays where it was given");
    let work = [Preparation::Devices(grants[0].clone())];
    scene.devices.assume(&work);
    assert_eq!(scene.devices.progress(&pod), Progress::UnderWay, "nothing is told yet");

    let claim = (*scene.devices.claims["x/c0"]).clone();
    let status = granted(&claim, &grants[0], &pod, jiff::Timestamp::UNIX_EPOCH, String::new).unwrap();
    let mut told = |condition: Option<&str>| {
        let conditions = condition.map(|name| {
            json!([{"type": name, "status": "True", "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}])
        });
        let device = json!({"driver": DRIVER, "pool": "q", "device": "a", "conditions": conditions});
        let status = ResourceClaimStatus { devices: from_value(json!([device])).unwrap(), ..status.clone() };
        scene.devices.set_claim("x/c0".into(), ResourceClaim { status: Some(status), ..claim.clone() });
        let is_asked = !scene.devices.on(&node("n"), &pod).unwrap().is_empty();
        (scene.devices.progress(&pod), is_asked, scene.devices.unbound(&pod).len())
    };
    assert_eq!(told(None), (Progress::UnderWay, true, 1), "a scheduler that starts anew waits too");
    assert_eq!(told(Some("broken")), (Progress::GivenUp, true, 1));
    assert_eq!(told(Some("attached")), (Progress::Ready, false, 0));
}

proptest! {
    /// Claims come, are given devices and go, in any order: no device is ever two claims', and of none more is given than there is.
    #[test]
    fn never_two_claims_on_one_device(steps in prop::collection::vec((0_usize..6, 0_usize..3, 1_i64..4), 1..60)) {
        let mut devices: Vec<Value> =
            (0..6).map(|n| device(&format!("a{n}"), if n % 2 == 0 { "x" } else { "y" })).collect();
        devices[5]["allowMultipleAllocations"] = true.into();
        let mut known = Devices::default();
        known.set_class("all".into(), from_value(json!({"metadata": {"name": "all"}})).unwrap());
        known.set_slice("s".into(), slice(on("n"), "p", 1, 1, &devices[..4]));
        known.set_slice("t".into(), slice(json!({"allNodes": true}), "q", 1, 1, &devices[4..]));
        let key = |claim: usize| format!("x/c{claim}");
        let of = |claim: usize, count: i64, allocation: Option<&AllocationResult>| -> ResourceClaim {
            let name = format!("c{claim}");
            from_value(json!({"metadata": {"namespace": "x", "name": name, "uid": name}, "spec": {"devices": {
                "requests": [one("r", json!({"count": count, "capacity": {"requests": {"memory": "3Gi"}}}))],
                "constraints": [{"matchAttribute": "d.com/model"}]}}, "status": {"allocation": allocation}})).unwrap()
        };
        let mut under_way: HashMap<usize, Vec<Preparation>> = HashMap::new();
        for (number, (claim, step, count)) in steps.into_iter().enumerate() {
            match step {
                0 if !under_way.contains_key(&claim) && !known.claims.contains_key(&key(claim)) => {
                    known.set_claim(key(claim), of(claim, count, None));
                    let pod = json!({"metadata": {"namespace": "x", "name": "p", "uid": number.to_string()}, "spec": {
                        "containers": [], "resourceClaims": [{"name": "c", "resourceClaimName": format!("c{claim}")}]}});
                    let pod = PodFacts::new(from_value(pod).unwrap());
                    let at = if number % 2 == 0 { "n" } else { "m" };
                    if let (None, Ok(grants)) = (known.refusal(&pod), known.on(&node(at), &pod)) {
                        let work: Vec<_> = grants.into_iter().map(Preparation::Devices).collect();
                        known.assume(&work);
                        under_way.insert(claim, work);
                    }
                }
                1 => if let Some(work) = under_way.remove(&claim) {
                    let allocation = grants(&work).next().and_then(|grant| grant.allocation.clone());
                    known.set_claim(key(claim), of(claim, count, allocation.as_deref()));
                },
                _ => match under_way.remove(&claim) {
                    Some(work) => {
                        known.forget(&work);
                        known.retain_claims(|own| own != key(claim));
                    }
                    None => known.retain_claims(|own| own != key(claim)),
                },
            }
            let told = known.claims.values().filter_map(|claim| allocation(claim));
            let pending = known.pending.values().map(|pending| &*pending.allocation);
            let results = told.chain(pending).flat_map(|own| own.devices.as_ref()?.results.as_ref()).flatten();
            let (mut whole, mut shared) = (HashSet::new(), Share::new());
            for own in results {
                match &own.consumed_capacity {
                    None => prop_assert!(whole.insert(own.device.as_str()), "{} twice", own.device),
                    Some(taken) => {
                        let taken = taken.values().map(|own| Quantity::parse(&own.0).unwrap());
                        share::add(&mut shared, &taken.map(|amount| (own.device.clone(), amount)).collect());
                    }
                }
            }
            prop_assert!(!shared.contains_key("a0") && !whole.contains("a5"));
            prop_assert!(shared.values().all(|taken| *taken <= Quantity::parse("8Gi").unwrap()), "{shared:?}");
        }
    }
}

#[test]
fn another_decision_looks_at_nodes_anew() {
    let mut scene = Scene::new(&[]);
    let terms = json!([{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["new"]}]}]);
    let place = json!({"nodeSelector": {"nodeSelectorTerms": terms}});
    scene.devices.set_slice("s2".into(), slice(place, "q", 1, 1, &[device("a", "x")]));
    scene.claim(json!([one("r", json!({}))]), json!([]));
    let pod = scene.pod();
    assert_eq!(scene.devices.on(&node("n"), &pod), Err(Reason::CannotAllocate));
    let moved = NodeFacts { labels: [("zone".to_owned(), "new".to_owned())].into(), ..node("n") };
    scene.devices.begin_decision();
    assert!(scene.devices.on(&moved, &pod).is_ok());
}

#[test]
fn nobody_knows_all_devices_where_a_pool_names_one_twice() {
    let mut scene = Scene::new(&[device("a", "x"), device("a", "x")]);
    scene.devices.set_slice("s2".into(), slice(on("n"), "q", 1, 1, &[device("b", "x")]));
    scene.claim(json!([one("r", json!({"allocationMode": "All"}))]), json!([]));
    assert_eq!(scene.given(), unmet());
    let mut scene = Scene { claims: Vec::new(), ..scene };
    scene.claim(json!([one("r", json!({}))]), json!([]));
    assert_eq!(scene.given(), Ok(vec!["r:b".to_owned()]), "one is there");
}

#[test]
fn who_was_to_share_a_claim_and_is_not_takes_nothing_from_who_was_given_it() {
    let mut scene = Scene::new(&[device("a", "x")]);
    scene.claim(json!([one("r", json!({}))]), json!([]));
    let given = scene.grants("n").unwrap();
    let work = |grants: Vec<Grant>| grants.into_iter().map(Preparation::Devices).collect::<Vec<_>>();
    scene.devices.assume(&work(given.clone()));
    let shared = given.iter().map(|grant| Grant { allocation: None, ..grant.clone() }).collect();
    scene.devices.forget(&work(shared));
    assert_eq!(scene.devices.pendings().len(), 1);
    scene.devices.forget(&work(given));
    assert_eq!(scene.devices.pendings().len(), 0);
}
