//! What a pod has written to this machine's disk: the writable layers of its containers, their logs, its empty
//! directories. Kubernetes documentation, "Local ephemeral storage". Measured by walking, so only when somebody must know.

use std::collections::BTreeMap;

use agent_volume::measure::{self, Used};

use crate::execute::{Executor, chain};

/// By container and by volume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) containers: BTreeMap<String, Used>,
    pub(crate) volumes: BTreeMap<String, Used>,
}

impl Written {
    /// All of it.
    pub(crate) fn total(&self) -> Used {
        self.containers.values().chain(self.volumes.values()).fold(Used::default(), |all, own| all.plus(*own))
    }
}

/// Looks at the disk. What cannot be measured is left out.
pub(crate) fn measure(executor: &Executor) -> Written {
    let mut written = Written::default();
    let used = |dir: &std::path::Path| match measure::used(dir) {
        Ok(used) => used,
        Err(error) => {
            tracing::debug!(error = chain(&error), "measuring what a pod wrote");
            Used::default()
        }
    };
    let starts = std::fs::read_dir(executor.run_dir().join("c")).into_iter().flatten().flatten();
    for start in starts.filter_map(|entry| entry.file_name().into_string().ok()) {
        let Some((name, _)) = start.rsplit_once('.') else { continue };
        let layer = used(&executor.host.images.written(&format!("{}_{start}", executor.uid)));
        let all = written.containers.entry(name.to_owned()).or_default();
        *all = all.plus(layer);
    }
    let logs = std::fs::read_dir(executor.log_dir()).into_iter().flatten().flatten();
    for log in logs {
        let Ok(name) = log.file_name().into_string() else { continue };
        let all = written.containers.entry(name).or_default();
        *all = all.plus(used(&log.path()));
    }
    for (name, dir) in executor.empty_directories() {
        written.volumes.insert(name, used(&dir));
    }
    written
}
