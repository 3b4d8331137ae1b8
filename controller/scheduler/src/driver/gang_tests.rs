//! Gangs under whatever happens in whatever order: no half of one ever gets its place, one pod stands for all, and no event
//! is missed after which a gang would fit.
use super::tests::{add_node, driver, of, on, pod, tell, tell_gone, tell_group};
use super::*;
use crate::gang::{self, Verdict};
use crate::group::Policy;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const GROUPS: [&str; 3] = ["g", "h", "i"];
const NODES: [&str; 3] = ["a", "b", "c"];

#[derive(Clone, Debug)]
enum Step {
    Group { which: usize, min_count: usize },
    Pod { which: Option<usize>, cpu: u32 },
    Delete(prop::sample::Index),
    Node(usize),
    NodeGone(usize),
    Answer { which: prop::sample::Index, is_bound: bool },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let pod = (prop::option::weighted(0.8, 0..GROUPS.len()), 1u32..4).prop_map(|(which, cpu)| Step::Pod { which, cpu });
    let group = (0..GROUPS.len(), 1usize..4).prop_map(|(which, min_count)| Step::Group { which, min_count });
    let answer =
        (any::<prop::sample::Index>(), any::<bool>()).prop_map(|(which, is_bound)| Step::Answer { which, is_bound });
    let step = prop_oneof![
        2 => group,
        6 => pod,
        3 => any::<prop::sample::Index>().prop_map(Step::Delete),
        2 => (0..NODES.len()).prop_map(Step::Node),
        1 => (0..NODES.len()).prop_map(Step::NodeGone),
        3 => answer,
    ];
    prop::collection::vec(step, 1..40)
}

/// What the API holds: pods by name, and where those are that are bound.
#[derive(Default)]
struct Api {
    pods: BTreeMap<String, Value>,
    bound: BTreeMap<String, String>,
}

/// The pods of a group that have their place, by name.
fn placed(driver: &Driver, group: &str) -> BTreeSet<String> {
    driver.snapshot.groups.placed(&format!("d/{group}")).map(|key| key[2..].to_owned()).collect()
}

fn min_count(driver: &Driver, group: &str) -> Option<usize> {
    match driver.snapshot.groups.get(&format!("d/{group}"))?.policy {
        Policy::Gang { min_count } => Some(min_count),
        Policy::Basic => None,
    }
}

fn take(driver: &mut Driver, api: &mut Api, step: Step, count: usize) {
    match step {
        Step::Group { which, min_count } => {
            tell_group(driver, GROUPS[which], json!({"gang": {"minCount": min_count}}));
        }
        Step::Pod { which, cpu } => {
            let name = format!("p{count}");
            let plain = pod(&name, 1, &cpu.to_string());
            let new = which.map_or(plain.clone(), |which| of(GROUPS[which], plain));
            tell(driver, &new);
            api.pods.insert(name, new);
        }
        Step::Delete(which) if !api.pods.is_empty() => {
            let name = which.get(&api.pods.keys().cloned().collect::<Vec<_>>()).clone();
            if let Some(gone) = api.pods.remove(&name) {
                api.bound.remove(&name);
                tell_gone(driver, &gone);
            }
        }
        Step::Node(which) => add_node(driver, NODES[which], json!({})),
        Step::NodeGone(which) => {
            let node = json!({"metadata": {"name": NODES[which]}});
            driver.node_event(watcher::Event::Delete(serde_json::from_value(node).unwrap()));
        }
        Step::Answer { which, is_bound } => {
            let in_hand = |name: &&String| driver.queue.is_in_hand(&format!("d/{name}"));
            let waiting: Vec<String> = api.pods.keys().filter(in_hand).cloned().collect();
            if waiting.is_empty() {
                return;
            }
            let name = which.get(&waiting);
            let key = format!("d/{name}");
            let pod = driver.queue.get(&key).cloned().unwrap();
            let (slot, _) = driver.snapshot.placed(&key).unwrap();
            // Nobody is bound to a node that has gone.
            let node = driver.snapshot.at(slot).map(|node| node.name.clone());
            let is_bound = is_bound && node.is_some();
            let node = node.unwrap_or_default();
            let result = if is_bound { Ok(()) } else { Err(kube::Error::LinesCodecMaxLineLengthExceeded) };
            let (since, prepared) = (Instant::now(), Vec::new());
            driver.bound(Bound { pod, node: node.clone(), since, result, prepared });
            if is_bound {
                tell(driver, &on(&node, api.pods[name].clone()));
                api.bound.insert(name.clone(), node.into());
            }
        }
        Step::Delete(_) => {}
    }
}

/// Decides until nobody is active, and looks at what came of it.
fn settle(driver: &mut Driver) -> Result<(), TestCaseError> {
    let before = GROUPS.map(|group| placed(driver, group));
    while driver.schedule() {}
    for (group, before) in GROUPS.iter().zip(before) {
        let now = placed(driver, group);
        if !now.is_subset(&before) {
            let min_count = min_count(driver, group);
            prop_assert!(
                min_count.is_some_and(|least| now.len() >= least),
                "{} of {:?} of {}",
                now.len(),
                min_count,
                group
            );
        }
        let waiting = driver.queue.of_group(&format!("d/{group}"));
        let standing = waiting.iter().filter(|pod| driver.queue.stands(&pod.key)).count();
        prop_assert!(standing <= 1, "{} stand for {}", standing, group);
    }
    for (_, node) in driver.snapshot.nodes() {
        let (taken, have) = (node.taken.requested.milli_cpu, node.allocatable.milli_cpu);
        prop_assert!(taken <= have, "{} of {} of {}", taken, have, node.name);
    }
    Ok(())
}

/// What waits could not go either if it were looked at now.
fn nothing_is_missed(driver: &mut Driver) -> Result<(), TestCaseError> {
    for _ in 0..8 {
        driver.queue.advance(Instant::now() + Duration::from_secs(60));
        settle(driver)?;
    }
    for group in GROUPS {
        let key = format!("d/{group}");
        let waiting = driver.queue.of_group(&key);
        let Some(facts) = driver.snapshot.groups.get(&key).cloned() else { continue };
        if waiting.len() + driver.snapshot.staying_of_group(&key) < min_count(driver, group).unwrap_or(0) {
            continue;
        }
        if !waiting.is_empty() {
            let verdict = gang::decide(&mut Decider::default(), &mut driver.snapshot, &facts, &waiting);
            prop_assert!(!matches!(verdict, Verdict::Bind { .. }), "{} would fit: {:?}", group, verdict);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn gangs_go_whole_whatever_happens(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (mut driver, mut api) = (driver(), Api::default());
            for (count, step) in steps.into_iter().enumerate() {
                take(&mut driver, &mut api, step, count);
                settle(&mut driver)?;
            }
            nothing_is_missed(&mut driver)
        })?;
    }
}
