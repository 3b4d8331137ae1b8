//! A container's image: looked for on this node, or pulled as whom the pod's secrets say.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use agent_image::reference::Reference;
use agent_image::registry::Keyring;
use agent_image::store::{Image, ImageError};
use agent_pod::protocol::{Event, ImageFault, ImageNames, Notice, Pulled};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::SignedDuration;
use kube::api::Api;
use tokio::sync::oneshot;

use super::{Executor, blocking, chain};

/// Looks for the container's image on this node.
pub(crate) async fn ensure(executor: &Executor, container: usize) -> Event {
    let (images, wanted) = (executor.host.images.clone(), reference(executor, container));
    let found = blocking::run(move || images.find(&wanted)).await;
    let failed = |fault, message| Event::ImageFailed { container, fault, message };
    match found {
        Ok(Ok(Some(image))) => Event::ImageReady { container, image: names(&image), pulled: None },
        Ok(Ok(None)) => Event::ImageMissing { container },
        Ok(Err(error @ ImageError::Reference(_))) => failed(ImageFault::InvalidName, chain(&error)),
        Ok(Err(error)) => failed(ImageFault::Inspect, chain(&error)),
        Err(error) => failed(ImageFault::Inspect, chain(&error)),
    }
}

/// Pulls the container's image. Cancelled, it has no answer.
pub(crate) async fn pull(executor: &Executor, container: usize) -> Option<Event> {
    let (sender, cancelled) = oneshot::channel();
    // An earlier pull for this container, which nobody waits for any more, ends here too.
    executor.awaited.lock().unwrap_or_else(PoisonError::into_inner).insert(container, sender);
    tokio::select! {
        event = pull_to_the_end(executor, container) => Some(event),
        _ = cancelled => None,
    }
}

/// Gives up waiting for a container's image.
pub(crate) fn cancel(executor: &Executor, container: usize) {
    executor.awaited.lock().unwrap_or_else(PoisonError::into_inner).remove(&container);
}

async fn pull_to_the_end(executor: &Executor, container: usize) -> Event {
    let began = Instant::now();
    let failed = |fault, message| Event::ImageFailed { container, fault, message };
    let reference: Reference = match reference(executor, container).parse() {
        Ok(reference) => reference,
        Err(error) => return failed(ImageFault::InvalidName, chain(&error)),
    };
    let credentials = keyring(executor).await.matching(&reference);
    match executor.host.pulls.pull(reference, credentials).await {
        Ok(done) => {
            let (took, waited, bytes) = (signed(done.took), signed(began.elapsed()), done.image.size);
            // Who joins a pull late has waited less than it took; the kubelet's words are for who waits longer.
            let pulled = Pulled { took, waited: waited.max(took), bytes };
            Event::ImageReady { container, image: names(&done.image), pulled: Some(pulled) }
        }
        Err(error) => failed(ImageFault::Pull, chain(&*error)),
    }
}

fn reference(executor: &Executor, container: usize) -> String {
    executor.container(container).and_then(|container| container.image.clone()).unwrap_or_default()
}

fn names(image: &Image) -> ImageNames {
    ImageNames { image: image.name.clone(), id: image.id() }
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

/// What the pod's `imagePullSecrets` hold. One that cannot be had or read is told and left out: the image may need none.
pub(crate) async fn keyring(executor: &Executor) -> Keyring {
    let mut keyring = Keyring::default();
    let spec = executor.pod.spec.as_ref();
    let names = spec.and_then(|spec| spec.image_pull_secrets.as_ref()).into_iter().flatten();
    let api: Api<Secret> = Api::namespaced(executor.host.client.clone(), executor.namespace());
    let mut failed = Vec::new();
    for name in names.map(|reference| reference.name.as_str()).filter(|name| !name.is_empty()) {
        let problem = match api.get(name).await {
            Ok(secret) => add(&mut keyring, &secret).err(),
            Err(error) => Some(chain(&error)),
        };
        if let Some(problem) = problem {
            tracing::warn!(secret = name, problem, uid = executor.uid, "a pull secret cannot be used");
            failed.push(name.to_owned());
        }
    }
    if !failed.is_empty() {
        let message = format!(
            "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
            failed.join(", ")
        );
        let reason = "FailedToRetrieveImagePullSecret";
        let notice = Notice { warning: true, reason, message, container: None };
        executor.host.recorder.pod(&executor.host.client, &executor.pod, &notice).await;
    }
    keyring
}

/// Secrets of other types hold no credentials of registries.
fn add(keyring: &mut Keyring, secret: &Secret) -> Result<(), String> {
    let data = |key: &str| secret.data.as_ref().and_then(|data| data.get(key)).map(|bytes| bytes.0.as_slice());
    let missing = |key: &str| format!("has no key {key}");
    match secret.type_.as_deref() {
        Some("kubernetes.io/dockerconfigjson") => {
            let bytes = data(".dockerconfigjson").ok_or_else(|| missing(".dockerconfigjson"))?;
            keyring.add_config_json(bytes).map_err(|error| chain(&error))
        }
        Some("kubernetes.io/dockercfg") => {
            let bytes = data(".dockercfg").ok_or_else(|| missing(".dockercfg"))?;
            keyring.add_dockercfg(bytes).map_err(|error| chain(&error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn pull_secrets_of_both_types_are_read() {
        let secret = |kind: &str, key: &str, content: &str| -> Secret {
            let content = base64::engine::general_purpose::STANDARD.encode(content);
            from_value(json!({"type": kind, "data": {key: content}})).unwrap()
        };
        let entry = r#"{"quay.io": {"username": "u", "password": "p"}}"#;
        let mut keyring = Keyring::default();
        let auths = format!(r#"{{"auths": {entry}}}"#);
        add(&mut keyring, &secret("kubernetes.io/dockerconfigjson", ".dockerconfigjson", &auths)).unwrap();
        assert_eq!(keyring.matching(&"quay.io/a".parse().unwrap()).len(), 1);
        let mut keyring = Keyring::default();
        add(&mut keyring, &secret("kubernetes.io/dockercfg", ".dockercfg", entry)).unwrap();
        assert_eq!(keyring.matching(&"quay.io/a".parse().unwrap()).len(), 1);
        let bad = add(&mut keyring, &secret("kubernetes.io/dockerconfigjson", "other", "x")).unwrap_err();
        assert_eq!(bad, "has no key .dockerconfigjson");
        assert!(add(&mut keyring, &secret("Opaque", "x", "y")).is_ok());
    }
}
