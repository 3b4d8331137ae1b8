//! Jobs played to their end against a simulated cluster: whatever happens to pods in whatever order, with news that come
//! late and a process that ends between any two writes, each pod is counted once and the Job comes to its end.
use super::backoff::Backoff;
use super::conditions::{COMPLETE, FAILED, held, is_finished};
use super::facts::{Outcome, RunFacts};
use super::plan::{Draft, claim, plan};
use super::tally::Shape;
use crate::pod::{Phase, PodFacts};
use api::indexes::Indexes;
use api::selector::Selector;
use k8s_openapi::api::batch::v1::Job;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The process has ended before this write.
struct Crashed;

struct World {
    /// What the server has.
    job: Job,
    pods: BTreeMap<String, PodFacts>,
    /// What the reconciler has heard.
    heard: BTreeMap<String, PodFacts>,
    heard_job: Job,
    backoff: Backoff,
    /// Writes until the process ends.
    writes_left: usize,
    made: usize,
    clock: i64,
    /// Pods that a status has had.
    succeeded: BTreeSet<String>,
    failed: BTreeSet<String>,
}

fn job(spec: Value) -> Job {
    let mut object = json!({"metadata": {"name": "j", "namespace": "n", "uid": "u"}, "spec": {
        "selector": {"matchLabels": {"a": "b"}}, "parallelism": 2, "completions": 4, "backoffLimit": 1000,
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"restartPolicy": "Never", "containers": []}}}});
    for (key, value) in spec.as_object().unwrap() {
        object["spec"][key] = value.clone();
    }
    serde_json::from_value(object).unwrap()
}

fn delete(pod: &mut PodFacts, clock: i64) {
    pod.is_deleting = true;
    pod.run.as_mut().unwrap().finished.get_or_insert(clock);
}

impl World {
    fn new(spec: Value) -> Self {
        let job = job(spec);
        Self {
            heard_job: job.clone(),
            job,
            pods: BTreeMap::new(),
            heard: BTreeMap::new(),
            backoff: Backoff::default(),
            writes_left: usize::MAX,
            made: 0,
            clock: 1_000_000,
            succeeded: BTreeSet::new(),
            failed: BTreeSet::new(),
        }
    }

    fn write(&mut self) -> Result<(), Crashed> {
        self.writes_left = self.writes_left.checked_sub(1).ok_or(Crashed)?;
        Ok(())
    }

    /// One run of the reconciler, which may not survive it.
    fn run(&mut self, writes: usize) {
        self.writes_left = writes;
        loop {
            let before = self.job.status.clone();
            if self.reconcile().is_err() {
                self.backoff = Backoff::default();
                self.hear_all();
                return;
            }
            // What it has written wakes it again.
            if self.job.status == before {
                return;
            }
        }
    }

    fn reconcile(&mut self) -> Result<(), Crashed> {
        for _ in 0..8 {
            let job = self.heard_job.clone();
            let selector =
                Selector::from_label_selector(job.spec.as_ref().unwrap().selector.as_ref().unwrap()).unwrap();
            let all: Vec<_> = self.heard.values().cloned().map(Arc::new).collect();
            let claims = claim(&job, &selector, &all);
            let shape = Shape::new(&job);
            self.backoff = self.backoff.with(&claims.mine, |pod| shape.has_failed(pod));
            let now = jiff::Timestamp::from_second(self.clock).unwrap();
            let plan = plan(&job, &claims.mine, &self.backoff, now);
            if plan.is_status_first || plan.is_idle() {
                self.tell(&job, &plan.status)?;
            }
            if plan.is_idle() {
                return Ok(());
            }
            let clock = self.clock;
            for pod in &plan.count {
                self.untrack(&pod.uid, "it has not been counted")?;
            }
            for pod in &plan.track {
                self.change(&pod.uid, |pod| pod.run.as_mut().unwrap().is_tracked = !pod.is_deleting)?;
            }
            for pod in &plan.withdraw {
                self.change(&pod.uid, |pod| pod.run.as_mut().unwrap().is_tracked = false)?;
                self.change(&pod.uid, |pod| delete(pod, clock))?;
            }
            for pod in &plan.delete {
                self.change(&pod.uid, |pod| delete(pod, clock))?;
            }
            for draft in &plan.create {
                self.create(*draft, shape.parallelism)?;
            }
        }
        Ok(())
    }

    /// Refused if the Job has changed since it was heard of.
    fn tell(&mut self, seen: &Job, status: &k8s_openapi::api::batch::v1::JobStatus) -> Result<(), Crashed> {
        if seen.status.as_ref() == Some(status) {
            return Ok(());
        }
        self.write()?;
        if seen.metadata.generation != self.job.metadata.generation {
            self.heard_job = self.job.clone();
            return Err(Crashed);
        }
        let old = self.job.status.replace(status.clone()).unwrap_or_default();
        self.heard_job = self.job.clone();
        let uids = |list: Option<Vec<String>>| list.unwrap_or_default().into_iter().collect::<BTreeSet<String>>();
        let (old, new) =
            (old.uncounted_terminated_pods.unwrap_or_default(), status.uncounted_terminated_pods.clone().unwrap());
        for (ledger, before, after, number) in [
            (&mut self.succeeded, uids(old.succeeded), uids(new.succeeded), status.succeeded),
            (&mut self.failed, uids(old.failed), uids(new.failed), status.failed),
        ] {
            for uid in after.difference(&before) {
                assert!(ledger.insert(uid.clone()), "{uid} is counted twice");
            }
            if Shape::new(seen).is_indexed && after.is_empty() && ledger.is_empty() {
                continue;
            }
            assert_eq!(number.unwrap_or(0) as usize + after.len(), ledger.len(), "{status:?}");
        }
        let spec = seen.spec.as_ref().unwrap();
        if Shape::new(seen).is_indexed {
            let end = spec.completions.unwrap() as u32;
            let told = Indexes::parse(status.completed_indexes.as_deref().unwrap_or_default(), end).unwrap();
            assert_eq!(told.count(), status.succeeded.unwrap_or(0) as u32);
            let failed = Indexes::parse(status.failed_indexes.as_deref().unwrap_or_default(), end).unwrap();
            assert_eq!(told.count_common(&failed), 0, "an index has both succeeded and failed");
        }
        if let Some(completions) = spec.completions {
            assert!(status.succeeded.unwrap_or(0) <= completions, "too many have succeeded: {status:?}");
        }
        Ok(())
    }

    fn change(&mut self, uid: &str, change: impl Fn(&mut PodFacts)) -> Result<(), Crashed> {
        self.write()?;
        // A pod that is gone by now says so.
        let Some(pod) = self.pods.get_mut(uid) else { return Ok(()) };
        change(pod);
        let pod = pod.clone();
        self.heard.insert(uid.to_owned(), pod);
        self.sweep();
        Ok(())
    }

    fn untrack(&mut self, uid: &str, what: &str) -> Result<(), Crashed> {
        let is_ended = |pod: &PodFacts| pod.run.as_ref().unwrap().outcome;
        // Of indexed Jobs the indexes are told, and policies may leave failures out.
        let is_told = !Shape::new(&self.job).is_indexed && self.job.spec.as_ref().unwrap().pod_failure_policy.is_none();
        if let Some(outcome) = self.pods.get(uid).and_then(is_ended)
            && is_told
            && held(self.job.status.as_ref().unwrap(), "SuccessCriteriaMet").is_none()
        {
            let ledger = if outcome == Outcome::Succeeded { &self.succeeded } else { &self.failed };
            assert!(ledger.contains(uid) || self.failed.contains(uid), "{uid}: {what}");
        }
        self.change(uid, |pod| pod.run.as_mut().unwrap().is_tracked = false)
    }

    fn create(&mut self, draft: Draft, parallelism: u32) -> Result<(), Crashed> {
        self.write()?;
        self.made += 1;
        let uid = format!("p{}", self.made);
        let run = RunFacts {
            is_tracked: true,
            index: draft.index,
            failures: draft.failures.unwrap_or_default().0,
            ignored_failures: draft.failures.unwrap_or_default().1,
            ..RunFacts::default()
        };
        let pod = PodFacts {
            key: Some(format!("n/{uid}").into()),
            uid: uid.as_str().into(),
            labels: [("a".to_owned(), "b".to_owned())].into(),
            controller: Some(("Job".into(), "j".into(), "u".into())),
            node: Some("node".into()),
            created: self.clock,
            run: Some(Box::new(run)),
            ..PodFacts::default()
        };
        self.pods.insert(uid.clone(), pod.clone());
        self.heard.insert(uid, pod);
        let active = self.pods.values().filter(|pod| pod.is_active()).count();
        assert!(active <= parallelism as usize, "{active} pods are active");
        Ok(())
    }

    /// Pods that are being deleted go when they have ended and nothing holds them.
    fn sweep(&mut self) {
        let is_held = |pod: &PodFacts| pod.phase != Phase::Ended || pod.run.as_ref().unwrap().is_tracked;
        self.pods.retain(|_, pod| !pod.is_deleting || is_held(pod));
    }

    fn hear(&mut self, which: usize) {
        let uids: BTreeSet<String> = self.pods.keys().chain(self.heard.keys()).cloned().collect();
        if let Some(uid) = uids.iter().nth(which % uids.len().max(1)) {
            match self.pods.get(uid) {
                Some(pod) => drop(self.heard.insert(uid.clone(), pod.clone())),
                None => drop(self.heard.remove(uid)),
            }
        }
    }

    fn hear_all(&mut self) {
        self.heard = self.pods.clone();
        self.heard_job = self.job.clone();
    }

    /// Something happens on a node.
    fn live(&mut self, which: usize, what: u8) {
        let (clock, count) = (self.clock, self.pods.len().max(1));
        if let Some(pod) = self.pods.values_mut().filter(|pod| pod.phase != Phase::Ended).nth(which % count) {
            let mut end = |outcome: Outcome| {
                pod.phase = Phase::Ended;
                pod.ready_since = None;
                let run = pod.run.as_mut().unwrap();
                (run.outcome, run.finished) = (Some(outcome), Some(clock));
                if outcome == Outcome::Failed {
                    run.exit_codes = vec![("c".into(), 1 + i32::from(what) % 5)];
                }
            };
            match what % 5 {
                0 | 1 => end(Outcome::Succeeded),
                2 => end(Outcome::Failed),
                3 => delete(pod, clock),
                _ => (pod.phase, pod.ready_since) = (Phase::Running, Some(clock)),
            }
        }
        self.sweep();
    }

    fn respec(&mut self, change: impl Fn(&mut k8s_openapi::api::batch::v1::JobSpec)) {
        if !is_finished(&self.job) {
            change(self.job.spec.as_mut().unwrap());
            self.job.metadata.generation = Some(self.job.metadata.generation.unwrap_or(0) + 1);
        }
    }

    /// From here on all goes well, and news come.
    fn finish(&mut self) {
        self.respec(|spec| spec.suspend = Some(false));
        self.respec(|spec| spec.parallelism = spec.parallelism.map(|count| count.max(1)));
        for _ in 0..400 {
            self.hear_all();
            self.run(usize::MAX);
            self.clock += 700;
            if is_finished(&self.job) {
                self.hear_all();
                self.run(usize::MAX);
                return;
            }
            for which in 0..self.pods.len() {
                self.live(which, 0);
            }
        }
        panic!("it does not end: {:#?} {:#?}", self.job.status, self.pods);
    }

    fn settled(&self) {
        let status = self.job.status.as_ref().unwrap();
        assert!(status.start_time.is_some());
        assert_eq!(status.uncounted_terminated_pods, Some(Default::default()));
        assert_eq!((status.active, status.ready, status.terminating), (None, Some(0), Some(0)));
        assert!(self.pods.values().all(|pod| !pod.run.as_ref().unwrap().is_tracked), "a pod is held for ever");
        assert!(self.pods.values().all(|pod| pod.phase == Phase::Ended), "a pod is left behind");
    }
}

fn reason(world: &World) -> &str {
    let status = world.job.status.as_ref().unwrap();
    held(status, COMPLETE).or_else(|| held(status, FAILED)).unwrap().reason.as_deref().unwrap()
}

#[test]
fn a_job_of_nothing_is_complete() {
    let mut world = World::new(json!({"completions": 0}));
    world.run(usize::MAX);
    assert_eq!(reason(&world), "CompletionsReached");
    assert_eq!(world.made, 0);
}

#[test]
fn any_success_ends_a_queue() {
    let mut world = World::new(json!({"completions": null, "parallelism": 3}));
    world.run(usize::MAX);
    world.live(0, 0);
    world.hear_all();
    world.run(usize::MAX);
    assert_eq!((world.made, is_finished(&world.job)), (3, false), "the others are left to finish");
    world.finish();
    assert_eq!((world.made, reason(&world)), (3, "CompletionsReached"));
    world.settled();
}

#[test]
fn failures_are_waited_for_and_bounded() {
    let mut world = World::new(json!({"completions": 1, "parallelism": 1, "backoffLimit": 2}));
    let waits = [10, 20];
    for (round, wait) in waits.into_iter().enumerate() {
        world.run(usize::MAX);
        assert_eq!(world.made, round + 1);
        world.live(0, 2);
        world.hear_all();
        world.clock += wait - 1;
        world.run(usize::MAX);
        assert_eq!(world.made, round + 1, "it is too early");
        world.clock += 1;
    }
    world.run(usize::MAX);
    world.live(0, 2);
    world.hear_all();
    world.run(usize::MAX);
    assert_eq!((reason(&world), world.job.status.as_ref().unwrap().failed), ("BackoffLimitExceeded", Some(3)));
    world.settled();
}

#[test]
fn what_takes_too_long_is_ended() {
    let mut world = World::new(json!({"activeDeadlineSeconds": 60}));
    world.run(usize::MAX);
    world.clock += 60;
    world.run(usize::MAX);
    let status = world.job.status.clone().unwrap();
    assert!(held(&status, "FailureTarget").is_some() && held(&status, FAILED).is_none(), "pods are still ending");
    assert_eq!(status.terminating, Some(2));
    world.finish();
    assert_eq!((reason(&world), world.job.status.as_ref().unwrap().failed), ("DeadlineExceeded", Some(2)));
    world.settled();
}

#[test]
fn who_is_suspended_begins_anew() {
    let mut world = World::new(json!({"suspend": true, "activeDeadlineSeconds": 6000}));
    world.run(usize::MAX);
    assert_eq!((world.made, world.job.status.as_ref().unwrap().start_time.is_none()), (0, true));
    world.respec(|spec| spec.suspend = Some(false));
    world.hear_all();
    world.run(usize::MAX);
    assert_eq!((world.made, world.job.status.as_ref().unwrap().active), (2, Some(2)));
    world.clock += 5000;
    world.respec(|spec| spec.suspend = Some(true));
    world.hear_all();
    world.run(usize::MAX);
    let status = world.job.status.clone().unwrap();
    assert_eq!((status.active, status.failed, status.start_time), (None, None, None));
    world.clock += 5000;
    world.respec(|spec| spec.suspend = Some(false));
    world.finish();
    assert_eq!((reason(&world), world.job.status.as_ref().unwrap().failed), ("CompletionsReached", None));
    world.settled();
}

#[test]
fn who_is_resumed_has_pods_at_once() {
    let mut world = World::new(json!({"parallelism": 4}));
    world.run(usize::MAX);
    for (suspend, active) in [(true, None), (false, Some(4))] {
        world.clock += 1;
        world.respec(|spec| spec.suspend = Some(suspend));
        world.hear_all();
        world.run(usize::MAX);
        assert_eq!(world.job.status.as_ref().unwrap().active, active);
    }
    world.finish();
    world.settled();
}

#[test]
fn pods_that_end_are_waited_for_where_asked() {
    let mut world = World::new(json!({"podReplacementPolicy": "Failed"}));
    world.run(usize::MAX);
    world.live(0, 4);
    world.live(0, 3);
    world.hear_all();
    world.clock += 700;
    world.run(usize::MAX);
    let status = world.job.status.clone().unwrap();
    assert_eq!((world.made, status.terminating, status.failed), (2, Some(1), None));
    world.finish();
    world.settled();
}

#[test]
fn who_asks_for_less_gets_less_and_loses_nothing() {
    let mut world = World::new(json!({"parallelism": 4, "completions": 4, "completionMode": "Indexed"}));
    world.run(usize::MAX);
    world.respec(|spec| (spec.parallelism, spec.completions) = (Some(2), Some(2)));
    world.hear_all();
    world.run(usize::MAX);
    let status = world.job.status.clone().unwrap();
    assert_eq!((status.active, status.failed), (Some(2), None));
    world.finish();
    assert_eq!(world.job.status.as_ref().unwrap().completed_indexes.as_deref(), Some("0,1"));
    world.settled();
}

#[test]
fn a_pod_that_was_told_to_have_failed_does_not_succeed_afterwards() {
    let mut world = World::new(json!({"completionMode": "Indexed", "completions": 2, "parallelism": 2}));
    world.run(2);
    world.live(0, 3);
    world.live(1, 0);
    world.hear(0);
    world.live(0, 0);
    world.run(1);
    assert_eq!((world.failed.len(), world.pods["p1"].phase), (1, Phase::Ended), "told, and then it ended well");
    world.finish();
    let status = world.job.status.clone().unwrap();
    assert_eq!((status.succeeded, status.failed, status.completed_indexes.as_deref()), (Some(2), Some(1), Some("0,1")));
    world.settled();
}

fn specs() -> impl Strategy<Value = Value> {
    let rule = json!([{"action": "Ignore", "onExitCodes": {"operator": "In", "values": [3]}},
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [5]}}]);
    prop_oneof![
        (0i32..6, 0i32..4)
            .prop_map(|(completions, parallelism)| { json!({"completions": completions, "parallelism": parallelism}) }),
        (1i32..4).prop_map(|parallelism| json!({"completions": null, "parallelism": parallelism})),
        (1i32..6, 0i32..4).prop_map(|(completions, parallelism)| {
            json!({"completionMode": "Indexed", "completions": completions, "parallelism": parallelism})
        }),
        (1i32..6, 1i32..4, 0i32..3).prop_map(|(completions, parallelism, limit)| {
            json!({"completionMode": "Indexed", "completions": completions, "parallelism": parallelism,
                "backoffLimitPerIndex": limit, "maxFailedIndexes": completions / 2})
        }),
        (1i32..6, 1i32..4, 0i32..4).prop_map(move |(completions, parallelism, limit)| {
            json!({"completions": completions, "parallelism": parallelism, "backoffLimit": limit,
                "podFailurePolicy": {"rules": rule}})
        }),
        (2i32..6, 1i32..4).prop_map(|(completions, parallelism)| {
            json!({"completionMode": "Indexed", "completions": completions, "parallelism": parallelism,
                "successPolicy": {"rules": [{"succeededIndexes": "1"}, {"succeededCount": 2}]}})
        }),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Live(usize, u8),
    Hear(usize),
    HearJob,
    Run(usize),
    Wait(i64),
    Parallelism(i32),
    Suspend(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => (any::<usize>(), any::<u8>()).prop_map(|(which, what)| Step::Live(which, what)),
        4 => any::<usize>().prop_map(Step::Hear),
        1 => Just(Step::HearJob),
        3 => (0usize..6).prop_map(Step::Run),
        4 => Just(Step::Run(usize::MAX)),
        2 => (1i64..100).prop_map(Step::Wait),
        1 => (0i32..5).prop_map(Step::Parallelism),
        1 => any::<bool>().prop_map(Step::Suspend),
    ];
    prop::collection::vec(step, 0..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn each_pod_is_counted_once_and_it_ends(spec in specs(), steps in steps()) {
        let mut world = World::new(spec);
        for step in steps {
            match step {
                Step::Live(which, what) => world.live(which, what),
                Step::Hear(which) => world.hear(which),
                Step::HearJob => world.heard_job = world.job.clone(),
                Step::Run(writes) => world.run(writes),
                Step::Wait(seconds) => world.clock += seconds,
                Step::Parallelism(count) => world.respec(|spec| spec.parallelism = Some(count)),
                Step::Suspend(suspend) => world.respec(|spec| spec.suspend = Some(suspend)),
            }
        }
        world.finish();
        // What is still ending ends.
        for which in 0..world.pods.len() {
            world.live(which, 0);
        }
        world.hear_all();
        world.run(usize::MAX);
        world.settled();
        let status = world.job.status.clone().unwrap();
        if reason(&world) == "CompletionsReached" && let Some(completions) = world.job.spec.as_ref().unwrap().completions {
            prop_assert_eq!(status.succeeded.unwrap_or(0), completions);
        }
        prop_assert!(held(&status, COMPLETE).is_none() || held(&status, FAILED).is_none());
    }
}
