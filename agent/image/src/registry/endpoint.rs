//! Which places are asked for an image, in which order and as whom. Pure.

use super::config::{Base, Registries, TlsFiles, default_base};
use super::credential::Credential;
use crate::reference::Reference;

/// A place to ask for one repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) base: Base,
    /// The repository's name there.
    pub(crate) repository: String,
    /// The registry that a mirror stands in for: several may share one host.
    pub(crate) stands_for: Option<String>,
    pub(crate) credential: Option<Credential>,
    pub(crate) tls: TlsFiles,
}

impl Endpoint {
    /// The address of something in the repository: `manifests/TAG`, `blobs/DIGEST`.
    pub(crate) fn url(&self, rest: &str) -> String {
        let Base { scheme, authority, path } = &self.base;
        let url = format!("{}://{authority}{path}/{}/{rest}", scheme.as_str(), self.repository);
        match &self.stands_for {
            // Proxies tell by it whose repository is meant; containerd's `ns`.
            Some(registry) => format!("{url}?ns={registry}"),
            None => url,
        }
    }
}

/// Mirrors in their order, then the registry itself. `given` is for the registry itself and for mirrors on its host,
/// never for other hosts: who wrote it meant that registry.
pub(crate) fn endpoints(registries: &Registries, image: &Reference, given: Option<&Credential>) -> Vec<Endpoint> {
    let own = default_base(&image.registry);
    let mut found: Vec<Endpoint> = Vec::new();
    let mut add = |base: &Base, repository: String| {
        if found.iter().any(|other| other.base == *base && other.repository == repository) {
            return;
        }
        let config = registries.host(&base.authority);
        let given = given.filter(|_| base.authority == own.authority);
        found.push(Endpoint {
            base: base.clone(),
            repository,
            stands_for: (base.authority != own.authority).then(|| image.registry.clone()),
            credential: given.cloned().or_else(|| config.and_then(|config| config.credential.clone())),
            tls: config.map(|config| config.tls.clone()).unwrap_or_default(),
        });
    };
    if let Some(mirror) = registries.mirror(&image.registry) {
        let rewritten = mirror.rewrites.iter().find(|(pattern, _)| pattern.is_match(&image.repository));
        let repository = match rewritten {
            Some((pattern, replacement)) => pattern.replace_all(&image.repository, replacement).into_owned(),
            None => image.repository.clone(),
        };
        for base in &mirror.bases {
            add(base, repository.clone());
        }
    }
    add(&own, image.repository.clone());
    found
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn urls(yaml: &str, image: &str) -> Vec<String> {
        let registries = Registries::parse(Path::new("r.yaml"), yaml).unwrap();
        let all = endpoints(&registries, &image.parse().unwrap(), Some(&Credential::password("pod", "p")));
        all.iter()
            .map(|one| format!("{} {}", one.url("x"), one.credential.as_ref().map_or("-", |c| c.username.as_str())))
            .collect()
    }

    #[test]
    fn mirrors_come_first_and_the_registry_last() {
        assert_eq!(urls("", "nginx"), ["https://registry-1.docker.io/v2/library/nginx/x pod"]);
        let yaml = r#"
mirrors:
  docker.io:
    endpoint: ["https://m1", "http://m2:5000/cache"]
    rewrite: {"^library/(.*)": "hub/$1"}
  quay.io:
    endpoint: ["quay.io"]
configs:
  m1: {auth: {username: m1, password: p}}
"#;
        assert_eq!(
            urls(yaml, "nginx"),
            [
                "https://m1/v2/hub/nginx/x?ns=docker.io m1",
                "http://m2:5000/cache/hub/nginx/x?ns=docker.io -",
                "https://registry-1.docker.io/v2/library/nginx/x pod"
            ]
        );
        assert_eq!(urls(yaml, "quay.io/a/b"), ["https://quay.io/v2/a/b/x pod"], "nobody is asked twice");
    }
}
