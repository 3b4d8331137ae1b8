//! Lets the driver make a claim's volume.
use super::super::ability::Abilities;
use super::super::error::CsiError;
use super::super::parameter::{Parameters, Use};
use super::super::provision::{self, Asked, Source, Step};
use super::super::topology;
use super::{Reconciler, SOON, shown};
use crate::cache::{Key, split};
use crate::error::{at, code};
use crate::queue::Next;
use crate::record::Severity;
use api::volume::{Claim, Volume};
use api::well_known::{ANNOTATION_SELECTED_NODE, FINALIZER_CLONING, FINALIZER_PROVISIONING};
use api_plugin::csi::Outcome;
use api_plugin::csi::controller::{self, CreateRequest, DeleteRequest};
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Api, ListParams, PostParams};
use serde_json::json;
use std::collections::HashMap;

/// The finalizers of a claim with one more, or without it.
fn finalizers(claim: &PersistentVolumeClaim, own: &str, is_there: bool) -> Vec<String> {
    let held = claim.metadata.finalizers.iter().flatten().filter(|other| *other != own).cloned();
    held.chain(is_there.then(|| own.to_owned())).collect()
}

fn has(claim: &PersistentVolumeClaim, finalizer: &str) -> bool {
    claim.metadata.finalizers.iter().flatten().any(|own| own == finalizer)
}

/// Everything that a call to make a volume needs.
struct Prepared {
    request: CreateRequest,
    parameters: Parameters,
    source: Source,
    /// Something is missing that was there when the volume was begun: what the driver then refuses is not final.
    is_partial: bool,
}

impl Reconciler {
    pub(super) async fn claim(&self, key: &Key) -> Result<Next, CsiError> {
        let (namespace, name) = split(key);
        let held = self.claims_of(namespace).get_opt(name).await.map_err(at("reading the claim"))?;
        let Some(claim) = held else { return Ok(Next::Wait) };
        let facts = Claim::new(claim.clone());
        if has(&claim, FINALIZER_CLONING) && !self.release_source(&claim).await? {
            return Ok(Next::After(SOON));
        }
        if facts.is_bound() && !provision::is_marked(&claim) {
            return self.resize(&claim, &facts).await;
        }
        let class = match facts.class.as_str() {
            "" => None,
            name => {
                let classes: Api<StorageClass> = Api::all(self.client.clone());
                classes.get_opt(name).await.map_err(at("reading the claim's class"))?
            }
        };
        let made = self.all_volumes().get_opt(&provision::volume_name(&facts.uid)).await;
        let is_made = made.map_err(at("looking for the claim's volume"))?.is_some();
        match provision::step(self.driver.name(), &claim, &facts, class.as_ref(), is_made) {
            Step::Leave => Ok(Next::Wait),
            Step::LetGo => self.unmark(&claim).await,
            Step::Create => match class {
                Some(class) => self.create(claim, &facts, &class).await,
                None => {
                    let why = CsiError::Unfit(format!("storageclass.storage.k8s.io {:?} not found", facts.class));
                    self.tell_failure(&claim, &facts, &why);
                    Err(why)
                }
            },
        }
    }

    fn tell_failure(&self, claim: &PersistentVolumeClaim, facts: &Claim, error: &CsiError) {
        let message = format!("failed to provision volume with StorageClass {:?}: {}", facts.class, shown(error));
        self.tell_claim(claim, Severity::Warning, "ProvisioningFailed", message);
    }

    async fn create(
        &self,
        claim: PersistentVolumeClaim,
        facts: &Claim,
        class: &StorageClass,
    ) -> Result<Next, CsiError> {
        if let Ok(Source::Populator(kind)) = provision::source(&claim) {
            let message = format!("spec.dataSourceRef: volumes of {kind} are left to a populator");
            self.tell_claim(&claim, Severity::Normal, "ProvisioningIgnored", message);
            return Ok(Next::Wait);
        }
        let done = self.create_volume(&claim, facts, class).await;
        if let Err(error) = &done {
            self.tell_failure(&claim, facts, error);
        }
        done
    }

    async fn create_volume(
        &self,
        claim: &PersistentVolumeClaim,
        facts: &Claim,
        class: &StorageClass,
    ) -> Result<Next, CsiError> {
        if self.has_lost_node(facts).await? {
            return self.choose_again(claim).await;
        }
        let driver = self.driver.connection().await?;
        let message = format!("External provisioner is provisioning volume for claim {:?}", facts.key());
        self.tell_claim(claim, Severity::Normal, "Provisioning", message);
        let prepared = self.prepare(driver.abilities, claim, facts, class).await?;
        if let Source::Claim(source) = &prepared.source
            && !self.hold_source(&facts.namespace, source).await?
        {
            return Ok(Next::After(SOON));
        }
        let marked = match provision::is_marked(claim) {
            true => claim.clone(),
            false => {
                let whole = finalizers(claim, FINALIZER_PROVISIONING, true);
                let patch = json!({"metadata": {"finalizers": whole}});
                let Some(marked) = self.patch_claim(claim, patch, false).await? else { return Ok(Next::After(SOON)) };
                marked
            }
        };
        let answer = self.driver.note(driver.plugin.create_volume(prepared.request.clone()).await).await;
        let made = match answer {
            Ok(answer) => answer.volume.unwrap_or_default(),
            Err(error) => {
                let outcome = error.outcome();
                let is_elsewhere = driver.abilities.has_topology && facts.selected_node.is_some();
                match outcome {
                    Outcome::Unknown => {}
                    _ if prepared.is_partial => {}
                    Outcome::Exhausted if is_elsewhere && !facts.is_deleting => {
                        self.tell_failure(&marked, facts, &error.into());
                        return self.choose_again(&marked).await;
                    }
                    // Nothing was made: nobody has to wait for it.
                    Outcome::Exhausted | Outcome::Infeasible | Outcome::Failed => drop(self.unmark(&marked).await?),
                }
                return Err(error.into());
            }
        };
        if made.volume_id.is_empty() {
            return Err(CsiError::Unfit("the driver told no volume_id".into()));
        }
        let volume = match provision::misfit(&prepared.request, &made) {
            Some(why) => Err(why),
            None => provision::volume(self.driver.name(), claim, class, &prepared.parameters, &made),
        };
        let written = match volume {
            Ok(volume) => match self.all_volumes().create(&PostParams::default(), &volume).await {
                Ok(written) => Ok(Some(written)),
                // Written before.
                Err(error) if code(&error) == 409 => Ok(None),
                Err(error) if matches!(code(&error), 400 | 403 | 413 | 422) => Err(error.to_string()),
                Err(error) => return Err(at("writing the volume")(error).into()),
            },
            Err(why) => Err(why),
        };
        match written {
            Ok(written) => {
                if let Some(written) = written {
                    let name = provision::volume_name(&facts.uid);
                    tracing::info!(
                        kind = "PersistentVolume",
                        object = name,
                        uid = facts.uid,
                        "provisioned by a driver"
                    );
                    self.volumes.put(&written.metadata.clone(), Volume::new(written));
                    let message = format!("Successfully provisioned volume {name}");
                    self.tell_claim(claim, Severity::Normal, "ProvisioningSucceeded", message);
                }
                let next = self.unmark(&marked).await?;
                if let Source::Claim(source) = &prepared.source {
                    return Ok(if self.release_source_by_name(&facts.namespace, source).await? {
                        next
                    } else {
                        Next::After(SOON)
                    });
                }
                Ok(next)
            }
            Err(why) => {
                self.undo(&driver.plugin, &prepared.request, &made).await?;
                self.unmark(&marked).await?;
                Err(CsiError::Unfit(why))
            }
        }
    }

    /// What the driver is asked.
    async fn prepare(
        &self,
        abilities: Abilities,
        claim: &PersistentVolumeClaim,
        facts: &Claim,
        class: &StorageClass,
    ) -> Result<Prepared, CsiError> {
        if let Some(why) = provision::refusal(abilities, claim) {
            return Err(CsiError::Unfit(why));
        }
        let source = provision::source(claim).map_err(CsiError::Unfit)?;
        let cloned = match &source {
            Source::Claim(name) => Some(self.cloned(claim, &facts.namespace, name).await?),
            Source::Empty | Source::Populator(_) => None,
        };
        let written = class.parameters.clone().unwrap_or_default();
        let name = provision::volume_name(&facts.uid);
        let parameters = Parameters::read(&written, &name, claim).map_err(CsiError::Unfit)?;
        let allowed = class.allowed_topologies.clone().unwrap_or_default();
        let place = match abilities.has_topology {
            true => self.with_nodes(|nodes| {
                topology::requirement(&facts.name, facts.selected_node.as_deref(), &allowed, nodes)
            }),
            false => Ok(None),
        };
        // What was begun is looked up by its name, though a node or the namespace's Secret be gone meanwhile.
        let mut is_partial = false;
        let place = match place {
            Ok(place) => place,
            Err(_) if facts.is_deleting => {
                is_partial = true;
                None
            }
            Err(why) => return Err(CsiError::Unfit(why)),
        };
        let secrets = match self.secret(parameters.secret(Use::Provision)).await {
            Ok(secrets) => secrets,
            Err(CsiError::Unfit(_)) if facts.is_deleting => {
                is_partial = true;
                HashMap::new()
            }
            Err(error) => return Err(error),
        };
        let asked = Asked { abilities, claim, class, parameters: &parameters, cloned, place, secrets };
        let request = provision::request(asked).map_err(CsiError::Unfit)?;
        Ok(Prepared { request, parameters, source, is_partial })
    }

    /// The driver's name of the volume that is copied.
    async fn cloned(&self, claim: &PersistentVolumeClaim, namespace: &str, name: &str) -> Result<String, CsiError> {
        let held = self.claims_of(namespace).get_opt(name).await.map_err(at("reading the source"))?;
        let held = held.ok_or_else(|| CsiError::Unfit(format!("spec.dataSource: claim {name:?} not found")))?;
        let volume = match held.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()) {
            Some(volume) => self.all_volumes().get_opt(volume).await.map_err(at("reading the source's volume"))?,
            None => None,
        };
        provision::cloned(self.driver.name(), claim, &held, volume.as_ref()).map_err(CsiError::Unfit)
    }

    /// Removes what was made and cannot be used.
    async fn undo(
        &self,
        plugin: &api_plugin::grpc::Plugin,
        request: &CreateRequest,
        made: &controller::Volume,
    ) -> Result<(), CsiError> {
        let delete = DeleteRequest { volume_id: made.volume_id.clone(), secrets: request.secrets.clone() };
        Ok(self.driver.note(plugin.delete_volume(delete).await).await?)
    }

    /// Takes the mark away: what the claim's volume is stands in the API, or there is none.
    async fn unmark(&self, claim: &PersistentVolumeClaim) -> Result<Next, CsiError> {
        let metadata = &claim.metadata;
        let claims = self.claims_of(metadata.namespace.as_deref().unwrap_or_default());
        let held =
            claims.get_opt(metadata.name.as_deref().unwrap_or_default()).await.map_err(at("reading the claim"))?;
        let Some(held) = held.filter(|held| held.metadata.uid == metadata.uid && provision::is_marked(held)) else {
            return Ok(Next::Wait);
        };
        let patch = json!({"metadata": {"finalizers": finalizers(&held, FINALIZER_PROVISIONING, false)}});
        let written = self.patch_claim(&held, patch, false).await?;
        Ok(if written.is_some() { Next::Wait } else { Next::After(SOON) })
    }

    /// Lets the scheduler choose another node.
    async fn choose_again(&self, claim: &PersistentVolumeClaim) -> Result<Next, CsiError> {
        let patch = json!({"metadata": {"annotations": {ANNOTATION_SELECTED_NODE: null},
            "finalizers": finalizers(claim, FINALIZER_PROVISIONING, false)}});
        let written = self.patch_claim(claim, patch, false).await?;
        Ok(if written.is_some() { Next::Wait } else { Next::After(SOON) })
    }

    /// Whether the node that was chosen is gone; a claim that was begun there goes on.
    async fn has_lost_node(&self, facts: &Claim) -> Result<bool, CsiError> {
        let Some(node) = facts.selected_node.as_deref().filter(|_| !facts.is_deleting) else { return Ok(false) };
        if self.nodes.get(node).is_some() {
            return Ok(false);
        }
        let nodes: Api<Node> = Api::all(self.client.clone());
        Ok(nodes.get_opt(node).await.map_err(at("looking for the claim's node"))?.is_none())
    }

    /// Keeps a claim from going while it is copied; `false` where it has changed meanwhile.
    async fn hold_source(&self, namespace: &str, name: &str) -> Result<bool, CsiError> {
        let held = self.claims_of(namespace).get_opt(name).await.map_err(at("reading the source"))?;
        // One that goes takes no finalizer any more; then what was begun is only looked up.
        let is_free =
            |held: &PersistentVolumeClaim| held.metadata.deletion_timestamp.is_none() && !has(held, FINALIZER_CLONING);
        let Some(held) = held.filter(is_free) else { return Ok(true) };
        let patch = json!({"metadata": {"finalizers": finalizers(&held, FINALIZER_CLONING, true)}});
        Ok(self.patch_claim(&held, patch, false).await?.is_some())
    }

    async fn release_source_by_name(&self, namespace: &str, name: &str) -> Result<bool, CsiError> {
        let held = self.claims_of(namespace).get_opt(name).await.map_err(at("reading the source"))?;
        match held.filter(|held| has(held, FINALIZER_CLONING)) {
            Some(held) => self.release_source(&held).await,
            None => Ok(true),
        }
    }

    /// Lets a claim go that nobody copies any more; `false` where it has changed meanwhile.
    async fn release_source(&self, held: &PersistentVolumeClaim) -> Result<bool, CsiError> {
        let metadata = &held.metadata;
        let (namespace, name) =
            (metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default());
        let all = self.claims_of(namespace).list(&ListParams::default()).await;
        for other in all.map_err(at("looking for copies of the claim"))? {
            let is_copy = provision::source(&other).is_ok_and(|source| source == Source::Claim(name.to_owned()));
            let facts = Claim::new(other);
            if is_copy && facts.volume.is_empty() && self.volumes.get(&provision::volume_name(&facts.uid)).is_none() {
                return Ok(true);
            }
        }
        let patch = json!({"metadata": {"finalizers": finalizers(held, FINALIZER_CLONING, false)}});
        Ok(self.patch_claim(held, patch, false).await?.is_some())
    }
}
