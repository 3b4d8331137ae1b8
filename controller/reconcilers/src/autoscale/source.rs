//! What a metric of an autoscaler asks, and what it wants of the answer: one reading, for those who ask and those who decide.
use super::replicas::{self, Goal, Proposal, Samples, Situation};
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, CrossVersionObjectReference, ExternalMetricStatus, MetricIdentifier, MetricSpec,
    MetricStatus, MetricTarget, MetricValueStatus, ObjectMetricStatus, PodsMetricStatus, ResourceMetricStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Query<'a> {
    /// What each pod uses, or one of its containers.
    Resource { name: &'a str, container: Option<&'a str> },
    /// A figure of each pod.
    Pods(&'a MetricIdentifier),
    /// A figure of one object.
    Object { metric: &'a MetricIdentifier, object: &'a CrossVersionObjectReference },
    /// A figure of something that is no object.
    External(&'a MetricIdentifier),
}

impl Query<'_> {
    /// What a failure of this metric is called, by what went wrong.
    fn failed(&self, cause: String) -> Failure {
        let (reason, message, what) = match self {
            Self::Resource { name, container } => {
                let (reason, what) = match container {
                    None => ("FailedGetResourceMetric", "resource"),
                    Some(_) => ("FailedGetContainerResourceMetric", "container"),
                };
                (reason, format!("failed to get {name} utilization: {cause}"), format!("{name} {what}"))
            }
            Self::Pods(_) => ("FailedGetPodsMetric", cause, "pods".to_owned()),
            Self::Object { .. } => ("FailedGetObjectMetric", cause, "object".to_owned()),
            Self::External(metric) => ("FailedGetExternalMetric", cause, format!("{} external", metric.name)),
        };
        let whole = format!("failed to get {what} metric value: {message}");
        Failure { reason, message, whole }
    }
}

/// What was answered.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Measured {
    /// Of each pod.
    Pods(Samples),
    /// One value, in thousandths.
    Value(i64),
}

/// What the value is to be.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Want {
    /// Percent of what is asked for.
    Utilization(i32),
    /// For each pod, in thousandths.
    Average(i64),
    /// For all of them, in thousandths.
    Value(i64),
}

/// A metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Source<'a> {
    pub(super) query: Query<'a>,
    want: Want,
}

/// Why a metric says nothing.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Failure {
    /// Of the condition and the event.
    pub(super) reason: &'static str,
    /// Told by both.
    pub(super) message: String,
    /// As one of several metrics.
    pub(super) whole: String,
}

fn milli(quantity: Option<&Quantity>) -> Option<i64> {
    Some(api::quantity::Quantity::parse(&quantity?.0).ok()?.milli())
}

/// The goal of a target, of the kinds that the source may have; an average goes before a value.
fn want(target: &MetricTarget, has_utilization: bool, has_value: bool) -> Option<Want> {
    let average = || milli(target.average_value.as_ref()).map(Want::Average);
    let value = || milli(target.value.as_ref()).filter(|_| has_value).map(Want::Value);
    let utilization = || target.average_utilization.filter(|_| has_utilization).map(Want::Utilization);
    average().or_else(value).or_else(utilization)
}

impl<'a> Source<'a> {
    /// Reads a metric.
    pub(super) fn read(spec: &'a MetricSpec) -> Result<Self, Failure> {
        let (query, target, has_utilization, has_value) = match spec.type_.as_str() {
            "Resource" => spec
                .resource
                .as_ref()
                .map(|own| (Query::Resource { name: &own.name, container: None }, &own.target, true, false)),
            "ContainerResource" => spec.container_resource.as_ref().map(|own| {
                (Query::Resource { name: &own.name, container: Some(&own.container) }, &own.target, true, false)
            }),
            "Pods" => spec.pods.as_ref().map(|own| (Query::Pods(&own.metric), &own.target, false, false)),
            "Object" => spec.object.as_ref().map(|own| {
                (Query::Object { metric: &own.metric, object: &own.described_object }, &own.target, false, true)
            }),
            "External" => spec.external.as_ref().map(|own| (Query::External(&own.metric), &own.target, false, true)),
            _ => None,
        }
        .ok_or_else(|| {
            let message = format!("unknown metric source type {:?}", spec.type_);
            Failure { reason: "InvalidMetricSourceType", whole: message.clone(), message }
        })?;
        let want = want(target, has_utilization, has_value);
        // Validation lets no other through.
        want.map(|want| Self { query, want })
            .ok_or_else(|| query.failed("invalid metric source: no target that it can have was set".to_owned()))
    }

    /// A failure to ask.
    fn unanswered(&self, namespace: &str, cause: &str) -> Failure {
        self.query.failed(match self.query {
            Query::Resource { name, .. } => format!("unable to get metrics for resource {name}: {cause}"),
            Query::Pods(metric) => format!("unable to get metric {}: {cause}", metric.name),
            Query::Object { metric, object } => {
                format!("unable to get metric {}: {cause} on {} {namespace}/{}", metric.name, object.kind, object.name)
            }
            Query::External(metric) => {
                format!("unable to get external metric {namespace}/{}: {cause}", metric.name)
            }
        })
    }

    /// What the metric is called where it is the reason for something.
    pub(super) fn title(&self) -> String {
        match self.query {
            Query::Resource { name, container } => {
                let container = if container.is_some() { "container " } else { "" };
                let utilization = match self.want {
                    Want::Utilization(_) => " utilization (percentage of request)",
                    Want::Average(_) | Want::Value(_) => "",
                };
                format!("{name} {container}resource{utilization}")
            }
            Query::Pods(metric) => format!("pods metric {}", metric.name),
            Query::Object { metric, object } => format!("{} metric {}", object.kind, metric.name),
            Query::External(metric) => format!("external metric {}", metric.name),
        }
    }

    /// How many replicas the metric wants.
    pub(super) fn propose(
        &self,
        situation: &Situation<'_>,
        namespace: &str,
        measured: &Result<Measured, String>,
    ) -> Result<Proposal, Failure> {
        let measured = measured.as_ref().map_err(|cause| self.unanswered(namespace, cause))?;
        let (resource, container) = match self.query {
            Query::Resource { name, container } => (Some(name), container),
            Query::Pods(_) | Query::Object { .. } | Query::External(_) => (None, None),
        };
        let proposal = match (measured, self.want, resource) {
            (Measured::Pods(samples), Want::Utilization(percent), Some(resource)) => {
                replicas::per_pod(&Goal::Utilization { percent, resource, container }, situation, samples)
            }
            (Measured::Pods(samples), Want::Average(milli), resource) => {
                replicas::per_pod(&Goal::Average { milli, resource }, situation, samples)
            }
            (Measured::Value(value), Want::Value(target), _) => replicas::by_value(target, situation, *value),
            (Measured::Value(value), Want::Average(target), _) => Ok(replicas::by_share(target, situation, *value)),
            _ => Err("the answer is not of the kind that was asked for".to_owned()),
        };
        proposal.map_err(|cause| self.query.failed(cause))
    }

    /// What the status tells of the metric.
    pub(super) fn status(&self, current: MetricValueStatus) -> MetricStatus {
        let mut status = MetricStatus::default();
        match self.query {
            Query::Resource { name, container: None } => {
                "Resource".clone_into(&mut status.type_);
                status.resource = Some(ResourceMetricStatus { name: name.to_owned(), current });
            }
            Query::Resource { name, container: Some(container) } => {
                "ContainerResource".clone_into(&mut status.type_);
                let (name, container) = (name.to_owned(), container.to_owned());
                status.container_resource = Some(ContainerResourceMetricStatus { name, container, current });
            }
            Query::Pods(metric) => {
                "Pods".clone_into(&mut status.type_);
                status.pods = Some(PodsMetricStatus { metric: metric.clone(), current });
            }
            Query::Object { metric, object } => {
                "Object".clone_into(&mut status.type_);
                let (metric, described_object) = (metric.clone(), object.clone());
                status.object = Some(ObjectMetricStatus { metric, described_object, current });
            }
            Query::External(metric) => {
                "External".clone_into(&mut status.type_);
                status.external = Some(ExternalMetricStatus { metric: metric.clone(), current });
            }
        }
        status
    }
}
