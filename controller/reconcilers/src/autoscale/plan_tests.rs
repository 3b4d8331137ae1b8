//! Decisions as a whole: conditions, events and statuses, in Kubernetes' words.
use super::pace::Memory;
use super::plan::{self, Observed, Plan, Rescale, Scale};
use super::replicas::{Sample, Samples};
use super::source::Measured;
use crate::cache::Key;
use crate::pod::PodFacts;
use api::selector::Selector;
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use serde_json::{Value, json};
use std::sync::Arc;

const NOW: i64 = 100_000;

fn now() -> Timestamp {
    Timestamp::from_second(NOW).unwrap()
}

fn autoscaler(min: i32, max: i32, metrics: Value) -> HorizontalPodAutoscaler {
    let object = json!({"metadata": {"name": "h", "namespace": "n", "uid": "u", "generation": 3},
        "spec": {"minReplicas": min, "maxReplicas": max, "metrics": metrics,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}});
    serde_json::from_value(object).unwrap()
}

fn cpu() -> Value {
    json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}})
}

fn external() -> Value {
    json!({"type": "External", "external": {"metric": {"name": "queue"}, "target": {"type": "AverageValue", "averageValue": "10"}}})
}

fn pods(count: usize) -> Vec<Arc<PodFacts>> {
    let pod = |index: usize| {
        let pod = json!({"metadata": {"name": format!("p{index}"), "namespace": "n"},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]},
            "status": {"phase": "Running", "startTime": "1970-01-01T00:00:00Z",
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "1970-01-01T00:00:01Z"}]}});
        Arc::new(PodFacts::new(serde_json::from_value(pod).unwrap()))
    };
    (0..count).map(pod).collect()
}

fn used(count: usize, milli: i64) -> Result<Measured, String> {
    let sample = Sample { value: milli, at: NOW, window: 15 };
    Ok(Measured::Pods((0..count).map(|index| (format!("p{index}").into(), sample)).collect::<Samples>()))
}

fn scale(wanted: i32) -> Scale {
    Scale { wanted, present: wanted, selector: Ok(Some(Selector::parse("app=d").unwrap())) }
}

fn decide(hpa: &HorizontalPodAutoscaler, scale: &Scale, measured: &[Result<Measured, String>]) -> Plan {
    let pods = pods(usize::try_from(scale.wanted).unwrap());
    let observed = Observed { scale: Ok(scale), pods: &pods, rivals: &[], measured, now: now() };
    plan::plan(hpa, &observed, Memory::default())
}

/// Type, state and reason of each condition.
fn conditions(plan: &Plan) -> Vec<String> {
    let told = |one: &k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscalerCondition| {
        format!("{} {} {}", one.type_, one.status, one.reason.as_deref().unwrap_or_default())
    };
    plan.status.conditions.iter().flatten().map(told).collect()
}

fn events(plan: &Plan) -> Vec<String> {
    plan.notices.iter().map(|notice| format!("{}: {}", notice.reason, notice.message)).collect()
}

#[test]
fn load_adds_replicas_and_says_why() {
    let hpa = autoscaler(1, 10, json!([cpu()]));
    let mut plan = decide(&hpa, &scale(2), &[used(2, 900)]);
    assert_eq!(
        plan.rescale,
        Some(Rescale {
            from: 2,
            to: 4,
            reason: "cpu resource utilization (percentage of request) above target".into()
        })
    );
    assert_eq!(
        conditions(&plan),
        [
            "AbleToScale True ReadyForNewScale",
            "ScalingActive True ValidMetricFound",
            "ScalingLimited False DesiredWithinRange"
        ]
    );
    plan::rescaled(&mut plan, Ok(()), now());
    assert_eq!(
        events(&plan),
        ["SuccessfulRescale: New size: 4; reason: cpu resource utilization (percentage of request) above target"]
    );
    assert_eq!(
        json!(plan.status)["currentMetrics"],
        json!([{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 90, "averageValue": "900m"}}}])
    );
    assert_eq!((plan.status.current_replicas, plan.status.desired_replicas), (Some(2), 4));
    assert_eq!(plan.status.observed_generation, Some(3));
    assert_eq!(plan.status.last_scale_time.as_ref().map(|time| time.0.as_second()), Some(NOW));
    assert_eq!(conditions(&plan)[0], "AbleToScale True SucceededRescale");
}

#[test]
fn a_scale_that_cannot_be_written_is_told() {
    let hpa = autoscaler(1, 10, json!([cpu()]));
    let mut plan = decide(&hpa, &scale(2), &[used(2, 900)]);
    let memory = plan.memory.clone();
    plan::rescaled(&mut plan, Err("no".into()), now());
    assert_eq!(conditions(&plan)[0], "AbleToScale False FailedUpdateScale");
    assert!(events(&plan)[0].starts_with("FailedRescale: New size: 4; reason: cpu resource"));
    assert_eq!((plan.status.last_scale_time, plan.memory), (None, memory));
}

#[test]
fn a_target_that_is_not_there() {
    let hpa = autoscaler(1, 10, json!([cpu()]));
    let observed =
        Observed { scale: Err("deployments.apps \"d\" not found"), pods: &[], rivals: &[], measured: &[], now: now() };
    let plan = plan::plan(&hpa, &observed, Memory::default());
    assert_eq!(conditions(&plan), ["AbleToScale False FailedGetScale"]);
    assert_eq!(events(&plan), ["FailedGetScale: deployments.apps \"d\" not found"]);
    assert_eq!(
        plan.status.conditions.unwrap()[0].message.as_deref(),
        Some("the HPA controller was unable to get the target's current scale: deployments.apps \"d\" not found")
    );
}

#[test]
fn nothing_is_left_alone_and_bounds_come_first() {
    let hpa = autoscaler(2, 5, json!([cpu()]));
    let off = decide(&hpa, &scale(0), &[]);
    assert_eq!(conditions(&off), ["AbleToScale True SucceededGetScale", "ScalingActive False ScalingDisabled"]);
    assert_eq!((off.rescale, off.status.desired_replicas), (None, 0));
    let above = decide(&hpa, &scale(9), &[]).rescale.unwrap();
    assert_eq!((above.to, above.reason.as_str()), (5, "Current number of replicas above Spec.MaxReplicas"));
    let below = decide(&hpa, &scale(1), &[]).rescale.unwrap();
    assert_eq!((below.to, below.reason.as_str()), (2, "Current number of replicas below Spec.MinReplicas"));
    assert!(!plan::needs_metrics(&hpa.spec, &scale(9), &[]));
    assert!(plan::needs_metrics(&hpa.spec, &scale(5), &[]));
}

#[test]
fn the_most_of_all_metrics_counts() {
    let hpa = autoscaler(1, 20, json!([cpu(), external()]));
    // 90 % of 50 % for two are 4; 55 by 10 are 6, of which twice as many let 4 through.
    let plan = decide(&hpa, &scale(2), &[used(2, 900), Ok(Measured::Value(55_000))]);
    let rescale = plan.rescale.unwrap();
    assert_eq!((rescale.to, rescale.reason.as_str()), (4, "external metric queue above target"));
    assert_eq!(plan.status.current_metrics.unwrap().len(), 2);
}

#[test]
fn a_metric_that_fails_only_keeps_from_shrinking() {
    let hpa = autoscaler(1, 20, json!([cpu(), external()]));
    let none = || Err("no".to_owned());
    let up = decide(&hpa, &scale(2), &[used(2, 900), none()]);
    assert_eq!(up.rescale.as_ref().map(|rescale| rescale.to), Some(4));
    assert_eq!(conditions(&up)[1], "ScalingActive True ValidMetricFound");
    assert_eq!(events(&up), ["FailedGetExternalMetric: unable to get external metric n/queue: no"]);
    let down = decide(&hpa, &scale(2), &[used(2, 10), none()]);
    assert_eq!(down.rescale, None);
    assert_eq!(
        conditions(&down),
        ["AbleToScale True SucceededGetScale", "ScalingActive False FailedGetExternalMetric"]
    );
    assert_eq!(
        events(&down)[1],
        "FailedComputeMetricsReplicas: invalid metrics (1 invalid out of 2), first error is: failed to get queue external \
        metric value: unable to get external metric n/queue: no"
    );
    let blind = decide(&hpa, &scale(2), &[none(), none()]);
    assert_eq!(conditions(&blind)[1], "ScalingActive False FailedGetResourceMetric");
    assert_eq!(
        events(&blind)[0],
        "FailedGetResourceMetric: failed to get cpu utilization: unable to get metrics for resource cpu: no"
    );
}

#[test]
fn pods_of_several_autoscalers_belong_to_none() {
    let hpa = autoscaler(1, 20, json!([cpu()]));
    let rivals: [Key; 2] = ["n/h".into(), "n/i".into()];
    let scale = scale(2);
    let observed = Observed { scale: Ok(&scale), pods: &pods(2), rivals: &rivals, measured: &[], now: now() };
    let plan = plan::plan(&hpa, &observed, Memory::default());
    assert_eq!(conditions(&plan), ["AbleToScale True SucceededGetScale", "ScalingActive False AmbiguousSelector"]);
    assert_eq!(
        plan.status.conditions.as_ref().unwrap()[1].message.as_deref(),
        Some("pods by selector app=d are controlled by multiple HPAs: [n/h n/i]")
    );
    assert_eq!(plan.notices[0].reason, "AmbiguousSelector");
    assert!(!plan::needs_metrics(&hpa.spec, &scale, &rivals));
}

#[test]
fn a_target_without_selector() {
    let hpa = autoscaler(1, 20, json!([cpu()]));
    let plan = decide(&hpa, &Scale { selector: Ok(None), ..scale(1) }, &[]);
    assert_eq!(conditions(&plan)[1], "ScalingActive False InvalidSelector");
    assert_eq!(plan.notices[0].reason, "SelectorRequired");
    let plan = decide(&hpa, &Scale { selector: Err("bad".into()), ..scale(1) }, &[]);
    assert_eq!(plan.notices[0].reason, "InvalidSelector");
}

#[test]
fn to_nothing_and_back() {
    let hpa = autoscaler(0, 20, json!([external()]));
    let down = decide(&hpa, &scale(1), &[Ok(Measured::Value(0))]).rescale.unwrap();
    assert_eq!((down.to, down.reason.as_str()), (0, "All metrics below target"));
    let up = decide(&hpa, &scale(0), &[Ok(Measured::Value(25_000))]).rescale.unwrap();
    assert_eq!(up.to, 3);
    // Who has set it to nothing where that is not among the bounds means it.
    let hpa = autoscaler(1, 20, json!([external()]));
    assert_eq!(decide(&hpa, &scale(0), &[Ok(Measured::Value(25_000))]).rescale, None);
}

#[test]
fn times_of_conditions_move_with_their_states_alone() {
    let mut hpa = autoscaler(1, 10, json!([cpu()]));
    let first = decide(&hpa, &scale(2), &[used(2, 500)]);
    hpa.status = Some(first.status.clone());
    let scale = scale(2);
    let later = Timestamp::from_second(NOW + 15).unwrap();
    let measured = [used(2, 500)];
    let observed = Observed { scale: Ok(&scale), pods: &pods(2), rivals: &[], measured: &measured, now: later };
    assert_eq!(
        plan::plan(&hpa, &observed, first.memory).status,
        first.status,
        "nothing is written where nothing changes"
    );
}
