//! Who gets which names, and the conditions that tell it. Kubernetes documentation, "Custom resources";
//! `naming_controller.go`, `establishing_controller.go`, `nonstructuralschema_controller.go` of apiextensions-apiserver.
use crate::tree::{list, text};
use serde_json::{Value, json};
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// Names of one group that are taken by others.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    resources: BTreeSet<String>,
    kinds: BTreeSet<String>,
}

impl Claims {
    /// The names that other definitions of the group were granted.
    pub fn of<'a>(others: impl Iterator<Item = &'a Value>) -> Self {
        let mut claims = Self::default();
        for other in others {
            let names = &other["status"]["acceptedNames"];
            let singles = ["plural", "singular"].into_iter().filter_map(|key| text(names, &[key]));
            let short = list(names, &["shortNames"]).iter().filter_map(Value::as_str);
            claims.resources.extend(singles.chain(short).filter(|name| !name.is_empty()).map(str::to_owned));
            let kinds = ["kind", "listKind"].into_iter().filter_map(|key| text(names, &[key]));
            claims.kinds.extend(kinds.filter(|name| !name.is_empty()).map(str::to_owned));
        }
        claims
    }
}

/// What a definition's status should be.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The whole status.
    pub status: Value,
    /// Whether its resources are served.
    pub is_established: bool,
}

/// Judges a definition among the others of its group. `now` is RFC 3339.
pub fn judge(definition: &Value, claims: &Claims, now: &str) -> Verdict {
    let wanted = &definition["spec"]["names"];
    let mut status = definition.get("status").cloned().filter(Value::is_object).unwrap_or_else(|| json!({}));
    let held = status.get("acceptedNames").cloned().unwrap_or_else(|| json!({}));
    let mut granted = held.clone();
    let mut conflict: Option<(&str, String)> = None;
    for (key, reason, is_kind) in [
        ("plural", "PluralConflict", false),
        ("singular", "SingularConflict", false),
        ("kind", "KindConflict", true),
        ("listKind", "ListKindConflict", true),
    ] {
        let name = text(wanted, &[key]).unwrap_or_default();
        let taken = if is_kind { &claims.kinds } else { &claims.resources };
        if Some(name) == text(&held, &[key]) || name.is_empty() || !taken.contains(name) {
            granted[key] = name.into();
        } else {
            conflict = Some((reason, format!("{name:?} is already in use")));
        }
    }
    let short = list(wanted, &["shortNames"]);
    let had = list(&held, &["shortNames"]);
    let refused: Vec<String> = short
        .iter()
        .filter(|name| !had.contains(name))
        .filter_map(Value::as_str)
        .filter(|name| claims.resources.contains(*name))
        .map(|name| format!("{name:?} is already in use"))
        .collect();
    if refused.is_empty() {
        set_list(&mut granted, "shortNames", short);
    } else {
        let all = refused.join(", ");
        conflict = Some(("ShortNamesConflict", if refused.len() > 1 { format!("[{all}]") } else { all }));
    }
    set_list(&mut granted, "categories", list(wanted, &["categories"]));
    status["acceptedNames"] = granted;
    let accepted = conflict.is_none();
    let (reason, message) = conflict.unwrap_or(("NoConflicts", "no conflicts found".into()));
    let was_established = condition_is_true(&status, "Established");
    let is_established = accepted || was_established;
    let mut conditions = list(&status, &["conditions"]).to_vec();
    set(&mut conditions, "NamesAccepted", accepted, reason, &message, now);
    match is_established {
        true => {
            let message = "the initial names have been accepted";
            set(&mut conditions, "Established", true, "InitialNamesAccepted", message, now);
        }
        false => set(&mut conditions, "Established", false, "NotAccepted", "not all names are accepted", now),
    }
    approve(definition, &mut conditions, now);
    if definition["metadata"].get("deletionTimestamp").is_some() {
        let already = conditions.iter().any(|condition| condition["type"] == "Terminating");
        if !already {
            let message = "CustomResource deletion is in progress";
            set(&mut conditions, "Terminating", true, "InstanceDeletionInProgress", message, now);
        }
    }
    status["conditions"] = conditions.into();
    store(definition, &mut status);
    Verdict { status, is_established }
}

fn set_list(names: &mut Value, key: &str, items: &[Value]) {
    if !items.is_empty() {
        names[key] = items.to_vec().into();
    } else if let Some(map) = names.as_object_mut() {
        map.remove(key);
    }
}

/// The storage version joins those in which objects may be stored.
fn store(definition: &Value, status: &mut Value) {
    let storage = list(definition, &["spec", "versions"]).iter().find(|version| version["storage"] == true);
    let Some(name) = storage.map(|version| version["name"].clone()) else { return };
    let mut stored = list(status, &["storedVersions"]).to_vec();
    if !stored.contains(&name) {
        stored.push(name);
    }
    status["storedVersions"] = stored.into();
}

/// Groups of the Kubernetes community say who approved a definition in them.
fn approve(definition: &Value, conditions: &mut Vec<Value>, now: &str) {
    let kind = "KubernetesAPIApprovalPolicyConformant";
    let group = text(definition, &["spec", "group"]).unwrap_or_default();
    if !is_protected(group) {
        conditions.retain(|condition| condition["type"] != kind);
        return;
    }
    let annotation = text(definition, &["metadata", "annotations", APPROVAL]).unwrap_or_default();
    let (holds, reason, message) = match annotation {
        "" => (
            false,
            "MissingAnnotation",
            format!(
                "protected groups must have approval annotation {APPROVAL:?}, see https://github.com/kubernetes/enhancements/pull/1111"
            ),
        ),
        text if text.starts_with("unapproved") => (false, "UnapprovedAPI", format!("not approved: {text:?}")),
        text if text.starts_with("https://") => (true, "ApprovedAnnotation", format!("approved in {text}")),
        text => {
            (false, "InvalidAnnotation", format!("{APPROVAL} must be a URL or begin with \"unapproved\", got {text:?}"))
        }
    };
    set(conditions, kind, holds, reason, &message, now);
}

/// The annotation that says where a definition in a group of the community was approved.
pub(super) const APPROVAL: &str = "api-approved.kubernetes.io";

pub(super) fn is_protected(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"].into_iter().any(|domain| group == domain || group.ends_with(&format!(".{domain}")))
}

fn condition_is_true(status: &Value, kind: &str) -> bool {
    list(status, &["conditions"]).iter().any(|condition| condition["type"] == kind && condition["status"] == "True")
}

/// Sets a condition; its time moves with its status only.
fn set(conditions: &mut Vec<Value>, kind: &str, holds: bool, reason: &str, message: &str, now: &str) {
    let status = if holds { "True" } else { "False" };
    let found = conditions.iter_mut().find(|condition| condition["type"] == kind);
    let condition =
        json!({"type": kind, "status": status, "lastTransitionTime": now, "reason": reason, "message": message});
    match found {
        Some(found) if found["status"] == status => {
            found["reason"] = reason.into();
            found["message"] = message.into();
        }
        Some(found) => *found = condition,
        None => conditions.push(condition),
    }
}

/// Sorts versions as discovery prefers them: stable before beta before alpha, newer before older, others last by name.
/// Kubernetes documentation, "Version priority".
pub fn version_order(version: &str) -> impl Ord + use<> {
    let parse = || -> Option<(u8, u64, u64)> {
        let rest = version.strip_prefix('v')?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (major, tail) = rest.split_at(digits);
        let major = major.parse().ok()?;
        let number = |text: &str| if text.is_empty() { None } else { text.parse().ok() };
        match tail {
            "" => Some((2, major, 0)),
            _ => match (tail.strip_prefix("beta"), tail.strip_prefix("alpha")) {
                (Some(minor), _) => Some((1, major, number(minor)?)),
                (_, Some(minor)) => Some((0, major, number(minor)?)),
                _ => None,
            },
        }
    };
    let known = parse();
    (Reverse(known), known.is_none().then(|| version.to_owned()))
}
