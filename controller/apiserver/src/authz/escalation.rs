//! Nobody grants what they do not have: the check on writes of roles and bindings.
//! Kubernetes documentation, "Privilege escalation prevention and bootstrapping".

use std::sync::Arc;

use super::rbac::{Rule, url_matches};

/// The first of `wanted` that `owned` does not cover, in words; `None` if all is covered.
pub(crate) fn uncovered(owned: &[Arc<Vec<Rule>>], wanted: &[Rule]) -> Option<String> {
    wanted
        .iter()
        .flat_map(atoms)
        .find(|atom| !owned.iter().flat_map(|rules| rules.iter()).any(|rule| atom.is_in(rule)))
        .map(|atom| atom.describe())
}

/// The smallest grants a rule is made of. A star stays a star: only a star covers it.
enum Atom<'a> {
    Resource { verb: &'a str, group: &'a str, resource: &'a str, name: Option<&'a str> },
    Url { verb: &'a str, url: &'a str },
}

fn atoms(rule: &Rule) -> Vec<Atom<'_>> {
    let mut atoms = Vec::new();
    let names: Vec<Option<&str>> = match rule.resource_names.is_empty() {
        true => vec![None],
        false => rule.resource_names.iter().map(|name| Some(name.as_str())).collect(),
    };
    for verb in &rule.verbs {
        for group in &rule.api_groups {
            for resource in &rule.resources {
                atoms.extend(names.iter().map(|name| Atom::Resource { verb, group, resource, name: *name }));
            }
        }
        atoms.extend(rule.non_resource_urls.iter().map(|url| Atom::Url { verb, url }));
    }
    atoms
}

impl Atom<'_> {
    fn is_in(&self, rule: &Rule) -> bool {
        let has = |list: &[String], wanted: &str| list.iter().any(|own| own == "*" || own == wanted);
        match self {
            Self::Resource { verb, group, resource, name } => {
                let sub = resource.split_once('/').map(|(_, sub)| format!("*/{sub}"));
                has(&rule.verbs, verb)
                    && has(&rule.api_groups, group)
                    && (has(&rule.resources, resource) || sub.is_some_and(|sub| rule.resources.contains(&sub)))
                    && (rule.resource_names.is_empty()
                        || name.is_some_and(|name| rule.resource_names.iter().any(|own| own == name)))
            }
            Self::Url { verb, url } => {
                has(&rule.verbs, verb) && rule.non_resource_urls.iter().any(|pattern| url_matches(pattern, url))
            }
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Resource { verb, group, resource, name } => {
                let names = name.map(|name| format!(", ResourceNames:[{name:?}]")).unwrap_or_default();
                format!("{{APIGroups:[{group:?}], Resources:[{resource:?}]{names}, Verbs:[{verb:?}]}}")
            }
            Self::Url { verb, url } => format!("{{NonResourceURLs:[{url:?}], Verbs:[{verb:?}]}}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verbs: &[&str], groups: &[&str], resources: &[&str], names: &[&str]) -> Rule {
        let own = |list: &[&str]| list.iter().map(|item| (*item).to_owned()).collect();
        Rule {
            verbs: own(verbs),
            api_groups: own(groups),
            resources: own(resources),
            resource_names: own(names),
            non_resource_urls: vec![],
        }
    }

    #[test]
    fn only_what_is_owned_can_be_granted() {
        let owned = vec![Arc::new(vec![
            rule(&["get", "list"], &[""], &["pods", "*/status"], &[]),
            rule(&["get"], &[""], &["secrets"], &["mine"]),
        ])];
        assert!(uncovered(&owned, &[rule(&["get"], &[""], &["pods", "nodes/status"], &[])]).is_none());
        assert!(uncovered(&owned, &[rule(&["get"], &[""], &["secrets"], &["mine"])]).is_none());
        assert!(uncovered(&owned, &[rule(&["get"], &[""], &["secrets"], &[])]).is_some());
        assert!(uncovered(&owned, &[rule(&["*"], &[""], &["pods"], &[])]).is_some());
        assert!(uncovered(&owned, &[rule(&["get"], &["*"], &["pods"], &[])]).is_some());
    }
}
