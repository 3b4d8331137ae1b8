//! Processors for containers: whole ones for those of Guaranteed pods that ask for whole ones, the rest for all others.
//! Kubernetes documentation, "Control CPU Management Policies on the Node". Start reading at `book`, then `draft` and `choose`.

mod book;
mod choose;
mod distribute;
mod draft;
mod options;
pub mod set;
mod topology;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agent_runtime::cgroup;
use k8s_openapi::api::core::v1::{Container, Pod};
use oci_spec::runtime::LinuxResources;

use crate::execute::{Host, chain};
use crate::topology::{Hint, Nodes};
use agent_pod::facts::Role;
use book::Book;
pub(crate) use book::needed;
use draft::Rules;
pub(crate) use draft::{CpuError, Draft};
pub use options::Options;
use set::{CpuSet, show};
use topology::Topology;

/// Who gets processors for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// Nobody.
    #[default]
    None,
    /// Containers of Guaranteed pods that ask for whole processors.
    Static,
}

/// What the node was told about its processors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// `--cpu-manager-policy`
    pub policy: Policy,
    /// `--reserved-cpus`: nobody's alone, and not for pods to ask for.
    pub reserved: CpuSet,
    /// `--cpu-manager-policy-options`
    pub options: Options,
}

/// The processors of this machine, and who has which.
#[derive(Debug)]
pub(crate) struct Cpus {
    policy: Policy,
    topology: Topology,
    reserved: CpuSet,
    options: Options,
    path: PathBuf,
    /// An agent before this one gave processors away, and this one gives none.
    is_abandoned: bool,
    book: Mutex<Book>,
    /// Held by whoever places a container.
    placing: Mutex<()>,
}

impl Cpus {
    /// Those of this machine that this process may use. `path` is the file of who has which.
    ///
    /// # Errors
    ///
    /// Reserved processors that are not there, or that are all there are; options that this machine is not made for.
    pub(crate) fn open(settings: &Settings, path: PathBuf) -> Result<Self, String> {
        let affinity = rustix::thread::sched_getaffinity(None).map_err(|error| error.to_string())?;
        let may_use = |cpu| cpu < rustix::thread::CpuSet::MAX_CPU && affinity.is_set(cpu);
        let topology = Topology::read(Path::new("/sys/devices/system/cpu"), may_use);
        Self::of(settings, topology, path)
    }

    fn of(settings: &Settings, topology: Topology, path: PathBuf) -> Result<Self, String> {
        let (all, reserved) = (topology.all(), settings.reserved.clone());
        if let Some(cpu) = reserved.difference(&all).next() {
            return Err(format!("--reserved-cpus: processor {cpu} is reserved, but this machine has {}", show(&all)));
        }
        if !all.is_empty() && reserved == all {
            return Err("--reserved-cpus: all processors are reserved: none is left for pods".into());
        }
        let sockets = topology.by(|place| place.socket).len();
        if settings.options.align_by_socket && sockets > topology.nodes().count() as usize {
            return Err(
                "--cpu-manager-policy-options: align-by-socket is not for machines with more sockets than NUMA nodes"
                    .into(),
            );
        }
        let assignable = all.difference(&reserved).copied().collect();
        let (book, is_abandoned) = match settings.policy {
            Policy::Static => (Book::read(&path, &assignable), false),
            Policy::None => (Book::default(), path.exists()),
        };
        let book = Mutex::new(book);
        let placing = Mutex::default();
        let (policy, options) = (settings.policy, settings.options);
        Ok(Self { policy, topology, reserved, options, path, is_abandoned, book, placing })
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unassigned(&self, book: &Book) -> CpuSet {
        let (mut all, taken) = (self.topology.all(), book.taken());
        all.retain(|cpu| !self.reserved.contains(cpu) && !taken.contains(cpu));
        all
    }

    /// How many processors nobody has for itself yet; `None`: nobody gets any.
    pub(crate) fn free(&self) -> Option<usize> {
        (self.policy == Policy::Static).then(|| self.unassigned(&self.book()).len())
    }

    /// The NUMA nodes of this machine.
    pub(crate) fn machine(&self) -> Nodes {
        self.topology.nodes()
    }

    fn rules(&self) -> Rules<'_> {
        Rules { topology: &self.topology, options: self.options }
    }

    /// Begins to give a pod what it asks for. `None`: it shares all processors with others, or has what it is to have.
    pub(crate) fn draft(&self, uid: &str, pod: &Pod) -> Option<Draft> {
        let book = self.book();
        let is_given = self.policy == Policy::Static && needed(pod) > 0 && !book.0.contains_key(uid);
        is_given.then(|| Draft::new(self.unassigned(&book)))
    }

    /// Where the next container could be given what it has for itself; `None` where it does not matter.
    pub(crate) fn hints(&self, draft: &Draft, pod: &Pod, container: &Container, role: Role) -> Option<Vec<Hint>> {
        let count = Some(book::wish(pod, container, role)).filter(|count| *count > 0)?;
        Some(draft.hints(self.rules(), count))
    }

    /// The same of a whole pod.
    pub(crate) fn hints_of_pod(&self, draft: &Draft, pod: &Pod) -> Vec<Hint> {
        draft.hints(self.rules(), needed(pod))
    }

    /// Gives the next container what it has for itself, from these nodes first.
    pub(crate) fn give(
        &self,
        draft: &mut Draft,
        pod: &Pod,
        (container, role): (&Container, Role),
        nodes: Option<Nodes>,
    ) -> Result<(), CpuError> {
        match book::wish(pod, container, role) {
            0 => Ok(()),
            count => draft.give(self.rules(), (&container.name, role), count, nodes),
        }
    }

    /// Writes down what a pod was given.
    pub(crate) fn keep(&self, uid: &str, draft: Draft) {
        let mut book = self.book();
        book.0.insert(uid.to_owned(), draft.given);
        self.write(&book);
    }

    /// The pod has ended, or is gone; whether there is more for others now.
    pub(crate) fn release(&self, uid: &str) -> bool {
        let mut book = self.book();
        let had = book.0.remove(uid).is_some();
        if had {
            self.write(&book);
        }
        had
    }

    /// Only these pods are here; whether there is more for others now.
    pub(crate) fn retain(&self, is_here: impl Fn(&str) -> bool) -> bool {
        let mut book = self.book();
        let before = book.0.len();
        book.0.retain(|uid, _| is_here(uid));
        let changed = book.0.len() != before;
        if changed {
            self.write(&book);
        }
        changed
    }

    fn write(&self, book: &Book) {
        if let Err(error) = book.write(&self.path) {
            tracing::error!(%error, path = %self.path.display(), "writing who has which processors");
        }
    }

    /// Whether a pod was given processors.
    pub(crate) fn has(&self, uid: &str) -> bool {
        self.book().0.contains_key(uid)
    }

    /// Where a container runs, as `cpuset.cpus` has it: on its own processors, else on those that are nobody's. `None`:
    /// wherever the kernel likes.
    pub(crate) fn of_container(&self, uid: &str, container: &str) -> Option<String> {
        if self.policy == Policy::None {
            return None;
        }
        let book = self.book();
        let own = book.0.get(uid).and_then(|all| all.get(container)).cloned();
        let shared = || {
            let (mut shared, taken) = (self.topology.all(), book.taken());
            shared.retain(|cpu| !taken.contains(cpu));
            let strict: CpuSet = shared.difference(&self.reserved).copied().collect();
            // Where others have all the rest, a container has to run somewhere.
            if self.options.strict_reservation && !strict.is_empty() { strict } else { shared }
        };
        Some(show(&own.unwrap_or_else(shared)))
    }

    /// After the first list of pods: running containers are where they belong, also if the policy is another one now.
    pub(crate) fn settle(&self, host: &Arc<Host>) {
        if self.policy == Policy::Static || self.is_abandoned {
            self.spread(host);
        }
        if self.is_abandoned {
            // Best effort: it is read by nobody while the policy is none.
            let _ = std::fs::remove_file(&self.path);
        }
    }

    /// Puts every running container where it belongs now.
    pub(crate) fn spread(&self, host: &Arc<Host>) {
        let host = Arc::clone(host);
        tokio::task::spawn_blocking(move || {
            for (uid, member) in host.pods.members() {
                let pod = member.executor(&host, &uid).cgroup();
                for group in cgroup::groups_in(&pod) {
                    // Those of containers are named after their start, others have no dot.
                    if let Some((container, _)) = group.rsplit_once('.') {
                        host.processors.place(&uid, container, &format!("{pod}/{group}"));
                    }
                }
            }
        });
    }

    /// Puts one container where it belongs now.
    pub(crate) fn place(&self, uid: &str, container: &str, group: &str) {
        // What was worked out last is written last.
        let _placing = self.placing.lock().unwrap_or_else(PoisonError::into_inner);
        let cpus = self.of_container(uid, container).unwrap_or_else(|| show(&self.topology.all()));
        let resources = serde_json::from_value::<LinuxResources>(serde_json::json!({"cpu": {"cpus": cpus}}));
        let Ok(resources) = resources else { return };
        let placed = cgroup::open(group).and_then(|own| own.apply(&resources));
        if let Err(error) = placed {
            // It ended a moment before, mostly.
            tracing::debug!(error = chain(&error), uid, container, cpus, "giving a container its processors");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::topology::made;
    use super::*;

    fn open(policy: Policy, reserved: &str, path: &Path) -> Result<Cpus, String> {
        let reserved = set::parse(reserved).unwrap();
        Cpus::of(&Settings { policy, reserved, options: Options::default() }, made([1, 1, 4, 1]), path.to_owned())
    }

    impl Cpus {
        /// Gives a pod all that it asks for; whether that is anything.
        fn take(&self, uid: &str, pod: &Pod) -> bool {
            let Some(mut draft) = self.draft(uid, pod) else { return false };
            for (container, role) in agent_pod::facts::containers(pod) {
                self.give(&mut draft, pod, (&container, role), None).unwrap();
            }
            self.keep(uid, draft);
            true
        }
    }

    fn pod(cpu: &str) -> Pod {
        let amounts = json!({"cpu": cpu, "memory": "1Mi"});
        let resources = json!({"limits": amounts, "requests": amounts});
        from_value(json!({"spec": {"containers": [{"name": "c", "resources": resources}]}})).unwrap()
    }

    #[test]
    fn reserved_processors_are_shared_and_nobody_s_alone_and_the_rest_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cpus.json");
        let own = open(Policy::Static, "0", &path).unwrap();
        let whole = pod("2");
        assert_eq!((own.free(), own.of_container("other", "c").as_deref()), (Some(3), Some("0-3")));
        assert!(own.take("u", &whole) && !own.take("u", &whole), "it has them already");
        assert!(own.has("u") && !own.has("half"));
        assert!(!own.take("half", &pod("500m")), "it shares");
        assert_eq!(own.free(), Some(1));
        assert_eq!(own.of_container("u", "c").as_deref(), Some("1-2"));
        assert_eq!(own.of_container("half", "c").as_deref(), Some("0,3"));
        // An agent that comes back knows.
        let again = open(Policy::Static, "0", &path).unwrap();
        assert_eq!(again.of_container("u", "c").as_deref(), Some("1-2"));
        assert!(again.retain(|uid| uid != "u") && !again.release("u"));
        assert_eq!(again.of_container("half", "c").as_deref(), Some("0-3"));
    }

    #[test]
    fn without_the_policy_nobody_has_any_and_what_cannot_be_reserved_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cpus.json");
        let own = open(Policy::None, "", &path).unwrap();
        assert!(!own.take("u", &pod("2")));
        assert_eq!((own.free(), own.of_container("u", "c")), (None, None));
        assert_eq!(
            open(Policy::Static, "7", &path).unwrap_err(),
            "--reserved-cpus: processor 7 is reserved, but this machine has 0-3"
        );
        assert!(open(Policy::Static, "0-3", &path).unwrap_err().contains("none is left for pods"));
    }

    #[test]
    fn reserved_processors_are_the_machines_alone_if_that_is_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { strict_reservation: true, ..Options::default() };
        let settings = Settings { policy: Policy::Static, reserved: [0].into(), options };
        let own = Cpus::of(&settings, made([1, 1, 4, 1]), dir.path().join("cpus.json")).unwrap();
        assert_eq!(own.of_container("other", "c").as_deref(), Some("1-3"));
        own.take("u", &pod("2"));
        assert_eq!(own.of_container("other", "c").as_deref(), Some("3"));
        own.take("v", &pod("1"));
        assert_eq!(own.of_container("other", "c").as_deref(), Some("0"), "it has to run somewhere");
        let by_socket = Options { align_by_socket: true, ..Options::default() };
        let settings = Settings { options: by_socket, ..settings };
        let mut machine = made([2, 1, 2, 1]);
        machine.0.values_mut().for_each(|place| place.node = 0);
        let refused = Cpus::of(&settings, machine, dir.path().join("cpus.json")).unwrap_err();
        assert!(refused.contains("align-by-socket is not for machines with more sockets"), "{refused}");
    }
}
