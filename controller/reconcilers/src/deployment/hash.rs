//! The hash that tells the ReplicaSets of one Deployment apart.
use k8s_openapi::api::core::v1::PodTemplateSpec;
use sha2::Digest as _;

const LENGTH: usize = 10;

/// A stable hash of a template; another one for every collision count.
pub(super) fn template_hash(template: &PodTemplateSpec, collisions: i32) -> String {
    let mut hash = sha2::Sha256::new();
    // Maps are sorted and absent fields are left out, so that equal templates give equal text.
    hash.update(serde_json::to_vec(template).unwrap_or_default());
    hash.update(collisions.to_le_bytes());
    let digest = hash.finalize();
    let number = digest.iter().take(8).fold(0u64, |number, byte| number << 8 | u64::from(*byte));
    api::name::safe_suffix(number, LENGTH)
}
