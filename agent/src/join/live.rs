//! A certificate that can be replaced while it is shown, as a client's and as a server's.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::JoinError;
use super::identity::Identity;

/// See the module.
#[derive(Debug)]
pub(super) struct Live(RwLock<Arc<CertifiedKey>>);

impl Live {
    pub(super) fn new(identity: &Identity) -> Result<Arc<Self>, JoinError> {
        Ok(Arc::new(Self(RwLock::new(certified(identity)?))))
    }

    pub(super) fn replace(&self, identity: &Identity) -> Result<(), JoinError> {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = certified(identity)?;
        Ok(())
    }

    /// The certificate that is shown now.
    #[cfg(test)]
    pub(super) fn shown(&self) -> Vec<CertificateDer<'static>> {
        self.current().cert.clone()
    }

    fn current(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn certified(identity: &Identity) -> Result<Arc<CertifiedKey>, JoinError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(identity.certificate.as_bytes()).collect();
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).map_err(JoinError::Pem)?;
    let provider = rustls::crypto::ring::default_provider();
    CertifiedKey::from_der(chain.map_err(JoinError::Pem)?, key, &provider).map(Arc::new).map_err(JoinError::Tls)
}

impl ResolvesClientCert for Live {
    fn resolve(&self, _authorities: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ResolvesServerCert for Live {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}
