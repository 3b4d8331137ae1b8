//! Service account tokens: ES256 JSON web tokens bound to an account and, mostly, to a pod.
//! RFC 7515, RFC 7518 section 3.4, RFC 7519; claims as in KEP-1205.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, KeyPair as _};
use serde::{Deserialize, Serialize};

use crate::pki::PkiError;

/// Who issues the tokens and the audience they are for by default.
pub(crate) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// A named object of the token's subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BoundRef {
    pub(crate) name: String,
    pub(crate) uid: String,
}

/// The private claim `kubernetes.io`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bound {
    pub(crate) namespace: String,
    pub(crate) serviceaccount: BoundRef,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pod: Option<BoundRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<BoundRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) secret: Option<BoundRef>,
}

/// What a token says. Times are seconds since the epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claims {
    pub(crate) iss: String,
    pub(crate) sub: String,
    pub(crate) aud: Vec<String>,
    pub(crate) exp: i64,
    pub(crate) iat: i64,
    pub(crate) nbf: i64,
    pub(crate) jti: String,
    #[serde(rename = "kubernetes.io")]
    pub(crate) bound: Bound,
}

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    kid: String,
}

/// Signs and verifies.
pub(crate) struct TokenKey {
    pair: EcdsaKeyPair,
    kid: String,
    random: SystemRandom,
}

impl TokenKey {
    /// Reads the key in `path`, or makes one.
    pub(crate) fn open(path: &Path) -> Result<Self, PkiError> {
        let random = SystemRandom::new();
        let algorithm = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
        let refused = |why: &str| PkiError::File { path: path.into(), source: std::io::Error::other(why.to_owned()) };
        if !path.exists() {
            let document =
                EcdsaKeyPair::generate_pkcs8(algorithm, &random).map_err(|_| refused("no randomness for a key"))?;
            crate::pki::write_private(path, document.as_ref())?;
        }
        let document = std::fs::read(path).map_err(|source| PkiError::File { path: path.into(), source })?;
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, &document, &random)
            .map_err(|_| refused("not a P-256 key in PKCS#8"))?;
        let kid = hex::encode(&ring::digest::digest(&ring::digest::SHA256, pair.public_key().as_ref()).as_ref()[..8]);
        Ok(Self { pair, kid, random })
    }

    /// The public key as a set of one, by which others verify tokens (RFC 7517, RFC 7518 section 6.2.1).
    pub(crate) fn key_set(&self) -> serde_json::Value {
        // A point without compression: 4, then both coordinates.
        let (x, y) =
            self.pair.public_key().as_ref().get(1..).unwrap_or_default().split_at_checked(32).unwrap_or_default();
        serde_json::json!({"keys": [{"use": "sig", "kty": "EC", "kid": self.kid, "crv": "P-256", "alg": "ES256",
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)}]})
    }

    /// The compact form of a token. `None` when the system has no randomness.
    pub(crate) fn sign(&self, claims: &Claims) -> Option<String> {
        let header = Header { alg: "ES256".into(), kid: self.kid.clone() };
        let part = |json: Vec<u8>| URL_SAFE_NO_PAD.encode(json);
        let signed = format!("{}.{}", part(serde_json::to_vec(&header).ok()?), part(serde_json::to_vec(claims).ok()?));
        let signature = self.pair.sign(&self.random, signed.as_bytes()).ok()?;
        Some(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// The claims of a token that this key signed and whose time is right.
    pub(crate) fn verify(&self, token: &str, now: i64) -> Option<Claims> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, payload) = signed.split_once('.')?;
        let header: Header = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
        if header.alg != "ES256" || header.kid != self.kid {
            return None;
        }
        let key = signature::UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, self.pair.public_key());
        key.verify(signed.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).ok()?).ok()?;
        let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
        (claims.iss == ISSUER && claims.nbf <= now && now < claims.exp).then_some(claims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_hold_only_as_signed_and_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let key = TokenKey::open(&dir.path().join("service.key")).unwrap();
        let account = BoundRef { name: "default".into(), uid: "u".into() };
        let claims = Claims {
            iss: ISSUER.into(),
            sub: "system:serviceaccount:a:default".into(),
            aud: vec![ISSUER.into()],
            exp: 200,
            iat: 100,
            nbf: 100,
            jti: "j".into(),
            bound: Bound { namespace: "a".into(), serviceaccount: account, pod: None, node: None, secret: None },
        };
        let token = key.sign(&claims).unwrap();
        assert_eq!(key.verify(&token, 150), Some(claims));
        assert_eq!(key.verify(&token, 200), None);
        assert_eq!(key.verify(&token, 99), None);
        let mut forged: Vec<String> = token.split('.').map(str::to_owned).collect();
        let payload = String::from_utf8(URL_SAFE_NO_PAD.decode(&forged[1]).unwrap()).unwrap();
        forged[1] = URL_SAFE_NO_PAD.encode(payload.replace(":default\"", ":admin\""));
        assert_eq!(key.verify(&forged.join("."), 150), None);
        let other = TokenKey::open(&dir.path().join("other.key")).unwrap();
        assert_eq!(other.verify(&token, 150), None);
        assert_eq!(key.verify("a.b.c", 150), None);
    }
}
