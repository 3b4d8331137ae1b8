//! Which container has which processors for itself: kept in a file, so that an agent that comes back takes none away. The
//! choice is pure.

use std::collections::BTreeMap;
use std::path::Path;

use agent_pod::facts::{self, Role};
use api::pod::QosClass;
use k8s_openapi::api::core::v1::{Container, Pod};
use serde::{Deserialize, Serialize};

use super::set::{CpuSet, parse, show};

const VERSION: u32 = 1;

/// Processors by pod and container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Book(pub(super) BTreeMap<String, BTreeMap<String, CpuSet>>);

/// The file: sets are written as the kernel does.
#[derive(Serialize, Deserialize)]
struct Written {
    version: u32,
    pods: BTreeMap<String, BTreeMap<String, String>>,
}

/// How many processors a container has for itself: all that it asks for, if these are whole ones and its pod is
/// Guaranteed. Kubernetes documentation, "CPU Management Policies", static policy.
fn exclusive(pod: &Pod, container: &Container) -> usize {
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    // What a pod asks for as a whole is no container's.
    if api::pod::recorded_qos_class(pod) != QosClass::Guaranteed || of_pod.is_some() {
        return 0;
    }
    let asked = facts::Resources::of(container.resources.as_ref());
    let milli = asked.cpu_request.or(asked.cpu_limit).unwrap_or(0);
    if milli % 1000 == 0 { usize::try_from(milli / 1000).unwrap_or(0) } else { 0 }
}

/// How many processors a container has for itself; none is one that looks into others.
pub(super) fn wish(pod: &Pod, container: &Container, role: Role) -> usize {
    if role == Role::Ephemeral { 0 } else { exclusive(pod, container) }
}

/// The containers that have processors for themselves, in the order in which they start.
fn wishes(pod: &Pod) -> Vec<(String, usize, Role)> {
    let all = facts::containers(pod).map(|(container, role)| (wish(pod, &container, role), container.name, role));
    all.filter(|(count, ..)| *count > 0).map(|(count, name, role)| (name, count, role)).collect()
}

/// How many processors a pod has for itself at its peak: init containers pass theirs on.
pub(crate) fn needed(pod: &Pod) -> usize {
    let (mut lasting, mut peak) = (0, 0);
    for (_, count, role) in wishes(pod) {
        match role {
            Role::Init => peak = peak.max(lasting + count),
            Role::Sidecar | Role::App | Role::Ephemeral => lasting += count,
        }
    }
    peak.max(lasting)
}

impl Book {
    /// From its file. What names processors that cannot be given any more is left out, and told.
    pub(super) fn read(path: &Path, assignable: &CpuSet) -> Self {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Self::default(),
            Err(error) => {
                tracing::error!(%error, path = %path.display(), "reading who has which processors");
                return Self::default();
            }
        };
        let Some(written) = serde_json::from_slice::<Written>(&bytes).ok().filter(|written| written.version == VERSION)
        else {
            tracing::error!(path = %path.display(), "who has which processors cannot be read: containers share them all");
            return Self::default();
        };
        let mut book = Self::default();
        for (pod, container, text) in written
            .pods
            .into_iter()
            .flat_map(|(pod, all)| all.into_iter().map(move |(name, set)| (pod.clone(), name, set)))
        {
            match parse(&text).ok().filter(|set| set.is_subset(assignable)) {
                Some(set) => drop(book.0.entry(pod).or_default().insert(container, set)),
                None => {
                    tracing::warn!(pod, container, cpus = text, "these processors are not the container's any more")
                }
            }
        }
        book
    }

    /// Writes its file.
    pub(super) fn write(&self, path: &Path) -> std::io::Result<()> {
        let shown = |all: &BTreeMap<String, CpuSet>| all.iter().map(|(name, set)| (name.clone(), show(set))).collect();
        let pods = self.0.iter().map(|(pod, all)| (pod.clone(), shown(all))).collect();
        let fresh = path.with_extension("new");
        std::fs::write(&fresh, serde_json::to_vec(&Written { version: VERSION, pods })?)?;
        std::fs::rename(fresh, path)
    }

    /// All that containers have for themselves.
    pub(super) fn taken(&self) -> CpuSet {
        self.0.values().flat_map(BTreeMap::values).flatten().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::super::draft::{Draft, Rules};
    use super::super::options::Options;
    use super::super::topology::{Topology, made};
    use super::*;

    fn machine() -> Topology {
        made([1, 1, 4, 2])
    }

    impl Book {
        /// Gives a pod what it asks for, of these; whether there was enough.
        fn give(&mut self, uid: &str, pod: &Pod, free: CpuSet) -> bool {
            let (topology, mut draft) = (machine(), Draft::new(free));
            let rules = Rules { topology: &topology, options: Options::default() };
            let is_given =
                wishes(pod).iter().all(|(name, count, role)| draft.give(rules, (name, *role), *count, None).is_ok());
            if is_given {
                self.0.insert(uid.to_owned(), draft.given);
            }
            is_given
        }
    }

    fn container(name: &str, cpu: &str) -> Value {
        json!({"name": name, "resources": {"limits": {"cpu": cpu, "memory": "1Mi"}, "requests": {"cpu": cpu, "memory": "1Mi"}}})
    }

    fn pod(spec: Value) -> Pod {
        from_value(json!({"spec": spec})).unwrap()
    }

    fn shown(book: &Book, uid: &str) -> Vec<(String, String)> {
        book.0.get(uid).into_iter().flatten().map(|(name, set)| (name.clone(), show(set))).collect()
    }

    #[test]
    fn whole_processors_of_guaranteed_pods_are_theirs_alone() {
        let burstable = json!({"name": "c", "resources": {"requests": {"cpu": "2", "memory": "1Mi"}}});
        for (containers, count) in [
            (json!([container("a", "2"), container("b", "1500m")]), 2),
            (json!([container("a", "2"), container("b", "1")]), 3),
            (json!([burstable]), 0),
        ] {
            assert_eq!(needed(&pod(json!({"containers": containers.clone()}))), count, "{containers}");
        }
        let limits = json!({"limits": {"cpu": "4", "memory": "1Gi"}});
        let of_pod = pod(json!({"resources": limits, "containers": [container("a", "2")]}));
        assert_eq!(needed(&of_pod), 0, "the pod's processors are no container's");
    }

    #[test]
    fn init_containers_pass_theirs_on_and_sidecars_keep_theirs() {
        let mut sidecar = container("s", "1");
        sidecar["restartPolicy"] = json!("Always");
        let own = pod(json!({"initContainers": [container("i", "4"), sidecar], "containers": [container("a", "2")]}));
        assert_eq!(needed(&own), 4);
        let (mut book, all) = (Book::default(), machine().all());
        assert!(book.give("u", &own, all.clone()));
        assert_eq!(book.taken().len(), 4);
        let of = |name: &str| book.0["u"][name].clone();
        assert!(of("s").is_disjoint(&of("a")) && of("i").is_superset(&of("a")) && of("i").is_superset(&of("s")));
        let free: CpuSet = all.difference(&book.taken()).copied().collect();
        let large = pod(json!({"containers": [container("a", "5")]}));
        assert!(!book.give("v", &large, free));
        assert!(!book.0.contains_key("v"));
    }

    #[test]
    fn the_book_outlives_the_agent_but_not_the_processors() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cpus.json");
        let mut book = Book::default();
        assert_eq!(Book::read(&path, &machine().all()), book);
        book.give("u", &pod(json!({"containers": [container("a", "2")]})), machine().all());
        book.give("v", &pod(json!({"containers": [container("a", "2")]})), parse("4-7").unwrap());
        book.write(&path).unwrap();
        assert_eq!(Book::read(&path, &machine().all()), book);
        let fewer = Book::read(&path, &parse("0-3").unwrap());
        assert_eq!((shown(&fewer, "u").len(), shown(&fewer, "v").len()), (1, 0));
        std::fs::write(&path, "{").unwrap();
        assert_eq!(Book::read(&path, &machine().all()), Book::default());
    }
}
