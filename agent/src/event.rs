//! Events about pods, as `kubectl describe` shows them. Losing one is logged, never fatal.

use agent_pod::protocol::Notice;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, PostParams};

/// The component that events and field managers name.
pub(crate) const COMPONENT: &str = "gantry-agent";

/// Writes an event about a pod.
pub(crate) async fn emit(client: &kube::Client, node: &str, pod: &Pod, notice: &Notice) {
    let (name, namespace) = (pod.metadata.name.clone().unwrap_or_default(), pod.metadata.namespace.clone());
    let field_path = notice.container.as_ref().map(|container| {
        let init = pod.spec.as_ref().and_then(|spec| spec.init_containers.as_ref());
        let is_init = init.is_some_and(|list| list.iter().any(|own| own.name == *container));
        format!("spec.{}{{{container}}}", if is_init { "initContainers" } else { "containers" })
    });
    let now = k8s_openapi::jiff::Timestamp::now();
    let seconds = k8s_openapi::jiff::Timestamp::from_second(now.as_second()).unwrap_or(now);
    let event = Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{:x}", now.as_nanosecond())),
            namespace: namespace.clone(),
            ..Default::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: Some(name.clone()),
            namespace: namespace.clone(),
            uid: pod.metadata.uid.clone(),
            resource_version: pod.metadata.resource_version.clone(),
            field_path,
        },
        type_: Some(if notice.warning { "Warning" } else { "Normal" }.into()),
        reason: Some(notice.reason.into()),
        message: Some(notice.message.clone()),
        source: Some(EventSource { component: Some(COMPONENT.into()), host: Some(node.into()) }),
        reporting_component: Some(COMPONENT.into()),
        reporting_instance: Some(node.into()),
        first_timestamp: Some(Time(seconds)),
        last_timestamp: Some(Time(seconds)),
        count: Some(1),
        ..Default::default()
    };
    let events: Api<Event> = Api::namespaced(client.clone(), namespace.as_deref().unwrap_or("default"));
    if let Err(error) = events.create(&PostParams::default(), &event).await {
        tracing::warn!(%error, pod = name, reason = notice.reason, "the event could not be written");
    }
}
