//! What becomes of something worth telling: a new Event, one more on the count of an old one, or nothing. Pure.
//!
//! The rules are those that users of kubectl know (Kubernetes `client-go/tools/record`): the same event is counted; more
//! than ten of one object and reason within ten minutes that differ only in their message become one; and no object
//! fills the store: it has 25 events, and one more every five minutes.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

/// Different messages of one object and reason before they are told as one.
const SIMILAR: usize = 10;
/// How long messages count as similar after the last one, in seconds.
const SIMILAR_SECONDS: i64 = 600;
/// What an object may have told at once, and how long it takes to earn one more, in seconds.
const BURST: f64 = 25.0;
const REFILL_SECONDS: f64 = 300.0;
/// More objects and events than this are not remembered at once.
/// Several reporters live in one process, and half a kilobyte for each adds up.
const REMEMBERED: usize = 512;
/// The longest name of an object, in bytes.
const NAME_BYTES: usize = 253;
const SIMILAR_PREFIX: &str = "(combined from similar events): ";

/// Whether an event is good news.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Severity {
    /// As it should be.
    Normal,
    /// Look at this.
    Warning,
}

impl Severity {
    fn word(self) -> &'static str {
        match self {
            Severity::Normal => "Normal",
            Severity::Warning => "Warning",
        }
    }
}

/// Who tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reporter {
    /// The component, such as `kubelet` is one.
    pub component: String,
    /// The node it is on, where that matters.
    pub host: Option<String>,
}

/// Something to tell.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// The object that it is about.
    pub about: ObjectReference,
    /// Good or bad.
    pub severity: Severity,
    /// One word in CamelCase.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
    /// What was being done, one word; may be empty.
    pub action: String,
}

/// What is to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    /// The event. Without a patch, or where the patch finds nothing any more, it is created.
    pub event: Event,
    /// A merge patch of the event of that name.
    pub patch: Option<Value>,
}

impl Write {
    /// The namespace that the event lives in.
    pub fn namespace(&self) -> &str {
        self.event.metadata.namespace.as_deref().unwrap_or("default")
    }

    /// The event's name.
    pub fn name(&self) -> &str {
        self.event.metadata.name.as_deref().unwrap_or_default()
    }
}

/// The object, as far as it tells events apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct About {
    kind: String,
    namespace: String,
    name: String,
    uid: String,
    field_path: String,
}

impl About {
    fn of(about: &ObjectReference) -> Self {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        Self {
            kind: text(&about.kind),
            namespace: text(&about.namespace),
            name: text(&about.name),
            uid: text(&about.uid),
            field_path: text(&about.field_path),
        }
    }
}

#[derive(Debug)]
struct Similar {
    messages: HashSet<String>,
    last: Timestamp,
}

#[derive(Debug)]
struct Seen {
    name: String,
    count: i32,
    first: Timestamp,
    last: Timestamp,
}

#[derive(Debug)]
struct Allowance {
    left: f64,
    last: Timestamp,
}

type Sort = (About, Severity, String);

/// What one reporter has told lately.
#[derive(Debug)]
pub struct Correlator {
    reporter: Reporter,
    similar: HashMap<Sort, Similar>,
    /// `None` stands for the event of similar ones.
    seen: HashMap<(Sort, Option<String>), Seen>,
    allowances: HashMap<About, Allowance>,
    last_name: i128,
}

impl Correlator {
    /// One that has told nothing yet.
    pub fn new(reporter: Reporter) -> Self {
        let (similar, seen, allowances) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { reporter, similar, seen, allowances, last_name: 0 }
    }

    /// Decides about a notice; `None` where nothing is written.
    pub fn see(&mut self, notice: Notice, now: Timestamp) -> Option<Write> {
        let about = About::of(&notice.about);
        let sort: Sort = (about.clone(), notice.severity, notice.reason.clone());
        let (message, own) = match self.is_flood(&sort, &notice.message, now) {
            true => (format!("{SIMILAR_PREFIX}{}", notice.message), None),
            false => (notice.message.clone(), Some(notice.message.clone())),
        };
        make_room(&mut self.seen, |seen| seen.last, now);
        let name = self.name(&notice.about, now);
        let seen = self.seen.entry((sort, own)).or_insert(Seen { name, count: 0, first: now, last: now });
        seen.count = seen.count.saturating_add(1);
        seen.last = now;
        let (name, count, first) = (seen.name.clone(), seen.count, seen.first);
        if !self.may_tell(About { field_path: String::new(), ..about }, now) {
            return None;
        }
        let seconds = Timestamp::from_second(now.as_second()).unwrap_or(now);
        let patch = (count > 1).then(|| json!({"count": count, "lastTimestamp": Time(seconds), "message": message}));
        Some(Write { event: self.event(notice, name, message, count, (first, seconds)), patch })
    }

    /// Whether so many messages of this sort have come that they are told as one.
    fn is_flood(&mut self, sort: &Sort, message: &str, now: Timestamp) -> bool {
        make_room(&mut self.similar, |similar| similar.last, now);
        let fresh = || Similar { messages: HashSet::new(), last: now };
        let similar = self.similar.entry(sort.clone()).or_insert_with(fresh);
        if now.as_second() - similar.last.as_second() > SIMILAR_SECONDS {
            similar.messages.clear();
        }
        similar.last = now;
        if similar.messages.contains(message) {
            return false;
        }
        let is_flood = similar.messages.len() >= SIMILAR;
        if !is_flood {
            similar.messages.insert(message.to_owned());
        }
        is_flood
    }

    fn may_tell(&mut self, about: About, now: Timestamp) -> bool {
        make_room(&mut self.allowances, |allowance| allowance.last, now);
        let allowance = self.allowances.entry(about).or_insert(Allowance { left: BURST, last: now });
        let earned = now.duration_since(allowance.last).as_secs_f64().max(0.0) / REFILL_SECONDS;
        allowance.left = (allowance.left + earned).min(BURST);
        allowance.last = now;
        let may = allowance.left >= 1.0;
        if may {
            allowance.left -= 1.0;
        }
        may
    }

    /// A name that no other event of this reporter has.
    fn name(&mut self, about: &ObjectReference, now: Timestamp) -> String {
        self.last_name = now.as_nanosecond().max(self.last_name + 1);
        let suffix = format!(".{:x}", self.last_name);
        let object = about.name.as_deref().filter(|name| !name.is_empty()).unwrap_or(&self.reporter.component);
        let mut end = object.len().min(NAME_BYTES - suffix.len());
        while !object.is_char_boundary(end) {
            end -= 1;
        }
        format!("{}{suffix}", object[..end].trim_end_matches(['.', '-']))
    }

    fn event(
        &self,
        notice: Notice,
        name: String,
        message: String,
        count: i32,
        (first, last): (Timestamp, Timestamp),
    ) -> Event {
        // What has no namespace is told about in the default one.
        let namespace = notice.about.namespace.clone().filter(|own| !own.is_empty());
        let first_seconds = Timestamp::from_second(first.as_second()).unwrap_or(first);
        Event {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: Some(namespace.unwrap_or_else(|| "default".to_owned())),
                ..ObjectMeta::default()
            },
            involved_object: notice.about,
            type_: Some(notice.severity.word().to_owned()),
            reason: Some(notice.reason),
            message: Some(message),
            action: Some(notice.action).filter(|action| !action.is_empty()),
            source: Some(EventSource {
                component: Some(self.reporter.component.clone()),
                host: self.reporter.host.clone(),
            }),
            reporting_component: Some(self.reporter.component.clone()),
            reporting_instance: self.reporter.host.clone(),
            event_time: None::<MicroTime>,
            first_timestamp: Some(Time(first_seconds)),
            last_timestamp: Some(Time(last)),
            count: Some(count),
            ..Event::default()
        }
    }
}

/// Forgets what is old once too much is remembered; the half that was told longest ago where nothing is old.
fn make_room<K: Eq + Hash, V>(map: &mut HashMap<K, V>, last: impl Fn(&V) -> Timestamp, now: Timestamp) {
    if map.len() < REMEMBERED {
        return;
    }
    map.retain(|_, value| now.as_second() - last(value).as_second() <= SIMILAR_SECONDS);
    if map.len() >= REMEMBERED {
        let mut times: Vec<Timestamp> = map.values().map(&last).collect();
        let middle = times.len() / 2;
        let middle = *times.select_nth_unstable(middle).1;
        map.retain(|_, value| last(value) > middle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn correlator() -> Correlator {
        Correlator::new(Reporter { component: "c".into(), host: None })
    }

    fn notice(object: &str, message: &str) -> Notice {
        let about = ObjectReference {
            kind: Some("Pod".into()),
            namespace: Some("n".into()),
            name: Some(object.into()),
            ..ObjectReference::default()
        };
        let (severity, reason) = (Severity::Warning, "Failed".to_owned());
        Notice { about, severity, reason, message: message.into(), action: String::new() }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    #[test]
    fn repeats_are_counted() {
        let mut own = correlator();
        let first = own.see(notice("p", "m"), at(0)).unwrap();
        assert_eq!((first.patch.as_ref(), first.event.count), (None, Some(1)));
        let second = own.see(notice("p", "m"), at(9)).unwrap();
        assert_eq!(second.name(), first.name());
        let patch = json!({"count": 2, "lastTimestamp": "2027-01-15T08:00:09Z", "message": "m"});
        assert_eq!(second.patch, Some(patch));
        assert_eq!(second.event.first_timestamp, first.event.first_timestamp);
        let other = own.see(notice("q", "m"), at(9)).unwrap();
        assert!(other.patch.is_none() && other.name() != first.name());
        assert_eq!(other.namespace(), "n");
    }

    #[test]
    fn floods_of_similar_ones_become_one() {
        let mut own = correlator();
        for number in 0..10 {
            let write = own.see(notice("p", &format!("m{number}")), at(number)).unwrap();
            assert!(write.patch.is_none(), "{number}");
        }
        let combined = own.see(notice("p", "m10"), at(10)).unwrap();
        assert_eq!(combined.event.message.as_deref(), Some("(combined from similar events): m10"));
        let again = own.see(notice("p", "m11"), at(11)).unwrap();
        assert_eq!((again.name(), again.event.count), (combined.name(), Some(2)));
        assert_eq!(again.patch.unwrap()["message"], "(combined from similar events): m11");
        // What was told by itself before is still counted by itself.
        assert_eq!(own.see(notice("p", "m3"), at(12)).unwrap().event.count, Some(2));
        // Ten quiet minutes end it.
        let later = own.see(notice("p", "m12"), at(12 + 601)).unwrap();
        assert_eq!(later.event.message.as_deref(), Some("m12"));
    }

    #[test]
    fn no_object_tells_without_end() {
        let mut own = correlator();
        let told = (0..100).filter(|_| own.see(notice("p", "m"), at(0)).is_some()).count();
        assert_eq!(told, 25);
        assert!(own.see(notice("q", "m"), at(0)).is_some(), "another object has its own");
        assert!(own.see(notice("p", "m"), at(299)).is_none());
        let write = own.see(notice("p", "m"), at(301)).unwrap();
        assert_eq!(write.event.count, Some(102), "what was not written was counted");
    }

    #[test]
    fn names_fit_and_differ() {
        let mut own = correlator();
        let long = "x".repeat(235) + ".y";
        let (one, two) = (own.see(notice(&long, "a"), at(0)).unwrap(), own.see(notice(&long, "b"), at(0)).unwrap());
        assert_ne!(one.name(), two.name());
        for write in [one, two] {
            assert_eq!(crate::name::rfc1123_subdomain(write.name()), Vec::<String>::new());
        }
    }

    #[test]
    fn memory_is_bounded() {
        let mut own = correlator();
        for number in 0..3 * REMEMBERED {
            own.see(notice(&format!("p{number}"), "m"), at(0));
        }
        assert!(own.seen.len() <= REMEMBERED && own.similar.len() <= REMEMBERED && own.allowances.len() <= REMEMBERED);
    }
}
