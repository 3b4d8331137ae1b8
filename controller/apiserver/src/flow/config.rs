//! FlowSchemas and PriorityLevelConfigurations as they are stored, made ready for classifying.
//! flowcontrol.apiserver.k8s.io/v1.

use std::collections::BTreeMap;

use controller_store::model::KeyValue;
use serde::Deserialize;

use crate::followed::objects;

/// Everything that decides about seats.
#[derive(Debug, Default)]
pub(crate) struct Configuration {
    /// In the order in which they are tried: by precedence, then by name.
    pub(super) schemas: Vec<Schema>,
    pub(super) levels: BTreeMap<String, Level>,
}

#[derive(Debug, Clone)]
pub(super) struct Schema {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) precedence: i64,
    pub(super) level: String,
    pub(super) distinguisher: Option<Distinguisher>,
    pub(super) rules: Vec<Rules>,
}

/// What tells the flows of a schema apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum Distinguisher {
    ByUser,
    ByNamespace,
}

#[derive(Debug, Clone)]
pub(super) struct Level {
    pub(super) name: String,
    pub(super) uid: String,
    /// `None`: exempt.
    pub(super) limits: Option<Limits>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) shares: u32,
    /// How much of its seats others may use, in percent.
    pub(super) lendable_percent: u32,
    /// How much of others' seats it may use, in percent of its own; `None`: all there is.
    pub(super) borrowing_percent: Option<u32>,
    /// `None`: who finds no seat is refused.
    pub(super) queuing: Option<Queuing>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Queuing {
    pub(super) queues: usize,
    /// How many queues one flow is spread over.
    pub(super) hand_size: usize,
    pub(super) queue_length_limit: usize,
}

impl Default for Queuing {
    fn default() -> Self {
        Self { queues: 64, hand_size: 8, queue_length_limit: 50 }
    }
}

/// Whom and what a schema takes.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Rules {
    pub(super) subjects: Vec<Subject>,
    pub(super) resource_rules: Vec<ResourceRule>,
    pub(super) non_resource_rules: Vec<NonResourceRule>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Subject {
    pub(super) kind: String,
    pub(super) user: Named,
    pub(super) group: Named,
    pub(super) service_account: Named,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) namespace: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ResourceRule {
    pub(super) verbs: Vec<String>,
    pub(super) api_groups: Vec<String>,
    pub(super) resources: Vec<String>,
    pub(super) cluster_scope: bool,
    pub(super) namespaces: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct NonResourceRule {
    pub(super) verbs: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    pub(super) urls: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Object {
    kind: String,
    metadata: Metadata,
    spec: Spec,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata {
    name: String,
    uid: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    matching_precedence: i64,
    priority_level_configuration: Named,
    distinguisher_method: Option<Method>,
    rules: Vec<Rules>,
    limited: Option<Limited>,
}

#[derive(Deserialize)]
struct Method {
    #[serde(rename = "type")]
    kind: Distinguisher,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Limited {
    nominal_concurrency_shares: Option<u32>,
    lendable_percent: u32,
    borrowing_limit_percent: Option<u32>,
    limit_response: LimitResponse,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct LimitResponse {
    #[serde(rename = "type")]
    kind: String,
    queuing: Option<Queuing>,
}

/// API reference: the default of `nominalConcurrencyShares`.
const DEFAULT_SHARES: u32 = 30;
const DEFAULT_PRECEDENCE: i64 = 1000;

impl Configuration {
    pub(super) fn read(items: &[KeyValue]) -> Self {
        let mut configuration = Self::default();
        for Object { kind, metadata: Metadata { name, uid }, spec } in objects(items) {
            match kind.as_str() {
                "FlowSchema" => configuration.schemas.push(Schema {
                    name,
                    uid,
                    precedence: if spec.matching_precedence == 0 {
                        DEFAULT_PRECEDENCE
                    } else {
                        spec.matching_precedence
                    },
                    level: spec.priority_level_configuration.name,
                    distinguisher: spec.distinguisher_method.map(|method| method.kind),
                    rules: spec.rules,
                }),
                "PriorityLevelConfiguration" => {
                    let limits = spec.limited.map(|limited| Limits {
                        shares: limited.nominal_concurrency_shares.unwrap_or(DEFAULT_SHARES),
                        lendable_percent: limited.lendable_percent.min(100),
                        borrowing_percent: limited.borrowing_limit_percent,
                        queuing: (limited.limit_response.kind == "Queue")
                            .then(|| limited.limit_response.queuing.unwrap_or_default()),
                    });
                    configuration.levels.insert(name.clone(), Level { name, uid, limits });
                }
                _ => {}
            }
        }
        configuration.schemas.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
        configuration
    }

    /// The seats of a level out of `total`: its part of all shares, rounded up.
    pub(super) fn seats(&self, level: &str, total: usize) -> usize {
        let limits = |level: &Level| level.limits.as_ref().map_or(0, |limits| limits.shares as usize);
        let all: usize = self.levels.values().map(limits).sum();
        let own = self.levels.get(level).map_or(0, limits);
        if all == 0 { total } else { (total * own).div_ceil(all) }
    }
}
