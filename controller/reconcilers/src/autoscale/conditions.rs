//! The conditions of an autoscaler: pure.
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscalerCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// What a condition is about.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Condition {
    /// The scale of the target can be read and written, and nothing holds it back.
    AbleToScale,
    /// A number can be worked out.
    ScalingActive,
    /// What was worked out lies beyond a limit.
    ScalingLimited,
}

impl Condition {
    fn name(self) -> &'static str {
        match self {
            Self::AbleToScale => "AbleToScale",
            Self::ScalingActive => "ScalingActive",
            Self::ScalingLimited => "ScalingLimited",
        }
    }
}

/// What is said of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Told {
    pub(super) holds: bool,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// Sets one of the conditions; its time moves only where its state does.
pub(super) fn set(
    all: &mut Option<Vec<HorizontalPodAutoscalerCondition>>,
    condition: Condition,
    told: Told,
    now: Timestamp,
) {
    let all = all.get_or_insert_default();
    let index = all.iter().position(|one| one.type_ == condition.name()).unwrap_or_else(|| {
        let type_ = condition.name().to_owned();
        all.push(HorizontalPodAutoscalerCondition { type_, ..HorizontalPodAutoscalerCondition::default() });
        all.len() - 1
    });
    let one = &mut all[index];
    let status = if told.holds { "True" } else { "False" };
    if one.status != status {
        status.clone_into(&mut one.status);
        // The API tells whole seconds; what is compared with it later has to be the same.
        let seconds = Timestamp::from_second(now.as_second()).unwrap_or(now);
        one.last_transition_time = Some(Time(seconds));
    }
    one.reason = Some(told.reason.to_owned());
    one.message = Some(told.message);
}
