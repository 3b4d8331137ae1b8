//! Which fields of a pod this agent cannot honour yet. They are refused by name, never in silence.

use k8s_openapi::api::core::v1::{Container, PodSpec, Volume};

/// The paths of fields that are set and not supported.
pub fn unsupported(spec: &PodSpec) -> Vec<String> {
    let mut found = Vec::new();
    let mut check = |set: bool, path: String| {
        if set {
            found.push(path);
        }
    };
    for (index, volume) in spec.volumes.iter().flatten().enumerate() {
        if let Some(kind) = unsupported_volume(volume) {
            check(true, format!("spec.volumes[{index}].{kind}"));
        }
    }
    let context = spec.security_context.as_ref();
    for (index, sysctl) in context.and_then(|context| context.sysctls.as_ref()).into_iter().flatten().enumerate() {
        check(!is_own_sysctl(&sysctl.name, spec), format!("spec.securityContext.sysctls[{index}]"));
    }
    let own_users = spec.host_users == Some(false);
    let of_host = [("Network", spec.host_network), ("PID", spec.host_pid), ("IPC", spec.host_ipc)];
    for (name, wanted) in of_host {
        check(own_users && wanted == Some(true), format!("spec.host{name}"));
    }
    check(spec.os.as_ref().is_some_and(|os| os.name == "windows"), "spec.os.name".into());
    found
}

/// The fields of an ephemeral container that are set and not supported. It comes when its pod is up: it is refused alone.
pub(crate) fn unsupported_ephemeral(container: &Container) -> Vec<String> {
    has_claims(container).then(|| "resources.claims".to_owned()).into_iter().collect()
}

/// Whether a kernel setting belongs to a namespace that the pod has for itself; the monitor checks this again.
fn is_own_sysctl(name: &str, spec: &PodSpec) -> bool {
    let is_part = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
    };
    let parts: Vec<&str> = name.split('.').collect();
    let own_ipc = spec.host_ipc != Some(true);
    parts.iter().all(|part| is_part(part))
        && match parts.as_slice() {
            ["net", _, ..] => spec.host_network != Some(true),
            ["fs", "mqueue", _] => own_ipc,
            ["kernel", name] => own_ipc && (*name == "sem" || name.starts_with("shm") || name.starts_with("msg")),
            _ => false,
        }
}

fn has_claims(container: &Container) -> bool {
    let claims = container.resources.as_ref().and_then(|resources| resources.claims.as_ref());
    claims.is_some_and(|claims| !claims.is_empty())
}

/// The source of a volume that cannot be set up.
fn unsupported_volume(volume: &Volume) -> Option<&'static str> {
    let supported = volume.empty_dir.is_some()
        || volume.host_path.is_some()
        || volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.downward_api.is_some()
        || volume.persistent_volume_claim.is_some()
        || volume.ephemeral.is_some()
        || volume.nfs.is_some()
        || volume.image.is_some()
        || volume.csi.is_some()
        || volume.projected.is_some();
    (!supported).then_some("<source>")
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn fields_are_named_by_path() {
        let spec: PodSpec = from_value(json!({
            "containers": [{"name": "a"}, {"name": "b", "resources": {"claims": [{"name": "c"}]}}],
            "resourceClaims": [{"name": "c", "resourceClaimName": "d"}],
            "volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "rbd": {"image": "i", "monitors": []}}]
        }))
        .unwrap();
        assert_eq!(unsupported(&spec), ["spec.volumes[1].<source>"]);
    }

    #[test]
    fn users_of_a_pod_s_own_do_not_go_with_the_machine_s_namespaces() {
        let mut spec: PodSpec = from_value(json!({"containers": [], "hostUsers": false})).unwrap();
        assert!(unsupported(&spec).is_empty());
        (spec.host_network, spec.host_ipc) = (Some(true), Some(true));
        assert_eq!(unsupported(&spec), ["spec.hostNetwork", "spec.hostIPC"]);
        spec.host_users = Some(true);
        assert!(unsupported(&spec).is_empty());
    }

    #[test]
    fn settings_of_the_whole_machine_are_refused() {
        let names =
            ["kernel.core_pattern", "kernel.shmmax", "net.ipv4.ip_forward", "net/../vm/swappiness", "kernel.sem"];
        let sysctls: Vec<_> = names.iter().map(|name| json!({"name": name, "value": "1"})).collect();
        let mut spec: PodSpec = from_value(json!({"containers": [], "securityContext": {"sysctls": sysctls}})).unwrap();
        let path = |index: usize| format!("spec.securityContext.sysctls[{index}]");
        assert_eq!(unsupported(&spec), [path(0), path(3)]);
        spec.host_network = Some(true);
        assert_eq!(unsupported(&spec), [path(0), path(2), path(3)]);
        spec.host_ipc = Some(true);
        assert_eq!(unsupported(&spec), (0..5).map(path).collect::<Vec<_>>());
    }
}
