//! Certificates are renewed while the server runs, long before they end; whoever shows one is given the new one.

use std::sync::{Arc, Mutex, PoisonError};

use crate::metrics::Metrics;
use crate::pki::{Authority, Issued, Leaf};
use crate::server::BuildError;

/// What is done with a certificate: at once, and again whenever it was renewed.
type Show = Box<dyn Fn(&Issued) -> Result<(), BuildError> + Send + Sync>;

struct Kept {
    file: &'static str,
    leaf: Leaf,
    /// The certificate that is shown now, PEM.
    shown: String,
    show: Show,
}

/// Every certificate that this process signed for itself and its clients.
pub(crate) struct Renewals {
    authority: Arc<Authority>,
    metrics: Arc<Metrics>,
    kept: Mutex<Vec<Kept>>,
}

impl Renewals {
    pub(crate) fn new(authority: Arc<Authority>, metrics: Arc<Metrics>) -> Self {
        Self { authority, metrics, kept: Mutex::default() }
    }

    /// Shows the stored certificate `file`, and keeps it good from now on.
    pub(crate) fn keep(
        &self,
        file: &'static str,
        leaf: Leaf,
        show: impl Fn(&Issued) -> Result<(), BuildError> + Send + Sync + 'static,
    ) -> Result<(), BuildError> {
        let issued = self.authority.ensure(file, &leaf)?;
        self.note(file, &issued);
        show(&issued)?;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        // Told again (another address, say): the later one counts.
        kept.retain(|kept| kept.file != file);
        kept.push(Kept { file, leaf, shown: issued.certificate, show: Box::new(show) });
        Ok(())
    }

    /// Renews what has a third of its life or less left. One that fails does not keep the others.
    pub(crate) fn renew(&self) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        for kept in kept.iter_mut() {
            let renewed = self.authority.ensure(kept.file, &kept.leaf).map_err(BuildError::from).and_then(|issued| {
                self.note(kept.file, &issued);
                if issued.certificate != kept.shown {
                    (kept.show)(&issued)?;
                    kept.shown = issued.certificate;
                    tracing::info!(certificate = kept.file, "renewed");
                }
                Ok(())
            });
            if let Err(error) = renewed {
                tracing::error!(certificate = kept.file, error = api::causes::chain(&error), "renewing");
            }
        }
    }

    fn note(&self, file: &'static str, issued: &Issued) {
        if let Some(expires) = Authority::expiry(&issued.certificate) {
            self.metrics.certificate(file, expires);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_about_to_end_is_renewed_and_shown() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Arc::new(Authority::open(dir.path()).unwrap());
        let metrics = Arc::new(Metrics::new(prometheus_client::registry::Registry::default()));
        let renewals = Renewals::new(Arc::clone(&authority), metrics);
        let shown: Arc<Mutex<Vec<String>>> = Arc::default();
        let leaf = Leaf::client("somebody", "people");
        let seen = Arc::clone(&shown);
        let show = move |issued: &Issued| {
            seen.lock().unwrap().push(issued.certificate.clone());
            Ok(())
        };
        renewals.keep("somebody", leaf.clone(), show).unwrap();
        renewals.renew();
        assert_eq!(shown.lock().unwrap().len(), 1, "what is good is left alone");
        // As if most of a year had gone by.
        let old = authority.issue_for(&leaf, 0).unwrap();
        std::fs::write(dir.path().join("somebody.crt"), &old.certificate).unwrap();
        std::fs::write(dir.path().join("somebody.key"), &old.key).unwrap();
        renewals.renew();
        let shown = shown.lock().unwrap();
        assert_eq!(shown.len(), 2);
        assert!(shown[1] != shown[0] && shown[1] != old.certificate);
    }
}
