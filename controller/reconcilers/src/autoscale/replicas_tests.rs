//! Figures by hand, from the algorithm of the Kubernetes documentation, "Horizontal Pod Autoscaling".
use super::replicas::{Goal, Proposal, Sample, Samples, Situation, Tolerance, by_share, by_value, per_pod};
use crate::pod::PodFacts;
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::json;
use std::sync::Arc;

/// When everything is looked at, in seconds since 1970.
const NOW: i64 = 100_000;
const TENTH: Tolerance = Tolerance { up: 0.1, down: 0.1 };

/// How a pod of a test is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Is {
    Ready,
    /// Ready once, and no longer, after so many seconds; it has run for longer than the CPU's initialization.
    UnreadySince(i64),
    /// It started so many seconds ago, and is not ready.
    StartedUnready(i64),
    /// It started so many seconds ago, and has been ready for one second less.
    StartedReady(i64),
    Pending,
    Failed,
    Deleted,
}

fn pod(index: usize, is: Is) -> Arc<PodFacts> {
    let time = |at: i64| Timestamp::from_second(at).unwrap().to_string();
    let (phase, started, ready, since) = match is {
        Is::Ready | Is::Deleted => ("Running", NOW - 1000, "True", NOW - 990),
        Is::UnreadySince(after) => ("Running", NOW - 1000, "False", NOW - 1000 + after),
        Is::StartedUnready(ago) => ("Running", NOW - ago, "False", NOW - ago),
        Is::StartedReady(ago) => ("Running", NOW - ago, "True", NOW - ago + 1),
        Is::Pending => ("Pending", NOW - 5, "False", NOW - 5),
        Is::Failed => ("Failed", NOW - 1000, "False", NOW - 1),
    };
    let mut pod = json!({
        "metadata": {"name": format!("p{index}"), "namespace": "n"},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1", "memory": "1000"}}}]},
        "status": {"phase": phase, "startTime": time(started),
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": time(since)}]},
    });
    if is == Is::Deleted {
        pod["metadata"]["deletionTimestamp"] = time(NOW).into();
    }
    Arc::new(PodFacts::new(serde_json::from_value(pod).unwrap()))
}

fn pods(all: &[Is]) -> Vec<Arc<PodFacts>> {
    all.iter().enumerate().map(|(index, is)| pod(index, *is)).collect()
}

/// What the pods use, in thousandths; `None` of one that is not measured.
fn samples(all: &[Option<i64>]) -> Samples {
    let sample = |value| Sample { value, at: NOW - 10, window: 30 };
    let named =
        all.iter().enumerate().filter_map(|(index, value)| Some((format!("p{index}").into(), sample((*value)?))));
    named.collect()
}

fn situation(pods: &[Arc<PodFacts>], wanted: i32) -> Situation<'_> {
    Situation { pods, wanted, present: wanted, tolerance: TENTH, now: Timestamp::from_second(NOW).unwrap() }
}

fn cpu(percent: i32) -> Goal<'static> {
    Goal::Utilization { percent, resource: "cpu", container: None }
}

#[track_caller]
fn check(what: &str, goal: &Goal<'_>, all: &[Is], used: &[Option<i64>], expected: i32) {
    let pods = pods(all);
    let wanted = i32::try_from(all.len()).unwrap();
    let proposal = per_pod(goal, &situation(&pods, wanted), &samples(used)).map(|proposal| proposal.replicas);
    assert_eq!(proposal, Ok(expected), "{what}");
}

#[test]
fn utilization_is_brought_to_its_goal() {
    use Is::Ready;
    let used = |milli: i64, count: usize| vec![Some(milli); count];
    let all = [Ready; 10];
    // ceil(3 * 90 / 30), ceil(4 * 20 / 50) and ceil(3 * 65 / 50).
    check("up", &cpu(30), &all[..3], &used(900, 3), 9);
    check("down", &cpu(50), &all[..4], &used(200, 4), 2);
    check("a part of a pod is a pod", &cpu(50), &all[..3], &used(650, 3), 4);
    check("to nothing", &cpu(50), &all[..3], &used(0, 3), 0);
    // 55 / 50 and 45 / 50 are within a tenth, 56 / 50 and 44 / 50 are not: ceil(10 * 1.12), ceil(10 * 0.88).
    check("near above", &cpu(50), &all, &used(550, 10), 10);
    check("near below", &cpu(50), &all, &used(450, 10), 10);
    check("beyond above", &cpu(50), &all, &used(560, 10), 12);
    check("beyond below", &cpu(50), &all, &used(440, 10), 9);
    // (300 + 500 + 700) / 3000 = 50 %: ceil(3 * 50 / 30).
    check("the sum counts", &cpu(30), &all[..3], &[Some(300), Some(500), Some(700)], 5);
}

#[test]
fn what_is_not_measured_pulls_towards_what_is_there() {
    use Is::Ready;
    // Up: (900 + 900 + 0) / 3000 = 60 %: ceil(3 * 60 / 30), not ceil(3 * 90 / 30).
    check("up", &cpu(30), &[Ready; 3], &[Some(900), Some(900), None], 6);
    // 10 * 600 / 11000 = 54 % is near 50 %, though 60 % is not.
    check("near", &cpu(50), &[Ready; 11], &[[Some(600); 10].as_slice(), &[None]].concat(), 11);
    // Down: (100 + 100 + 1000) / 3000 = 40 %: ceil(3 * 40 / 50), not ceil(3 * 10 / 50).
    check("down", &cpu(50), &[Ready; 3], &[Some(100), Some(100), None], 3);
    // (100 * 4 + 1000) / 5000 = 28 %: ceil(5 * 28 / 50).
    check("down all the same", &cpu(50), &[Ready; 5], &[Some(100), Some(100), Some(100), Some(100), None], 3);
    // Above 100 % the goal itself is assumed: (300 + 2000) / 2000 = 115 %: ceil(2 * 115 / 200).
    check("down from above", &cpu(200), &[Ready; 2], &[Some(300), None], 2);
    // 90 % of 50 % would add, 45 % would take away: nothing is done.
    check("turned", &cpu(50), &[Ready; 2], &[Some(900), None], 2);
    // The same for an average of 1.5 each: (6000 + 0) / 2 = 3000.
    let goal = Goal::Average { milli: 1500, resource: None };
    check("average up", &goal, &[Ready; 2], &[Some(6000), None], 4);
    check("average down", &goal, &[Ready; 4], &[Some(100), Some(100), Some(100), None], 2);
    check("on the spot", &goal, &[Ready; 2], &[Some(1500), None], 2);
}

#[test]
fn pods_that_come_up_count_for_nothing() {
    use Is::{Deleted, Failed, Pending, Ready, StartedReady, StartedUnready, UnreadySince};
    let all = |last| [Ready, Ready, last];
    let used = [Some(900), Some(900), Some(900)];
    // ceil(3 * 90 / 30) = 9 with all three, ceil(3 * 60 / 30) = 6 where the last is taken for nothing.
    for (last, expected) in [
        (Ready, 9),
        (Pending, 6),
        (StartedUnready(200), 6),
        // Ready since 19 seconds, and the sample covers 30 until 10 ago.
        (StartedReady(20), 6),
        (StartedReady(60), 9),
        // It was never ready, or it was once.
        (UnreadySince(29), 6),
        (UnreadySince(30), 9),
    ] {
        check(&format!("{last:?}"), &cpu(30), &all(last), &used, expected);
    }
    // Those that go are not pods: ceil(2 * 90 / 30).
    check("failed", &cpu(30), &all(Failed), &used, 6);
    check("deleted", &cpu(30), &all(Deleted), &used, 6);
    // Down the unready are left out: ceil(2 * 10 / 50).
    check("down", &cpu(50), &all(Pending), &[Some(100), Some(100), None], 1);
    // Only CPU time is another while a pod starts: ceil(3 * 90 / 30).
    let memory = Goal::Utilization { percent: 30, resource: "memory", container: None };
    let used = [Some(900_000), Some(900_000), Some(900_000)];
    check("memory", &memory, &all(StartedUnready(200)), &used, 9);
}

#[test]
fn averages_are_brought_to_their_goal() {
    let goal = Goal::Average { milli: 15_000, resource: None };
    // 20 + 10 + 30 = 60 by 15 each.
    check("up", &goal, &[Is::Ready; 3], &[Some(20_000), Some(10_000), Some(30_000)], 4);
    check("near", &goal, &[Is::Ready; 2], &[Some(16_000), Some(16_000)], 2);
    check("down", &goal, &[Is::Ready; 4], &[Some(1000); 4], 1);
}

#[test]
fn statuses_tell_what_was_measured() {
    let ready = pods(&[Is::Ready; 3]);
    let used = samples(&[Some(300), Some(500), Some(701)]);
    let Proposal { current, .. } = per_pod(&cpu(30), &situation(&ready, 3), &used).unwrap();
    assert_eq!(json!(current), json!({"averageUtilization": 50, "averageValue": "500m"}));
    let goal = Goal::Average { milli: 1000, resource: Some("cpu") };
    let Proposal { current, .. } = per_pod(&goal, &situation(&ready, 3), &used).unwrap();
    assert_eq!(json!(current), json!({"averageValue": "500m"}));
    assert_eq!(json!(by_value(1000, &situation(&ready, 3), 2500).unwrap().current), json!({"value": "2500m"}));
    assert_eq!(json!(by_share(1000, &situation(&ready, 3), 2500).current), json!({"averageValue": "834m"}));
}

#[test]
fn what_cannot_be_worked_out_is_told() {
    let told = |all: &[Is], used: &[Option<i64>], goal: &Goal<'_>| {
        per_pod(goal, &situation(&pods(all), 1), &samples(used)).unwrap_err()
    };
    assert_eq!(told(&[], &[], &cpu(50)), "no pods returned by selector while calculating replica count");
    assert_eq!(told(&[Is::Pending], &[Some(1)], &cpu(50)), "did not receive metrics for any ready pods");
    let gpu = Goal::Utilization { percent: 50, resource: "gpu", container: None };
    assert_eq!(told(&[Is::Ready], &[Some(1)], &gpu), "missing request for gpu in container c of Pod p0");
    let other = Goal::Utilization { percent: 50, resource: "cpu", container: Some("other") };
    assert_eq!(told(&[Is::Ready], &[Some(1)], &other), "no metrics returned matched known pods");
}

#[test]
fn one_value_for_all() {
    let all = pods(&[Is::Ready, Is::Ready, Is::Ready, Is::UnreadySince(500), Is::Pending]);
    let replicas = |wanted, value| by_value(10_000, &situation(&all, wanted), value).map(|proposal| proposal.replicas);
    // 20 of 10, by three pods that are ready: 6. 10.9 of 10 is near.
    assert_eq!(replicas(5, 20_000), Ok(6));
    assert_eq!(replicas(5, 10_900), Ok(5));
    assert_eq!(replicas(5, 1000), Ok(1));
    // From nothing: ceil(25 / 10); and back to nothing.
    assert_eq!(replicas(0, 25_000), Ok(3));
    assert_eq!(replicas(1, 0), Ok(0));
    assert!(by_value(10_000, &situation(&[], 2), 50_000).is_err());
}

#[test]
fn one_value_to_share() {
    let all = pods(&[Is::Ready; 4]);
    let replicas =
        |present, value| by_share(10_000, &Situation { present, ..situation(&all, present) }, value).replicas;
    // ceil(75 / 10), ceil(5 / 10); 42 for four is near 10 each.
    assert_eq!(replicas(4, 75_000), 8);
    assert_eq!(replicas(4, 5000), 1);
    assert_eq!(replicas(4, 42_000), 4);
    assert_eq!(replicas(0, 25_000), 3);
    assert_eq!(replicas(2, 0), 0);
}

#[test]
fn an_own_tolerance_counts() {
    let all = pods(&[Is::Ready; 10]);
    let replicas = |up, down, used: i64| {
        let situation = Situation { tolerance: Tolerance { up, down }, ..situation(&all, 10) };
        per_pod(&cpu(50), &situation, &samples(&[Some(used); 10])).unwrap().replicas
    };
    // 52 / 50 is beyond nothing and 60 / 50 within a fifth; 40 / 50 is beyond a tenth.
    assert_eq!(replicas(0.0, 0.1, 520), 11);
    assert_eq!(replicas(0.2, 0.1, 600), 10);
    assert_eq!(replicas(0.2, 0.1, 400), 8);
}

fn any_pod() -> impl Strategy<Value = (Is, Option<i64>)> {
    let is = prop_oneof![
        4 => Just(Is::Ready),
        1 => Just(Is::Pending),
        1 => Just(Is::StartedUnready(100)),
        1 => Just(Is::UnreadySince(10)),
    ];
    (is, proptest::option::weighted(0.8, 0..3000_i64))
}

proptest! {
    /// Whoever knows less does less: without its figure a pod never makes the target move further.
    #[test]
    fn the_unknown_never_pushes(all in proptest::collection::vec(any_pod(), 1..12), percent in 1..200_i32) {
        let (is, used): (Vec<Is>, Vec<Option<i64>>) = all.into_iter().unzip();
        let pods = pods(&is);
        let wanted = i32::try_from(is.len()).unwrap();
        let situation = situation(&pods, wanted);
        let known: Vec<usize> = (0..is.len()).filter(|index| is[*index] == Is::Ready && used[*index].is_some()).collect();
        prop_assume!(!known.is_empty());
        let sum: i64 = known.iter().filter_map(|index| used[*index]).sum();
        let utilization = sum * 100 / (1000 * i64::try_from(known.len()).unwrap());
        let proposal = per_pod(&cpu(percent), &situation, &samples(&used)).unwrap();
        let naive = (utilization as f64 / f64::from(percent) * f64::from(wanted)).ceil() as i32;
        if utilization > i64::from(percent) {
            prop_assert!(proposal.replicas >= 1);
            prop_assert!(proposal.replicas <= naive.max(wanted), "{proposal:?} beyond {naive}");
        } else if utilization < i64::from(percent) {
            prop_assert!(proposal.replicas <= wanted, "{proposal:?} adds");
        }
    }
}
