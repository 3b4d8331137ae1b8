//! What a node refuses that runs short of something. Kubernetes documentation, "Node-pressure Eviction", node conditions.
//! Pure.

use agent_pod::protocol::{EVICTED, Failure};
use api::pod::QosClass;
use api::toleration::tolerated;
use api::well_known::TAINT_MEMORY_PRESSURE;
use k8s_openapi::api::core::v1::{PodSpec, Taint};

use super::rejection;
use crate::pressure::{Kind, Pressures};

/// Short of memory, it refuses pods that ask for none and do not tolerate that; short of anything else, all but critical
/// ones, which are not asked here.
pub(super) fn refuse(pressures: &Pressures, spec: &PodSpec, qos: QosClass) -> Option<Failure> {
    let pressed: Vec<Kind> = pressures.0.iter().filter(|own| own.is_pressed).map(|own| own.kind).collect();
    let taint = Taint { key: TAINT_MEMORY_PRESSURE.into(), effect: "NoSchedule".into(), value: None, time_added: None };
    let tolerates = || tolerated(spec.tolerations.as_deref().unwrap_or_default(), &taint);
    match pressed[..] {
        [] => return None,
        [Kind::Memory] if qos != QosClass::BestEffort || tolerates() => return None,
        _ => {}
    }
    let conditions: Vec<&str> = pressed.into_iter().map(Kind::condition).collect();
    Some(rejection(EVICTED, &format!("The node had condition: [{}]. ", conditions.join(" "))))
}
