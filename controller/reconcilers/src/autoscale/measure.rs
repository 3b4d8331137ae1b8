//! Asks what pods use, and other figures: `metrics.k8s.io`, which this server serves itself, and `custom.metrics.k8s.io`
//! and `external.metrics.k8s.io`, which extension servers serve where there are any.
use super::replicas::{Sample, Samples};
use super::source::{Measured, Query};
use super::target::{Directory, words};
use api::quantity::Quantity;
use api::selector::Selector;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{CrossVersionObjectReference, MetricIdentifier};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;

const CUSTOM: &str = "custom.metrics.k8s.io";
const EXTERNAL: &str = "external.metrics.k8s.io";
/// What a figure covers that does not say.
const WINDOW_SECONDS: i64 = 60;

/// Who asks, and for which pods.
pub(super) struct Meter<'a> {
    pub(super) client: &'a kube::Client,
    pub(super) directory: &'a Directory,
    pub(super) namespace: &'a str,
    pub(super) selector: &'a Selector,
}

#[derive(Deserialize)]
struct List<T> {
    #[serde(default = "Vec::new")]
    items: Vec<T>,
}

#[derive(Default, Deserialize)]
struct Named {
    #[serde(default)]
    name: Box<str>,
}

#[derive(Deserialize)]
struct PodMetrics {
    metadata: Named,
    timestamp: Timestamp,
    window: String,
    containers: Vec<ContainerMetrics>,
}

#[derive(Deserialize)]
struct ContainerMetrics {
    name: Box<str>,
    usage: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MetricValue {
    #[serde(default)]
    described_object: Named,
    timestamp: Option<Timestamp>,
    window_seconds: Option<i64>,
    value: String,
}

fn milli(quantity: &str) -> Result<i64, String> {
    Quantity::parse(quantity).map(Quantity::milli).map_err(|error| format!("{quantity:?}: {error}"))
}

/// The selector of a metric, as queries have it.
fn text_of(metric: &MetricIdentifier) -> Result<String, String> {
    let selector = metric.selector.as_ref().map(Selector::from_label_selector).transpose();
    selector.map(|selector| selector.unwrap_or_default().to_string()).map_err(|error| error.to_string())
}

/// What a pod, or one of its containers, uses; `None` of a pod that leaves the resource open.
fn sample(pod: &PodMetrics, namespace: &str, name: &str, container: Option<&str>) -> Result<Option<Sample>, String> {
    let mut containers =
        pod.containers.iter().filter(|one| container.is_none_or(|wanted| *wanted == *one.name)).peekable();
    if let (None, Some(container)) = (containers.peek(), container) {
        return Err(format!("container {container} not present in metrics for pod {namespace}/{}", pod.metadata.name));
    }
    let mut value = 0_i64;
    for container in containers {
        let Some(used) = container.usage.get(name) else { return Ok(None) };
        value = value.saturating_add(milli(used)?);
    }
    let window = pod.window.parse::<SignedDuration>().map(|window| window.as_secs_f64().ceil() as i64);
    Ok(Some(Sample { value, at: pod.timestamp.as_second(), window: window.unwrap_or(WINDOW_SECONDS) }))
}

/// A name of a user's as one part of a path, whatever it holds.
fn segment(name: &str) -> PercentEncode<'_> {
    /// What RFC 3986 reserves.
    const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
    utf8_percent_encode(name, RESERVED)
}

impl Meter<'_> {
    /// Asks; `Err` tells why there is no answer.
    pub(super) async fn ask(&self, query: Query<'_>) -> Result<Measured, String> {
        match query {
            Query::Resource { name, container } => self.resource(name, container).await.map(Measured::Pods),
            Query::Pods(metric) => self.pods(metric).await.map(Measured::Pods),
            Query::Object { metric, object } => self.object(metric, object).await.map(Measured::Value),
            Query::External(metric) => self.external(metric).await.map(Measured::Value),
        }
    }

    async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> Result<List<T>, String> {
        let mut uri = path.to_owned();
        let given = query.iter().filter(|(_, value)| !value.is_empty());
        let text = form_urlencoded::Serializer::new(String::new()).extend_pairs(given).finish();
        if !text.is_empty() {
            uri.push('?');
            uri.push_str(&text);
        }
        let request = http::Request::get(uri).body(Vec::new()).map_err(|error| error.to_string())?;
        self.client.request(request).await.map_err(|error| words(&error))
    }

    async fn resource(&self, name: &str, container: Option<&str>) -> Result<Samples, String> {
        let path = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{}/pods", self.namespace);
        let selector = self.selector.to_string();
        let list: List<PodMetrics> = self
            .get(&path, &[("labelSelector", &selector)])
            .await
            .map_err(|cause| format!("unable to fetch metrics from resource metrics API: {cause}"))?;
        let mut samples = Samples::new();
        for pod in &list.items {
            if let Some(sample) = sample(pod, self.namespace, name, container)? {
                samples.insert(pod.metadata.name.clone(), sample);
            }
        }
        if samples.is_empty() {
            return Err("no metrics returned from resource metrics API".to_owned());
        }
        Ok(samples)
    }

    /// Where a group of metrics is served.
    async fn root(&self, group: &str, what: &str) -> Result<String, String> {
        let groups = self.client.list_api_groups().await.map_err(|error| words(&error))?;
        let found = groups.groups.into_iter().find(|one| one.name == group);
        let found = found.ok_or_else(|| format!("no {what} metrics API ({group}) registered"))?;
        let preferred = found.preferred_version.or_else(|| found.versions.into_iter().next());
        let version = preferred.map(|preferred| preferred.group_version).unwrap_or_default();
        Ok(format!("/apis/{version}/namespaces"))
    }

    async fn custom(&self, path: &str, query: &[(&str, &str)]) -> Result<Vec<MetricValue>, String> {
        let asked = async { self.get(&format!("{}/{path}", self.root(CUSTOM, "custom").await?), query).await };
        let list: List<MetricValue> =
            asked.await.map_err(|cause| format!("unable to fetch metrics from custom metrics API: {cause}"))?;
        if list.items.is_empty() {
            return Err("no metrics returned from custom metrics API".to_owned());
        }
        Ok(list.items)
    }

    async fn pods(&self, metric: &MetricIdentifier) -> Result<Samples, String> {
        let (selector, own) = (self.selector.to_string(), text_of(metric)?);
        let query = [("labelSelector", selector.as_str()), ("metricLabelSelector", own.as_str())];
        let items = self.custom(&format!("{}/pods/*/{}", self.namespace, segment(&metric.name)), &query).await?;
        let now = Timestamp::now();
        let sample = |item: MetricValue| {
            let at = item.timestamp.unwrap_or(now).as_second();
            let window = item.window_seconds.unwrap_or(WINDOW_SECONDS);
            Ok((item.described_object.name, Sample { value: milli(&item.value)?, at, window }))
        };
        items.into_iter().map(sample).collect()
    }

    async fn object(&self, metric: &MetricIdentifier, object: &CrossVersionObjectReference) -> Result<i64, String> {
        let kind = self.directory.find(self.client, object).await?.resource;
        let named = segment(&object.name);
        let (place, name) = match (kind.group.as_str(), kind.plural.as_str()) {
            ("", "namespaces") => (named.to_string(), "metrics".to_owned()),
            ("", plural) => (self.namespace.to_owned(), format!("{plural}/{named}")),
            (group, plural) => (self.namespace.to_owned(), format!("{plural}.{group}/{named}")),
        };
        let own = text_of(metric)?;
        let query = [("metricLabelSelector", own.as_str())];
        let items = self.custom(&format!("{place}/{name}/{}", segment(&metric.name)), &query).await?;
        items.first().map_or(Ok(0), |item| milli(&item.value))
    }

    /// The sum of all series.
    async fn external(&self, metric: &MetricIdentifier) -> Result<i64, String> {
        let own = text_of(metric)?;
        let asked = async {
            let path =
                format!("{}/{}/{}", self.root(EXTERNAL, "external").await?, self.namespace, segment(&metric.name));
            self.get(&path, &[("labelSelector", &own)]).await
        };
        let list: List<MetricValue> =
            asked.await.map_err(|cause| format!("unable to fetch metrics from external metrics API: {cause}"))?;
        if list.items.is_empty() {
            return Err("no metrics returned from external metrics API".to_owned());
        }
        list.items.iter().try_fold(0_i64, |sum, item| Ok(sum.saturating_add(milli(&item.value)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(usage: serde_json::Value) -> PodMetrics {
        let pod = json!({"metadata": {"name": "p"}, "timestamp": "1970-01-01T00:01:00Z", "window": "1m0.5s",
            "containers": [{"name": "a", "usage": {"cpu": "1500u"}}, {"name": "b", "usage": usage}]});
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn a_pod_uses_what_its_containers_use() {
        let both = pod(json!({"cpu": "2m"}));
        let sample = |pod: &PodMetrics, container: Option<&str>| super::sample(pod, "n", "cpu", container);
        assert_eq!(sample(&both, None), Ok(Some(Sample { value: 4, at: 60, window: 61 })));
        assert_eq!(sample(&both, Some("b")), Ok(Some(Sample { value: 2, at: 60, window: 61 })));
        assert_eq!(sample(&pod(json!({})), None), Ok(None));
        assert_eq!(sample(&both, Some("c")), Err("container c not present in metrics for pod n/p".to_owned()));
    }

    #[test]
    fn a_name_stays_in_its_place_in_a_path() {
        assert_eq!(segment("requests-per_second").to_string(), "requests-per_second");
        assert_eq!(segment("a/../b?c=d#e f").to_string(), "a%2F..%2Fb%3Fc%3Dd%23e%20f");
    }

    #[test]
    fn values_of_others_are_read() {
        let list = json!({"items": [{"describedObject": {"kind": "Pod", "name": "p"}, "metricName": "m",
            "timestamp": "1970-01-01T00:01:00Z", "windowSeconds": null, "value": "1500m"}, {"value": "1k"}]});
        let list: List<MetricValue> = serde_json::from_value(list).unwrap();
        assert_eq!((&*list.items[0].described_object.name, milli(&list.items[0].value)), ("p", Ok(1500)));
        assert_eq!(milli(&list.items[1].value), Ok(1_000_000));
    }
}
