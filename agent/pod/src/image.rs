//! The part of the machine that makes sure of a container's image: policy, back-off, and what people are told. Events and
//! reasons are the kubelet's (Kubernetes documentation, "Images"; its `pkg/kubelet/images` for the words).

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::backoff::Backoff;
use crate::container::notice;
use crate::facts::PullPolicy;
use crate::protocol::{Command, Failure, ImageFault, ImageNames, Notice, Pulled};
use crate::state::{ContainerStage, FailedPull, PodState};

const BACKOFF_REASON: &str = "ImagePullBackOff";

/// People see why a pull failed for so long at most, before they see that it is waited.
const TOLD_FOR: SignedDuration = SignedDuration::from_secs(10);

/// Begins to make sure of a container's image, or waits with others of the pod that share it.
pub(crate) fn ensure(pod: &mut PodState, index: usize, now: Timestamp, commands: &mut Vec<Command>) {
    let facts = &pod.facts.containers[index];
    match facts.pull {
        PullPolicy::Always => pull(pod, index, now, commands),
        PullPolicy::IfNotPresent | PullPolicy::Never => {
            pod.containers[index].stage = ContainerStage::EnsuringImage;
            commands.push(Command::EnsureImage { container: index });
        }
    }
}

/// The image is not on the node.
pub(crate) fn missing(pod: &mut PodState, index: usize, now: Timestamp, commands: &mut Vec<Command>) {
    if pod.containers[index].stage != ContainerStage::EnsuringImage {
        return;
    }
    let facts = &pod.facts.containers[index];
    match facts.pull {
        PullPolicy::Never => {
            let message = format!("Container image {:?} is not present with pull policy of Never", facts.image);
            failed(pod, index, ImageFault::NeverPull, message, now, commands);
        }
        PullPolicy::Always | PullPolicy::IfNotPresent => pull(pod, index, now, commands),
    }
}

fn pull(pod: &mut PodState, index: usize, now: Timestamp, commands: &mut Vec<Command>) {
    let facts = &pod.facts.containers[index];
    let waiting = pod.failed_pulls.iter().find(|failed| failed.image == facts.image && failed.until > now);
    if let Some(FailedPull { until, message, .. }) = waiting {
        pod.containers[index].stage =
            ContainerStage::PullFailed { told_until: now, until: *until, message: message.clone() };
        return tell_backoff(pod, index, commands);
    }
    commands.push(notice("Pulling", &facts.name, format!("Pulling image {:?}", facts.image)));
    pod.containers[index].stage = ContainerStage::EnsuringImage;
    commands.push(Command::PullImage { container: index });
}

/// The image is here.
pub(crate) fn ready(
    pod: &mut PodState,
    index: usize,
    names: ImageNames,
    pulled: Option<Pulled>,
    commands: &mut Vec<Command>,
) {
    let facts = &pod.facts.containers[index];
    let container = &mut pod.containers[index];
    // Nobody waits for it any more, or it was told twice.
    if container.stage != ContainerStage::EnsuringImage {
        return;
    }
    container.image = names;
    container.stage = ContainerStage::Starting;
    let image = &facts.image;
    let text = match pulled {
        Some(Pulled { took, waited, bytes }) => format!(
            "Successfully pulled image {image:?} in {} ({} including waiting). Image size: {bytes} bytes.",
            go_duration(took),
            go_duration(waited)
        ),
        None => format!("Container image {image:?} already present on machine"),
    };
    commands.push(notice("Pulled", &facts.name, text));
    // What it asks for may change before its start is answered.
    container.applied = facts.resources;
    commands.push(Command::StartContainer { container: index, attempt: container.attempt });
    pod.failed_pulls.retain(|failed| failed.image != facts.image);
}

/// The image cannot be had for now.
pub(crate) fn failed(
    pod: &mut PodState,
    index: usize,
    fault: ImageFault,
    message: String,
    now: Timestamp,
    commands: &mut Vec<Command>,
) {
    if pod.containers[index].stage != ContainerStage::EnsuringImage {
        return;
    }
    let facts = &pod.facts.containers[index];
    let (image, name) = (facts.image.clone(), facts.name.clone());
    let (reason, told) = match fault {
        ImageFault::InvalidName => ("InspectFailed", format!("Failed to apply default image tag {image:?}: {message}")),
        ImageFault::Inspect => ("InspectFailed", format!("Failed to inspect image {image:?}: {message}")),
        ImageFault::NeverPull => ("ErrImageNeverPull", message.clone()),
        ImageFault::Pull => ("Failed", format!("Failed to pull image {image:?}: {message}")),
    };
    commands.push(warning(reason, &name, told));
    commands.push(warning("Failed", &name, format!("Error: {}", fault.reason())));
    let until = wait(pod, &image, &message, now);
    pod.containers[index].stage = match fault {
        ImageFault::Pull => {
            // Half of the first, short wait; the rest of it people see that it is waited.
            let told_for = (until.duration_since(now) / 2).min(TOLD_FOR);
            ContainerStage::PullFailed { told_until: now + told_for, until, message }
        }
        ImageFault::InvalidName | ImageFault::Inspect | ImageFault::NeverPull => {
            ContainerStage::BackingOff { until, why: Failure { reason: fault.reason().into(), message } }
        }
    };
}

/// When an image that failed is tried again. Containers that failed by the same pull wait the same time.
fn wait(pod: &mut PodState, image: &str, message: &str, now: Timestamp) -> Timestamp {
    let known = pod.failed_pulls.iter().position(|failed| failed.image == image);
    let index = known.unwrap_or_else(|| {
        let (image, message) = (image.to_owned(), String::new());
        pod.failed_pulls.push(FailedPull { image, backoff: Backoff::default(), until: now, message });
        pod.failed_pulls.len() - 1
    });
    let failed = &mut pod.failed_pulls[index];
    if failed.until <= now {
        failed.until = now + failed.backoff.next_delayed();
        message.clone_into(&mut failed.message);
    }
    failed.until
}

/// From here on people see that it is waited.
pub(crate) fn tell_backoff(pod: &mut PodState, index: usize, commands: &mut Vec<Command>) {
    let facts = &pod.facts.containers[index];
    let container = &mut pod.containers[index];
    let ContainerStage::PullFailed { until, message, .. } = &container.stage else { return };
    let text = format!("Back-off pulling image {:?}", facts.image);
    let why =
        Failure { reason: BACKOFF_REASON.into(), message: format!("{text}: {}: {message}", ImageFault::Pull.reason()) };
    commands.push(notice("BackOff", &facts.name, text));
    commands.push(warning("Failed", &facts.name, format!("Error: {BACKOFF_REASON}")));
    container.stage = ContainerStage::BackingOff { until: *until, why };
}

fn warning(reason: &'static str, container: &str, message: String) -> Command {
    Command::Emit(Notice { warning: true, reason, message, container: Some(container.to_owned()) })
}

/// A duration as Go prints it, in whole milliseconds: `950ms`, `1.2s`, `1m2.5s`.
fn go_duration(duration: SignedDuration) -> String {
    let millis = duration.as_millis().max(0);
    if millis < 1000 {
        return if millis == 0 { "0s".into() } else { format!("{millis}ms") };
    }
    let (hours, minutes, rest) = (millis / 3_600_000, millis / 60_000 % 60, millis % 60_000);
    let fraction = format!("{:03}", rest % 1000);
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    let seconds = format!("{}{point}{fraction}s", rest / 1000);
    match (hours, minutes) {
        (0, 0) => seconds,
        (0, minutes) => format!("{minutes}m{seconds}"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
    }
}

#[cfg(test)]
#[path = "image_tests.rs"]
mod tests;
