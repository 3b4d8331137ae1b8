//! The parameters of a StorageClass: what is the driver's, and what is ours (kubernetes-csi documentation, "Secrets and
//! Credentials", "StorageClass Secrets"; external provisioner, `fstype`). Pure.
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, SecretReference};
use std::collections::BTreeMap;

const PREFIX: &str = "csi.storage.k8s.io/";
const FS_TYPE: &str = "csi.storage.k8s.io/fstype";
const OLD_FS_TYPE: &str = "fstype";

/// What of a class's parameters is the driver's own, whatever the claim.
pub(super) fn of_driver(parameters: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let is_own = |key: &str| !key.starts_with(PREFIX) && key != OLD_FS_TYPE;
    parameters.iter().filter(|(key, _)| is_own(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Which call a Secret is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Use {
    Provision,
    Attach,
    Expand,
    NodeStage,
    NodePublish,
    NodeExpand,
}

const USES: [(Use, &str); 6] = [
    (Use::Provision, "provisioner"),
    (Use::Attach, "controller-publish"),
    (Use::Expand, "controller-expand"),
    (Use::NodeStage, "node-stage"),
    (Use::NodePublish, "node-publish"),
    (Use::NodeExpand, "node-expand"),
];

/// What a class says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Parameters {
    /// What the driver is told.
    pub(super) own: BTreeMap<String, String>,
    /// Empty: the driver's choice.
    pub(super) fs_type: String,
    secrets: BTreeMap<Use, SecretReference>,
}

impl Parameters {
    /// Reads a class's parameters for a claim, whose volume will have this name.
    pub(super) fn read(
        parameters: &BTreeMap<String, String>,
        volume: &str,
        claim: &PersistentVolumeClaim,
    ) -> Result<Self, String> {
        let mut read = Self::default();
        let mut templates: BTreeMap<(Use, bool), &String> = BTreeMap::new();
        for (key, value) in parameters {
            if key == FS_TYPE || key == OLD_FS_TYPE {
                if !read.fs_type.is_empty() {
                    return Err(format!("parameters: expected one of {OLD_FS_TYPE:?} and {FS_TYPE:?}, not both"));
                }
                read.fs_type.clone_from(value);
                continue;
            }
            let Some(ours) = key.strip_prefix(PREFIX) else {
                read.own.insert(key.clone(), value.clone());
                continue;
            };
            let found = USES.iter().find_map(|(own, word)| match ours.strip_prefix(word)? {
                "-secret-name" => Some((*own, true)),
                "-secret-namespace" => Some((*own, false)),
                _ => None,
            });
            let found =
                found.ok_or_else(|| format!("parameters: unknown key {key:?} with reserved namespace {PREFIX}"))?;
            templates.insert(found, value);
        }
        for (own, word) in USES {
            let key = |part: &str| format!("{PREFIX}{word}-secret-{part}");
            match (templates.get(&(own, true)), templates.get(&(own, false))) {
                (None, None) => {}
                (Some(name), Some(namespace)) => {
                    let name = resolve(&key("name"), name, volume, claim, true)?;
                    let namespace = resolve(&key("namespace"), namespace, volume, claim, false)?;
                    read.secrets.insert(own, SecretReference { name: Some(name), namespace: Some(namespace) });
                }
                (Some(_), None) => return Err(format!("parameters: {} needs {}", key("name"), key("namespace"))),
                (None, Some(_)) => return Err(format!("parameters: {} needs {}", key("namespace"), key("name"))),
            }
        }
        Ok(read)
    }

    /// The Secret for a call.
    pub(super) fn secret(&self, own: Use) -> Option<&SecretReference> {
        self.secrets.get(&own)
    }
}

/// Fills in `${pv.name}`, `${pvc.namespace}` and, in names, `${pvc.name}` and `${pvc.annotations['KEY']}`.
fn resolve(
    key: &str,
    template: &str,
    volume: &str,
    claim: &PersistentVolumeClaim,
    is_name: bool,
) -> Result<String, String> {
    let (mut text, mut rest) = (String::new(), template);
    while let Some((before, after)) = rest.split_once("${") {
        let unknown = || format!("parameters: {key}: {template:?} cannot be resolved");
        let (token, after) = after.split_once('}').ok_or_else(unknown)?;
        let metadata = &claim.metadata;
        let value = match token {
            "pv.name" => Some(volume),
            "pvc.namespace" => metadata.namespace.as_deref(),
            "pvc.name" if is_name => metadata.name.as_deref(),
            _ if is_name => token
                .strip_prefix("pvc.annotations['")
                .and_then(|token| token.strip_suffix("']"))
                .and_then(|annotation| metadata.annotations.as_ref()?.get(annotation))
                .map(String::as_str),
            _ => None,
        };
        text.push_str(before);
        text.push_str(value.ok_or_else(unknown)?);
        rest = after;
    }
    text.push_str(rest);
    let is_fit = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.' && is_name;
    let is_edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let most = if is_name { 253 } else { 63 };
    if text.len() > most || !text.chars().all(is_fit) || !is_edge(text.chars().next()) || !is_edge(text.chars().last())
    {
        let what = if is_name { "Secret" } else { "namespace" };
        return Err(format!("parameters: {key}: {text:?} is no name of a {what}"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json};

    fn claim() -> PersistentVolumeClaim {
        from_value(json!({"metadata": {"namespace": "d", "name": "c", "annotations": {"key/of": "kept"}}})).unwrap()
    }

    fn read(parameters: &[(&str, &str)]) -> Result<Parameters, String> {
        let parameters = parameters.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Parameters::read(&parameters, "pvc-u", &claim())
    }

    #[test]
    fn what_is_ours_is_not_told_the_driver() {
        let read = read(&[
            ("pool", "fast"),
            ("csi.storage.k8s.io/fstype", "xfs"),
            ("csi.storage.k8s.io/provisioner-secret-name", "s-${pvc.name}-${pvc.annotations['key/of']}"),
            ("csi.storage.k8s.io/provisioner-secret-namespace", "${pvc.namespace}"),
            ("csi.storage.k8s.io/node-stage-secret-name", "${pv.name}"),
            ("csi.storage.k8s.io/node-stage-secret-namespace", "storage"),
        ])
        .unwrap();
        assert_eq!((read.own, read.fs_type.as_str()), (BTreeMap::from([("pool".into(), "fast".into())]), "xfs"));
        let secret = |name: &str, namespace: &str| SecretReference {
            name: Some(name.into()),
            namespace: Some(namespace.into()),
        };
        assert_eq!(read.secrets[&Use::Provision], secret("s-c-kept", "d"));
        assert_eq!(read.secrets[&Use::NodeStage], secret("pvc-u", "storage"));
        assert_eq!(read.secrets.len(), 2);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        for (parameters, part) in [
            (&[("csi.storage.k8s.io/fs", "x")][..], "csi.storage.k8s.io/fs"),
            (&[("fstype", "xfs"), ("csi.storage.k8s.io/fstype", "xfs")], "not both"),
            (
                &[("csi.storage.k8s.io/node-expand-secret-name", "s")],
                "needs csi.storage.k8s.io/node-expand-secret-namespace",
            ),
        ] {
            let why = read(parameters).unwrap_err();
            assert!(why.contains(part), "{why}");
        }
        for (name, namespace, part) in [
            ("${pvc.uid}", "d", "cannot be resolved"),
            ("${pvc.name", "d", "cannot be resolved"),
            ("s", "${pvc.name}", "cannot be resolved"),
            ("${pvc.annotations['other']}", "d", "cannot be resolved"),
            ("S", "d", "no name of a Secret"),
            ("s", "a.b", "no name of a namespace"),
        ] {
            let why = read(&[
                ("csi.storage.k8s.io/provisioner-secret-name", name),
                ("csi.storage.k8s.io/provisioner-secret-namespace", namespace),
            ]);
            let why = why.unwrap_err();
            assert!(why.contains(part), "{why}");
        }
    }
}
