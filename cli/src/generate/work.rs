//! Jobs and cron jobs made of flags.

use serde_json::{Value, json};

use crate::client::{Call, Session};
use crate::failure::Failure;
use crate::kind::Catalog;

/// Flags of `gantry create job`.
#[derive(Debug, clap::Args)]
pub(crate) struct Job {
    /// Its name.
    name: String,
    /// Image of the container.
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// cronjob/NAME whose job is run now.
    #[arg(long, value_name = "CRONJOB")]
    from: Option<String>,
    /// The command, after --.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Flags of `gantry create cronjob`.
#[derive(Debug, clap::Args)]
pub(crate) struct CronJob {
    /// Its name.
    name: String,
    /// Image of the container.
    #[arg(long, value_name = "IMAGE")]
    image: String,
    /// When it runs, in the five fields of cron.
    #[arg(long, value_name = "SCHEDULE")]
    schedule: String,
    /// When a container runs again: OnFailure or Never.
    #[arg(long, default_value = "OnFailure", value_name = "POLICY")]
    restart: String,
    /// The command, after --.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

fn template(name: &str, image: &str, command: &[String], restart: &str) -> Value {
    let mut container = json!({"name": name, "image": image});
    if !command.is_empty() {
        container["command"] = json!(command);
    }
    json!({"spec": {"containers": [container], "restartPolicy": restart}})
}

impl Job {
    /// The job; one of a cron job is made as that makes it now.
    pub(crate) async fn object(&self, session: &Session, catalog: &Catalog) -> Result<Value, Failure> {
        match (&self.image, &self.from) {
            (Some(image), None) => Ok(self.of_image(image)),
            (None, Some(_)) if !self.command.is_empty() => Err(Failure::error("cannot specify --from and command")),
            (None, Some(from)) => {
                let (word, name) = from
                    .split_once('/')
                    .filter(|(_, name)| !name.is_empty())
                    .ok_or_else(|| Failure::error(format!("--from: {from:?}: expected cronjob/NAME")))?;
                let kind = catalog.expect(word)?;
                if (kind.kind.as_str(), kind.group.as_str()) != ("CronJob", "batch") {
                    return Err(Failure::error("from must be an existing cronjob"));
                }
                let source = session.get(Call::to(kind.object(&session.namespace, name))).await?;
                Ok(self.of_cron_job(&source))
            }
            _ => Err(Failure::error("either --image or --from must be specified")),
        }
    }

    fn of_image(&self, image: &str) -> Value {
        json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": self.name},
            "spec": {"template": template(&self.name, image, &self.command, "Never")}})
    }

    fn of_cron_job(&self, source: &Value) -> Value {
        let at = |pointer: &str| source.pointer(pointer).cloned().unwrap_or_default();
        let mut annotations = json!({"cronjob.kubernetes.io/instantiate": "manual"});
        for (key, value) in at("/spec/jobTemplate/metadata/annotations").as_object().into_iter().flatten() {
            annotations[key] = value.clone();
        }
        let owner = json!({"apiVersion": "batch/v1", "kind": "CronJob", "name": at("/metadata/name"),
            "uid": at("/metadata/uid"), "controller": true});
        let mut job = json!({"apiVersion": "batch/v1", "kind": "Job",
            "metadata": {"name": self.name, "annotations": annotations, "ownerReferences": [owner]},
            "spec": at("/spec/jobTemplate/spec")});
        let labels = at("/spec/jobTemplate/metadata/labels");
        if !labels.is_null() {
            job["metadata"]["labels"] = labels;
        }
        job
    }
}

impl CronJob {
    /// The cron job.
    pub(crate) fn object(&self) -> Value {
        let template = template(&self.name, &self.image, &self.command, &self.restart);
        json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": self.name}, "spec": {
            "schedule": self.schedule,
            "jobTemplate": {"metadata": {"name": self.name}, "spec": {"template": template}}}})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_of_a_cron_job_is_owned_by_it() {
        let job = Job { name: "now".into(), image: None, from: Some("cronjob/c".into()), command: vec![] };
        let cron = CronJob {
            name: "c".into(),
            image: "i".into(),
            schedule: "* * * * *".into(),
            restart: "Never".into(),
            command: vec!["true".into()],
        };
        let mut source = cron.object();
        source["metadata"]["uid"] = "u".into();
        source["spec"]["jobTemplate"]["metadata"]["labels"] = json!({"a": "b"});
        let made = job.of_cron_job(&source);
        assert_eq!(made["metadata"]["ownerReferences"][0]["uid"], "u");
        assert_eq!(made["metadata"]["annotations"], json!({"cronjob.kubernetes.io/instantiate": "manual"}));
        assert_eq!(made["metadata"]["labels"], json!({"a": "b"}));
        assert_eq!(made["spec"]["template"]["spec"]["containers"][0]["command"], json!(["true"]));
    }
}
