//! What a Job's policies say of a failed pod, and of what has succeeded: pure.
use crate::pod::PodFacts;
use api::indexes::Indexes;
use k8s_openapi::api::batch::v1::{
    PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern, SuccessPolicy,
};

/// What a failed pod means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is one failure more.
    Count,
    /// It is as if it had not been.
    Ignore,
    /// Its index has failed for good.
    FailIndex,
    /// The whole Job has, for this reason.
    FailJob(String),
}

impl Verdict {
    /// Whether the failure is a number in the status.
    pub(super) fn counts(&self) -> bool {
        *self != Self::Ignore
    }
}

/// The first rule that fits decides; without one the failure counts.
pub(super) fn judge(policy: Option<&PodFailurePolicy>, pod: &PodFacts) -> Verdict {
    for (at, rule) in policy.map(|policy| policy.rules.as_slice()).unwrap_or_default().iter().enumerate() {
        let found = match (&rule.on_exit_codes, &rule.on_pod_conditions) {
            (Some(codes), _) => by_code(codes, pod).map(|(container, code)| {
                format!("Container {container} for pod {} failed with exit code {code}", shown(pod))
            }),
            (None, Some(patterns)) => {
                by_condition(patterns, pod).map(|condition| format!("Pod {} has condition {condition}", shown(pod)))
            }
            (None, None) => None,
        };
        let Some(what) = found else { continue };
        return match rule.action.as_str() {
            "Ignore" => Verdict::Ignore,
            "FailIndex" => Verdict::FailIndex,
            "FailJob" => Verdict::FailJob(format!("{what} matching FailJob rule at index {at}")),
            // Count, and what newer releases may add.
            _ => Verdict::Count,
        };
    }
    Verdict::Count
}

fn shown(pod: &PodFacts) -> &str {
    pod.key.as_deref().unwrap_or_default()
}

fn by_code<'a>(wanted: &PodFailurePolicyOnExitCodesRequirement, pod: &'a PodFacts) -> Option<(&'a str, i32)> {
    let codes = &pod.run.as_ref()?.exit_codes;
    let fits = |code: i32| match wanted.operator.as_str() {
        "In" => wanted.values.contains(&code),
        "NotIn" => !wanted.values.contains(&code),
        _ => false,
    };
    let found = codes.iter().find(|(container, code)| {
        wanted.container_name.as_deref().is_none_or(|name| *name == **container) && fits(*code)
    });
    found.map(|(container, code)| (&**container, *code))
}

fn by_condition<'a>(wanted: &[PodFailurePolicyOnPodConditionsPattern], pod: &'a PodFacts) -> Option<&'a str> {
    let conditions = &pod.run.as_ref()?.conditions;
    let found = conditions.iter().find(|(kind, status)| {
        wanted.iter().any(|one| one.type_ == **kind && one.status.as_deref().unwrap_or("True") == &**status)
    });
    found.map(|(kind, _)| &**kind)
}

/// Whether enough has succeeded by one of the rules, and which.
pub(super) fn met(policy: Option<&SuccessPolicy>, completions: u32, succeeded: &Indexes) -> Option<String> {
    for (at, rule) in policy?.rules.iter().enumerate() {
        let among = rule.succeeded_indexes.as_deref().map(|text| Indexes::lenient(text, completions));
        let (done, all) = match &among {
            Some(among) => (succeeded.count_common(among), among.count()),
            None => (succeeded.count(), u32::MAX),
        };
        let wanted = rule.succeeded_count.map_or(all, |count| u32::try_from(count).unwrap_or(0));
        if done >= wanted {
            return Some(format!("Matched rules at index {at}"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::facts::RunFacts;
    use super::*;
    use serde_json::json;

    fn pod(codes: &[(&str, i32)], conditions: &[&str]) -> PodFacts {
        let run = RunFacts {
            exit_codes: codes.iter().map(|(name, code)| ((*name).into(), *code)).collect(),
            conditions: conditions.iter().map(|kind| ((*kind).into(), "True".into())).collect(),
            ..RunFacts::default()
        };
        PodFacts { key: Some("n/p".into()), run: Some(Box::new(run)), ..PodFacts::default() }
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let policy: PodFailurePolicy = serde_json::from_value(json!({"rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
            {"action": "FailJob", "onExitCodes": {"containerName": "main", "operator": "In", "values": [3, 42]}},
            {"action": "FailIndex", "onExitCodes": {"operator": "NotIn", "values": [1, 3, 42]}},
        ]}))
        .unwrap();
        let judge = |codes: &[(&str, i32)], conditions: &[&str]| judge(Some(&policy), &pod(codes, conditions));
        assert_eq!(judge(&[("main", 42)], &["DisruptionTarget"]), Verdict::Ignore);
        let message = "Container main for pod n/p failed with exit code 42 matching FailJob rule at index 1";
        assert_eq!(judge(&[("side", 9), ("main", 42)], &[]), Verdict::FailJob(message.into()));
        assert_eq!(judge(&[("side", 42)], &[]), Verdict::Count);
        assert_eq!(judge(&[("side", 7)], &["Ready"]), Verdict::FailIndex);
        assert_eq!(judge(&[], &[]), Verdict::Count);
    }

    #[test]
    fn success_is_by_indexes_by_number_or_both() {
        let met = |rules: serde_json::Value, done: &[u32]| {
            let policy: SuccessPolicy = serde_json::from_value(json!({"rules": rules})).unwrap();
            met(Some(&policy), 10, &done.iter().copied().collect())
        };
        assert_eq!(met(json!([{"succeededIndexes": "1,3-4"}]), &[1, 3]), None);
        assert_eq!(met(json!([{"succeededIndexes": "1,3-4"}]), &[1, 3, 4]).unwrap(), "Matched rules at index 0");
        assert_eq!(met(json!([{"succeededIndexes": "1,3-4", "succeededCount": 2}]), &[0, 2, 3]), None);
        assert!(met(json!([{"succeededIndexes": "1,3-4", "succeededCount": 2}]), &[1, 3]).is_some());
        let either = json!([{"succeededIndexes": "9"}, {"succeededCount": 1}]);
        assert_eq!(met(either, &[2]).unwrap(), "Matched rules at index 1");
    }
}
