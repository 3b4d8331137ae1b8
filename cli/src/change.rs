//! Flags and words that every verb shares which changes objects: trial runs, the field manager, what is told in the end.

use http::Method;
use serde_json::Value;

use crate::client::{Call, Session};
use crate::failure::Failure;
use crate::kind::Kind;
use crate::output::{Output, name_of, without_managed_fields};
use crate::screen;
use crate::workload::Workload;

/// Where a trial run takes place.
#[derive(Debug, Clone, Copy, Default, PartialEq, clap::ValueEnum)]
pub(crate) enum DryRun {
    /// Nothing is sent; the change is worked out here.
    Client,
    /// The server decides and stores nothing.
    Server,
    /// It is no trial.
    #[default]
    None,
}

impl DryRun {
    /// What is said after the outcome.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::Client => " (dry run)",
            Self::Server => " (server dry run)",
            Self::None => "",
        }
    }

    /// The value of the query parameter `dryRun`.
    pub(crate) fn query(self) -> Option<&'static str> {
        (self == Self::Server).then_some("All")
    }
}

/// Flags of a verb that changes objects.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ChangeArgs {
    /// `server`: the server decides and stores nothing; `client`: nothing is sent.
    #[arg(long, value_name = "WHERE", num_args = 0..=1, default_value = "none", default_missing_value = "client",
        require_equals = true)]
    pub(crate) dry_run: DryRun,
    /// json, yaml, name, jsonpath=..., go-template=...
    #[arg(short = 'o', long, value_name = "FORMAT")]
    output: Option<String>,
    /// Name under which the server remembers who changed which fields.
    #[arg(long, default_value = "gantry", value_name = "NAME")]
    field_manager: String,
}

impl ChangeArgs {
    /// The form of the output; refused before anything is changed.
    pub(crate) fn output(&self) -> Result<Output, Failure> {
        Output::parse(self.output.as_deref())
    }

    /// A call with what the flags say.
    pub(crate) fn prepare(&self, call: Call) -> Call {
        call.with("fieldManager", &self.field_manager).with_some("dryRun", self.dry_run.query())
    }

    /// Tells what became of an object: the object where `-o` asks for it, else `TYPE/NAME DONE`.
    pub(crate) fn tell(&self, output: &Output, kind: &Kind, object: &Value, done: &str) -> Result<(), Failure> {
        if output.is_table() {
            let suffix = self.dry_run.suffix();
            return screen::line(format!("{}/{} {done}{suffix}", kind.prefix(), name_of(object)));
        }
        let mut object = object.clone();
        without_managed_fields(&mut object);
        output.show(kind, &object)
    }

    /// Patches an object, or works out here what it would become.
    pub(crate) async fn patch(
        &self,
        session: &Session,
        object: &Workload<'_>,
        patch: &Value,
        how: PatchKind,
    ) -> Result<Value, Failure> {
        if self.dry_run == DryRun::Client {
            return how.apply(&object.object, patch, object.kind);
        }
        let body = patch.to_string().into_bytes();
        let call = self.prepare(Call::to(object.path())).body(how.media_type(), body);
        Ok(session.send(Method::PATCH, call).await?.1)
    }
}

/// The three ways of writing a patch down.
#[derive(Debug, Clone, Copy, PartialEq, clap::ValueEnum)]
pub(crate) enum PatchKind {
    /// Lists merge by the keys of their kind.
    Strategic,
    /// RFC 7386: lists are replaced, null takes away.
    Merge,
    /// RFC 6902: a list of operations.
    Json,
}

impl PatchKind {
    /// The media type of the request.
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::Strategic => "application/strategic-merge-patch+json",
            Self::Merge => "application/merge-patch+json",
            Self::Json => "application/json-patch+json",
        }
    }

    fn apply(self, object: &Value, patch: &Value, kind: &Kind) -> Result<Value, Failure> {
        let patched = match self {
            Self::Merge => controller_object::patch::merge_patch(object, patch),
            Self::Json => controller_object::patch::json_patch(object, patch),
            Self::Strategic => {
                return Err(Failure::error(format!(
                    "--dry-run=client: how lists of {} merge is the server's to say; use --dry-run=server, or --type=merge",
                    kind.plural
                )));
            }
        };
        patched.map_err(|status| Failure::error(status.message))
    }
}
