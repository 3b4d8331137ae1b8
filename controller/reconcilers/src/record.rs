//! Events for people: told by a task of their own, dropped rather than waited for. What becomes of each is decided in
//! `api::event`.
pub(crate) use api::event::Severity;
use api::event::{self, Correlator, Reporter, Write};
use k8s_openapi::api::core::v1::{Event, ObjectReference};
use kube::api::{Api, Patch, PatchParams, PostParams};
use tokio::sync::mpsc;

const CAPACITY: usize = 1024;

/// What a plan has to tell people.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Notice {
    pub(crate) severity: Severity,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// Where events go.
#[derive(Clone)]
pub(crate) struct Recorder(mpsc::Sender<event::Notice>);

impl Recorder {
    /// Starts the task that tells; it ends with the last clone.
    pub(crate) fn start(client: kube::Client, component: &'static str) -> Self {
        let (sender, mut receiver) = mpsc::channel(CAPACITY);
        tokio::spawn(async move {
            let mut correlator = Correlator::new(Reporter { component: component.to_owned(), host: None });
            while let Some(notice) = receiver.recv().await {
                let Some(write) = correlator.see(notice, jiff::Timestamp::now()) else { continue };
                if let Err(error) = tell(&client, &write).await {
                    tracing::debug!(component, %error, "an event is not told");
                }
            }
        });
        Self(sender)
    }

    /// Tells, soon.
    pub(crate) fn send(&self, about: ObjectReference, severity: Severity, reason: &'static str, message: String) {
        let notice = event::Notice { about, severity, reason: reason.to_owned(), message, action: String::new() };
        if let Err(error) = self.0.try_send(notice) {
            tracing::debug!(%error, "an event is not told");
        }
    }
}

async fn tell(client: &kube::Client, write: &Write) -> Result<(), kube::Error> {
    let events: Api<Event> = Api::namespaced(client.clone(), write.namespace());
    if let Some(patch) = &write.patch {
        match events.patch(write.name(), &PatchParams::default(), &Patch::Merge(patch)).await {
            // It has expired.
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            other => return other.map(drop),
        }
    }
    events.create(&PostParams::default(), &write.event).await.map(drop)
}
