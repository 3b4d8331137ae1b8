use super::*;
use serde_json::json;

fn told(amounts: &Amounts) -> String {
    amounts.iter().map(|(name, quantity)| format!("{name}={quantity}")).collect::<Vec<_>>().join(",")
}

fn pod_of(requests: Value, limits: Value) -> Value {
    json!({"spec": {"containers": [{"name": "c", "resources": {"requests": requests, "limits": limits}}]}})
}

#[test]
fn pods_use_requests_limits_and_extended_resources() {
    let mut pod = pod_of(
        json!({"cpu": "500m", "memory": "1Gi", "example.com/dongle": "3", "hugepages-2Mi": "4Mi"}),
        json!({"cpu": "1", "example.com/dongle": "3"}),
    );
    assert_eq!(
        told(&usage("", "pods", &pod, 0)),
        "count/pods=1,cpu=500m,hugepages-2Mi=4Mi,limits.cpu=1,memory=1Gi,pods=1,requests.cpu=500m,\
         requests.example.com/dongle=3,requests.hugepages-2Mi=4Mi,requests.memory=1Gi"
    );
    pod["status"] = json!({"phase": "Succeeded"});
    assert_eq!(told(&usage("", "pods", &pod, 0)), "count/pods=1");
    pod["status"] = json!({});
    pod["metadata"] = json!({"deletionTimestamp": "1970-01-01T00:01:40Z", "deletionGracePeriodSeconds": 10});
    assert!(usage("", "pods", &pod, 110).contains_key("pods") && !usage("", "pods", &pod, 111).contains_key("pods"));
}

#[test]
fn services_claims_and_others_are_counted() {
    let service = |spec: Value| told(&usage("", "services", &json!({"spec": spec}), 0));
    assert_eq!(
        service(json!({"type": "LoadBalancer", "ports": [{"port": 1}, {"port": 2}]})),
        "count/services=1,services=1,services.loadbalancers=1,services.nodeports=2"
    );
    assert_eq!(
        service(json!({"type": "ClusterIP", "ports": [{"port": 1}]})),
        "count/services=1,services=1,services.loadbalancers=0,services.nodeports=0"
    );
    let claim = json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "1Gi"}}}});
    assert_eq!(
        told(&usage("", "persistentvolumeclaims", &claim, 0)),
        "count/persistentvolumeclaims=1,gold.storageclass.storage.k8s.io/persistentvolumeclaims=1,\
         gold.storageclass.storage.k8s.io/requests.storage=1Gi,persistentvolumeclaims=1,requests.storage=1Gi"
    );
    assert_eq!(told(&usage("", "configmaps", &json!({}), 0)), "configmaps=1,count/configmaps=1");
    assert_eq!(told(&usage("apps", "replicasets", &json!({}), 0)), "count/replicasets.apps=1");
    let claim = json!({"spec": {"devices": {"requests": [{"exactly": {"deviceClassName": "gpu", "count": 2}},
        {"firstAvailable": [{"deviceClassName": "gpu", "count": 3}, {"deviceClassName": "fpga", "allocationMode": "All"}]}]}}});
    assert_eq!(
        told(&usage("resource.k8s.io", "resourceclaims", &claim, 0)),
        "count/resourceclaims.resource.k8s.io=1,fpga.deviceclass.resource.k8s.io/devices=32,\
         gpu.deviceclass.resource.k8s.io/devices=5"
    );
}

#[test]
fn limits_say_whose_objects_count() {
    for (name, expected) in [
        ("pods", Some(("", "pods"))),
        ("requests.cpu", Some(("", "pods"))),
        ("requests.nvidia.com/gpu", Some(("", "pods"))),
        ("requests.storage", Some(("", "persistentvolumeclaims"))),
        ("gold.storageclass.storage.k8s.io/requests.storage", Some(("", "persistentvolumeclaims"))),
        ("gpu.deviceclass.resource.k8s.io/devices", Some(("resource.k8s.io", "resourceclaims"))),
        ("services.nodeports", Some(("", "services"))),
        ("count/deployments.apps", Some(("apps", "deployments"))),
        ("count/secrets", Some(("", "secrets"))),
        ("limits.nvidia.com/gpu", None),
        ("whatever", None),
    ] {
        assert_eq!(kind_of(name), expected, "{name}");
    }
}

#[test]
fn scopes_choose_the_objects() {
    let quota = |scope: Value| Quota::read(&json!({"hard": {"pods": "1"}, "scopes": [scope]}));
    let selected = |name: &str, operator: &str, values: Value| {
        Quota::read(&json!({"hard": {"pods": "1"}, "scopeSelector": {"matchExpressions": [
            {"scopeName": name, "operator": operator, "values": values}]}}))
    };
    let best = pod_of(json!({}), json!({}));
    let mut burst = pod_of(json!({"cpu": "1"}), json!({}));
    burst["spec"]["activeDeadlineSeconds"] = 5.into();
    burst["spec"]["priorityClassName"] = "high".into();
    for (quota, on_best, on_burst) in [
        (quota("BestEffort".into()), true, false),
        (quota("NotBestEffort".into()), false, true),
        (quota("Terminating".into()), false, true),
        (quota("NotTerminating".into()), true, false),
        (selected("PriorityClass", "In", json!(["high"])), false, true),
        (selected("PriorityClass", "NotIn", json!(["high"])), true, false),
        (selected("PriorityClass", "Exists", json!([])), false, true),
        (selected("PriorityClass", "DoesNotExist", json!([])), true, false),
        (quota("CrossNamespacePodAffinity".into()), false, false),
    ] {
        let covers = |pod| quota.covers("", "pods", pod);
        assert_eq!((covers(&best), covers(&burst)), (on_best, on_burst), "{quota:?}");
    }
    let scoped = Quota::read(&json!({"hard": {"services": "1", "pods": "1"}, "scopes": ["BestEffort"]}));
    assert!(!scoped.covers("", "services", &json!({})));
    let far = json!({"spec": {"containers": [], "affinity": {"podAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "k", "namespaceSelector": {}}]}}}});
    assert!(quota("CrossNamespacePodAffinity".into()).covers("", "pods", &far));
}

#[test]
fn containers_must_say_what_is_limited() {
    let pod = json!({"spec": {"containers": [{"name": "b"}, {"name": "a", "resources": {"requests": {"cpu": "1"}}}]}});
    assert_eq!(
        unsaid(&["cpu", "limits.memory", "pods"], &pod),
        Some("must specify cpu for: b; limits.memory for: a,b".into())
    );
    assert_eq!(unsaid(&["pods"], &pod), None);
}
