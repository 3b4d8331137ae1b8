//! Image references, resolved as Docker does: `nginx` is `docker.io/library/nginx:latest`.

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;

/// A reference with its registry and repository spelled out.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    /// `docker.io`, `localhost:5000`.
    pub registry: String,
    /// `library/nginx`.
    pub repository: String,
    /// `latest` where neither tag nor digest was given.
    pub tag: Option<String>,
    /// The content that is meant.
    pub digest: Option<Digest>,
}

/// A text that names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("couldn't parse image name {text:?}: {expected}")]
pub struct ReferenceError {
    /// What was given.
    pub text: String,
    /// What was expected.
    pub expected: &'static str,
}

const REPOSITORY: &str = "expected lower-case path components of letters, digits, '.', '_' and '-' joined by '/'";

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let fail = |expected| ReferenceError { text: text.chars().take(300).collect(), expected };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                (rest, Some(digest.parse().map_err(|_| fail("expected sha256: and 64 hex digits after '@'"))?))
            }
            None => (text, None),
        };
        // A colon after the last slash begins a tag; one before it is a port.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        let tag_ok = |tag: &str| {
            tag.len() <= 128
                && tag.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
                && tag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        };
        if tag.is_some_and(|tag| !tag_ok(tag)) {
            return Err(fail("expected a tag of at most 128 letters, digits, '.', '_' and '-'"));
        }
        let is_registry = |first: &str| first.contains(['.', ':']) || first == "localhost";
        let (registry, path) = match name.split_once('/') {
            Some((first, path)) if is_registry(first) => (first, path),
            _ => ("docker.io", name),
        };
        let registry = if registry == "index.docker.io" { "docker.io" } else { registry };
        let component_ok = |part: &str| {
            part.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
                && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'))
        };
        let registry_ok = registry.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[')
            && registry.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']'));
        if !registry_ok || path.len() > 255 || !path.split('/').all(component_ok) {
            return Err(fail(REPOSITORY));
        }
        let repository = match registry == "docker.io" && !path.contains('/') {
            true => format!("library/{path}"),
            false => path.to_owned(),
        };
        let tag = match (&digest, tag) {
            (None, None) => Some("latest".to_owned()),
            (_, tag) => tag.map(str::to_owned),
        };
        Ok(Self { registry: registry.to_owned(), repository, tag, digest })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_resolve_as_docker_resolves_them() {
        let full = |text: &str| text.parse::<Reference>().map(|r| r.to_string());
        let digest = format!("sha256:{}", "a".repeat(64));
        for (given, expected) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.27", "docker.io/library/nginx:1.27"),
            ("a/b", "docker.io/a/b:latest"),
            ("localhost/a", "localhost/a:latest"),
            ("localhost:5000/a/b:v1", "localhost:5000/a/b:v1"),
            ("quay.io/x/y", "quay.io/x/y:latest"),
        ] {
            assert_eq!(full(given).as_deref(), Ok(expected));
        }
        assert_eq!(full(&format!("nginx@{digest}")), Ok(format!("docker.io/library/nginx@{digest}")));
        for bad in ["", "UPPER", "a//b", "a:", "a@sha256:1", "../x", "a:b c", "/x"] {
            assert!(full(bad).is_err(), "{bad}");
        }
    }
}
