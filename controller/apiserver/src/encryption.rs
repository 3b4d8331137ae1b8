//! Secrets encrypted at rest: an EncryptionConfiguration (apiserver.config.k8s.io/v1) as the store's seal.
//! Kubernetes documentation, "Encrypting Confidential Data at Rest".

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine as _;
use bytes::Bytes;
use controller_store::seal::{Opened, Seal, SealError};
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::Deserialize;

use crate::config_file::{self, ConfigFileError};

/// What stands before every value that is encrypted here, as Kubernetes writes it; the key's name follows.
const PREFIX: &str = "k8s:enc:aesgcm:v1:";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    resources: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    resources: Vec<String>,
    providers: Vec<Provider>,
}

/// One provider's name and what it is given.
type Provider = BTreeMap<String, serde_json::Value>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    keys: Vec<Named>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    name: String,
    secret: String,
}

struct Key {
    name: String,
    key: LessSafeKey,
}

/// Keys for the values below some prefixes of the store.
struct Sealed {
    prefixes: Vec<Vec<u8>>,
    keys: Vec<Key>,
    /// The first provider is `identity`: new values stay plain.
    writes_plain: bool,
}

/// The seal of a configuration: the first rule that names a resource holds for it.
pub struct Encryption {
    rules: Vec<Sealed>,
    random: SystemRandom,
}

impl std::fmt::Debug for Encryption {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Encryption").field("rules", &self.rules.len()).finish_non_exhaustive()
    }
}

impl Encryption {
    /// Reads a configuration file.
    pub fn read(path: &Path) -> Result<Self, ConfigFileError> {
        config_file::read(path, Self::parse)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let file: File = config_file::fields(text, "apiserver.config.k8s.io/v1", "EncryptionConfiguration")?;
        let rules = file.resources.iter().enumerate().map(|(index, rule)| sealed(index, rule));
        Ok(Self { rules: rules.collect::<Result<_, _>>()?, random: SystemRandom::new() })
    }

    fn rule(&self, key: &[u8]) -> Option<&Sealed> {
        self.rules.iter().find(|rule| rule.prefixes.iter().any(|prefix| key.starts_with(prefix)))
    }
}

fn sealed(index: usize, rule: &Rule) -> Result<Sealed, String> {
    let at = format!("resources[{index}]");
    let prefixes = rule.resources.iter().map(|resource| match resource.as_str() {
        "*.*" => Ok(b"/registry/".to_vec()),
        other if other.contains('*') => Err(format!("{at}.resources: {other:?}: expected PLURAL, PLURAL.GROUP or *.*")),
        other => {
            let (plural, group) = other.split_once('.').unwrap_or((other, "core"));
            Ok(format!("/registry/{group}/{plural}/").into_bytes())
        }
    });
    let prefixes = prefixes.collect::<Result<Vec<_>, _>>()?;
    let (mut keys, mut plain_at) = (Vec::new(), None);
    for (number, provider) in rule.providers.iter().enumerate() {
        let at = format!("{at}.providers[{number}]");
        for (name, given) in provider {
            match name.as_str() {
                "identity" => plain_at = plain_at.or(Some(number)),
                "aesgcm" => {
                    let given = Keys::deserialize(given).map_err(|error| format!("{at}.aesgcm: {error}"))?;
                    for named in &given.keys {
                        keys.push(
                            key(named).map_err(|problem| format!("{at}.aesgcm.keys: {}: {problem}", named.name))?,
                        );
                    }
                }
                other => return Err(format!("{at}: {other} is not supported: expected aesgcm or identity")),
            }
        }
    }
    if keys.is_empty() && plain_at.is_none() {
        return Err(format!("{at}.providers: expected aesgcm with a key, or identity"));
    }
    Ok(Sealed { prefixes, keys, writes_plain: plain_at == Some(0) })
}

fn key(named: &Named) -> Result<Key, String> {
    if named.name.is_empty() || named.name.contains(':') {
        return Err("expected a name without a colon".into());
    }
    let secret = base64::engine::general_purpose::STANDARD.decode(&named.secret);
    let secret = secret.map_err(|_| "secret: expected base64".to_owned())?;
    let algorithm = match secret.len() {
        16 => &AES_128_GCM,
        32 => &AES_256_GCM,
        length => return Err(format!("secret: expected 16 or 32 bytes, not {length}")),
    };
    let key = UnboundKey::new(algorithm, &secret).map_err(|_| "secret: cannot be used".to_owned())?;
    Ok(Key { name: named.name.clone(), key: LessSafeKey::new(key) })
}

impl Seal for Encryption {
    fn seal(&self, key: &[u8], value: &Bytes) -> Result<Bytes, SealError> {
        let fail = |problem: &str| SealError { key: key.to_vec(), problem: problem.to_owned() };
        let Some(rule) = self.rule(key).filter(|rule| !rule.writes_plain) else { return Ok(value.clone()) };
        let first = rule.keys.first().ok_or_else(|| fail("no key"))?;
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).map_err(|_| fail("no randomness"))?;
        let mut content = value.to_vec();
        // The store's key is bound in: a value moved to another key does not open.
        let sealed =
            first.key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(key), &mut content);
        sealed.map_err(|_| fail("encrypting"))?;
        Ok([PREFIX.as_bytes(), first.name.as_bytes(), b":", &nonce, &content].concat().into())
    }

    fn open(&self, key: &[u8], sealed: &Bytes) -> Result<Opened, SealError> {
        let fail = |problem: String| SealError { key: key.to_vec(), problem };
        let rule = self.rule(key);
        let Some(rest) = sealed.strip_prefix(PREFIX.as_bytes()) else {
            let is_stale = rule.is_some_and(|rule| !rule.writes_plain);
            return Ok(Opened { value: sealed.clone(), is_stale });
        };
        let end = rest.iter().position(|byte| *byte == b':').ok_or_else(|| fail("its key has no name".into()))?;
        let (name, rest) = (String::from_utf8_lossy(&rest[..end]).into_owned(), &rest[end + 1..]);
        let (nonce, content) = rest.split_at_checked(NONCE_LEN).ok_or_else(|| fail("it is too short".into()))?;
        // Names are a provider's own: other rules may have keys of the same name.
        let own = rule.into_iter().chain(&self.rules).flat_map(|rule| &rule.keys);
        let mut named = own.filter(|key| key.name == name).peekable();
        if named.peek().is_none() {
            return Err(fail(format!("it is encrypted with key {name:?}, which the configuration lacks")));
        }
        let opened = named.find_map(|own| {
            let mut content = content.to_vec();
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            let value = own.key.open_in_place(nonce, Aad::from(key), &mut content).ok()?;
            Some((own, Bytes::copy_from_slice(value)))
        });
        let (found, value) = opened.ok_or_else(|| fail(format!("key {name:?} does not open it")))?;
        let first = rule.filter(|rule| !rule.writes_plain).and_then(|rule| rule.keys.first());
        Ok(Opened { value, is_stale: first.is_none_or(|first| !std::ptr::eq(first, found)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(providers: &str) -> String {
        format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers: {providers}\n"
        )
    }

    fn key(name: &str, byte: u8) -> String {
        let secret = base64::engine::general_purpose::STANDARD.encode([byte; 32]);
        format!("{{name: {name}, secret: {secret}}}")
    }

    #[test]
    fn secrets_are_sealed_keys_change_and_damage_is_told() {
        let (a, b) = (key("a", 1), key("b", 2));
        let old =
            Encryption::parse(&configuration(&format!("[{{aesgcm: {{keys: [{a}]}}}}, {{identity: {{}}}}]"))).unwrap();
        let (path, value) = (b"/registry/core/secrets/ns/s".as_slice(), Bytes::from_static(b"hidden"));
        let sealed = old.seal(path, &value).unwrap();
        assert!(sealed.starts_with(b"k8s:enc:aesgcm:v1:a:") && !sealed.windows(6).any(|window| window == b"hidden"));
        assert_eq!(old.open(path, &sealed), Ok(Opened { value: value.clone(), is_stale: false }));
        assert_eq!(old.open(path, &value), Ok(Opened { value: value.clone(), is_stale: true }), "plain before");
        assert_eq!(old.seal(b"/registry/core/configmaps/ns/c", &value).unwrap(), value);
        assert!(old.open(b"/registry/core/secrets/ns/other", &sealed).is_err(), "it was moved");

        let new = Encryption::parse(&configuration(&format!("[{{aesgcm: {{keys: [{b}, {a}]}}}}]"))).unwrap();
        assert_eq!(new.open(path, &sealed), Ok(Opened { value: value.clone(), is_stale: true }));
        let plain =
            Encryption::parse(&configuration(&format!("[{{identity: {{}}}}, {{aesgcm: {{keys: [{a}]}}}}]"))).unwrap();
        assert_eq!(plain.seal(path, &value).unwrap(), value);
        assert_eq!(plain.open(path, &sealed), Ok(Opened { value, is_stale: true }), "to be written plain again");
        let lost = Encryption::parse(&configuration(&format!("[{{aesgcm: {{keys: [{b}]}}}}]"))).unwrap();
        assert!(lost.open(path, &sealed).unwrap_err().problem.contains("key \"a\""));
    }

    #[test]
    fn keys_of_one_name_in_two_rules_are_two_keys() {
        let rule = |resource: &str, byte| {
            format!("- resources: [{resource}]\n  providers: [{{aesgcm: {{keys: [{}]}}}}]\n", key("key1", byte))
        };
        let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n";
        let both = Encryption::parse(&format!("{head}{}{}", rule("secrets", 1), rule("configmaps", 2))).unwrap();
        for path in [b"/registry/core/secrets/ns/a".as_slice(), b"/registry/core/configmaps/ns/a"] {
            let value = Bytes::from_static(b"hidden");
            let sealed = both.seal(path, &value).unwrap();
            assert_eq!(both.open(path, &sealed), Ok(Opened { value, is_stale: false }));
        }
        let [old, new] = [1, 2].map(|byte| Encryption::parse(&format!("{head}{}", rule("secrets", byte))).unwrap());
        let sealed = old.seal(b"/registry/core/secrets/ns/a", &Bytes::from_static(b"hidden")).unwrap();
        assert!(new.open(b"/registry/core/secrets/ns/a", &sealed).unwrap_err().problem.contains("does not open it"));
    }

    #[test]
    fn mistakes_are_named() {
        for (providers, want) in [
            ("[]", "resources[0].providers"),
            ("[{aesgcm: {keys: [{name: a, secret: AAAA}]}}]", "expected 16 or 32 bytes"),
            ("[{aescbc: {keys: []}}]", "aescbc is not supported"),
            ("[{other: {}}]", "other"),
        ] {
            let said = Encryption::parse(&configuration(providers)).unwrap_err();
            assert!(said.contains(want), "{said}");
        }
        assert!(Encryption::parse("kind: Other\napiVersion: v1\nresources: []").is_err());
    }
}
