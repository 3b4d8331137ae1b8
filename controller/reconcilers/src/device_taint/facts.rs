//! What is known of slices and rules.
use crate::cache::{Key, key_of};
use k8s_openapi::api::resource::v1::{Device, DeviceTaint, DeviceTaintRule, DeviceTaintRuleSpec, ResourceSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

/// A device with those of its taints for which pods leave.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct DeviceFacts {
    pub(super) name: Box<str>,
    pub(super) taints: Vec<DeviceTaint>,
}

/// What a driver says of some devices of a pool.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SliceFacts {
    pub(super) driver: Box<str>,
    pub(super) pool: Box<str>,
    pub(super) generation: i64,
    pub(super) devices: Vec<DeviceFacts>,
}

impl SliceFacts {
    /// Takes the facts out.
    pub(crate) fn new(slice: ResourceSlice) -> Self {
        let spec = slice.spec;
        let device = |device: Device| {
            let taints = device.taints.into_iter().flatten();
            DeviceFacts {
                name: device.name.into(),
                taints: taints.filter(|taint| taint.effect == api::device_taint::NO_EXECUTE).collect(),
            }
        };
        Self {
            driver: spec.driver.into(),
            pool: spec.pool.name.into(),
            generation: spec.pool.generation,
            devices: spec.devices.into_iter().flatten().map(device).collect(),
        }
    }
}

/// A rule, and what it says of itself.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RuleFacts {
    pub(super) name: Key,
    pub(super) uid: Box<str>,
    pub(super) generation: Option<i64>,
    pub(super) spec: DeviceTaintRuleSpec,
    pub(super) condition: Option<Condition>,
}

/// The condition that a rule has.
pub(super) const CONDITION: &str = "EvictionInProgress";

impl RuleFacts {
    /// Takes the facts out.
    pub(crate) fn new(rule: DeviceTaintRule) -> Self {
        let conditions = rule.status.and_then(|status| status.conditions).unwrap_or_default();
        Self {
            name: key_of(&rule.metadata),
            uid: rule.metadata.uid.unwrap_or_default().into(),
            generation: rule.metadata.generation,
            spec: rule.spec,
            condition: conditions.into_iter().find(|own| own.type_ == CONDITION),
        }
    }
}
