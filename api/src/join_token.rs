//! What a machine needs to join a cluster, in one line: `K10HASH::ID.SECRET`. The hash is that of the cluster's
//! authority, so that the machine knows the server; the rest is a bootstrap token, so that the server knows the
//! machine. The form is that of k3s's secure tokens around Kubernetes' bootstrap tokens ("Authenticating with Bootstrap
//! Tokens").

use std::fmt;
use std::str::FromStr;

const PREFIX: &str = "K10";
const HASH_DIGITS: usize = 64;

/// A token, understood.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// SHA-256 of the authority's certificate as PEM, in lower-case hexadecimal digits.
    pub authority: String,
    /// The public part of the bootstrap token: six lower-case letters or digits.
    pub id: String,
    /// Its secret part: sixteen lower-case letters or digits.
    pub secret: String,
}

/// Why a text is no token. It does not repeat the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected K10HASH::ID.SECRET as `gantry token create` prints it: 64 hexadecimal digits, 6 and 16 letters or digits"
)]
pub struct JoinTokenError;

impl JoinToken {
    /// What a request carries as its bearer token.
    pub fn bearer(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }
}

impl FromStr for JoinToken {
    type Err = JoinTokenError;

    fn from_str(text: &str) -> Result<Self, JoinTokenError> {
        let parts = || {
            let (authority, bearer) = text.trim().strip_prefix(PREFIX)?.split_once("::")?;
            let (id, secret) = bearer.split_once('.')?;
            let is_hex = authority.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
            let is_plain = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'z'));
            let fits = authority.len() == HASH_DIGITS && id.len() == 6 && secret.len() == 16;
            (fits && is_hex && is_plain(id) && is_plain(secret)).then_some((authority, id, secret))
        };
        let (authority, id, secret) = parts().ok_or(JoinTokenError)?;
        Ok(Self { authority: authority.into(), id: id.into(), secret: secret.into() })
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}::{}.{}", self.authority, self.id, self.secret)
    }
}

/// Without the secret: a token must not come into logs.
impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({})", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read_and_nothing_else() {
        let text = format!("K10{}::abcdef.0123456789abcdef", "0a".repeat(32));
        let token: JoinToken = text.parse().unwrap();
        assert_eq!((token.to_string(), token.bearer().as_str()), (text.clone(), "abcdef.0123456789abcdef"));
        assert!(!format!("{token:?}").contains("0123456789abcdef"));
        for bad in [
            "",
            "abcdef.0123456789abcdef",
            &text[1..],
            &text.replace('.', ""),
            &text.to_uppercase(),
            &format!("{text}0"),
        ] {
            assert_eq!(bad.parse::<JoinToken>(), Err(JoinTokenError), "{bad}");
        }
    }
}
