//! What a pod's spec says about other pods: terms of affinity and anti-affinity, and constraints of topology spread.
//! Kubernetes documentation, "Assigning Pods to Nodes" and "Pod Topology Spread Constraints".
use crate::profile::{DefaultSpread, Filter, Profile};
use api::selector::{Operator, Requirement, Selector};
use api::well_known::{LABEL_HOSTNAME, LABEL_ZONE};
use k8s_openapi::api::core::v1::{Affinity, PodAffinityTerm, TopologySpreadConstraint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Labels as objects carry them.
pub type Labels = BTreeMap<String, String>;

/// Spreading that a pod with siblings gets without asking (Kubernetes' figures): topology key and skew.
const DEFAULT_SPREAD: [(&str, i64); 2] = [(LABEL_ZONE, 5), (LABEL_HOSTNAME, 3)];

/// What is looked at of a pod to tell whether a term is about it.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// The labels of its namespace.
    pub namespace_labels: Option<&'a Labels>,
    /// Its labels.
    pub labels: &'a Labels,
    /// The uid of the set that it belongs to.
    pub owner: Option<&'a str>,
}

#[derive(Clone, Debug)]
struct Part {
    /// One of these, or one that the selector below selects.
    namespaces: Vec<Box<str>>,
    namespace_selector: Option<Selector>,
    /// `None` is about no pod.
    selector: Option<Selector>,
    owner: Option<Box<str>>,
}

impl Part {
    fn is_about(&self, pod: Seen<'_>) -> bool {
        let is_near = || {
            self.namespaces.iter().any(|namespace| **namespace == *pod.namespace)
                || self.namespace_selector.as_ref().is_some_and(|selector| {
                    selector.is_empty() || pod.namespace_labels.is_some_and(|labels| selector.matches(labels))
                })
        };
        self.selector.as_ref().is_some_and(|selector| selector.matches(pod.labels))
            && self.owner.as_deref().is_none_or(|owner| pod.owner == Some(owner))
            && is_near()
    }
}

/// Which pods a term is about. Equal ones count once for all pods that have them.
#[derive(Clone, Debug)]
pub struct Matcher {
    /// All of them must hold.
    parts: Vec<Part>,
    /// Pods that are being deleted do not count.
    pub live_only: bool,
    /// All of the above.
    text: Box<str>,
}

impl PartialEq for Matcher {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Matcher {}

impl Hash for Matcher {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl Matcher {
    fn new(parts: Vec<Part>, live_only: bool) -> Arc<Self> {
        let text = format!("{live_only} {parts:?}").into();
        Arc::new(Self { parts, live_only, text })
    }

    /// Whether it is about this pod.
    pub fn is_about(&self, pod: Seen<'_>) -> bool {
        self.parts.iter().all(|part| part.is_about(pod))
    }

    /// Whether the labels of namespaces matter.
    pub fn asks_namespaces(&self) -> bool {
        let asks = |part: &Part| part.namespace_selector.as_ref().is_some_and(|selector| !selector.is_empty());
        self.parts.iter().any(asks)
    }

    /// A label that every pod has that it is about, as `key=value`, by which it is found.
    pub fn pick(&self) -> Option<String> {
        let requirements = self.parts.iter().filter_map(|part| part.selector.as_ref()).flat_map(|s| &s.requirements);
        let exact = requirements.filter_map(|requirement| match &requirement.operator {
            Operator::In(values) if values.len() == 1 => Some(format!("{}={}", requirement.key, values[0])),
            _ => None,
        });
        // The longest is the least likely to be shared by many.
        exact.max_by_key(String::len)
    }
}

/// A term of affinity or anti-affinity.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Term {
    /// Which pods it is about.
    pub matcher: Arc<Matcher>,
    /// The label whose value makes nodes one place.
    pub topology: Arc<str>,
}

/// A constraint of topology spread.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Spread {
    /// Which pods are spread, and by which label of nodes.
    pub term: Term,
    /// The pod itself is one of them.
    pub counts_self: bool,
    /// How much fuller a place may be than the emptiest one.
    pub max_skew: i64,
    /// With fewer places than this the emptiest one counts as empty.
    pub min_domains: usize,
    /// Nodes that the pod's own selector and affinity exclude do not count.
    pub by_affinity: bool,
    /// Nodes with taints that the pod does not tolerate do not count.
    pub by_taints: bool,
}

/// All of a pod's terms.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Terms {
    /// Places with such pods only; the joint matcher is about pods that all terms are about.
    pub required: Vec<Term>,
    /// Pods that all required terms are about.
    pub joint: Option<Arc<Matcher>>,
    /// Places without such pods only.
    pub anti: Vec<Term>,
    /// Rather places with (positive) or without (negative) such pods.
    pub preferred: Vec<(Term, i64)>,
    /// `DoNotSchedule`.
    pub hard: Vec<Spread>,
    /// `ScheduleAnyway`.
    pub soft: Vec<Spread>,
    /// The soft ones are what every pod of a set gets without asking, so nodes may lack the labels.
    pub is_default: bool,
}

/// Terms that others have to do with: required, anti, preferred.
pub(crate) type ToOthers<'a> = (&'a [Term], &'a [Term], &'a [(Term, i64)]);

/// Whose terms are read.
#[derive(Clone, Copy)]
pub(crate) struct Owner<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) labels: &'a Labels,
    /// The uid of the set that it belongs to.
    pub(crate) set: Option<&'a str>,
    /// Only what matters to others, of a pod that has its node.
    pub(crate) is_placed: bool,
}

impl Owner<'_> {
    fn seen(&self) -> Seen<'_> {
        Seen { namespace: self.namespace, namespace_labels: None, labels: self.labels, owner: self.set }
    }

    /// The selector with the pod's own values of some labels required, and of others forbidden.
    fn selector(&self, selector: Option<&LabelSelector>, same: &[String], other: &[String]) -> Option<Selector> {
        let mut selector = Selector::from_label_selector(selector?).ok()?;
        for (keys, is_same) in [(same, true), (other, false)] {
            for key in keys {
                let Some(value) = self.labels.get(key) else { continue };
                let values = vec![value.clone()];
                let operator = if is_same { Operator::In(values) } else { Operator::NotIn(values) };
                let requirement = Requirement { key: key.clone(), operator };
                if !selector.requirements.contains(&requirement) {
                    selector.requirements.push(requirement);
                }
            }
        }
        Some(selector)
    }

    fn part(&self, term: &PodAffinityTerm) -> Part {
        let same = term.match_label_keys.as_deref().unwrap_or_default();
        let other = term.mismatch_label_keys.as_deref().unwrap_or_default();
        let namespace_selector = term.namespace_selector.as_ref().and_then(|s| Selector::from_label_selector(s).ok());
        let mut namespaces: Vec<Box<str>> = term.namespaces.iter().flatten().map(|name| name.as_str().into()).collect();
        if namespaces.is_empty() && namespace_selector.is_none() {
            namespaces.push(self.namespace.into());
        }
        let selector = self.selector(term.label_selector.as_ref(), same, other);
        Part { namespaces, namespace_selector, selector, owner: None }
    }

    fn term(&self, term: &PodAffinityTerm) -> Term {
        Term { matcher: Matcher::new(vec![self.part(term)], false), topology: term.topology_key.as_str().into() }
    }

    fn spread(&self, part: Part, topology: &str) -> Spread {
        let matcher = Matcher::new(vec![part], true);
        let counts_self = matcher.is_about(self.seen());
        let term = Term { matcher, topology: topology.into() };
        Spread { term, counts_self, max_skew: 1, min_domains: 1, by_affinity: true, by_taints: false }
    }

    fn constraint(&self, constraint: &TopologySpreadConstraint) -> Spread {
        let same = constraint.match_label_keys.as_deref().unwrap_or_default();
        let selector = self.selector(constraint.label_selector.as_ref(), same, &[]);
        let part = Part { namespaces: vec![self.namespace.into()], namespace_selector: None, selector, owner: None };
        Spread {
            max_skew: i64::from(constraint.max_skew),
            min_domains: constraint.min_domains.map_or(1, |least| usize::try_from(least).unwrap_or(1)),
            by_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
            by_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
            ..self.spread(part, &constraint.topology_key)
        }
    }
}

impl Terms {
    /// Reads them; `None` where there are none.
    pub(crate) fn read(
        owner: Owner<'_>,
        affinity: Option<&Affinity>,
        spread: Option<&[TopologySpreadConstraint]>,
        profile: &Profile,
    ) -> Option<Box<Self>> {
        let mut terms = Self::default();
        let with = affinity.and_then(|affinity| affinity.pod_affinity.as_ref());
        let without = affinity.and_then(|affinity| affinity.pod_anti_affinity.as_ref());
        let required = with.and_then(|with| with.required_during_scheduling_ignored_during_execution.as_deref());
        let required = required.unwrap_or_default();
        terms.required = required.iter().map(|term| owner.term(term)).collect();
        let anti = without.and_then(|without| without.required_during_scheduling_ignored_during_execution.as_deref());
        terms.anti = anti.unwrap_or_default().iter().map(|term| owner.term(term)).collect();
        let rather = with.and_then(|with| with.preferred_during_scheduling_ignored_during_execution.as_deref());
        let rather_not = without.and_then(|with| with.preferred_during_scheduling_ignored_during_execution.as_deref());
        for (list, sign) in [(rather, 1), (rather_not, -1)] {
            let weighted = list.unwrap_or_default().iter();
            terms
                .preferred
                .extend(weighted.map(|one| (owner.term(&one.pod_affinity_term), sign * i64::from(one.weight))));
        }
        if !owner.is_placed {
            if !required.is_empty() {
                terms.joint = Some(Matcher::new(required.iter().map(|term| owner.part(term)).collect(), false));
            }
            for constraint in spread.unwrap_or_default() {
                let is_soft = constraint.when_unsatisfiable == "ScheduleAnyway";
                let list = if is_soft { &mut terms.soft } else { &mut terms.hard };
                list.push(owner.constraint(constraint));
            }
            if let (true, Some(set)) = (spread.unwrap_or_default().is_empty(), owner.set) {
                terms.is_default = profile.spread.is_none();
                let own = DEFAULT_SPREAD.map(|(topology, max_skew)| DefaultSpread {
                    topology: topology.into(),
                    max_skew,
                    is_hard: false,
                });
                for default in profile.spread.as_deref().unwrap_or(&own) {
                    let selector = Some(Selector::default());
                    let namespaces = vec![owner.namespace.into()];
                    let part = Part { namespaces, namespace_selector: None, selector, owner: Some(set.into()) };
                    let list = if default.is_hard { &mut terms.hard } else { &mut terms.soft };
                    list.push(Spread { max_skew: default.max_skew, ..owner.spread(part, &default.topology) });
                }
            }
            terms.leave_out(profile);
        }
        let is_nothing = Self { is_default: terms.is_default, ..Self::default() } == terms;
        (!is_nothing).then(|| Box::new(terms))
    }

    /// Drops what the pod's profile does not ask.
    fn leave_out(&mut self, profile: &Profile) {
        if profile.skips(Filter::Relations) {
            self.required.clear();
            self.joint = None;
            self.anti.clear();
        }
        if profile.skips(Filter::Spread) {
            self.hard.clear();
        }
        if profile.weights.relations == 0 {
            self.preferred.clear();
        }
        if profile.weights.spread == 0 {
            self.soft.clear();
        }
    }

    /// What remains of it for others once its pod has a node.
    pub(crate) fn to_others(&self) -> ToOthers<'_> {
        (&self.required, &self.anti, &self.preferred)
    }

    /// Whether a pod that comes to a node can make another node fit: it is one to be with, or fills an emptier place.
    pub(crate) fn waits_for(&self, other: Seen<'_>) -> bool {
        self.joint.as_ref().is_some_and(|joint| joint.is_about(other))
            || self.hard.iter().any(|spread| spread.term.matcher.is_about(other))
    }

    /// All matchers whose pods are counted for it.
    pub(crate) fn counted(&self) -> impl Iterator<Item = &Arc<Matcher>> {
        let spread = self.hard.iter().chain(&self.soft).map(|spread| &spread.term);
        let terms = self.anti.iter().chain(self.preferred.iter().map(|(term, _)| term)).chain(spread);
        terms.map(|term| &term.matcher).chain(&self.joint)
    }

    /// All labels of nodes that it names.
    pub(crate) fn topologies(&self) -> impl Iterator<Item = &Arc<str>> {
        let spread = self.hard.iter().chain(&self.soft).map(|spread| &spread.term);
        let terms = self.required.iter().chain(&self.anti).chain(self.preferred.iter().map(|(term, _)| term));
        terms.chain(spread).map(|term| &term.topology)
    }
}
