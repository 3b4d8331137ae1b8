//! Groups of pods: on the real node, and on nodes without machines.

use e2e::api::condition;
use serde_json::{Value, json};

use crate::hollow::Hollow;
use crate::scene::{Scene, is_ready, name_of, template};
use crate::scheduling::{FAKE, asking, bound, class, create, offer, pending, pod, without_classes};

const GROUPS: &str = "scheduling.k8s.io/v1beta1";

/// An amount of processors as the API writes it, in thousandths.
fn milli(text: &str) -> i64 {
    match text.strip_suffix('m') {
        Some(milli) => milli.parse().expect("thousandths"),
        None => text.parse::<i64>().expect("whole processors") * 1000,
    }
}

/// Makes a group whose pods go all at once; `more` is more of its spec.
async fn group(scene: &Scene, name: &str, min_count: usize, more: Value) {
    let mut group =
        json!({"metadata": {"name": name}, "spec": {"schedulingPolicy": {"gang": {"minCount": min_count}}}});
    for (key, value) in more.as_object().into_iter().flatten() {
        group["spec"][key] = value.clone();
    }
    scene.api.post(&scene.api.path(GROUPS, "podgroups"), group).await.ok();
}

/// The group once its condition says this.
async fn until_told(scene: &Scene, name: &str, status: &str, reason: &str) -> Value {
    let is_told = |group: &Value| {
        let told = condition(group, "PodGroupInitiallyScheduled");
        told["status"] == status && told["reason"] == reason
    };
    let what = format!("group {name} is {reason}");
    let group = scene.api.until(&scene.api.path(GROUPS, "podgroups"), name, &what, is_told).await;
    condition(&group, "PodGroupInitiallyScheduled").clone()
}

/// How many of the pods with this label have a node.
fn bound_of(pods: &[Value]) -> usize {
    pods.iter().filter(|pod| pod["spec"]["nodeName"].is_string()).count()
}

/// A pod for the real node that asks for so many thousandths of a processor.
fn real(app: &str, name: &str, cpu: i64, group: Option<&str>) -> Value {
    let mut pod = template(app);
    pod["metadata"]["name"] = json!(name);
    pod["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": "node-1"});
    pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": format!("{cpu}m")}});
    if let Some(group) = group {
        pod["spec"]["schedulingGroup"] = json!({"podGroupName": group});
    }
    pod
}

/// What is left of the real node's processors, in thousandths.
async fn left(scene: &Scene) -> i64 {
    let node = scene.api.get("/api/v1/nodes/node-1").await.ok();
    let pods = scene.api.get("/api/v1/pods?fieldSelector=spec.nodeName=node-1").await.ok();
    let live = pods["items"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|pod| !matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")));
    let asked = live.flat_map(|pod| pod["spec"]["containers"].as_array().expect("containers"));
    let asked: i64 =
        asked.filter_map(|one| one.pointer("/resources/requests/cpu")).filter_map(Value::as_str).map(milli).sum();
    milli(node["status"]["allocatable"]["cpu"].as_str().expect("processors")) - asked
}

#[tokio::test]
async fn a_gang_that_does_not_fit_waits_whole_and_starts_whole() {
    let scene = Scene::new("gang").await;
    let filler = create(&scene, real("filler", "filler", left(&scene).await - 250, None)).await;
    bound(&scene, &filler).await;
    for n in 0..2 {
        create(&scene, real("member", &format!("member-{n}"), 100, Some("g"))).await;
    }
    pending(&scene, "member-0", "waiting for pod's pod group \"g\" to appear in scheduling queue").await;
    group(&scene, "g", 3, json!({})).await;
    pending(&scene, "member-1", "2 of 3 exist").await;
    let why = scene.gantry(&["why", "member-1"]);
    assert!(why.out.contains("waiting for minCount pods from a gang"), "{}", why.out);
    create(&scene, real("member", "member-2", 100, Some("g"))).await;
    let told = pending(&scene, "member-0", "minCount (3) cannot be satisfied: 2 of 3 pods fit").await;
    let message = condition(&told, "PodScheduled")["message"].as_str().unwrap_or_default();
    assert!(message.contains("Insufficient cpu"), "{message}");
    let condition = until_told(&scene, "g", "False", "Unschedulable").await;
    assert!(condition["message"].as_str().is_some_and(|text| text.contains("2 of 3 pods fit")), "{condition}");
    assert_eq!(bound_of(&scene.still("member").await), 0, "none holds a place");
    scene.api.delete(&scene.pod(&filler), Value::Null).await.ok();
    scene.ready("member", 3).await;
    until_told(&scene, "g", "True", "Scheduled").await;
    let table = scene.gantry(&["get", "podgroups"]);
    assert!(table.out.lines().any(|line| line.starts_with("g") && line.contains("Gang") && line.contains("Scheduled")));

    // Who is used stays until its pods have ended.
    let path = format!("{}/g", scene.api.path(GROUPS, "podgroups"));
    let going = scene.api.delete(&path, Value::Null).await.ok();
    assert_eq!(going["metadata"]["finalizers"], json!(["scheduling.k8s.io/podgroup-protection"]));
    for pod in scene.pods("member").await {
        assert!(is_ready(&pod));
        scene.api.delete(&scene.pod(name_of(&pod)), Value::Null).await.ok();
    }
    scene.api.until_gone(&path).await;
}

#[tokio::test]
async fn the_sample_of_a_gang_runs() {
    let scene = Scene::new("gang-sample").await;
    let sample = e2e::machine::workspace().join("manifests/sample/gang.yaml").display().to_string();
    scene.gantry(&["apply", "-f", &sample]).ok();
    let is_over = |job: &Value| condition(job, "Complete")["status"] == "True";
    scene.api.until(&scene.api.path("batch/v1", "jobs"), "workers", "the job is done", is_over).await;
    until_told(&scene, "workers", "True", "Scheduled").await;
}

/// A pod of a gang for the hollow nodes that asks for so much of the fake resource.
fn hollow_member(hollow: &Hollow, name: &str, group: &str, amount: &str, more: Value) -> Value {
    let mut member = pod(hollow, name, json!({"containers": asking(FAKE, amount)}));
    member["metadata"]["labels"]["app"] = json!(group);
    member["spec"]["schedulingGroup"] = json!({"podGroupName": group});
    for (key, value) in more.as_object().into_iter().flatten() {
        member["spec"][key] = value.clone();
    }
    member
}

#[tokio::test]
async fn of_two_gangs_that_do_not_both_fit_one_starts_and_one_holds_nothing() {
    let scene = Scene::new("gangs").await;
    let mut hollow = Hollow::new(&scene.api, 2).await;
    offer(&hollow, &scene.api, "2").await;
    for name in ["one", "other"] {
        group(&scene, name, 3, json!({})).await;
    }
    // One pod of each in turn: with halves they would wait for each other.
    for n in 0..3 {
        for name in ["one", "other"] {
            create(&scene, hollow_member(&hollow, &format!("{name}-{n}"), name, "1", json!({}))).await;
        }
    }
    let all = |count: usize| move |pods: &[Value]| pods.len() == 3 && bound_of(pods) == count;
    let wins = |pods: Vec<Value>| bound_of(&pods) == 3;
    let first = scene.api.path("v1", "pods");
    scene.api.until_all(&first, "three of six have a node", |pods| bound_of(pods) == 3).await;
    let (winner, loser) = if wins(scene.pods("one").await) { ("one", "other") } else { ("other", "one") };
    until_told(&scene, winner, "True", "Scheduled").await;
    until_told(&scene, loser, "False", "Unschedulable").await;
    assert_eq!(bound_of(&scene.still(loser).await), 0);
    for _ in 0..2 {
        hollow.add().await;
    }
    offer(&hollow, &scene.api, "2").await;
    scene.until_pods(loser, "the other gang is placed whole", all(3)).await;
    hollow.end().await;
}

#[tokio::test]
async fn a_gang_preempts_for_its_minimum_or_not_at_all_and_one_that_leaves_whole_leaves_whole() {
    let scene = Scene::new("gang-preempts").await;
    let hollow = Hollow::new(&scene.api, 2).await;
    offer(&hollow, &scene.api, "2").await;
    let (low, high) = (class(&scene, 1).await, class(&scene, 100).await);
    let with = |class: &str| json!({"priorityClassName": class});
    group(&scene, "low", 2, json!({"priorityClassName": low, "disruptionMode": {"all": {}}})).await;
    for n in 0..2 {
        create(&scene, hollow_member(&hollow, &format!("low-{n}"), "low", "2", with(&low))).await;
    }
    scene.until_pods("low", "the low gang is placed", |pods| bound_of(pods) == 2).await;
    let kept = scene.pods("low").await;
    group(&scene, "big", 3, with(&high)).await;
    for n in 0..3 {
        create(&scene, hollow_member(&hollow, &format!("big-{n}"), "big", "2", with(&high))).await;
    }
    pending(&scene, "big-0", "minCount (3) cannot be satisfied").await;
    assert_eq!(crate::scene::uids(&scene.still("low").await), crate::scene::uids(&kept), "nobody leaves in vain");
    group(&scene, "small", 1, with(&high)).await;
    create(&scene, hollow_member(&hollow, "small-0", "small", "2", with(&high))).await;
    for pod in ["low-0", "low-1"] {
        scene.api.until_gone(&scene.pod(pod)).await;
    }
    let is_told = |group: &Value| condition(group, "DisruptionTarget")["reason"] == "PreemptionByScheduler";
    scene.api.until(&scene.api.path(GROUPS, "podgroups"), "low", "the group is told that it leaves", is_told).await;
    bound(&scene, "small-0").await;
    without_classes(&scene.api, &[&low, &high]).await;
    hollow.end().await;
}

#[tokio::test]
async fn groups_are_checked() {
    let scene = Scene::new("group-rules").await;
    let path = scene.api.path(GROUPS, "podgroups");
    let make = async |spec: Value| scene.api.post(&path, json!({"metadata": {"name": "g"}, "spec": spec})).await;
    let gang = |count: i64| json!({"schedulingPolicy": {"gang": {"minCount": count}}});
    let said = make(gang(0)).await.refused(422);
    assert!(said.contains("spec.schedulingPolicy.gang.minCount: Required value"), "{said}");
    let mut with_topology = gang(1);
    with_topology["schedulingConstraints"] = json!({"topology": [{"key": "rack"}]});
    let said = make(with_topology).await.refused(422);
    assert!(said.contains("spec.schedulingConstraints: Forbidden: needs the feature"), "{said}");
    let mut of_workload = gang(1);
    of_workload["workloadRef"] = json!({"workloadName": "w", "templateName": "t"});
    let said = make(of_workload.clone()).await.refused(403);
    assert!(said.contains("workload \"w\" not found"), "{said}");
    let template = json!([{"name": "t", "schedulingPolicy": {"gang": {"minCount": 1}}}]);
    let workload = json!({"metadata": {"name": "w"}, "spec": {"podGroupTemplates": template}});
    scene.api.post(&scene.api.path(GROUPS, "workloads"), workload).await.ok();
    let made = make(of_workload).await.ok();
    assert_eq!(made["spec"]["disruptionMode"], json!({"single": {}}));
    assert_eq!((&made["spec"]["priority"], &made["metadata"]["generation"]), (&json!(0), &json!(1)));
    let own = format!("{path}/g");
    let more = json!({"spec": {"schedulingPolicy": {"gang": {"minCount": 2}}}});
    let changed = scene.api.patch(&own, e2e::api::Patch::Merge, more).await.ok();
    assert_eq!(changed["metadata"]["generation"], 2);
    let basic = json!({"spec": {"schedulingPolicy": {"gang": null, "basic": {}}}});
    scene.api.patch(&own, e2e::api::Patch::Merge, basic).await.refused(422);
    let table = scene.gantry(&["get", "podgroup,workload"]).ok();
    assert!(table.contains("Pending") && table.contains("Gang"), "{table}");
}
