//! Which autoscalers have the same pods: pure. Two that pull at one target would never rest.
use crate::cache::{Key, split};
use crate::pod::PodFacts;
use api::selector::Selector;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What each autoscaler's target selected when it was looked at last.
pub(super) type Selectors = BTreeMap<Key, Selector>;

/// The autoscalers whose targets select any of these pods, all of one namespace.
pub(super) fn of(pods: &[Arc<PodFacts>], namespace: &str, selectors: &Selectors) -> Vec<Key> {
    let selects = |selector: &Selector| pods.iter().any(|pod| selector.matches(&pod.labels));
    let near = selectors.iter().filter(|(key, _)| split(key).0 == namespace);
    near.filter(|(_, selector)| selects(selector)).map(|(key, _)| Arc::clone(key)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_of_one_namespace_that_share_a_pod() {
        let pod = |name: &str, app: &str| {
            let labels = BTreeMap::from([("app".to_owned(), app.to_owned())]);
            Arc::new(PodFacts { key: Some(format!("n/{name}").into()), labels, ..PodFacts::default() })
        };
        let selector = |text: &str| Selector::parse(text).unwrap();
        let selectors = Selectors::from([
            ("n/a".into(), selector("app=web")),
            ("n/b".into(), selector("app in (web,db)")),
            ("n/c".into(), selector("app=db")),
            ("m/d".into(), selector("app=web")),
        ]);
        let found = of(&[pod("p", "web"), pod("q", "web")], "n", &selectors);
        assert_eq!(found, ["n/a".into(), "n/b".into()] as [Key; 2]);
        assert_eq!(of(&[], "n", &selectors), [] as [Key; 0]);
    }
}
