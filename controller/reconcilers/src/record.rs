//! Events for people: told by a task of their own, counted instead of repeated, dropped rather than waited for.
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};
use std::collections::HashMap;
use tokio::sync::mpsc;

const CAPACITY: usize = 1024;
/// More different events than this are not remembered for counting.
const REMEMBERED: usize = 1024;

/// Whether an event is good news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Severity {
    /// As it should be.
    Normal,
    /// Look at this.
    Warning,
}

struct Notice {
    about: ObjectReference,
    severity: Severity,
    reason: &'static str,
    message: String,
}

/// Where events go.
#[derive(Clone)]
pub(crate) struct Recorder(mpsc::Sender<Notice>);

impl Recorder {
    /// Starts the task that tells; it ends with the last clone.
    pub(crate) fn start(client: kube::Client, component: &'static str) -> Self {
        let (sender, mut receiver) = mpsc::channel::<Notice>(CAPACITY);
        tokio::spawn(async move {
            let mut told: HashMap<(String, &'static str, String), (String, i32)> = HashMap::new();
            while let Some(notice) = receiver.recv().await {
                if told.len() >= REMEMBERED {
                    told.clear();
                }
                let uid = notice.about.uid.clone().unwrap_or_default();
                let entry = told.entry((uid, notice.reason, notice.message.clone())).or_default();
                if let Err(error) = tell(&client, component, notice, entry).await {
                    tracing::debug!(component, %error, "an event is not told");
                }
            }
        });
        Self(sender)
    }

    /// Tells, soon.
    pub(crate) fn send(&self, about: ObjectReference, severity: Severity, reason: &'static str, message: String) {
        if let Err(error) = self.0.try_send(Notice { about, severity, reason, message }) {
            tracing::debug!(%error, "an event is not told");
        }
    }
}

async fn tell(
    client: &kube::Client,
    component: &'static str,
    notice: Notice,
    (name, count): &mut (String, i32),
) -> Result<(), kube::Error> {
    let now = jiff::Timestamp::now();
    let namespace = notice.about.namespace.clone().filter(|n| !n.is_empty()).unwrap_or_else(|| "default".to_owned());
    let events: Api<Event> = Api::namespaced(client.clone(), &namespace);
    *count = count.saturating_add(1);
    if *count > 1 {
        let seen = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let patch = serde_json::json!({"count": *count, "lastTimestamp": seen});
        if events.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.is_ok() {
            return Ok(());
        }
        // It has expired; a new one starts to count.
        *count = 1;
    }
    *name = format!("{}.{:x}", notice.about.name.as_deref().unwrap_or(component), now.as_nanosecond());
    let event = Event {
        metadata: ObjectMeta { name: Some(name.clone()), namespace: Some(namespace), ..ObjectMeta::default() },
        involved_object: notice.about,
        type_: Some(if notice.severity == Severity::Normal { "Normal" } else { "Warning" }.to_owned()),
        reason: Some(notice.reason.to_owned()),
        message: Some(notice.message),
        source: Some(EventSource { component: Some(component.to_owned()), host: None }),
        reporting_component: Some(component.to_owned()),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        ..Event::default()
    };
    events.create(&PostParams::default(), &event).await.map(drop)
}
