//! Waiting for what others bring about: by a watch where there is one, else by asking again.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Api, Events, SOON};

/// Asks again until there is an answer; for what has no watch. A look that began in time counts, however long it took.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + SOON;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < end, "{what}: not within {SOON:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

impl Api {
    /// Watches one object until it fits, also across its end and another beginning.
    pub async fn until(&self, collection: &str, name: &str, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let joint = if collection.contains('?') { '&' } else { '?' };
        let mut events = self.watch(&format!("{collection}{joint}fieldSelector=metadata.name={name}")).await;
        loop {
            let (kind, object) = events.next(what).await;
            if kind != "DELETED" && fits(&object) {
                return object;
            }
        }
    }

    /// Watches one object, which may come later: who watches it from before it is made misses none of its states.
    pub async fn watch_one(&self, path: &str) -> Events {
        let (collection, name) = path.rsplit_once('/').expect("an object's path");
        self.watch(&format!("{collection}?fieldSelector=metadata.name={name}")).await
    }

    /// Watches one object until it fits, where it must not end and may take so long until something changes.
    pub async fn until_within(&self, time: Duration, path: &str, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        self.watch_one(path).await.until_within(time, &format!("{what}: {path}"), fits).await
    }

    /// Lists a collection, again after every change in it, until what it holds fits.
    pub async fn until_all(&self, path: &str, what: &str, fits: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let joint = if path.contains('?') { '&' } else { '?' };
        loop {
            let list = self.get(path).await.ok();
            let items = list["items"].as_array().cloned().unwrap_or_default();
            if fits(&items) {
                return items;
            }
            let from = list["metadata"]["resourceVersion"].as_str().unwrap_or_default();
            let mut events = self.watch(&format!("{path}{joint}resourceVersion={from}")).await;
            events.next(&format!("{what}, with {} at {path}", items.len())).await;
        }
    }

    /// Watches one object until it is gone.
    pub async fn until_gone(&self, path: &str) {
        let (collection, name) = path.rsplit_once('/').expect("an object's path");
        let list = self.get(&format!("{collection}?fieldSelector=metadata.name={name}")).await.ok();
        if list["items"].as_array().is_some_and(Vec::is_empty) {
            return;
        }
        let from = list["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        let selector = format!("fieldSelector=metadata.name={name}&resourceVersion={from}");
        let mut events = self.watch(&format!("{collection}?{selector}")).await;
        while events.next("the object's end").await.0 != "DELETED" {}
    }

    /// The first event about an object with this reason whose message holds the text.
    pub async fn event(&self, about: &str, reason: &str, text: &str) -> Value {
        self.event_counted(about, reason, text, 1).await
    }

    /// The same once it has happened so often.
    pub async fn event_counted(&self, about: &str, reason: &str, text: &str, count: u64) -> Value {
        let selector = format!("fieldSelector=involvedObject.name={about},reason={reason}");
        let path = format!("{}?{selector}", self.path("v1", "events"));
        let is_wanted = |event: &&Value| {
            event["message"].as_str().is_some_and(|message| message.contains(text))
                && event["count"].as_u64().unwrap_or(1) >= count
        };
        let what = format!("{count} times {reason} {text:?} about {about}");
        let events = self.until_all(&path, &what, |events| events.iter().any(|event| is_wanted(&event))).await;
        events.iter().find(is_wanted).expect("it was there").clone()
    }

    /// The log of a container once it holds so many lines with this text. A log has no watch.
    pub async fn log_with(&self, pod: &str, container: &str, text: &str, count: usize) -> String {
        let path = self.log_path(pod, container);
        eventually(&format!("{count} times {text:?} in the log of {pod}"), async || {
            let answer = self.get(&path).await;
            // What refuses a log is no log, whatever it says.
            let log = (answer.code == 200).then(|| answer.text())?;
            (log.lines().filter(|line| line.contains(text)).count() >= count).then_some(log)
        })
        .await
    }
}

impl Events {
    /// The next state of the one object watched that fits; it must not end before.
    pub async fn until(&mut self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        self.until_within(SOON, what, fits).await
    }

    /// The same where it may take so long until something changes.
    pub async fn until_within(&mut self, time: Duration, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        loop {
            let Some((kind, object)) = self.within(time).await else {
                panic!("{what}: nothing new within {time:?}; last: {last:#}");
            };
            assert_ne!(kind, "DELETED", "{what}: it is gone; last: {last:#}");
            if fits(&object) {
                return object;
            }
            last = object;
        }
    }
}
