//! The StorageClass that a cluster begins with. It is made once and is the user's from then on: who deletes it, changes
//! it or takes its mark as the default away is not overruled by the next start. A ConfigMap remembers that it was made.

use api::well_known::{ANNOTATION_DEFAULT_STORAGE_CLASS, CLASS_LOCAL_PATH, PROVISIONER_LOCAL_PATH};
use controller_object::{defaulting, strategy};
use controller_store::model::{CommitError, Compare, Op};
use serde_json::{Value, json};

use crate::registry::{Registry, stored_bytes};

const GROUP: &str = "storage.k8s.io";
const MEMORY: &str = "gantry-made-once";
const NAMESPACE: &str = "kube-system";

/// Makes the class at the first start. Where it is not `wanted` (`--disable local-storage`), one that was made goes.
pub(crate) async fn ensure(registry: &Registry, wanted: bool) -> Result<(), CommitError> {
    let table = registry.builtin();
    let (Some(classes), Some(maps)) =
        (table.find_kind(GROUP, "v1", "StorageClass"), table.find_kind("", "v1", "ConfigMap"))
    else {
        return Ok(());
    };
    let (class_key, memory_key) =
        (registry.key(classes, None, CLASS_LOCAL_PATH), registry.key(maps, Some(NAMESPACE), MEMORY));
    let (held, memory) = (registry.store.get(&class_key), registry.store.get(&memory_key));
    let (mut compares, mut ops) = (Vec::new(), Vec::new());
    match (wanted, memory) {
        (true, Some(_)) | (false, None) => return Ok(()),
        (true, None) => {
            let stamp = || strategy::Stamp { now: crate::time::now(), uid: uuid::Uuid::new_v4().to_string() };
            let mut memory = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": MEMORY, "namespace": NAMESPACE},
                "data": {format!("storageclass.{CLASS_LOCAL_PATH}"): "made; delete or change it as you like"}});
            strategy::prepare_for_create(maps, &mut memory, &stamp());
            compares.push(Compare::Absent(memory_key.clone()));
            ops.push(Op::Put { key: memory_key, value: stored_bytes(maps, &memory), ttl: None });
            // One of that name that somebody made before is his.
            if held.is_none() {
                let mut class = class();
                defaulting::default(classes, &mut class);
                strategy::prepare_for_create(classes, &mut class, &stamp());
                compares.push(Compare::Absent(class_key.clone()));
                ops.push(Op::Put { key: class_key, value: stored_bytes(classes, &class), ttl: None });
            }
        }
        (false, Some(memory)) => {
            compares.push(Compare::ModRevision(memory_key.clone(), memory.mod_revision));
            ops.push(Op::Delete { key: memory_key });
            let is_ours = |bytes: &[u8]| {
                serde_json::from_slice::<Value>(bytes).is_ok_and(|class| class["provisioner"] == PROVISIONER_LOCAL_PATH)
            };
            if let Some(held) = held.filter(|held| is_ours(&held.value)) {
                compares.push(Compare::ModRevision(class_key.clone(), held.mod_revision));
                ops.push(Op::Delete { key: class_key });
            }
        }
    }
    registry.store.commit(&compares, ops).await.map(drop)
}

fn class() -> Value {
    json!({"apiVersion": format!("{GROUP}/v1"), "kind": "StorageClass", "metadata": {"name": CLASS_LOCAL_PATH,
            "annotations": {ANNOTATION_DEFAULT_STORAGE_CLASS: "true"}},
        "provisioner": PROVISIONER_LOCAL_PATH, "reclaimPolicy": "Delete", "volumeBindingMode": "WaitForFirstConsumer",
        "allowVolumeExpansion": true})
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use controller_store::store::Store;

    use super::*;

    #[tokio::test]
    async fn the_class_is_made_once_and_stays_as_its_user_wants_it() {
        let store = Store::open(controller_store::driver::Memory, controller_store::store::Config::default()).unwrap();
        let ranges = crate::service::Ranges { cidr: "10.43.0.0/16".parse().unwrap(), dns: [10, 43, 0, 10].into() };
        let registry = Registry::new(Arc::new(store), std::time::Duration::from_secs(1), ranges);
        let classes = registry.builtin().find_kind(GROUP, "v1", "StorageClass").unwrap();
        let key = registry.key(classes, None, CLASS_LOCAL_PATH);
        let is_there = || registry.store.get(&key).is_some();
        ensure(&registry, true).await.unwrap();
        assert!(is_there());
        registry.store.commit(&[], vec![Op::Delete { key: key.clone() }]).await.unwrap();
        ensure(&registry, true).await.unwrap();
        assert!(!is_there(), "who deleted it is not overruled");
        ensure(&registry, false).await.unwrap();
        ensure(&registry, true).await.unwrap();
        assert!(is_there(), "disabled and wanted again");
        ensure(&registry, false).await.unwrap();
        assert!(!is_there());
    }
}
