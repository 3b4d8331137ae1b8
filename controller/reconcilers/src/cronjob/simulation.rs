//! CronJobs played against a simulated server: whatever the clock, the Jobs and people do, with a process that ends
//! between any two writes, no time has two Jobs, and who forbids company has none.
use super::plan::{self, Plan};
use super::template;
use crate::job::is_finished;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use proptest::prelude::*;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The process has ended before this write.
struct Crashed;

struct World {
    cron: CronJob,
    jobs: BTreeMap<String, Job>,
    /// Jobs that the reconciler has heard of.
    heard: BTreeMap<String, Job>,
    clock: i64,
    writes_left: usize,
    /// The times that have had a Job.
    made: BTreeSet<i64>,
}

impl World {
    fn new(policy: &str) -> Self {
        let cron = serde_json::from_value(json!({
            "metadata": {"name": "c", "namespace": "n", "uid": "u", "creationTimestamp": "2026-01-01T00:00:30Z"},
            "spec": {"schedule": "*/2 * * * *", "concurrencyPolicy": policy, "successfulJobsHistoryLimit": 2,
                "failedJobsHistoryLimit": 1, "jobTemplate": {"spec": {"template": {}}}}}));
        let begin: Timestamp = "2026-01-01T00:00:30Z".parse().unwrap();
        Self {
            cron: cron.unwrap(),
            jobs: BTreeMap::new(),
            heard: BTreeMap::new(),
            clock: begin.as_second(),
            writes_left: 0,
            made: BTreeSet::new(),
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.clock).unwrap()
    }

    fn write(&mut self) -> Result<(), Crashed> {
        self.writes_left = self.writes_left.checked_sub(1).ok_or(Crashed)?;
        Ok(())
    }

    fn run(&mut self, writes: usize) {
        self.writes_left = writes;
        if self.reconcile().is_err() {
            self.heard = self.jobs.clone();
        }
    }

    fn reconcile(&mut self) -> Result<(), Crashed> {
        let jobs: Vec<Arc<Job>> = self.heard.values().cloned().map(Arc::new).collect();
        let plan = plan::plan(&self.cron, &jobs, Some(&TimeZone::UTC), self.now());
        let status = self.carry_out(&plan)?;
        let known = self.cron.status.clone().unwrap_or_default();
        if known != status {
            self.write()?;
            let time = |status: &CronJobStatus| status.last_schedule_time.as_ref().map(|time| time.0);
            assert!(time(&known) <= time(&status), "time goes back");
            self.cron.status = Some(status);
        }
        Ok(())
    }

    fn carry_out(&mut self, plan: &Plan) -> Result<CronJobStatus, Crashed> {
        let replaced = plan.create.iter().flat_map(|draft| &draft.replaced).filter_map(|one| one.name.clone());
        for name in plan.delete.iter().filter_map(|job| job.metadata.name.clone()).chain(replaced) {
            self.write()?;
            self.jobs.remove(&name);
        }
        let Some(draft) = &plan.create else { return Ok(plan.status.clone()) };
        self.write()?;
        let mut job = template::job(&self.cron, draft.time, &TimeZone::UTC);
        let name = job.metadata.name.clone().unwrap();
        if let Some(found) = self.jobs.get(&name) {
            return Ok(plan::made(plan.status.clone(), draft, found));
        }
        job.metadata.uid = Some(format!("uid-{name}"));
        assert!(self.made.insert(draft.time.as_second()), "{name} is made twice");
        assert_eq!(draft.time.as_second() % 120, 0, "nothing was due then");
        if self.cron.spec.concurrency_policy.as_deref() == Some("Forbid") {
            assert!(self.jobs.values().all(is_finished), "{name} is not alone");
        }
        self.jobs.insert(name.clone(), job.clone());
        self.heard.insert(name, job.clone());
        Ok(plan::made(plan.status.clone(), draft, &job))
    }

    fn end(&mut self, which: usize, kind: &str) {
        let (now, count) = (self.now(), self.jobs.len().max(1));
        if let Some(job) = self.jobs.values_mut().filter(|job| !is_finished(job)).nth(which % count) {
            let done = (kind == "Complete").then(|| now.to_string());
            let status = json!({"conditions": [{"type": kind, "status": "True"}], "completionTime": done});
            job.status = Some(serde_json::from_value(status).unwrap());
        }
    }

    fn ended(&self, kind: &str) -> usize {
        let is_so = |job: &&Job| crate::job::finish_of(job).is_some_and(|end| end.type_ == kind);
        self.jobs.values().filter(is_so).count()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Wait(i64),
    Run(usize),
    End(usize, bool),
    Remove(usize),
    Hear,
    Suspend(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1i64..300).prop_map(Step::Wait),
        3 => (0usize..4).prop_map(Step::Run),
        4 => Just(Step::Run(usize::MAX)),
        3 => (any::<usize>(), any::<bool>()).prop_map(|(which, well)| Step::End(which, well)),
        1 => any::<usize>().prop_map(Step::Remove),
        3 => Just(Step::Hear),
        1 => any::<bool>().prop_map(Step::Suspend),
    ];
    prop::collection::vec(step, 0..80)
}

proptest! {
    #[test]
    fn no_time_has_two_jobs(policy in prop::sample::select(vec!["Allow", "Forbid", "Replace"]), steps in steps()) {
        let mut world = World::new(policy);
        for step in steps {
            match step {
                Step::Wait(seconds) => world.clock += seconds,
                Step::Run(writes) => world.run(writes),
                Step::End(which, well) => world.end(which, if well { "Complete" } else { "Failed" }),
                Step::Remove(which) => {
                    let name = world.jobs.keys().nth(which % world.jobs.len().max(1)).cloned();
                    // A Job that is removed before anybody has noted it down may be made again.
                    let listed = world.cron.status.as_ref().and_then(|status| status.last_schedule_time.as_ref());
                    let last = listed.map_or(0, |time| time.0.as_second() / 60);
                    if let Some(name) = name.filter(|name| name.trim_start_matches("c-").parse::<i64>().unwrap() <= last) {
                        world.jobs.remove(&name);
                    }
                }
                Step::Hear => world.heard = world.jobs.clone(),
                Step::Suspend(suspend) => world.cron.spec.suspend = Some(suspend),
            }
        }
        // All goes on: what was due last has had its Job, and history is as long as asked for.
        world.cron.spec.suspend = None;
        while world.jobs.values().any(|job| !is_finished(job)) {
            world.end(0, "Complete");
        }
        world.clock += 200;
        world.heard = world.jobs.clone();
        world.run(usize::MAX);
        let due = world.clock.div_euclid(120) * 120;
        prop_assert!(world.made.contains(&due), "{due} has had none of {:?}", world.made);
        prop_assert!(world.ended("Complete") <= 2 && world.ended("Failed") <= 1);
        let status = world.cron.status.clone().unwrap();
        prop_assert_eq!(status.active.unwrap_or_default().len(), 1);
    }
}
