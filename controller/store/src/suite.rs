//! The contract as tests, run against every driver.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use crate::driver::{Driver, Memory};
use crate::model::{CommitError, Compare, Event, KeyValue, Op, RangeRequest, Revision, RevisionError};
use crate::store::{Config, Store};

fn key(name: &str) -> Bytes {
    Bytes::copy_from_slice(name.as_bytes())
}

fn put(name: &str, value: &str) -> Op {
    Op::Put { key: key(name), value: key(value), ttl: None }
}

fn delete(name: &str) -> Op {
    Op::Delete { key: key(name) }
}

fn names(store: &Store, request: RangeRequest) -> Vec<String> {
    let page = store.range(&request).unwrap();
    page.items.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect()
}

fn prefix(name: &str) -> RangeRequest {
    RangeRequest { prefix: key(name), ..Default::default() }
}

/// Every promise of `Store`, on a fresh driver each.
pub(crate) async fn run<D: Driver>(fresh: impl Fn() -> D) {
    let open = || Store::open(fresh(), Config::default()).unwrap();
    compares_see_the_pending_head(&open()).await;
    commits_are_atomic(&open()).await;
    ranges_page_consistently(&open()).await;
    watches_replay_and_follow(Arc::new(open())).await;
    compacted_revisions_are_refused(&open()).await;
    keys_expire(&open()).await;
    concurrent_counters_lose_nothing(Arc::new(open())).await;
}

async fn compares_see_the_pending_head(store: &Store) {
    let created = store.commit(&[Compare::Absent(key("a"))], vec![put("a", "1")]).await.unwrap();
    assert!(created > Revision::EMPTY);
    let again = store.commit(&[Compare::Absent(key("a"))], vec![put("a", "2")]).await;
    let Err(CommitError::Conflict { current: Some(current), .. }) = again else { panic!("{again:?}") };
    assert_eq!(current.value, "1");
    // Two commits in flight at once: the second compares against the first, though it is not durable yet.
    let update = Compare::ModRevision(key("a"), created);
    let first = store.commit(std::slice::from_ref(&update), vec![put("a", "2")]);
    let second = store.commit(std::slice::from_ref(&update), vec![put("a", "3")]);
    let (first, second) = tokio::join!(first, second);
    assert!(first.is_ok() && second.is_err(), "{first:?} {second:?}");
    assert_eq!(store.get(b"a").unwrap().value, "2");
    assert_eq!(store.get(b"a").unwrap().create_revision, created);
}

/// A driver that takes its time, so that promises stay pending for a while.
struct Slow;

impl Driver for Slow {
    fn load(&mut self) -> Result<crate::driver::Loaded, crate::driver::DriverError> {
        Memory.load()
    }

    fn persist(&mut self, _: Vec<crate::driver::Write>, _: Revision) -> Result<(), crate::driver::DriverError> {
        std::thread::sleep(Duration::from_millis(30));
        Ok(())
    }

    fn attach(&mut self, _: Arc<dyn crate::driver::Live>) {}

    fn recover(&mut self) -> Result<(), crate::driver::DriverError> {
        Ok(())
    }
}

#[tokio::test]
async fn who_lost_against_a_promise_sees_it_after_settling() {
    let store = Store::open(Slow, Config::default()).unwrap();
    let promised = store.commit(&[], vec![put("k", "new")]);
    let mut promised = std::pin::pin!(promised);
    // Polled once: the commit is promised and not durable.
    assert!(futures_poll(promised.as_mut()).is_none());
    let lost = store.commit(&[Compare::Absent(key("k"))], vec![put("k", "late")]).await;
    assert!(matches!(lost, Err(CommitError::Conflict { .. })));
    assert!(store.get(b"k").is_none(), "not visible yet");
    store.settle().await;
    assert_eq!(store.get(b"k").unwrap().value, "new");
    promised.await.unwrap();
    store.settle().await;
}

fn futures_poll<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.poll(&mut context) {
        std::task::Poll::Ready(value) => Some(value),
        std::task::Poll::Pending => None,
    }
}

async fn commits_are_atomic(store: &Store) {
    let revision = store.commit(&[], vec![put("x", "1"), put("y", "1")]).await.unwrap();
    let failed = store.commit(&[Compare::Absent(key("y"))], vec![put("z", "1"), delete("x")]).await;
    assert!(failed.is_err());
    assert!(store.get(b"z").is_none() && store.get(b"x").is_some());
    assert_eq!(store.get(b"x").unwrap().mod_revision, revision);
    assert_eq!(store.get(b"y").unwrap().mod_revision, revision);
}

async fn ranges_page_consistently(store: &Store) {
    for name in ["p/a", "p/b", "p/c", "q/a"] {
        store.commit(&[], vec![put(name, "1")]).await.unwrap();
    }
    let first = store.range(&RangeRequest { limit: 2, ..prefix("p/") }).unwrap();
    assert_eq!((first.items.len(), first.remaining), (2, 1));
    store.commit(&[], vec![delete("p/c"), put("p/b2", "1"), put("p/a", "2")]).await.unwrap();
    let past = RangeRequest { at: Some(first.revision), ..prefix("p/") };
    assert_eq!(names(store, past.clone()), ["p/a", "p/b", "p/c"]);
    assert_eq!(store.range(&past).unwrap().items[0].value, "1");
    assert_eq!(names(store, RangeRequest { after: Some(key("p/b")), ..past }), ["p/c"]);
    assert_eq!(names(store, prefix("p/")), ["p/a", "p/b", "p/b2"]);
    let future = Revision(first.revision.0 + 100);
    let error = store.range(&RangeRequest { at: Some(future), ..prefix("p/") }).unwrap_err();
    assert!(matches!(error, RevisionError::Future { .. }));
}

async fn watches_replay_and_follow(store: Arc<Store>) {
    let start = store.revision();
    store.commit(&[], vec![put("w/a", "1"), put("v/a", "1")]).await.unwrap();
    let mut watcher = store.watch(key("w/"), start).unwrap();
    let replayed = watcher.next_batch().await.unwrap();
    assert_eq!(replayed.len(), 1);
    assert!(replayed[0].previous.is_none());
    let follower = tokio::spawn(async move {
        let mut seen = Vec::new();
        while seen.len() < 2 {
            seen.extend(watcher.next_batch().await.unwrap());
        }
        seen
    });
    store.commit(&[], vec![put("w/a", "2")]).await.unwrap();
    store.commit(&[], vec![delete("w/a")]).await.unwrap();
    let seen = follower.await.unwrap();
    assert_eq!(seen[0].previous.as_ref().unwrap().value, "1");
    assert!(seen[1].current.is_none());
    assert_eq!(seen[1].previous.as_ref().unwrap().value, "2");
}

async fn compacted_revisions_are_refused(store: &Store) {
    let old = store.commit(&[], vec![put("c", "1")]).await.unwrap();
    let new = store.commit(&[], vec![put("c", "2")]).await.unwrap();
    store.compact(new);
    let watch = store.watch(key("c"), old).err();
    assert!(matches!(watch, Some(RevisionError::Compacted { .. })), "{watch:?}");
    let range = store.range(&RangeRequest { at: Some(old), ..prefix("c") }).unwrap_err();
    assert!(matches!(range, RevisionError::Compacted { .. }));
    assert!(store.watch(key("c"), new).is_ok());
}

async fn keys_expire(store: &Store) {
    let ttl = |ms| Some(Duration::from_millis(ms));
    let start = store.revision();
    let mut watcher = store.watch(key("e/"), start).unwrap();
    store.commit(&[], vec![Op::Put { key: key("e/short"), value: key("1"), ttl: ttl(20) }]).await.unwrap();
    store.commit(&[], vec![Op::Put { key: key("e/renewed"), value: key("1"), ttl: ttl(20) }]).await.unwrap();
    store.commit(&[], vec![Op::Put { key: key("e/renewed"), value: key("2"), ttl: None }]).await.unwrap();
    let mut deleted = Vec::new();
    while deleted.is_empty() {
        deleted.extend(watcher.next_batch().await.unwrap().into_iter().filter(|event| event.current.is_none()));
    }
    assert_eq!(deleted[0].key(), "e/short");
    assert!(store.get(b"e/renewed").is_some());
}

async fn concurrent_counters_lose_nothing(store: Arc<Store>) {
    store.commit(&[], vec![put("n", "0")]).await.unwrap();
    let add = |store: Arc<Store>| async move {
        for _ in 0..20 {
            loop {
                let now = store.get(b"n").unwrap();
                let next = String::from_utf8_lossy(&now.value).parse::<u32>().unwrap() + 1;
                let unchanged = [Compare::ModRevision(key("n"), now.mod_revision)];
                if store.commit(&unchanged, vec![put("n", &next.to_string())]).await.is_ok() {
                    break;
                }
            }
        }
    };
    let tasks: Vec<_> = (0..8).map(|_| tokio::spawn(add(Arc::clone(&store)))).collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(store.get(b"n").unwrap().value, "160");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_keeps_the_contract() {
    run(|| Memory).await;
}

#[tokio::test]
async fn a_watcher_behind_the_history_is_told() {
    let store = Store::open(Memory, Config { history_bytes: 2_000, ..Config::default() }).unwrap();
    let mut watcher = store.watch(key("k"), store.revision()).unwrap();
    for n in 0..50 {
        store.commit(&[], vec![put("k", &"x".repeat(n))]).await.unwrap();
    }
    assert!(matches!(watcher.next_batch().await, Err(RevisionError::Compacted { .. })));
}

#[tokio::test]
async fn a_quiet_watcher_falls_behind_nothing() {
    let store = Store::open(Memory, Config { history_bytes: 2_000, ..Config::default() }).unwrap();
    let start = store.revision();
    let (mut watcher, mut late) = (store.watch(key("k/"), start).unwrap(), store.watch(key("k/"), start).unwrap());
    let write = async |name: &str| store.commit(&[], vec![put(name, &"x".repeat(100))]).await.unwrap();
    let mut last = start;
    for _ in 0..50 {
        last = write("other").await;
    }
    assert!(store.watch(key("k/"), start).is_err(), "the history does not reach so far back");
    assert_eq!(watcher.position(), last, "a bookmark says that nothing was missed");
    let own = write("k/a").await;
    assert_eq!(watcher.position(), last, "this one is to be told yet");
    let revisions = |batch: Vec<Arc<Event>>| batch.iter().map(|event| event.revision).collect::<Vec<_>>();
    assert_eq!(revisions(watcher.next_batch().await.unwrap()), [own]);
    assert_eq!(revisions(late.next_batch().await.unwrap()), [own], "what it has not looked at was not its own");
    for _ in 0..50 {
        write("other").await;
    }
    assert!(watcher.poll_batch().unwrap().is_empty());
    let missed = write("k/a").await;
    for _ in 0..50 {
        write("other").await;
    }
    let behind = watcher.poll_batch().unwrap_err();
    assert!(matches!(behind, RevisionError::Compacted { oldest, .. } if oldest >= missed), "{behind:?}");
}

/// The first word of a value.
fn first_word(kv: &KeyValue) -> Option<Bytes> {
    let end = kv.value.iter().position(|byte| *byte == b' ')?;
    Some(kv.value.slice(..end))
}

#[tokio::test]
async fn watchers_of_a_topic_are_told_of_what_comes_goes_and_stays() {
    let open = |topic_of| Store::open(Memory, Config { topic_of, history_bytes: 4_000, ..Config::default() }).unwrap();
    let store = open(Some(first_word));
    let start = store.revision();
    let mut red = store.watch_topic(key("k/"), key("red"), start).unwrap();
    for (name, value) in [("k/a", "red 1"), ("k/b", "blue 1"), ("k/a", "red 2"), ("k/a", "blue 3"), ("j/a", "red 1")] {
        store.commit(&[], vec![put(name, value)]).await.unwrap();
    }
    let shown = |batch: Vec<Arc<Event>>| {
        let value = |kv: &Option<KeyValue>| kv.as_ref().map(|kv| String::from_utf8_lossy(&kv.value).into_owned());
        batch.iter().map(|event| (value(&event.previous), value(&event.current))).collect::<Vec<_>>()
    };
    let own = |value: &str| Some(value.to_owned());
    let seen = shown(red.next_batch().await.unwrap());
    let expected = vec![(None, own("red 1")), (own("red 1"), own("red 2")), (own("red 2"), own("blue 3"))];
    assert_eq!(seen, expected, "what goes elsewhere is told, what is of another prefix is not");
    let mut again = store.watch_topic(key("k/"), key("red"), start).unwrap();
    assert_eq!(shown(again.poll_batch().unwrap()), expected, "it is replayed as well");
    // A hundred other writes wake nobody; the history forgets topics with their events.
    let mut waiting = std::pin::pin!(red.next_batch());
    assert!(futures_poll(waiting.as_mut()).is_none());
    for n in 0..100 {
        store.commit(&[], vec![put("k/b", &format!("blue {n}"))]).await.unwrap();
    }
    assert!(store.watch_topic(key("k/"), key("red"), start).is_err());
    store.commit(&[], vec![put("k/c", "red 9")]).await.unwrap();
    assert_eq!(shown(waiting.await.unwrap()), [(None, own("red 9"))]);

    // Who does not know topics tells everything, and whoever watches looks for itself.
    let store = open(None);
    let mut all = store.watch_topic(key("k/"), key("red"), store.revision()).unwrap();
    store.commit(&[], vec![put("k/b", "blue 1")]).await.unwrap();
    assert_eq!(all.next_batch().await.unwrap().len(), 1);
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8, u8),
    Delete(u8),
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Reading the past gives what a model that kept every version gives.
    #[test]
    fn the_past_is_the_present_undone(
        steps in proptest::collection::vec(
            prop_oneof![(0u8..6, any::<u8>()).prop_map(|(k, v)| Step::Put(k, v)), (0u8..6).prop_map(Step::Delete)], 1..40)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let store = Store::open(Memory, Config::default()).unwrap();
            let mut model = std::collections::BTreeMap::new();
            let mut versions = vec![(store.revision(), model.clone())];
            for step in steps {
                let revision = match step {
                    Step::Put(k, v) => {
                        model.insert(format!("k{k}"), v.to_string());
                        store.commit(&[], vec![put(&format!("k{k}"), &v.to_string())]).await.unwrap()
                    }
                    Step::Delete(k) => {
                        model.remove(&format!("k{k}"));
                        store.commit(&[], vec![delete(&format!("k{k}"))]).await.unwrap()
                    }
                };
                versions.push((revision, model.clone()));
            }
            for (revision, expected) in versions {
                let page = store.range(&RangeRequest { at: Some(revision), ..prefix("k") }).unwrap();
                let found: std::collections::BTreeMap<_, _> = page.items.iter().map(|kv| {
                    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
                    (text(&kv.key), text(&kv.value))
                }).collect();
                assert_eq!(found, expected);
            }
        });
    }
}

/// A driver whose disk hangs until it is let go.
struct Stalled {
    entered: std::sync::mpsc::Sender<()>,
    release: std::sync::mpsc::Receiver<()>,
}

impl Driver for Stalled {
    fn load(&mut self) -> Result<crate::driver::Loaded, crate::driver::DriverError> {
        Memory.load()
    }

    fn persist(&mut self, _: Vec<crate::driver::Write>, _: Revision) -> Result<(), crate::driver::DriverError> {
        self.entered.send(()).unwrap();
        self.release.recv().unwrap();
        Ok(())
    }

    fn attach(&mut self, _: Arc<dyn crate::driver::Live>) {}

    fn recover(&mut self) -> Result<(), crate::driver::DriverError> {
        Ok(())
    }
}

#[tokio::test]
async fn a_stalled_disk_blocks_no_reader() {
    let (entered, has_entered) = std::sync::mpsc::channel();
    let (let_go, release) = std::sync::mpsc::channel();
    let store = Store::open(Stalled { entered, release }, Config::default()).unwrap();
    let_go.send(()).unwrap();
    store.commit(&[], vec![put("k", "old")]).await.unwrap();
    has_entered.recv().unwrap();
    let mut watcher = store.watch(key("k"), store.revision()).unwrap();
    let mut stalled = std::pin::pin!(store.commit(&[], vec![put("k", "new")]));
    assert!(futures_poll(stalled.as_mut()).is_none());
    has_entered.recv().unwrap();
    assert_eq!(store.get(b"k").unwrap().value, "old");
    assert_eq!(names(&store, prefix("")), ["k"]);
    assert!(watcher.poll_batch().unwrap().is_empty());
    // Who writes meanwhile is told apart from who reads: the compare sees the promise.
    assert!(store.commit(&[Compare::Absent(key("k"))], vec![]).await.is_err());
    let_go.send(()).unwrap();
    stalled.await.unwrap();
    assert_eq!(watcher.next_batch().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_disk_that_hangs_is_told_and_so_is_its_recovery() {
    let (entered, has_entered) = std::sync::mpsc::channel();
    let (let_go, release) = std::sync::mpsc::channel();
    let store = Store::open(Stalled { entered, release }, Config::default()).unwrap();
    let mut trouble = store.trouble();
    store.shorten_patience(Duration::from_millis(20), Duration::from_millis(60));
    // The second time the watchdog has slept before.
    for round in ["first", "second"] {
        let mut hanging = Box::pin(store.commit(&[], vec![put("k", round)]));
        assert!(futures_poll(hanging.as_mut()).is_none());
        has_entered.recv().unwrap();
        tokio::select! {
            _ = hanging.as_mut() => panic!("nobody let it go"),
            changed = trouble.changed() => changed.unwrap(),
            () = tokio::time::sleep(Duration::from_secs(20)) => {
                // Else the store's end would wait for the disk.
                drop(let_go);
                panic!("nobody was told");
            }
        }
        assert_eq!(*trouble.borrow_and_update(), Some(crate::health::Trouble::Stalled));
        assert_ne!(store.get(b"k").map(|kv| kv.value), Some(round.into()), "reads go on");
        let_go.send(()).unwrap();
        hanging.await.unwrap();
        assert_eq!(*trouble.borrow_and_update(), None);
        assert_eq!(store.get(b"k").unwrap().value, round);
    }
}

/// Waiting for the disk needs no timers of the runtime.
#[test]
fn a_commit_needs_no_timers() {
    let store = Store::open(Memory, Config::default()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(store.commit(&[], vec![put("k", "v")])).unwrap();
}
