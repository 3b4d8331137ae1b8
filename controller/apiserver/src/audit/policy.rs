//! Which requests are written down, and how much of them: the first rule that fits says it. Pure but for reading the
//! file.

use std::path::Path;

use serde::Deserialize;

use crate::authn::User;
use crate::config_file::{self, ConfigFileError};
use crate::route::RequestInfo;

/// How much is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(crate) enum Level {
    None,
    Metadata,
    Request,
    RequestResponse,
}

impl Level {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Metadata => "Metadata",
            Self::Request => "Request",
            Self::RequestResponse => "RequestResponse",
        }
    }
}

/// When something is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum Stage {
    RequestReceived,
    ResponseStarted,
    ResponseComplete,
    Panic,
}

impl Stage {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::RequestReceived => "RequestReceived",
            Self::ResponseStarted => "ResponseStarted",
            Self::ResponseComplete => "ResponseComplete",
            Self::Panic => "Panic",
        }
    }
}

/// An audit.k8s.io/v1 Policy.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Policy {
    #[serde(default)]
    #[expect(dead_code, reason = "policies have it like every object; nothing is done with it")]
    metadata: serde_json::Value,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: bool,
    rules: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Rule {
    level: Level,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<GroupResources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    urls: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct GroupResources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

/// What the policy says of one request.
pub(super) struct Verdict {
    pub(super) level: Level,
    pub(super) omitted: Vec<Stage>,
    pub(super) omits_managed_fields: bool,
}

impl Policy {
    pub(super) fn read(path: &Path) -> Result<Self, ConfigFileError> {
        config_file::read(path, Self::parse)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let policy: Self = config_file::fields(text, "audit.k8s.io/v1", "Policy")?;
        for (index, rule) in policy.rules.iter().enumerate() {
            let is_about_resources = !rule.resources.is_empty() || !rule.namespaces.is_empty();
            if is_about_resources && !rule.urls.is_empty() {
                return Err(format!("rules[{index}]: a rule is about resources or about nonResourceURLs, not both"));
            }
        }
        Ok(policy)
    }

    pub(super) fn judge(&self, user: Option<&User>, verb: &str, info: &RequestInfo) -> Verdict {
        let Some(rule) = self.rules.iter().find(|rule| rule.fits(user, verb, info)) else {
            return Verdict { level: Level::None, omitted: Vec::new(), omits_managed_fields: false };
        };
        Verdict {
            level: rule.level,
            omitted: self.omit_stages.iter().chain(&rule.omit_stages).copied().collect(),
            omits_managed_fields: rule.omit_managed_fields.unwrap_or(self.omit_managed_fields),
        }
    }
}

impl Rule {
    fn fits(&self, user: Option<&User>, verb: &str, info: &RequestInfo) -> bool {
        let name = user.map_or("", |user| user.name.as_str());
        let is_in = |group: &String| user.is_some_and(|user| user.is_in(group));
        (self.users.is_empty() || self.users.iter().any(|own| own == name))
            && (self.user_groups.is_empty() || self.user_groups.iter().any(is_in))
            && (self.verbs.is_empty() || self.verbs.iter().any(|own| own == verb))
            && match info {
                RequestInfo::Resource(request) => {
                    let namespace = request.namespace.as_deref().unwrap_or_default();
                    let full = match &request.subresource {
                        Some(sub) => format!("{}/{sub}", request.resource),
                        None => request.resource.clone(),
                    };
                    let named = |own: &String| request.name.as_deref() == Some(own);
                    let fits = |rule: &GroupResources| {
                        rule.group == request.group
                            && (rule.resources.is_empty() || rule.resources.iter().any(|own| covers(own, &full)))
                            && (rule.resource_names.is_empty() || rule.resource_names.iter().any(named))
                    };
                    self.urls.is_empty()
                        && (self.namespaces.is_empty() || self.namespaces.iter().any(|own| own == namespace))
                        && (self.resources.is_empty() || self.resources.iter().any(fits))
                }
                RequestInfo::NonResource(path) => {
                    let is_about_resources = !self.resources.is_empty() || !self.namespaces.is_empty();
                    let fits = |pattern: &String| match pattern.strip_suffix('*') {
                        Some(prefix) => path.starts_with(prefix),
                        None => pattern == path,
                    };
                    !is_about_resources && (self.urls.is_empty() || self.urls.iter().any(fits))
                }
            }
    }
}

/// `*` is everything, `*/sub` that path below all, `pods/*` every path below pods.
fn covers(pattern: &str, resource: &str) -> bool {
    match (pattern.split_once('/'), resource.split_once('/')) {
        (None, _) => pattern == "*" || pattern == resource,
        (Some(("*", wanted)), Some((_, sub))) => wanted == sub,
        (Some((wanted, "*")), Some((whole, _))) => wanted == whole,
        (Some(_), _) => pattern == resource,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::Query;
    use crate::route::request_info;

    const POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  users: [system:kube-scheduler]
- level: Metadata
  resources: [{group: '', resources: [secrets, pods/log, '*/status']}]
- level: RequestResponse
  namespaces: [watched]
  omitManagedFields: true
- level: Request
  verbs: [create]
- level: None
  nonResourceURLs: ['/healthz*']
";

    #[test]
    fn the_first_rule_that_fits_decides() {
        let policy = Policy::parse(POLICY).unwrap();
        let judge = |user: &str, verb: &str, path: &str| {
            let method = if verb == "create" { http::Method::POST } else { http::Method::GET };
            let info = request_info(&method, path, &Query::default()).unwrap();
            policy.judge(Some(&User::new(user, &[])), verb, &info)
        };
        for (user, verb, path, want) in [
            ("system:kube-scheduler", "create", "/api/v1/namespaces/watched/pods", Level::None),
            ("a", "get", "/api/v1/namespaces/x/secrets/s", Level::Metadata),
            ("a", "get", "/api/v1/namespaces/x/pods/p/log", Level::Metadata),
            ("a", "get", "/api/v1/namespaces/x/pods/p/status", Level::Metadata),
            ("a", "get", "/api/v1/namespaces/watched/pods", Level::RequestResponse),
            ("a", "create", "/api/v1/namespaces/x/pods", Level::Request),
            ("a", "get", "/api/v1/namespaces/x/pods", Level::None),
            ("a", "get", "/healthz/ping", Level::None),
        ] {
            assert_eq!(judge(user, verb, path).level, want, "{verb} {path}");
        }
        let verdict = judge("a", "get", "/api/v1/namespaces/watched/pods");
        assert!(verdict.omits_managed_fields && verdict.omitted == [Stage::RequestReceived]);
        for (bad, want) in [
            ("kind: Policy\napiVersion: audit.k8s.io/v1", "rules"),
            ("kind: Policy\napiVersion: audit.k8s.io/v1\nrules: [{level: Everything}]", "Everything"),
            ("kind: Policy\napiVersion: audit.k8s.io/v1\nrules: [{level: None, user: [a]}]", "user"),
            (
                "kind: Policy\napiVersion: audit.k8s.io/v1\nrules: [{level: None, namespaces: [a], nonResourceURLs: [/b]}]",
                "not both",
            ),
        ] {
            assert!(Policy::parse(bad).unwrap_err().contains(want), "{bad}");
        }
    }
}
