//! Devices whose drivers have something to do before a pod that uses them is bound to its node: how far they are. Pure.
//! API reference, Device `bindingConditions` and `bindingFailureConditions`, AllocatedDeviceStatus.
use crate::volumes::Progress;
use k8s_openapi::api::resource::v1::{DeviceRequestAllocationResult, ResourceClaimStatus};

fn results(status: &ResourceClaimStatus) -> impl Iterator<Item = &DeviceRequestAllocationResult> {
    let devices = status.allocation.iter().filter_map(|allocation| allocation.devices.as_ref());
    devices.flat_map(|devices| devices.results.iter().flatten())
}

/// How far the drivers are with the devices of a claim.
pub(super) fn progress(status: &ResourceClaimStatus) -> Progress {
    let mut progress = Progress::Ready;
    for own in results(status) {
        let wanted = own.binding_conditions.as_deref().unwrap_or_default();
        if wanted.is_empty() {
            continue;
        }
        let told = status.devices.iter().flatten().find(|told| {
            (&told.driver, &told.pool, &told.device, &told.share_id)
                == (&own.driver, &own.pool, &own.device, &own.share_id)
        });
        let is_true = |name: &String| {
            let conditions = told.and_then(|told| told.conditions.as_deref()).unwrap_or_default();
            conditions.iter().any(|own| own.type_ == *name && own.status == "True")
        };
        if own.binding_failure_conditions.iter().flatten().any(is_true) {
            return Progress::GivenUp;
        }
        if !wanted.iter().all(is_true) {
            progress = Progress::UnderWay;
        }
    }
    progress
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, from_value, json};

    fn of(devices: Value) -> Progress {
        let result = |device: &str, more: Value| {
            let mut result = json!({"request": "r", "driver": "d", "pool": "p", "device": device});
            result.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            result
        };
        let waits =
            json!({"bindingConditions": ["attached", "warm"], "bindingFailureConditions": ["broken"], "shareID": "1"});
        let results = [result("plain", json!({})), result("late", waits)];
        progress(&from_value(json!({"allocation": {"devices": {"results": results}}, "devices": devices})).unwrap())
    }

    fn told(share: &str, conditions: &[(&str, &str)]) -> Value {
        let conditions: Vec<Value> = conditions
            .iter()
            .map(|(name, status)| {
                json!({"type": name, "status": status, "reason": "R", "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z"})
            })
            .collect();
        json!([{"driver": "d", "pool": "p", "device": "late", "shareID": share, "conditions": conditions}])
    }

    #[test]
    fn a_claim_is_ready_when_its_drivers_say_so() {
        for (devices, want) in [
            (json!([]), Progress::UnderWay),
            (told("1", &[("attached", "True")]), Progress::UnderWay),
            (told("1", &[("attached", "True"), ("warm", "False")]), Progress::UnderWay),
            (told("1", &[("attached", "True"), ("warm", "True")]), Progress::Ready),
            (told("2", &[("attached", "True"), ("warm", "True")]), Progress::UnderWay),
            (told("1", &[("attached", "True"), ("warm", "True"), ("broken", "False")]), Progress::Ready),
            (told("1", &[("broken", "True")]), Progress::GivenUp),
        ] {
            assert_eq!(of(devices.clone()), want, "{devices}");
        }
        assert_eq!(progress(&ResourceClaimStatus::default()), Progress::Ready);
    }
}
