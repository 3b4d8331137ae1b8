//! `cargo xtask tidy`: the house rules that a machine can check. It only looks, it changes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// No file of production code is longer.
const LINES: usize = 650;

/// What each crate of ours may use of ours: the layers of ARCHITECTURE.md.
const MAY_USE: [(&str, &str); 18] = [
    ("api", ""),
    ("api/plugin", "api"),
    ("controller/cel", ""),
    ("controller/object", "api controller-cel"),
    ("agent/pod", "api"),
    ("agent/sys", ""),
    ("controller/store", ""),
    ("agent/runtime", "agent-sys"),
    ("agent/image", "agent-sys"),
    ("agent/network", "api agent-sys"),
    ("agent/volume", "api agent-sys"),
    ("controller/apiserver", "api controller-cel controller-object controller-store"),
    ("controller/scheduler", "api controller-cel"),
    ("controller/reconcilers", "api api-plugin"),
    ("agent", "api api-plugin agent-sys agent-pod agent-runtime agent-image agent-network agent-volume"),
    ("controller", "api controller-store controller-apiserver controller-scheduler controller-reconcilers"),
    (
        "cli",
        "api agent agent-sys agent-image agent-network agent-runtime controller controller-apiserver controller-object",
    ),
    ("e2e", ""),
];

/// Names that say nothing; code moves to its noun.
const EMPTY_NAMES: [&str; 5] = ["util", "utils", "common", "helper", "manager"];

/// Every breach of the rules, one a line.
pub(crate) fn breaches(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    layers(root, &mut found);
    for file in rust_files(root) {
        let shown = file.strip_prefix(root).unwrap_or(&file).display().to_string();
        let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        if EMPTY_NAMES.contains(&stem) {
            found.push(format!("{shown}: a file named {stem} says nothing"));
        }
        let text = fs::read_to_string(&file).unwrap_or_default();
        let lines = text.lines().count();
        let is_test = stem.ends_with("tests") || stem == "suite" || shown.contains("/tests/");
        if lines > LINES && !is_test {
            found.push(format!("{shown}: {lines} lines, at most {LINES}"));
        }
        if stem == "lib" && text.lines().take_while(|line| line.starts_with("//!")).count() < 3 {
            found.push(format!("{shown}: the header says what it is, what it never does, where to start reading"));
        }
    }
    found
}

fn layers(root: &Path, found: &mut Vec<String>) {
    let allowed: BTreeMap<&str, &str> = MAY_USE.into_iter().collect();
    let ours: Vec<String> = allowed.keys().map(|dir| package(root, dir)).collect();
    for (dir, may_use) in &allowed {
        let manifest = fs::read_to_string(root.join(dir).join("Cargo.toml")).unwrap_or_default();
        let dependencies = manifest.split("[dependencies]").nth(1).unwrap_or_default();
        let dependencies = dependencies.split("\n[").next().unwrap_or_default();
        for line in dependencies.lines() {
            let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
            if ours.iter().any(|own| own == name) && !may_use.split(' ').any(|allowed| allowed == name) {
                found.push(format!("{dir}/Cargo.toml: {dir} may not use {name}"));
            }
        }
    }
}

fn package(root: &Path, dir: &str) -> String {
    let manifest = fs::read_to_string(root.join(dir).join("Cargo.toml")).unwrap_or_default();
    let name = manifest.lines().find_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
    name.unwrap_or_default().to_owned()
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let hidden = name.to_string_lossy().starts_with('.');
        if path.is_dir() && !hidden && name != "target" && name != "generated" {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}
