//! One manifest in a namespace of its own, and what every software that keeps data has to show.

use std::collections::BTreeSet;
use std::time::Duration;

use e2e::client::{Client, Said, eventually, within};
use serde_json::Value;

/// Two cores start fifteen servers beside each other, some of them in Java and Erlang.
pub(crate) const LONG: Duration = Duration::from_secs(240);

pub(crate) struct App {
    client: Client,
    name: &'static str,
}

impl App {
    /// Applies the manifest of this name.
    pub(crate) fn new(client: Client, name: &'static str) -> Self {
        client.run(&["create", "namespace", name]).ok();
        let app = Self { client, name };
        let manifest = e2e::machine::workspace().join(format!("manifests/stateful/{name}.yaml"));
        app.run(&["apply", "-f", &manifest.to_string_lossy()]).ok();
        app
    }

    pub(crate) fn run(&self, args: &[&str]) -> Said {
        self.client.run(&[&["-n", self.name], args].concat())
    }

    pub(crate) fn get(&self, what: &[&str]) -> Value {
        self.client.get(&[&["-n", self.name], what].concat())
    }

    /// Runs a shell line in the container of a pod.
    pub(crate) fn shell(&self, pod: &str, line: &str) -> Said {
        self.run(&["exec", pod, "--", "sh", "-c", line])
    }

    /// Waits until a workload, as `statefulset/etcd`, is whole.
    pub(crate) fn whole(&self, workload: &str) {
        let said = self.run(&["rollout", "status", workload, &format!("--timeout={}s", LONG.as_secs())]);
        assert_eq!(said.code, 0, "{}", self.told(&said));
    }

    /// All that helps to understand why something is not as it should be.
    pub(crate) fn told(&self, said: &Said) -> String {
        let mut told = format!("{}: {}{}", self.name, said.out, said.err);
        told += &self.run(&["get", "pods,events,pvc", "-o", "wide"]).out;
        for pod in self.get(&["pods"])["items"].as_array().into_iter().flatten() {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            told += &format!("---- {name}\n{}", self.run(&["logs", name, "--tail=30"]).out);
        }
        told
    }

    fn uid(&self, pod: &str) -> Option<String> {
        let said = self.run(&["get", "pod", pod, "-o", "jsonpath={.metadata.uid}"]);
        (said.code == 0).then_some(said.out)
    }

    /// Ends a pod: as people do who move it, or as if its machine had ended (`suddenly`).
    pub(crate) fn lose(&self, pod: &str, suddenly: bool) {
        let before = self.uid(pod);
        let how: &[&str] = if suddenly { &["--force", "--grace-period=0"] } else { &["--wait=false"] };
        self.run(&[&["delete", "pod", pod], how].concat()).ok();
        eventually("the pod is gone or another one", LONG, || (self.uid(pod) != before).then_some(()));
    }

    /// Each member of a set is lost, the first and every other one suddenly. Meanwhile numbers are written by a member that is there
    /// (`write` tells why a number was not acknowledged); in the end each member knows all that were.
    pub(crate) fn keeps(
        &self,
        set: &str,
        writer: impl Fn(&str) -> String,
        write: impl Fn(&str, u32) -> Result<(), String>,
        read: impl Fn(&str) -> BTreeSet<u32>,
    ) {
        let workload = format!("statefulset/{set}");
        let replicas = self.get(&[&workload])["spec"]["replicas"].as_u64().expect("a number");
        let members: Vec<String> = (0..replicas).map(|ordinal| format!("{set}-{ordinal}")).collect();
        let mut acknowledged = BTreeSet::new();
        let mut number = 0;
        let mut some = |via: &str| {
            let enough = acknowledged.len() + 3;
            let mut refused = String::new();
            within(LONG, || {
                number += 1;
                match write(via, number) {
                    Ok(()) => drop(acknowledged.insert(number)),
                    Err(why) => refused = why,
                }
                (acknowledged.len() >= enough).then_some(())
            });
            assert!(acknowledged.len() >= enough, "{}: {via} takes nothing more: {refused}", self.name);
        };
        some(&members[0]);
        for (turn, member) in members.iter().enumerate() {
            self.lose(member, turn % 2 == 0);
            some(&writer(member));
            self.whole(&workload);
        }
        for member in &members {
            let mut missing = BTreeSet::new();
            within(LONG, || {
                missing = acknowledged.difference(&read(member)).copied().collect();
                missing.is_empty().then_some(())
            });
            assert!(missing.is_empty(), "{}: {member} has lost {missing:?} of {acknowledged:?}", self.name);
        }
    }

    /// Deletes all of it, so that its volumes go.
    pub(crate) fn remove(&self) {
        self.client.run(&["delete", "namespace", self.name, &format!("--timeout={}s", LONG.as_secs())]).ok();
    }
}

/// What a command said, if it failed.
pub(crate) fn done(said: Said) -> Result<(), String> {
    if said.code == 0 { Ok(()) } else { Err(said.out + &said.err) }
}

/// The numbers of a text that come after `prefix`.
pub(crate) fn numbers(text: &str, prefix: &str) -> BTreeSet<u32> {
    let digits = |rest: &str| rest.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok());
    text.split(prefix).skip(1).filter_map(digits).collect()
}
