//! A whole image: what its name means now, its documents, then its layers beside each other, each unpacked as it comes.
//!
//! # Guarantees
//! The image is known by its name only once every part of it is verified, unpacked and on the disk. What was verified by
//! a pull that failed or was killed is used by the next; what was not whole is gone on with.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use http::StatusCode;

use super::config::Registries;
use super::credential::Credential;
use super::download::{Blob, DownloadError, download};
use super::endpoint::endpoints;
use super::error::{PullError, RegistryError, RequestError};
use super::fetch::{self, Fetched};
use super::session::{Remote, Session};
pub use super::transport::Patience;
use crate::digest::Digest;
use crate::document::{
    Descriptor, Document, DocumentError, ManifestDocument, NESTING, Platform, choose, diff_ids, document,
};
use crate::growing::{Following, growing};
use crate::layer::unpack_layer;
use crate::lease::Lease;
use crate::place::Place;
use crate::reference::Reference;
use crate::store::{Image, ImageError, ImageStore};

/// Layers of one image that come at a time.
const LAYERS_AT_ONCE: usize = 3;
/// How often we look whether another process is done with a blob.
const OTHER_PROCESS_EVERY: Duration = Duration::from_millis(100);

/// What happens during a pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// The image has these layers, with their packed bytes.
    Layers(Vec<(Digest, u64)>),
    /// A layer is on this machine already.
    Present(Digest),
    /// So much of a layer is here.
    Downloaded {
        /// Its blob.
        digest: Digest,
        /// Bytes here.
        have: u64,
        /// Bytes of all.
        of: u64,
    },
    /// A layer's download broke and goes on after a while.
    Retrying {
        /// Its blob.
        digest: Digest,
        /// What broke it.
        why: String,
        /// After how long.
        wait: Duration,
    },
    /// A layer is unpacked and on the disk.
    Unpacked(Digest),
}

/// Who is told. It must not block.
pub type Tell<'a> = dyn Fn(Progress) + Send + Sync + 'a;

/// What is to be pulled.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The image.
    pub reference: Reference,
    /// Tried in this order; with none, as nobody or as registries.yaml says.
    pub credentials: Vec<Credential>,
    /// For which machine.
    pub platform: Platform,
}

/// Pulls into one store. Shared by all who pull.
pub struct Puller {
    store: ImageStore,
    remote: Remote,
    /// One download of a blob at a time in this process.
    blobs: Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
}

/// What the top of an image leads to.
struct Found {
    /// The place in the list of sessions that had it.
    source: usize,
    top: Digest,
    digest: Digest,
    manifest: ManifestDocument,
}

/// A layer: its blob and the digest of its tar.
struct Layer<'a> {
    blob: Blob<'a>,
    diff_id: &'a Digest,
}

impl Puller {
    /// Pulls into `store` from registries as `registries` says.
    pub fn new(store: ImageStore, registries: Registries, patience: Patience) -> Self {
        Self { store, remote: Remote::new(registries, patience), blobs: Mutex::default() }
    }

    /// Makes sure that the store has what the registry has under this name now. Dropping the future ends the pull; what
    /// came so far stays for the next.
    pub async fn pull(&self, wanted: &Wanted, tell: &Tell<'_>) -> Result<Image, PullError> {
        let mut credentials: Vec<Option<&Credential>> = wanted.credentials.iter().map(Some).collect();
        if credentials.is_empty() {
            credentials.push(None);
        }
        let mut lease = self.store.lease()?;
        let mut failed = None;
        for credential in credentials {
            let all = endpoints(&self.remote.registries, &wanted.reference, credential);
            let sessions = all.into_iter().map(|endpoint| Session::new(&self.remote, endpoint));
            let sessions: Vec<Session<'_>> = sessions.collect::<Result<_, _>>()?;
            if let Some(image) = self.unchanged(wanted, &sessions).await? {
                return Ok(image);
            }
            match self.find(wanted, &sessions, &mut lease).await {
                Ok(found) => return self.complete(wanted, &sessions, found, &mut lease, tell).await,
                // Another credential may be let in; the first refusal is told if none is.
                Err(PullError::Registries(errors)) if errors.iter().any(|error| is_refusal(&error.source)) => {
                    failed.get_or_insert(PullError::Registries(errors));
                }
                Err(error) => return Err(error),
            }
        }
        Err(failed.unwrap_or(PullError::Registries(vec![])))
    }

    /// The image on this machine, if the first registry that answers says that the name means it still.
    async fn unchanged(&self, wanted: &Wanted, sessions: &[Session<'_>]) -> Result<Option<Image>, PullError> {
        let name = name_of(&wanted.reference);
        let Some(image) = self.store.list()?.into_iter().find(|image| image.name == name && image.pulled) else {
            return Ok(None);
        };
        if wanted.platform != Platform::own() || !self.store.is_whole(&image) {
            return Ok(None);
        }
        let (Some(session), asked) = (sessions.first(), tag_or_digest(&wanted.reference)) else { return Ok(None) };
        // Whatever goes wrong here is told by the request that follows.
        let now = fetch::resolve(session, &asked).await.unwrap_or_default();
        Ok((now.as_ref() == Some(image.target())).then_some(image))
    }

    /// Asks one place after the other for the manifest.
    async fn find(&self, wanted: &Wanted, sessions: &[Session<'_>], lease: &mut Lease) -> Result<Found, PullError> {
        let mut failures = Vec::new();
        for (source, session) in sessions.iter().enumerate() {
            match self.find_at(wanted, session, lease).await {
                Ok((top, digest, manifest)) => return Ok(Found { source, top, digest, manifest }),
                Err(FindError::Request(error)) => failures.push(RegistryError {
                    registry: session.registry().to_owned(),
                    what: format!("manifest {} of {}", tag_or_digest(&wanted.reference), session.endpoint.repository),
                    source: error,
                }),
                Err(FindError::Pull(error)) => return Err(error),
            }
        }
        Err(PullError::Registries(failures))
    }

    /// Follows indexes down to the manifest of the platform. Answers the top's digest, the manifest's and the manifest.
    async fn find_at(
        &self,
        wanted: &Wanted,
        session: &Session<'_>,
        lease: &mut Lease,
    ) -> Result<(Digest, Digest, ManifestDocument), FindError> {
        let limit = self.store.limits().manifest;
        let mut expected = wanted.reference.digest.clone();
        let mut top: Option<Digest> = None;
        for _ in 0..NESTING {
            // By its tag the first, by its digest every other.
            let Fetched { digest, bytes } =
                fetch::manifest(session, wanted.reference.tag.as_deref(), expected.as_ref(), limit).await?;
            let top = top.get_or_insert_with(|| digest.clone());
            let bad = |source| PullError::Document { what: format!("{} ({digest})", wanted.reference), source };
            let document = document(&bytes).map_err(bad)?;
            self.store.keep(lease, &[&digest]).map_err(PullError::from)?;
            self.store.put_document(&bytes, &digest).map_err(PullError::from)?;
            match document {
                Document::Index(index) => {
                    expected = Some(choose(&index, &wanted.platform).map_err(bad)?.digest.clone());
                }
                Document::Manifest(manifest) => return Ok((top.clone(), digest, manifest)),
            }
        }
        let what = wanted.reference.to_string();
        Err(FindError::Pull(PullError::Document { what, source: DocumentError::TooDeep }))
    }

    /// Brings configuration and layers, then makes the image known.
    async fn complete(
        &self,
        wanted: &Wanted,
        sessions: &[Session<'_>],
        found: Found,
        lease: &mut Lease,
        tell: &Tell<'_>,
    ) -> Result<Image, PullError> {
        let Found { source, top, digest, manifest } = found;
        let limits = self.store.limits();
        if let Some(layer) = manifest.layers.iter().find(|layer| layer.size > limits.blob) {
            let (digest, size) = (layer.digest.clone(), layer.size);
            return Err(PullError::TooLarge { digest, size, limit: limits.blob });
        }
        let blobs = manifest.layers.iter().chain([&manifest.config]).map(|descriptor| &descriptor.digest);
        self.store.keep(lease, &blobs.collect::<Vec<_>>())?;
        let config = self.configuration(sessions, source, &manifest.config).await?;
        let what = || format!("{} ({digest})", wanted.reference);
        let diff_ids = diff_ids(&manifest, &config).map_err(|source| PullError::Document { what: what(), source })?;
        self.store.keep(lease, &diff_ids.iter().collect::<Vec<_>>())?;
        tell(Progress::Layers(manifest.layers.iter().map(|layer| (layer.digest.clone(), layer.size)).collect()));
        let mut layers: Vec<BoxFuture<'_, Result<(), PullError>>> = Vec::new();
        for (descriptor, diff_id) in manifest.layers.iter().zip(&diff_ids) {
            let blob = Blob { digest: &descriptor.digest, size: descriptor.size };
            layers.push(self.layer(sessions, source, Layer { blob, diff_id }, tell).boxed());
        }
        futures::stream::iter(layers).buffer_unordered(LAYERS_AT_ONCE).try_collect::<()>().await?;
        let image = Image {
            name: name_of(&wanted.reference),
            index: (top != digest).then_some(top),
            digest,
            size: manifest.layers.iter().map(|layer| layer.size).sum::<u64>() + config.len() as u64,
            config: manifest.config.digest,
            layers: manifest.layers.into_iter().map(|layer| layer.digest).collect(),
            diff_ids,
            pinned: false,
            pulled: true,
        };
        self.store.add(std::slice::from_ref(&image))?;
        Ok(image)
    }

    async fn configuration(
        &self,
        sessions: &[Session<'_>],
        first: usize,
        descriptor: &Descriptor,
    ) -> Result<Vec<u8>, PullError> {
        let (digest, limit) = (&descriptor.digest, self.store.limits().document);
        if self.store.content().has(digest) {
            return Ok(self.store.content().read(digest, limit).map_err(ImageError::from)?);
        }
        let mut failures = Vec::new();
        for session in &sessions[first..] {
            match fetch::blob(session, digest, limit).await {
                Ok(bytes) => {
                    self.store.put_document(&bytes, digest)?;
                    return Ok(bytes);
                }
                Err(source) => failures.push(RegistryError {
                    registry: session.registry().to_owned(),
                    what: format!("configuration {digest}"),
                    source,
                }),
            }
        }
        Err(PullError::Registries(failures))
    }

    /// Makes sure that a layer is here, as blob and unpacked.
    async fn layer(
        &self,
        sessions: &[Session<'_>],
        first: usize,
        layer: Layer<'_>,
        tell: &Tell<'_>,
    ) -> Result<(), PullError> {
        let digest = layer.blob.digest;
        let own = self.own_lock(digest);
        let _alone = own.lock().await;
        let partial = loop {
            if self.store.content().has(digest) {
                self.unpack_present(&layer, tell).await?;
                return Ok(());
            }
            match self.store.content().open_partial(digest).map_err(ImageError::from)? {
                Some(file) => break file,
                // Another process is at it.
                None => tokio::time::sleep(OTHER_PROCESS_EVERY).await,
            }
        };
        self.bring(sessions, first, &layer, partial, tell).await?;
        tell(Progress::Unpacked(digest.clone()));
        Ok(())
    }

    fn own_lock(&self, digest: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        blobs.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = blobs.get(digest).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        blobs.insert(digest.clone(), Arc::downgrade(&lock));
        lock
    }

    /// The blob is here; the layer may have to be unpacked.
    async fn unpack_present(&self, layer: &Layer<'_>, tell: &Tell<'_>) -> Result<(), PullError> {
        if self.store.has_layer(layer.diff_id) {
            tell(Progress::Present(layer.blob.digest.clone()));
            return Ok(());
        }
        let (store, blob, diff_id) = (self.store.clone(), layer.blob.digest.clone(), layer.diff_id.clone());
        blocking(layer.blob.digest, move || {
            if let Some(place) = store.unpack_blob(&blob, &diff_id)? {
                place.sync().map_err(ImageError::from)?;
                place.commit().map_err(ImageError::from)?;
            }
            Ok(())
        })
        .await?;
        tell(Progress::Unpacked(layer.blob.digest.clone()));
        Ok(())
    }

    /// Downloads and unpacks beside each other. What an earlier try left is gone on with, and thrown away if it turns out
    /// to be wrong; a registry that sends something else is not asked for this layer again.
    async fn bring(
        &self,
        sessions: &[Session<'_>],
        first: usize,
        layer: &Layer<'_>,
        file: File,
        tell: &Tell<'_>,
    ) -> Result<(), PullError> {
        let digest = layer.blob.digest;
        let io = |step| {
            let path = self.store.content().path(digest);
            move |source| PullError::Io { step, path, source }
        };
        let mut first = first;
        let mut lies = Vec::new();
        loop {
            let have = file.metadata().map_err(io("look at"))?.len();
            let have = match have > layer.blob.size {
                true => {
                    file.set_len(0).map_err(io("empty"))?;
                    0
                }
                false => have,
            };
            let again = file.try_clone().map_err(io("open"))?;
            let (downloaded, unpacked) = self.bring_once(sessions, first, layer, again, have, tell).await?;
            match (downloaded, unpacked) {
                (Ok(()), Ok(place)) => return self.settle(digest, file, place).await,
                (Ok(()), Err(error)) => return Err(error),
                (Err(DownloadError::Mismatch { .. }), _) if have > 0 => {
                    tracing::warn!(%digest, have, "what an earlier download left is damaged; it begins anew");
                    file.set_len(0).map_err(io("empty"))?;
                }
                (Err(DownloadError::Mismatch { source, found }), _) => {
                    file.set_len(0).map_err(io("empty"))?;
                    lies.push(RegistryError {
                        registry: sessions.get(source).map_or("", Session::registry).to_owned(),
                        what: format!("layer {digest}"),
                        source: RequestError::Mismatch { expected: digest.clone(), found },
                    });
                    first = source + 1;
                    if first >= sessions.len() {
                        return Err(PullError::Registries(lies));
                    }
                }
                (Err(DownloadError::Registries(errors)), _) => {
                    lies.extend(errors);
                    return Err(PullError::Registries(lies));
                }
                (Err(DownloadError::Write(source)), _) => return Err(io("write")(source)),
                (Err(DownloadError::Abandoned), _) => return Err(PullError::Abandoned(digest.clone())),
            }
        }
    }

    /// One download with one unpacking beside it. Both outcomes count: a layer that cannot be unpacked is the registry's
    /// fault if its digest is wrong, and the image's if it is right.
    async fn bring_once(
        &self,
        sessions: &[Session<'_>],
        first: usize,
        layer: &Layer<'_>,
        file: File,
        have: u64,
        tell: &Tell<'_>,
    ) -> Result<(Result<(), DownloadError>, Result<Option<Place>, PullError>), PullError> {
        let digest = layer.blob.digest;
        let reader = self.store.content().read_partial(digest).map_err(ImageError::from)?;
        let (growing, following) = growing(reader, have);
        let place = self.store.place(layer.diff_id)?;
        let unpacking = place.map(|place| {
            let (store, digest, diff_id, size) =
                (self.store.clone(), digest.clone(), layer.diff_id.clone(), layer.blob.size);
            tokio::task::spawn_blocking(move || unpack_following(&store, place, following, size, &digest, &diff_id))
        });
        let downloaded = download(sessions, first, &layer.blob, file, have, growing, tell).await;
        let unpacked = match unpacking {
            None => Ok(None),
            Some(task) => match task.await {
                Ok(unpacked) => unpacked.map(Some),
                Err(_) => Err(PullError::Abandoned(digest.clone())),
            },
        };
        Ok((downloaded, unpacked))
    }

    /// Brings both onto the disk, then makes them a blob and a layer.
    async fn settle(&self, digest: &Digest, file: File, place: Option<Place>) -> Result<(), PullError> {
        let (store, own) = (self.store.clone(), digest.clone());
        blocking(digest, move || {
            let path = store.content().path(&own);
            match &place {
                // The blob lies on the same file system.
                Some(place) => place.sync().map_err(ImageError::from)?,
                None => file.sync_all().map_err(|source| PullError::Io { step: "sync", path, source })?,
            }
            store.content().commit_partial(&own).map_err(ImageError::from)?;
            if let Some(place) = place {
                place.commit().map_err(ImageError::from)?;
            }
            // With the descriptor goes the lock.
            drop(file);
            Ok(())
        })
        .await
    }
}

fn unpack_following(
    store: &ImageStore,
    place: Place,
    following: Following,
    size: u64,
    digest: &Digest,
    diff_id: &Digest,
) -> Result<Place, PullError> {
    let give_up = following.give_up();
    unpack_layer(following, size, diff_id, place.path(), store.limits(), || give_up.give_up())
        .map_err(|source| PullError::Layer { digest: digest.clone(), source })?;
    Ok(place)
}

/// What went wrong at one place, or for good.
enum FindError {
    Request(RequestError),
    Pull(PullError),
}

impl From<RequestError> for FindError {
    fn from(error: RequestError) -> Self {
        Self::Request(error)
    }
}

impl From<PullError> for FindError {
    fn from(error: PullError) -> Self {
        Self::Pull(error)
    }
}

async fn blocking(
    digest: &Digest,
    work: impl FnOnce() -> Result<(), PullError> + Send + 'static,
) -> Result<(), PullError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(_) => Err(PullError::Abandoned(digest.clone())),
    }
}

/// Whether somebody else may get what was refused to us. Registries hide what one may not see.
fn is_refusal(error: &RequestError) -> bool {
    match error {
        RequestError::Unauthorized { .. } => true,
        RequestError::Token { source, .. } => is_refusal(source),
        RequestError::Status { status, .. } => matches!(*status, StatusCode::FORBIDDEN | StatusCode::NOT_FOUND),
        _ => false,
    }
}

fn tag_or_digest(reference: &Reference) -> String {
    match (&reference.digest, &reference.tag) {
        (Some(digest), _) => digest.to_string(),
        (None, tag) => tag.clone().unwrap_or_default(),
    }
}

/// The name an image is known by: with a digest, the tag says nothing.
fn name_of(reference: &Reference) -> String {
    match reference.digest {
        Some(_) => Reference { tag: None, ..reference.clone() }.to_string(),
        None => reference.to_string(),
    }
}
