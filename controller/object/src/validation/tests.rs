use super::*;
use crate::defaulting;
use crate::resource::Table;
use serde_json::json;

fn resource(group: &str, plural: &str) -> &'static Resource {
    let table = Table::builtin();
    table.find(group, table.preferred(group), plural).unwrap()
}

fn faults(group: &str, plural: &str, mut object: Value) -> Vec<String> {
    let resource = resource(group, plural);
    if let Some(metadata) = object["metadata"].as_object_mut() {
        if resource.is_namespaced() {
            metadata.entry("namespace").or_insert_with(|| "default".into());
        }
    } else {
        object["metadata"] = json!({"name": "a", "namespace": resource.is_namespaced().then_some("default")});
        if !resource.is_namespaced() {
            object["metadata"].as_object_mut().unwrap().remove("namespace");
        }
    }
    defaulting::default(resource, &mut object);
    validate_create(resource, &object).iter().map(crate::status::Cause::describe).collect()
}

fn pod(spec: Value) -> Vec<String> {
    faults("", "pods", json!({"metadata": {"name": "a"}, "spec": spec}))
}

#[test]
fn users_of_a_pod_s_own_go_with_its_own_namespaces_alone() {
    let unmasked = json!([{"name": "c", "image": "i", "securityContext": {"procMount": "Unmasked"}}]);
    let said = pod(json!({"containers": unmasked}));
    let wanted = "spec.containers[0].securityContext.procMount: Invalid value: \"Unmasked\": `hostUsers` must be false to use `Unmasked`";
    assert!(said.len() == 1 && said[0].contains(wanted), "{said:?}");
    assert_eq!(pod(json!({"containers": unmasked, "hostUsers": false})), Vec::<String>::new());
    let plain = json!([{"name": "c", "image": "i"}]);
    let said =
        pod(json!({"containers": plain, "hostUsers": false, "hostNetwork": true, "hostPID": true, "hostIPC": true}));
    for (field, line) in ["hostNetwork", "HostPID", "HostIPC"].iter().zip(&said) {
        assert!(line.contains(&format!("spec.{field}: Forbidden: when `pod.Spec.HostUsers` is false")), "{line}");
    }
    assert_eq!(said.len(), 3);
    assert_eq!(pod(json!({"containers": plain, "hostUsers": true, "hostNetwork": true})), Vec::<String>::new());
}

#[test]
fn good_objects_pass() {
    assert_eq!(
        pod(
            json!({"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80, "name": "http"}], "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "volumeMounts": [{"name": "v", "mountPath": "/v"}], "livenessProbe": {"httpGet": {"port": "http"}}, "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "500m"}}}],
        "volumes": [{"name": "v"}], "tolerations": [{"operator": "Exists"}]})
        ),
        Vec::<String>::new()
    );
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    for (group, plural, spec) in [
        ("apps", "deployments", json!({"selector": {"matchLabels": {"a": "b"}}, "template": template})),
        ("apps", "daemonsets", json!({"selector": {"matchLabels": {"a": "b"}}, "template": template})),
        (
            "apps",
            "statefulsets",
            json!({"serviceName": "s", "selector": {"matchLabels": {"a": "b"}}, "template": template}),
        ),
        ("", "replicationcontrollers", json!({"template": template})),
        ("", "services", json!({"ports": [{"port": 80}], "selector": {"a": "b"}})),
        ("policy", "poddisruptionbudgets", json!({"minAvailable": "50%", "selector": {}})),
        ("", "nodes", json!({"taints": [{"key": "a", "effect": "NoSchedule"}]})),
        ("", "namespaces", json!({})),
    ] {
        assert_eq!(
            faults(group, plural, json!({"metadata": {"name": "a"}, "spec": spec})),
            Vec::<String>::new(),
            "{plural}"
        );
    }
}

#[test]
fn an_account_of_a_role_binding_s_own_namespace_needs_none() {
    let binding = json!({"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "r"},
        "subjects": [{"kind": "ServiceAccount", "name": "a"}]});
    assert_eq!(faults("rbac.authorization.k8s.io", "rolebindings", binding.clone()), [""; 0]);
    let told = faults("rbac.authorization.k8s.io", "clusterrolebindings", binding);
    assert_eq!(told, ["subjects[0].namespace: Required value"]);
}

#[test]
fn sys_admin_goes_with_no_new_privileges_by_its_short_name_alone() {
    let with = |capability| {
        let context = json!({"allowPrivilegeEscalation": false, "capabilities": {"add": [capability]}});
        pod(json!({"containers": [{"name": "c", "image": "i", "securityContext": context}]}))
    };
    assert_eq!(with("SYS_ADMIN"), [""; 0], "as the manifests of network add-ons have it");
    assert_eq!(with("CAP_SYS_ADMIN").len(), 1);
}

#[test]
fn a_trust_bundle_has_a_name_or_a_signer() {
    let told = |bundle: Value| {
        let volume = json!({"name": "v", "projected": {"sources": [{"clusterTrustBundle": bundle}]}});
        let messages = pod(json!({"containers": [{"name": "c", "image": "i"}], "volumes": [volume]}));
        messages.into_iter().filter(|message| message.contains("clusterTrustBundle")).collect::<Vec<_>>()
    };
    assert!(told(json!({"name": "a", "path": "p"})).is_empty());
    assert!(told(json!({"signerName": "a.b/c", "labelSelector": {}, "path": "p"})).is_empty());
    for (wrong, place) in [
        (json!({"path": "p"}), "either name or signerName"),
        (json!({"name": "a", "signerName": "a.b/c", "path": "p"}), "only one of"),
        (json!({"name": "a", "labelSelector": {}, "path": "p"}), "must be unset"),
        (
            json!({"signerName": "a.b/c", "labelSelector": {"matchLabels": {"k": "not this"}}, "path": "p"}),
            "labelSelector.matchLabels",
        ),
        (json!({"name": "a", "path": "../p"}), "path"),
    ] {
        assert!(told(wrong.clone()).concat().contains(place), "{wrong}: {:?}", told(wrong.clone()));
    }
}

#[test]
fn claims_of_a_stateful_set_are_volumes_of_its_pods() {
    let set = |claim: &str, mount: &str| {
        let object = json!({"metadata": {"name": "s", "namespace": "n"}, "spec": {"serviceName": "s", "replicas": 1,
            "podManagementPolicy": "OrderedReady", "updateStrategy": {"type": "RollingUpdate"},
            "selector": {"matchLabels": {"a": "b"}},
            "volumeClaimTemplates": [{"metadata": {"name": claim}, "spec": {}}],
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"restartPolicy": "Always", "dnsPolicy": "ClusterFirst",
                "volumes": [{"name": "data", "emptyDir": {}}],
                "containers": [{"name": "c", "image": "i", "imagePullPolicy": "Always",
                    "terminationMessagePolicy": "File", "volumeMounts": [{"name": mount, "mountPath": "/d"}]}]}}}});
        faults("apps", "statefulsets", object).into_iter().filter(|fault| fault.contains("olume")).collect::<Vec<_>>()
    };
    assert_eq!(set("data", "data"), [""; 0]);
    assert_eq!(set("www", "www"), [""; 0]);
    assert_eq!(set("www", "other"), ["spec.template.spec.containers[0].volumeMounts[0].name: Not found: \"other\""]);
}

#[test]
fn pod_faults_are_told_as_kubernetes_tells_them() {
    let container = |extra: Value| {
        let mut base = json!({"name": "c", "image": "i"});
        base.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!({"containers": [base]})
    };
    for (spec, want) in [
        (json!({"containers": []}), "spec.containers: Required value"),
        (json!({"containers": [{"image": "i"}]}), "spec.containers[0].name: Required value"),
        (json!({"containers": [{"name": "c"}]}), "spec.containers[0].image: Required value"),
        (
            json!({"containers": [{"name": "c", "image": "i"}, {"name": "c", "image": "i"}]}),
            "spec.containers[1].name: Duplicate value: \"c\"",
        ),
        (
            json!({"containers": [{"name": "c", "image": "i"}], "restartPolicy": "x"}),
            "spec.restartPolicy: Unsupported value: \"x\": supported values: \"Always\", \"OnFailure\", \"Never\"",
        ),
        (
            container(json!({"ports": [{"containerPort": 70000}]})),
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            container(json!({"volumeMounts": [{"name": "x", "mountPath": "/x"}]})),
            "spec.containers[0].volumeMounts[0].name: Not found: \"x\"",
        ),
        (
            container(json!({"resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}})),
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        ),
        (
            container(json!({"imagePullPolicy": "x"})),
            "spec.containers[0].imagePullPolicy: Unsupported value: \"x\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
        ),
        (
            container(json!({"livenessProbe": {}})),
            "spec.containers[0].livenessProbe: Required value: must specify a handler type",
        ),
        (
            container(json!({"volumeMounts": [{"name": "x", "mountPath": "/x", "subPath": "../y"}]})),
            "spec.containers[0].volumeMounts[0].subPath: Invalid value: \"../y\": must not contain '..'",
        ),
    ] {
        assert!(pod(spec.clone()).contains(&want.to_owned()), "{spec}: {:?}", pod(spec.clone()));
    }
}

#[test]
fn other_faults() {
    for (group, plural, object, want) in [
        (
            "",
            "pods",
            json!({"metadata": {"name": "A"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}),
            "metadata.name: Invalid value: \"A\": a lowercase RFC 1123 subdomain",
        ),
        (
            "",
            "pods",
            json!({"metadata": {}, "spec": {"containers": [{"name": "c", "image": "i"}]}}),
            "metadata.name: Required value: name or generateName is required",
        ),
        (
            "apps",
            "deployments",
            json!({"spec": {"selector": {"matchLabels": {"a": "x"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}}),
            "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`",
        ),
        (
            "",
            "services",
            json!({"spec": {"ports": [{"port": 0}]}}),
            "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535",
        ),
        ("", "configmaps", json!({"data": {"a/b": "x"}}), "data[a/b]: Invalid value: \"a/b\": a valid config key"),
        ("", "secrets", json!({"type": "kubernetes.io/tls"}), "data[tls.crt]: Required value"),
        (
            "rbac.authorization.k8s.io",
            "roles",
            json!({"rules": [{}]}),
            "rules[0].verbs: Required value: verbs must contain at least one value",
        ),
        (
            "rbac.authorization.k8s.io",
            "rolebindings",
            json!({"roleRef": {"kind": "X", "name": "a"}}),
            "roleRef.kind: Unsupported value: \"X\": supported values: \"Role\", \"ClusterRole\"",
        ),
        (
            "batch",
            "cronjobs",
            json!({"spec": {"schedule": "x"}}),
            "spec.schedule: Invalid value: \"x\": expected exactly 5 fields, found 1: [x]",
        ),
        (
            "policy",
            "poddisruptionbudgets",
            json!({"spec": {"minAvailable": "x"}}),
            "spec.minAvailable: Invalid value: \"x\": a valid percent string",
        ),
    ] {
        let all = faults(group, plural, object);
        assert!(all.iter().any(|f| f.starts_with(want)), "{plural}: {all:?}");
    }
}

#[test]
fn changes_that_are_refused() {
    let pods = resource("", "pods");
    let old = json!({"metadata": {"name": "a", "namespace": "d"}, "spec": {"restartPolicy": "Always", "dnsPolicy": "Default", "containers": [{"name": "c", "image": "i", "imagePullPolicy": "Always"}]}});
    let mut image = old.clone();
    image["spec"]["containers"][0]["image"] = "j".into();
    assert!(validate_update(pods, &old, &image, None).is_empty());
    let mut node = old.clone();
    node["spec"]["nodeName"] = "n".into();
    assert_eq!(validate_update(pods, &old, &node, None).len(), 1);
    assert!(validate_update(pods, &old, &node, Some(Subresource::Binding)).is_empty());
    let mut renamed = old.clone();
    renamed["metadata"]["name"] = "b".into();
    assert_eq!(
        validate_update(pods, &old, &renamed, None)[0].describe(),
        "metadata.name: Invalid value: \"b\": field is immutable"
    );
    let maps = resource("", "configmaps");
    let frozen = json!({"metadata": {"name": "a", "namespace": "d"}, "immutable": true, "data": {"a": "1"}});
    let mut thawed = frozen.clone();
    thawed["data"]["a"] = "2".into();
    assert_eq!(
        validate_update(maps, &frozen, &thawed, None)[0].describe(),
        "data: Forbidden: field is immutable when `immutable` is set"
    );
}

#[test]
fn containers_with_restart_policies_of_their_own() {
    let with = |fields: Value| {
        let mut container = json!({"name": "c", "image": "i"});
        container.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        pod(json!({"containers": [container]}))
    };
    let rule = json!({"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}});
    assert_eq!(with(json!({"restartPolicy": "Never", "restartPolicyRules": [rule]})), Vec::<String>::new());
    let faults = with(json!({"restartPolicyRules": [rule, {"action": "Explode"}, {"action": "Restart",
        "exitCodes": {"operator": "Near", "values": []}}]}));
    for field in [
        "spec.containers[0].restartPolicy: Required",
        "restartPolicyRules[1].action: Unsupported",
        "restartPolicyRules[1].exitCodes: Required",
        "restartPolicyRules[2].exitCodes.operator: Unsupported",
        "restartPolicyRules[2].exitCodes.values: Required",
    ] {
        assert!(faults.iter().any(|fault| fault.contains(field)), "no {field} in {faults:#?}");
    }
    assert!(with(json!({"restartPolicy": "Perhaps"}))[0].contains("restartPolicy: Unsupported"));
    let many: Vec<Value> = (0..21).map(|_| rule.clone()).collect();
    assert!(with(json!({"restartPolicy": "Never", "restartPolicyRules": many}))[0].contains("Too many"));
}

#[test]
fn ephemeral_containers_have_names_and_targets() {
    let faults = pod(json!({"containers": [{"name": "c", "image": "i"}], "ephemeralContainers": [
        {"name": "c", "image": "i", "targetContainerName": "other"}, {"name": "d", "image": "i", "targetContainerName": "c"}]}));
    assert_eq!(faults.len(), 2, "{faults:#?}");
    assert!(faults.iter().any(|fault| fault.starts_with("spec.ephemeralContainers[0].name: Duplicate value")));
    assert!(faults.iter().any(|fault| fault.starts_with("spec.ephemeralContainers[0].targetContainerName: Not found")));
}

#[test]
fn a_volumes_data_stays_where_it_is() {
    let volumes = resource("", "persistentvolumes");
    let of = |spec: Value| json!({"metadata": {"name": "v"}, "spec": spec});
    let nodes = json!({"required": {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}]}});
    let spec = json!({"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "local": {"path": "/a"}, "nodeAffinity": nodes});
    let old = of(spec.clone());
    let mut larger = old.clone();
    larger["spec"]["capacity"]["storage"] = "2Gi".into();
    larger["spec"]["claimRef"] = json!({"namespace": "d", "name": "c"});
    assert!(validate_update(volumes, &old, &larger, None).is_empty());
    let mut moved = old.clone();
    moved["spec"]["local"]["path"] = "/b".into();
    let said = validate_update(volumes, &old, &moved, None)[0].describe();
    assert_eq!(said, "spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation");
    let mut bare = spec;
    bare.as_object_mut().unwrap().remove("nodeAffinity");
    bare["local"]["path"] = "/a/../b".into();
    assert_eq!(
        faults("", "persistentvolumes", of(bare)),
        [
            "spec.local.path: Invalid value: \"/a/../b\": must not contain '..'",
            "spec.nodeAffinity: Required value: Local volume requires node affinity"
        ]
    );
    let claims = resource("", "persistentvolumeclaims");
    let claim = |volume: &str| {
        json!({"metadata": {"name": "c", "namespace": "d"}, "spec": {"volumeName": volume,
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}})
    };
    assert!(validate_update(claims, &claim(""), &claim("v"), None).is_empty());
    assert_eq!(validate_update(claims, &claim("v"), &claim("w"), None).len(), 1);

    // What was asked for in vain is taken back, down to more than there is.
    let sized = |asked: &str, has: Value| {
        let mut claim = claim("v");
        claim["spec"]["resources"]["requests"]["storage"] = asked.into();
        claim["status"] = json!({"capacity": {"storage": has}});
        claim
    };
    let shrinks = |asked: &str, has: Value| {
        let (old, new) = (sized("9Gi", has.clone()), sized(asked, has));
        validate_update(claims, &old, &new, None).iter().map(crate::status::Cause::describe).collect::<Vec<_>>()
    };
    assert!(shrinks("2Gi", json!("1Gi")).is_empty());
    for (asked, has) in [("1Gi", json!("1Gi")), ("512Mi", json!("1Gi")), ("2Gi", Value::Null)] {
        let said = shrinks(asked, has);
        assert!(said[0].contains("field can not be less than status.capacity"), "{said:?}");
    }
}

#[test]
fn a_resize_keeps_the_class_of_service() {
    let resource = resource("", "pods");
    let with = |resources: Value| {
        let mut pod = json!({"metadata": {"name": "a", "namespace": "default", "resourceVersion": "1"},
            "spec": {"containers": [{"name": "c", "image": "i", "resources": resources}]}});
        defaulting::default(resource, &mut pod);
        pod
    };
    let update = |old: Value, new: Value| -> Vec<String> {
        let faults = validate_update(resource, &with(old), &with(new), Some(crate::resource::Subresource::Resize));
        faults.iter().map(crate::status::Cause::describe).collect()
    };
    let small = json!({"requests": {"cpu": "1m"}, "limits": {"cpu": "2m"}});
    let large = json!({"requests": {"cpu": "2m"}, "limits": {"cpu": "4m"}});
    assert_eq!(update(small.clone(), large), Vec::<String>::new());
    let faults = update(small, json!({}));
    assert!(faults[0].contains("Pod QOS Class may not change as a result of resizing"), "{faults:?}");
}
