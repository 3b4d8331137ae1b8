//! The workloads that `scale`, `set` and `rollout` act on.

use http::Method;
use serde_json::Value;

use crate::client::{Call, Session};
use crate::failure::Failure;
use crate::kind::{Catalog, Kind};
use crate::list::{self, SelectArgs};
use crate::manifest::{self, FileArgs};
use crate::output::name_of;
use crate::target;

/// Flags that say which workloads are meant.
#[derive(Debug, clap::Args)]
pub(crate) struct WhichArgs {
    /// TYPE NAME, TYPE/NAME..., or TYPE with -l or --all.
    #[arg(value_name = "TYPE[/NAME]")]
    pub(crate) targets: Vec<String>,
    #[command(flatten)]
    files: FileArgs,
    #[command(flatten)]
    select: SelectArgs,
    /// All objects of the type in the namespace.
    #[arg(long)]
    all: bool,
}

/// One object as the server has it.
pub(crate) struct Workload<'a> {
    pub(crate) kind: &'a Kind,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) object: Value,
}

impl Workload<'_> {
    /// `deployment.apps/x`.
    pub(crate) fn title(&self) -> String {
        format!("{}/{}", self.kind.prefix(), self.name)
    }

    /// The path in the API.
    pub(crate) fn path(&self) -> String {
        self.kind.object(&self.namespace, &self.name)
    }

    /// Changes the object; gives what became of it.
    pub(crate) async fn patch(
        &self,
        session: &Session,
        media_type: &'static str,
        patch: &Value,
    ) -> Result<Value, Failure> {
        let call =
            Call::to(self.path()).with("fieldManager", "gantry").body(media_type, patch.to_string().into_bytes());
        Ok(session.send(Method::PATCH, call).await?.1)
    }
}

impl WhichArgs {
    /// Targets and files alone, for verbs whose flags of the same letters mean something else.
    pub(crate) fn named(targets: &[String], files: &FileArgs) -> Self {
        Self { targets: targets.to_vec(), files: files.clone(), select: SelectArgs::default(), all: false }
    }

    /// Reads the workloads from the server.
    pub(crate) async fn find<'a>(&self, session: &Session, catalog: &'a Catalog) -> Result<Vec<Workload<'a>>, Failure> {
        self.find_in(session, catalog, &self.targets).await
    }

    /// As `find`, with other words for the targets than all arguments.
    pub(crate) async fn find_in<'a>(
        &self,
        session: &Session,
        catalog: &'a Catalog,
        words: &[String],
    ) -> Result<Vec<Workload<'a>>, Failure> {
        let mut found = Vec::new();
        if !self.files.filename.is_empty() {
            for manifest in self.files.read()? {
                let placed = manifest::place(session, catalog, manifest)?;
                found.push(load(session, placed.kind, placed.namespace, placed.name).await?);
            }
            return Ok(found);
        }
        for target in target::parse(catalog, words)? {
            match target.name {
                Some(name) => found.push(load(session, target.kind, session.namespace.clone(), name).await?),
                None if self.all || !self.select.is_empty() => {
                    let all = list::objects(session, target.kind, Some(&session.namespace), &self.select).await?;
                    found.extend(all.into_iter().map(|object| Workload {
                        kind: target.kind,
                        namespace: session.namespace.clone(),
                        name: name_of(&object).to_owned(),
                        object,
                    }));
                }
                None => return Err(Failure::error("resource(s) were provided, but no name was specified")),
            }
        }
        match found.is_empty() {
            true => Err(Failure::error("no objects: expected TYPE/NAME, or -f FILE")),
            false => Ok(found),
        }
    }
}

async fn load<'a>(session: &Session, kind: &'a Kind, namespace: String, name: String) -> Result<Workload<'a>, Failure> {
    let object = session.get(Call::to(kind.object(&namespace, &name))).await?;
    Ok(Workload { kind, namespace, name, object })
}
