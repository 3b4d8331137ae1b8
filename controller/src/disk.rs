//! Tells of trouble with the store's disk: an Event about the server's Node, written once writes are accepted again.

use api::event::{Correlator, Notice, Reporter, Severity};
use controller_store::health::Trouble;
use k8s_openapi::api::core::v1::{Event, ObjectReference};
use kube::api::{Api, Patch, PatchParams, PostParams};
use tokio::sync::watch;

/// Tells until the store is gone. The log has been told by the store at once; while it refuses writes nothing can be
/// stored about it.
pub(crate) async fn tell(client: kube::Client, node: String, mut trouble: watch::Receiver<Option<Trouble>>) {
    let mut correlator = Correlator::new(Reporter { component: "gantry-store".to_owned(), host: Some(node.clone()) });
    loop {
        let Ok(began) = trouble.wait_for(Option::is_some).await.map(|trouble| trouble.clone()) else { return };
        let since = jiff::Timestamp::now();
        if trouble.wait_for(Option::is_none).await.is_err() {
            return;
        }
        let now = jiff::Timestamp::now();
        let reason = match began {
            Some(Trouble::Stalled) => "StoreDiskStalled",
            Some(Trouble::Refused { .. }) | None => "StoreDiskRefusedWrites",
        };
        let what = began.map(|trouble| trouble.to_string()).unwrap_or_default();
        let seconds = now.duration_since(since).as_secs();
        let message = format!("{what}; it took writes again {seconds} s later. Reads and watches went on.");
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(node.clone()),
            // As the kubelet has it: `kubectl describe node` finds events by it.
            uid: Some(node.clone()),
            ..ObjectReference::default()
        };
        let notice =
            Notice { about, severity: Severity::Warning, reason: reason.to_owned(), message, action: String::new() };
        let Some(write) = correlator.see(notice, now) else { continue };
        let events: Api<Event> = Api::namespaced(client.clone(), write.namespace());
        let patched = match &write.patch {
            Some(patch) => events.patch(write.name(), &PatchParams::default(), &Patch::Merge(patch)).await.is_ok(),
            None => false,
        };
        if !patched && let Err(error) = events.create(&PostParams::default(), &write.event).await {
            tracing::warn!(error = api::causes::chain(&error), "telling of the store's disk");
        }
    }
}
