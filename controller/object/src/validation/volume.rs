//! Rules of a pod's volumes.
use super::check::{Faults, is_blank, join, selector};
use super::container::field_path;
use crate::status::Cause;
use crate::tree::{entries, list, text};
use serde_json::Value;
use std::collections::BTreeSet;

/// Checks the volumes and gives their names.
pub(super) fn volumes(spec: &Value, path: &str, faults: &mut Faults) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (index, volume) in list(spec, &["volumes"]).iter().enumerate() {
        let place = format!("{path}[{index}]");
        let name = text(volume, &["name"]).unwrap_or_default();
        if name.is_empty() {
            faults.required(join(&place, "name"), "");
        } else {
            faults.rule(&join(&place, "name"), name, api::name::rfc1123_label(name));
            if !names.insert(name.to_owned()) {
                faults.add(Cause::duplicate(join(&place, "name"), &name.into()));
            }
        }
        let sources: Vec<&String> = entries(volume, &[]).map(|e| e.0).filter(|k| *k != "name").collect();
        match sources.len() {
            0 => faults.required(place.clone(), "must specify a volume type"),
            1 => {}
            _ => faults.forbidden(join(&place, sources[1]), "may not specify more than 1 volume type"),
        }
        source(volume, &place, faults);
    }
    names
}

fn needs(source: &Value, key: &str, path: &str, faults: &mut Faults) {
    if is_blank(source.get(key)) {
        faults.required(join(path, key), "");
    }
}

fn mode(source: &Value, key: &str, path: &str, faults: &mut Faults) {
    if let Some(mode) = source.get(key)
        && mode.as_i64().is_none_or(|m| !(0..=0o777).contains(&m))
    {
        faults.invalid(join(path, key), mode.clone(), "must be a number between 0 and 0777 (octal), both inclusive");
    }
}

fn source(volume: &Value, place: &str, faults: &mut Faults) {
    if let Some(host) = volume.get("hostPath") {
        let path = join(place, "hostPath");
        needs(host, "path", &path, faults);
        if text(host, &["path"]).is_some_and(|p| p.split('/').any(|part| part == "..")) {
            faults.invalid(join(&path, "path"), host["path"].clone(), "must not contain '..'");
        }
        faults.one_of(
            host,
            "type",
            &path,
            &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"],
        );
    }
    if let Some(empty) = volume.get("emptyDir") {
        let path = join(place, "emptyDir");
        if super::check::amount(empty, &["sizeLimit"]).is_some_and(api::quantity::Quantity::is_negative) {
            faults.forbidden(join(&path, "sizeLimit"), "SizeLimit field must be a valid resource quantity");
        }
        if let Some(medium) = text(empty, &["medium"])
            && !matches!(medium, "" | "Memory" | "HugePages")
            && !medium.starts_with("HugePages-")
        {
            faults.add(Cause::unsupported(join(&path, "medium"), &medium.into(), &["", "HugePages", "Memory"]));
        }
    }
    for (kind, name) in [("configMap", "name"), ("secret", "secretName")] {
        let Some(source) = volume.get(kind) else { continue };
        let path = join(place, kind);
        needs(source, name, &path, faults);
        mode(source, "defaultMode", &path, faults);
        items(source, &path, faults);
    }
    if let Some(downward) = volume.get("downwardAPI") {
        let path = join(place, "downwardAPI");
        mode(downward, "defaultMode", &path, faults);
        downward_items(downward, &path, faults);
    }
    if let Some(projected) = volume.get("projected") {
        let path = join(place, "projected");
        mode(projected, "defaultMode", &path, faults);
        for (index, part) in list(projected, &["sources"]).iter().enumerate() {
            projection(part, &format!("{path}.sources[{index}]"), faults);
        }
    }
    if let Some(claim) = volume.get("persistentVolumeClaim") {
        needs(claim, "claimName", &join(place, "persistentVolumeClaim"), faults);
    }
    if let Some(csi) = volume.get("csi") {
        needs(csi, "driver", &join(place, "csi"), faults);
    }
    if let Some(nfs) = volume.get("nfs") {
        needs(nfs, "server", &join(place, "nfs"), faults);
        needs(nfs, "path", &join(place, "nfs"), faults);
    }
}

fn items(source: &Value, path: &str, faults: &mut Faults) {
    for (index, item) in list(source, &["items"]).iter().enumerate() {
        let place = format!("{path}.items[{index}]");
        needs(item, "key", &place, faults);
        needs(item, "path", &place, faults);
        mode(item, "mode", &place, faults);
        if let Some(file) = text(item, &["path"]).filter(|p| !p.is_empty()) {
            inner_path(file, &join(&place, "path"), faults);
        }
    }
}

fn downward_items(source: &Value, path: &str, faults: &mut Faults) {
    for (index, item) in list(source, &["items"]).iter().enumerate() {
        let place = format!("{path}.items[{index}]");
        match text(item, &["path"]) {
            None | Some("") => faults.required(join(&place, "path"), ""),
            Some(file) => inner_path(file, &join(&place, "path"), faults),
        }
        mode(item, "mode", &place, faults);
        match (item.get("fieldRef"), item.get("resourceFieldRef")) {
            (Some(_), Some(_)) => {
                faults.invalid(place, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously")
            }
            (Some(field), None) => field_path(field, &join(&place, "fieldRef"), false, faults),
            (None, Some(resource)) => needs(resource, "containerName", &join(&place, "resourceFieldRef"), faults),
            (None, None) => faults.required(place, "one of fieldRef and resourceFieldRef is required"),
        }
    }
}

fn projection(part: &Value, place: &str, faults: &mut Faults) {
    let kinds: Vec<&String> = entries(part, &[]).map(|e| e.0).collect();
    if kinds.len() > 1 {
        faults.forbidden(join(place, kinds[1]), "may not specify more than 1 volume type per source");
    }
    for kind in ["configMap", "secret"] {
        if let Some(source) = part.get(kind) {
            needs(source, "name", &join(place, kind), faults);
            items(source, &join(place, kind), faults);
        }
    }
    if let Some(downward) = part.get("downwardAPI") {
        downward_items(downward, &join(place, "downwardAPI"), faults);
    }
    if let Some(bundle) = part.get("clusterTrustBundle") {
        trust_bundle(bundle, &join(place, "clusterTrustBundle"), faults);
    }
    if let Some(own) = part.get("podCertificate") {
        super::certificate::projection(own, &join(place, "podCertificate"), faults);
    }
    if let Some(token) = part.get("serviceAccountToken") {
        let path = join(place, "serviceAccountToken");
        let seconds = token.get("expirationSeconds").and_then(Value::as_i64).unwrap_or(3600);
        if seconds < 600 {
            faults.invalid(
                join(&path, "expirationSeconds"),
                seconds,
                "may not specify a duration less than 10 minutes",
            );
        }
        if seconds > 1 << 32 {
            faults.invalid(
                join(&path, "expirationSeconds"),
                seconds,
                "may not specify a duration larger than 2^32 seconds",
            );
        }
        match text(token, &["path"]) {
            None | Some("") => faults.required(join(&path, "path"), ""),
            Some(file) => inner_path(file, &join(&path, "path"), faults),
        }
    }
}

fn trust_bundle(bundle: &Value, path: &str, faults: &mut Faults) {
    let is_set = |key: &str| bundle.get(key).is_some_and(|value| !value.is_null());
    match (is_set("name"), is_set("signerName")) {
        (true, true) => faults.invalid(path, bundle.clone(), "only one of name and signerName may be used"),
        (true, false) if is_set("labelSelector") => {
            let given = bundle["labelSelector"].clone();
            faults.invalid(join(path, "labelSelector"), given, "labelSelector must be unset if name is specified");
        }
        (true, false) => {}
        (false, true) => selector(&bundle["labelSelector"], &join(path, "labelSelector"), faults),
        (false, false) => faults.required(path, "either name or signerName must be specified"),
    }
    match text(bundle, &["path"]) {
        None | Some("") => faults.required(join(path, "path"), ""),
        Some(file) => inner_path(file, &join(path, "path"), faults),
    }
}

/// A path that must stay inside its volume.
pub(super) fn inner_path(path: &str, field: &str, faults: &mut Faults) {
    if path.starts_with('/') {
        faults.invalid(field, path, "must be a relative path");
    }
    if path.split('/').any(|part| part == "..") {
        faults.invalid(field, path, "must not contain '..'");
    }
    if path.contains('\0') {
        faults.invalid(field, path, "must not contain NUL");
    }
}
