//! Tokens to join a cluster with: `ID.SECRET`, kept as Secrets of kube-system.
//! Kubernetes documentation, "Authenticating with Bootstrap Tokens".

use base64::Engine as _;
use serde_json::Value;

use super::User;
use crate::registry::Registry;

const TYPE: &str = "bootstrap.kubernetes.io/token";
const GROUP: &str = "system:bootstrappers";

/// The user of a token that is written down, not expired and meant for authentication. `now` in seconds since 1970.
pub(super) fn user(token: &str, registry: &Registry, now: i64) -> Option<User> {
    let (id, secret) = parse(token)?;
    let object = registry.peek("", "v1", "secrets", Some("kube-system"), &format!("bootstrap-token-{id}"))?;
    judge(&object, id, secret, now)
}

/// Six and sixteen characters of `a-z0-9`.
fn parse(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    (id.len() == 6 && secret.len() == 16 && is_plain(id) && is_plain(secret)).then_some((id, secret))
}

fn judge(object: &Value, id: &str, secret: &str, now: i64) -> Option<User> {
    let data = |key: &str| {
        let encoded = object["data"][key].as_str()?;
        String::from_utf8(base64::engine::general_purpose::STANDARD.decode(encoded).ok()?).ok()
    };
    let is_same = |a: &str, b: &str| {
        // How far two secrets agree must not be told by how long it takes to see that they do not.
        a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
    };
    let expired = match data("expiration") {
        None => false,
        Some(text) => text.parse::<jiff::Timestamp>().map_or(true, |at| at.as_second() <= now),
    };
    let is_good = object["type"] == TYPE
        && object.pointer("/metadata/deletionTimestamp").is_none()
        && data("token-id")? == id
        && is_same(&data("token-secret")?, secret)
        && data("usage-bootstrap-authentication")? == "true"
        && !expired;
    if !is_good {
        return None;
    }
    let more = data("auth-extra-groups").unwrap_or_default();
    let groups = more.split(',').map(str::trim).filter(|group| group.starts_with("system:bootstrappers:"));
    Some(User::new(&format!("system:bootstrap:{id}"), &[GROUP].into_iter().chain(groups).collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_a_good_token_is_somebody() {
        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let secret = |expires: &str, usage: &str| {
            json!({"type": TYPE, "metadata": {}, "data": {"token-id": encode("abcdef"), "expiration": encode(expires),
                "token-secret": encode("0123456789abcdef"), "usage-bootstrap-authentication": encode(usage),
                "auth-extra-groups": encode("system:bootstrappers:worker,system:masters")}})
        };
        let good = secret("2030-01-01T00:00:00Z", "true");
        let user = judge(&good, "abcdef", "0123456789abcdef", 0).unwrap();
        assert_eq!(user.name, "system:bootstrap:abcdef");
        assert_eq!(user.groups, ["system:bootstrappers", "system:bootstrappers:worker", "system:authenticated"]);
        assert!(judge(&good, "abcdef", "0123456789abcdee", 0).is_none());
        assert!(judge(&secret("1970-01-01T00:00:00Z", "true"), "abcdef", "0123456789abcdef", 1).is_none());
        assert!(judge(&secret("2030-01-01T00:00:00Z", "false"), "abcdef", "0123456789abcdef", 0).is_none());
        for bad in ["abcdef", "abcde.0123456789abcdef", "ABCDEF.0123456789abcdef", "abcdef.0123456789abcdeff"] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }
}
