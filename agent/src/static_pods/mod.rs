//! Pods that are made from files of this machine: they run without an API server, which sees a mirror of each. Kubernetes
//! documentation, "Create static Pods". Start reading at `file`, then `mirror`.

mod file;
pub(crate) mod mirror;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use api::event::Severity;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;

use crate::changes::Changes;
use crate::execute::Host;

pub(crate) use file::{is_critical, is_of_api, is_static};
pub(crate) use mirror::local_uid;

/// The largest file that is read, in bytes.
const SIZE_MAX: u64 = 1 << 20;

/// Files that nobody touched for so long are read.
const QUIET: Duration = Duration::from_millis(200);

/// The pods of the directory, by uid.
pub(crate) type Pods = BTreeMap<String, Arc<Pod>>;

/// What the directory holds now. A file that cannot be used is told once, by an event of the node.
pub(crate) async fn read(host: &Host, known_faults: &mut BTreeMap<String, String>) -> Pods {
    let (dir, node) = (host.config.instance.static_pods_dir(), host.config.node_name.clone());
    let read = tokio::task::spawn_blocking(move || read_all(&dir, &node)).await;
    let (pods, faults) = read.unwrap_or_default();
    for (name, why) in &faults {
        if known_faults.get(name) != Some(why) {
            let message = format!("{name}: {why}");
            tracing::warn!(message, "a static pod cannot be made");
            host.recorder.node(&host.client, Severity::Warning, "InvalidStaticPod", &message).await;
        }
    }
    *known_faults = faults;
    pods
}

fn read_all(dir: &Path, node: &str) -> (Pods, BTreeMap<String, String>) {
    let (mut pods, mut faults) = (Pods::new(), BTreeMap::new());
    let mut names: BTreeMap<(Option<String>, Option<String>), String> = BTreeMap::new();
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries.map(|entry| entry.path()).filter(|path| is_manifest(path)).collect();
    files.sort();
    for path in files {
        let file = path.display().to_string();
        match read_file(&path).and_then(|text| file::pod(&file, &text, node)) {
            Ok(pod) => {
                let key = (pod.metadata.namespace.clone(), pod.metadata.name.clone());
                match names.get(&key) {
                    Some(other) => drop(faults.insert(file, format!("the same pod stands in {other}"))),
                    None => {
                        names.insert(key, file);
                        pods.insert(pod.metadata.uid.clone().unwrap_or_default(), Arc::new(pod));
                    }
                }
            }
            Err(why) => drop(faults.insert(file, why)),
        }
    }
    (pods, faults)
}

fn is_manifest(path: &Path) -> bool {
    let is_hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
    let is_known = path.extension().is_some_and(|end| end == "yaml" || end == "yml" || end == "json");
    is_known && !is_hidden && path.is_file()
}

fn read_file(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    file.take(SIZE_MAX + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    match text.len() as u64 > SIZE_MAX {
        true => Err(format!("it is larger than {} KiB", SIZE_MAX >> 10)),
        false => Ok(text),
    }
}

/// Reads the directory whenever something in it changes, until dropped.
pub(crate) async fn follow(host: Arc<Host>, pods: watch::Sender<Pods>) {
    let dir = host.config.instance.static_pods_dir();
    let changes = match Changes::of(&dir) {
        Ok(changes) => changes,
        Err(error) => return tracing::warn!(%error, dir = %dir.display(), "watching for static pods"),
    };
    let mut faults = BTreeMap::new();
    loop {
        let now = read(&host, &mut faults).await;
        pods.send_if_modified(|before| {
            let changed = before.keys().ne(now.keys());
            *before = now;
            changed
        });
        changes.next().await;
        // Whoever writes a file is not done with the first byte.
        while tokio::time::timeout(QUIET, changes.next()).await.is_ok() {}
    }
}
