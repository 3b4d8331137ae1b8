//! Watches: what is there, then what happens, with bookmarks; 410 where history is gone.
//! Kubernetes API concepts, "Efficient detection of changes" and "Streaming lists".

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{BufMut as _, Bytes, BytesMut};
use controller_object::protobuf;
use controller_object::status::Status;
use controller_store::model::{Event, KeyValue, RangeRequest, Revision};
use controller_store::watch::Watcher;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::time::{Instant, Interval};

use super::Context;
use super::filter::Filter;
use super::list::revision_status;
use super::list_options::ListOptions;
use crate::custom::convert;
use crate::registry;
use crate::reply::{self, Encoding, Shape};

/// How many bytes of what is there at first are encoded at a time.
const PIECE: usize = 64 << 10;
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// A watch without `timeoutSeconds` ends after 30 to 60 minutes, so that watches do not end together.
const DEFAULT_MINUTES: u64 = 30;

pub(super) fn watch(context: Context) -> Result<Response<Body>, Status> {
    let filter = Filter::of(&context)?;
    let registry = &context.state.registry;
    let prefix = match (filter.only_name(), context.namespace().is_some() || !context.resource.is_namespaced()) {
        // Others whose names begin so are woken and shown with it: the filter tells them apart.
        (Some(name), true) => registry.key(&context.resource, context.namespace(), name),
        _ => registry.prefix(&context.resource, context.namespace()),
    };
    let media_type = match context.negotiated.encoding {
        Encoding::Json => "application/json;stream=watch",
        Encoding::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        Encoding::Yaml => return Err(Status::not_acceptable(&["application/json", reply::PROTOBUF])),
    };
    let options = ListOptions::watch(&context.query)?;
    let given = options.revision.filter(|revision| revision.0 > 0);
    if let Some(revision) = given.filter(|revision| *revision > registry.store.revision()) {
        return Err(Status::resource_version_too_large(revision.0, registry.store.revision().0));
    }
    let initial = match (options.send_initial_events, given) {
        // Only who takes bookmarks is told where the present ends.
        (Some(true), _) if options.bookmarks => Initial::EventsAndBookmark,
        (Some(true), _) | (None, None) => Initial::Events,
        (Some(false), _) | (None, Some(_)) => Initial::None,
    };
    let mut present = Present::default();
    let position = match initial {
        Initial::None => given.unwrap_or_else(|| registry.store.revision()),
        Initial::Events | Initial::EventsAndBookmark => {
            let request = RangeRequest { prefix: prefix.clone(), ..RangeRequest::default() };
            let page = registry.store.range(&request).map_err(revision_status)?;
            convert::ready(&context.resource, page.items.iter())?;
            present.end = (initial == Initial::EventsAndBookmark).then_some(page.revision);
            present.objects = page.items.into_iter();
            page.revision
        }
    };
    let watcher = match filter.topic(&context.resource) {
        Some(topic) => registry.store.watch_topic(prefix, topic, position),
        None => registry.store.watch(prefix, position),
    };
    // Too old a start is told inside the stream, as clients expect it.
    let (watcher, failed) = match watcher {
        Ok(watcher) => (Some(watcher), None),
        Err(error) => (None, Some(failed_line(context.negotiated.encoding, &revision_status(error)))),
    };
    let pending = failed.into_iter().collect();
    let lifetime = options.timeout_seconds.map_or_else(
        || Duration::from_secs(DEFAULT_MINUTES * 60 + rand::random_range(0..DEFAULT_MINUTES * 60)),
        Duration::from_secs,
    );
    let bookmarks =
        options.bookmarks.then(|| tokio::time::interval_at(Instant::now() + BOOKMARK_EVERY, BOOKMARK_EVERY));
    let redefined = context.resource.custom.is_some().then(|| {
        let mut redefined = context.state.registry.redefined.subscribe();
        // What was defined since the request began counts as well.
        redefined.mark_changed();
        redefined
    });
    let figures = context.state.metrics.watch_started(&context.resource);
    let end = Instant::now() + lifetime;
    let stream = Stream { context, filter, rows: 0, present, pending, watcher, bookmarks, redefined, end, figures };
    let body = Body::from_stream(futures::stream::unfold(stream, Stream::next));
    Ok(reply::with_type(StatusCode::OK, media_type, body))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Initial {
    None,
    Events,
    EventsAndBookmark,
}

/// What is there when a watch begins. It is encoded as the client reads, for a client may never do so; until then
/// the values are the store's own.
#[derive(Default)]
struct Present {
    objects: std::vec::IntoIter<KeyValue>,
    /// The revision to tell after them.
    end: Option<Revision>,
}

impl Present {
    /// What the next piece is made of.
    fn next(&self) -> Vec<KeyValue> {
        let mut size = 0;
        let next = self.objects.as_slice().iter().take_while(|kv| {
            let is_open = size < PIECE;
            size += kv.value.len();
            is_open
        });
        next.cloned().collect()
    }

    /// The next lines, about [`PIECE`] of them; none at the end.
    fn piece(&mut self, encoder: &mut Encoder<'_>, pending: &mut VecDeque<Bytes>) {
        let mut size = 0;
        while size < PIECE
            && let Some(kv) = self.objects.next()
        {
            let line = encoder.initial(&kv).unwrap_or_else(|status| Some(encoder.failed(&status)));
            size += line.as_ref().map_or(0, Bytes::len);
            pending.extend(line);
        }
        if size < PIECE
            && let Some(revision) = self.end.take()
        {
            let end = encoder.bookmark(revision, true);
            pending.push_back(end.unwrap_or_else(|status| encoder.failed(&status)));
        }
    }
}

struct Stream {
    context: Context,
    filter: Filter,
    rows: usize,
    present: Present,
    pending: VecDeque<Bytes>,
    /// `None` once the stream has told its end.
    watcher: Option<Watcher>,
    bookmarks: Option<Interval>,
    /// Of custom resources: says when they are defined anew.
    redefined: Option<tokio::sync::watch::Receiver<()>>,
    end: Instant,
    figures: crate::metrics::WatchFigures,
}

enum Wake {
    Events(Vec<Arc<Event>>),
    Bookmark,
    Failed(Status),
    /// The resource is another one now, or none: clients watch again.
    Redefined,
    End,
}

impl Stream {
    /// Has a webhook convert what events carry. What cannot be converted is told where it is encoded.
    async fn convert(&self, objects: Vec<KeyValue>) {
        let resource = &self.context.resource;
        let client = &self.context.state.registry.webhooks;
        let ready = convert::reading(client, resource, || convert::ready(resource, objects.iter()));
        if let Err(status) = ready.await {
            tracing::warn!(kind = resource.kind, error = status.message, "a watch cannot show objects");
        }
    }

    /// The next lines. Cancel-safe: the body is polled to the end or dropped.
    async fn next(mut self) -> Option<(Result<Bytes, std::io::Error>, Self)> {
        if convert::has_webhook(&self.context.resource) {
            self.convert(self.present.next()).await;
        }
        let mut encoder = Encoder { context: self.context, filter: self.filter, rows: &mut self.rows };
        self.present.piece(&mut encoder, &mut self.pending);
        Encoder { context: self.context, filter: self.filter, .. } = encoder;
        while self.pending.is_empty() {
            let watcher = self.watcher.as_mut()?;
            let mut ends = false;
            let wake = tokio::select! {
                batch = watcher.next_batch() => match batch {
                    Ok(events) => Wake::Events(events),
                    Err(error) => Wake::Failed(revision_status(error)),
                },
                () = tick(&mut self.bookmarks) => Wake::Bookmark,
                () = redefined(&mut self.redefined, &self.context) => Wake::Redefined,
                () = tokio::time::sleep_until(self.end) => Wake::End,
                () = self.context.state.shutdown.cancelled() => Wake::End,
            };
            let wake = match wake {
                // What happened before is told yet.
                Wake::Redefined => {
                    let last =
                        watcher.poll_batch().map_or_else(|error| Wake::Failed(revision_status(error)), Wake::Events);
                    ends = true;
                    last
                }
                wake => wake,
            };
            let position = watcher.position();
            if let Wake::Events(events) = &wake
                && convert::has_webhook(&self.context.resource)
            {
                let objects = events.iter().flat_map(|event| event.previous.iter().chain(&event.current));
                self.convert(objects.cloned().collect()).await;
            }
            let mut encoder = Encoder { context: self.context, filter: self.filter, rows: &mut self.rows };
            match wake {
                Wake::Events(events) => {
                    for event in events {
                        match encoder.event(&event) {
                            Ok(line) => self.pending.extend(line),
                            Err(status) => self.pending.push_back(encoder.failed(&status)),
                        }
                    }
                }
                // What cannot be encoded now is tried again with the next.
                Wake::Bookmark => self.pending.extend(encoder.bookmark(position, false)),
                Wake::Failed(status) => {
                    self.pending.push_back(encoder.failed(&status));
                    self.watcher = None;
                }
                Wake::Redefined | Wake::End => return None,
            }
            Encoder { context: self.context, filter: self.filter, .. } = encoder;
            if ends {
                self.watcher = None;
            }
        }
        self.figures.events.inc_by(self.pending.len() as u64);
        let mut lines = BytesMut::new();
        for line in self.pending.drain(..) {
            lines.put_slice(&line);
        }
        Some((Ok(lines.freeze()), self))
    }
}

/// Ends when the resource of a watch is not what it was.
async fn redefined(changes: &mut Option<tokio::sync::watch::Receiver<()>>, context: &Context) {
    let Some(changes) = changes else { return std::future::pending().await };
    while changes.changed().await.is_ok() {
        if !context.state.registry.is_current(&context.resource) {
            return;
        }
    }
}

async fn tick(interval: &mut Option<Interval>) {
    match interval {
        Some(interval) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}

/// An event of a stream: a line of JSON, or a frame of protobuf.
fn line(encoding: Encoding, kind: &str, object: &Value) -> Result<Bytes, Status> {
    match encoding {
        Encoding::Json | Encoding::Yaml => Ok(format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n").into()),
        Encoding::Protobuf => Ok(protobuf::watch_frame(kind, &protobuf::encode(object)?).into()),
    }
}

/// Failures are told inside the stream once it has begun. A Status always has a form.
fn failed_line(encoding: Encoding, status: &Status) -> Bytes {
    line(encoding, "ERROR", &reply::failure_object(status)).unwrap_or_default()
}

/// Turns stored values into lines of the stream.
struct Encoder<'a> {
    context: Context,
    filter: Filter,
    /// How many table rows were sent: only the first carries the column definitions.
    rows: &'a mut usize,
}

impl Encoder<'_> {
    fn passes(&self, kv: &KeyValue) -> Result<bool, Status> {
        if self.filter.takes_all() {
            return Ok(true);
        }
        let object = self.context.state.shared.sketch(&self.context.resource, kv)?;
        Ok(self.filter.matches(&self.context.resource, &object))
    }

    fn initial(&mut self, kv: &KeyValue) -> Result<Option<Bytes>, Status> {
        match self.passes(kv)? {
            true => self.line("ADDED", kv, kv.mod_revision).map(Some),
            false => Ok(None),
        }
    }

    /// What a watcher with a selector sees of a change: entering is ADDED, leaving is DELETED.
    fn event(&mut self, event: &Event) -> Result<Option<Bytes>, Status> {
        let pass = |kv: &Option<KeyValue>| kv.as_ref().map_or(Ok(false), |kv| self.passes(kv));
        let (before, now) = (pass(&event.previous)?, pass(&event.current)?);
        match (before, now, &event.previous, &event.current) {
            (false, true, _, Some(kv)) => self.line("ADDED", kv, event.revision).map(Some),
            (true, true, _, Some(kv)) => self.line("MODIFIED", kv, event.revision).map(Some),
            (true, false, Some(_), Some(kv)) | (true, false, Some(kv), None) => {
                self.line("DELETED", kv, event.revision).map(Some)
            }
            _ => Ok(None),
        }
    }

    fn line(&mut self, kind: &str, kv: &KeyValue, revision: Revision) -> Result<Bytes, Status> {
        let negotiated = self.context.negotiated;
        if negotiated.shape == Shape::Object && negotiated.encoding == Encoding::Json {
            // The common case needs no parsing.
            let mut out = BytesMut::with_capacity(kv.value.len() + 80);
            out.put_slice(format!("{{\"type\":\"{kind}\",\"object\":").as_bytes());
            registry::write_json(&self.context.resource, kv, revision, self.context.omits_managed, &mut out)?;
            out.put_slice(b"}\n");
            return Ok(out.freeze());
        }
        if negotiated.shape == Shape::Metadata && negotiated.encoding == Encoding::Json {
            let mut out = BytesMut::with_capacity(1024);
            out.put_slice(format!("{{\"type\":\"{kind}\",\"object\":").as_bytes());
            registry::write_metadata_json(kv, revision, self.context.omits_managed, &mut out)?;
            out.put_slice(b"}\n");
            return Ok(out.freeze());
        }
        let (resource, shared) = (&self.context.resource, &self.context.state.shared);
        if negotiated.shape == Shape::Object && negotiated.encoding == Encoding::Protobuf {
            return Ok(protobuf::watch_frame(kind, &shared.protobuf(resource, kv, revision)?).into());
        }
        let shown = match negotiated.shape {
            Shape::Metadata => registry::metadata(kv, revision)?,
            Shape::Object | Shape::Table => self.context.show(&*shared.object(resource, kv, revision)?).into_owned(),
        };
        self.shown(kind, shown)
    }

    fn shown(&mut self, kind: &str, mut shown: Value) -> Result<Bytes, Status> {
        if self.context.negotiated.shape == Shape::Table {
            if *self.rows > 0 {
                shown["columnDefinitions"] = Value::Null;
            }
            *self.rows += 1;
        }
        line(self.context.negotiated.encoding, kind, &shown)
    }

    fn failed(&self, status: &Status) -> Bytes {
        failed_line(self.context.negotiated.encoding, status)
    }

    fn bookmark(&mut self, revision: Revision, initial_events_end: bool) -> Result<Bytes, Status> {
        let resource = &self.context.resource;
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_events_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = json!({"kind": resource.kind, "apiVersion": resource.api_version(), "metadata": metadata});
        let shown = match self.context.negotiated.shape {
            Shape::Object => object,
            Shape::Metadata => super::partial_metadata(&object),
            // One row around it, as every event of a table's stream has one.
            Shape::Table => self.context.show(&object).into_owned(),
        };
        self.shown("BOOKMARK", shown)
    }
}
