//! Pod Security Standards: what a pod may ask for at the levels that a namespace's labels choose.
//! Kubernetes documentation, "Pod Security Standards" and "Pod Security Admission"; words of k8s.io/pod-security-admission.
mod baseline;
mod restricted;

use crate::status::Cause;
use crate::tree::{list, text};
use serde_json::Value;

const PREFIX: &str = "pod-security.kubernetes.io/";

/// How much a pod may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Anything.
    Privileged,
    /// Nothing that is a known way out of the container.
    Baseline,
    /// What hardened pods need.
    Restricted,
}

impl Level {
    /// The word of labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        [Self::Privileged, Self::Baseline, Self::Restricted].into_iter().find(|level| level.as_str() == word)
    }
}

/// A level as a release of Kubernetes had it; the minor number of the release, or the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The level.
    pub level: Level,
    /// 37 for `v1.37`; `None` for `latest`.
    pub minor: Option<u32>,
}

impl Policy {
    const OPEN: Self = Self { level: Level::Privileged, minor: None };

    /// `baseline:latest`, as messages name it.
    pub fn describe(self) -> String {
        match self.minor {
            Some(minor) => format!("{}:v1.{minor}", self.level.as_str()),
            None => format!("{}:latest", self.level.as_str()),
        }
    }

    fn is_since(self, minor: u32) -> bool {
        self.minor.is_none_or(|own| own >= minor)
    }
}

/// What a namespace wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policies {
    /// Refuses pods.
    pub enforce: Policy,
    /// Tells the audit log.
    pub audit: Policy,
    /// Tells the client.
    pub warn: Policy,
}

/// Which of the three.
const MODES: [&str; 3] = ["enforce", "audit", "warn"];

/// The policies of a namespace's labels, and what is wrong with those labels. An unreadable level is the strictest.
pub fn policies(namespace: &Value) -> (Policies, Vec<Cause>) {
    let mut faults = Vec::new();
    let label = |name: &str| text(namespace, &["metadata", "labels", name]).map(str::to_owned);
    let mut read = |mode: &str| {
        let mut policy = Policy::OPEN;
        let (name, version) = (format!("{PREFIX}{mode}"), format!("{PREFIX}{mode}-version"));
        if let Some(word) = label(&name) {
            policy.level = Level::parse(&word).unwrap_or_else(|| {
                let detail = "must be one of privileged, baseline, restricted";
                faults.push(Cause::invalid(format!("metadata.labels[{name}]"), &word.into(), detail));
                Level::Restricted
            });
        }
        if let Some(word) = label(&version).filter(|word| word != "latest") {
            policy.minor = word.strip_prefix("v1.").and_then(|minor| minor.parse().ok());
            if policy.minor.is_none() {
                let detail = "must be \"latest\" or \"v1.x\"";
                faults.push(Cause::invalid(format!("metadata.labels[{version}]"), &word.into(), detail));
            }
        }
        policy
    };
    let [enforce, audit, warn] = MODES.map(&mut read);
    (Policies { enforce, audit, warn }, faults)
}

/// A rule that a pod breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The rule.
    pub reason: &'static str,
    /// Where it is broken.
    pub detail: String,
}

/// The rules that a pod (or a template of one) breaks.
pub fn violations(policy: Policy, pod: &Value) -> Vec<Violation> {
    let subject = Subject { policy, metadata: &pod["metadata"], spec: &pod["spec"] };
    match policy.level {
        Level::Privileged => Vec::new(),
        Level::Baseline => baseline::check(&subject, Level::Baseline),
        Level::Restricted => {
            let mut all = baseline::check(&subject, Level::Restricted);
            all.extend(restricted::check(&subject));
            all
        }
    }
}

/// All of them in one sentence: `reason (detail), reason (detail)`.
pub fn describe(violations: &[Violation]) -> String {
    let told = violations.iter().map(|one| match one.detail.as_str() {
        "" => one.reason.to_owned(),
        detail => format!("{} ({detail})", one.reason),
    });
    told.collect::<Vec<_>>().join(", ")
}

/// The pod under a policy.
struct Subject<'a> {
    policy: Policy,
    metadata: &'a Value,
    spec: &'a Value,
}

impl<'a> Subject<'a> {
    /// Every container, in the order of the rules' messages.
    fn containers(&self) -> impl Iterator<Item = &'a Value> + use<'a> {
        let spec = self.spec;
        ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(move |field| list(spec, &[field]))
    }

    /// The names of the containers that break a rule.
    fn names(&self, broken: impl Fn(&Value) -> bool) -> Vec<&'a str> {
        self.containers().filter(|one| broken(one)).map(|one| text(one, &["name"]).unwrap_or_default()).collect()
    }

    fn is_windows(&self) -> bool {
        text(self.spec, &["os", "name"]) == Some("windows")
    }
}

/// `container "a"`, or `containers "a", "b"`.
fn plural(word: &str, names: &[&str]) -> String {
    let ending = if names.len() == 1 { "" } else { "s" };
    format!("{word}{ending} {}", quoted(names))
}

/// `"a", "b"`.
fn quoted<T: AsRef<str>>(names: &[T]) -> String {
    names.iter().map(|name| format!("{:?}", name.as_ref())).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
