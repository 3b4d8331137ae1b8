//! Who we are to a registry. Secrets are never printed.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

/// A name and a password, or an identity token (OAuth2 refresh token).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Credential {
    /// The user; may be empty with an identity token.
    pub username: String,
    /// The password.
    pub password: String,
    /// What replaces a password where a registry gave one out.
    pub identity_token: Option<String>,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential({:?}, ...)", self.username)
    }
}

/// An `auth` field that is not base64 of `user:password`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected base64 of USER:PASSWORD")]
pub struct AuthFieldError;

impl Credential {
    /// A user with a password.
    pub fn password(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self { username: username.into(), password: password.into(), identity_token: None }
    }

    /// Reads the `auth` field of Docker's configuration: base64 of `user:password`.
    pub fn from_auth_field(text: &str) -> Result<Self, AuthFieldError> {
        let bytes = STANDARD.decode(text).or_else(|_| STANDARD_NO_PAD.decode(text)).map_err(|_| AuthFieldError)?;
        let text = String::from_utf8(bytes).map_err(|_| AuthFieldError)?;
        let (username, password) = text.split_once(':').ok_or(AuthFieldError)?;
        // Docker pads with zero bytes.
        Ok(Self::password(username, password.trim_matches('\0')))
    }

    /// The value of an `Authorization` header; RFC 7617.
    pub(crate) fn basic(&self) -> String {
        format!("Basic {}", STANDARD.encode(format!("{}:{}", self.username, self.password)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auth_fields_are_read_and_never_shown() {
        let credential = Credential::from_auth_field("dXNlcjpwYTpzcw==").unwrap();
        assert_eq!(credential, Credential::password("user", "pa:ss"));
        assert_eq!(credential.basic(), "Basic dXNlcjpwYTpzcw==");
        assert!(!format!("{credential:?}").contains("pa:ss"));
        for bad in ["?", "dXNlcg=="] {
            assert_eq!(Credential::from_auth_field(bad), Err(AuthFieldError), "{bad}");
        }
    }
}
