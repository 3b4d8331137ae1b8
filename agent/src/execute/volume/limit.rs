//! The size of empty directories on disk: a pod that takes more than its `sizeLimit` is evicted. In memory the kernel keeps
//! the limit. Nothing tells of writes, so it is looked at as often as the kubelet does; only pods that have limits are.

use std::path::PathBuf;
use std::time::Duration;

use agent_pod::protocol::{Event, Failure};
use api::quantity::Quantity;
use tokio::time::MissedTickBehavior;

use super::{Executor, plugin};
use crate::worker::Input;

const EVERY: Duration = Duration::from_secs(10);

/// A directory with a limit.
struct Limited {
    volume: String,
    dir: PathBuf,
    /// As the pod has it.
    text: String,
    bytes: u64,
}

fn limited(executor: &Executor) -> Vec<Limited> {
    let volumes = executor.pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref()).into_iter().flatten();
    let limit = |volume: &k8s_openapi::api::core::v1::Volume| {
        let empty = volume.empty_dir.as_ref().filter(|empty| empty.medium.as_deref().unwrap_or_default().is_empty())?;
        let text = empty.size_limit.as_ref()?.0.clone();
        let bytes = u64::try_from(Quantity::parse(&text).ok()?.value()).ok().filter(|bytes| *bytes > 0)?;
        let dir = executor.volume_dir(plugin(volume)?, &volume.name);
        Some(Limited { volume: volume.name.clone(), dir, text, bytes })
    };
    volumes.filter_map(limit).collect()
}

/// Looks until dropped.
pub(crate) async fn watch(executor: Executor) {
    if limited(&executor).is_empty() {
        return;
    }
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if !executor.live.is_up() {
            continue;
        }
        let all = limited(&executor);
        let measured = tokio::task::spawn_blocking(move || all.into_iter().find_map(exceeded)).await;
        if let Ok(Some(message)) = measured {
            let failure = Failure { reason: "Evicted".into(), message };
            // The worker is gone only when the pod is.
            drop(executor.inputs.send(Input::Machine(Event::Evicted(failure))));
            return;
        }
    }
}

/// What is to be said of a directory that is too large; one that cannot be measured is left.
fn exceeded(own: Limited) -> Option<String> {
    match agent_volume::measure::used(&own.dir) {
        Ok(used) if used > own.bytes => {
            Some(format!("Usage of EmptyDir volume {:?} exceeds the limit {:?}. ", own.volume, own.text))
        }
        Ok(_) => None,
        Err(error) => {
            tracing::debug!(error = crate::execute::chain(&error), volume = own.volume, "measuring a volume");
            None
        }
    }
}
