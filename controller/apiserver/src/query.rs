//! The query string, decoded once.

use controller_object::decode::FieldValidation;
use controller_object::status::Status;

/// Decoded pairs in order; a name may come several times.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(raw: Option<&str>) -> Self {
        Self(form_urlencoded::parse(raw.unwrap_or_default().as_bytes()).into_owned().collect())
    }

    /// The first non-empty value of a name.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, v)| n == name && !v.is_empty()).map(|(_, v)| v.as_str())
    }

    /// A boolean as Kubernetes reads it: present and not `false` or `0`.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.0.iter().any(|(n, v)| n == name && v != "false" && v != "0")
    }

    /// A whole number; anything else is the caller's error.
    pub(crate) fn number(&self, name: &str) -> Result<Option<i64>, Status> {
        let Some(text) = self.get(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| {
            Status::bad_request(format!("query parameter {name}: invalid value {text:?}: must be a whole number"))
        })
    }

    /// `dryRun=All` means that nothing is stored.
    pub(crate) fn dry_run(&self) -> Result<bool, Status> {
        match self.get("dryRun") {
            None => Ok(false),
            Some("All") => Ok(true),
            Some(other) => {
                Err(Status::bad_request(format!("dryRun: Unsupported value: {other:?}: supported values: \"All\"")))
            }
        }
    }

    /// What to do about unknown and duplicate fields.
    pub(crate) fn field_validation(&self) -> Result<FieldValidation, Status> {
        match self.get("fieldValidation") {
            None | Some("Warn") => Ok(FieldValidation::Warn),
            Some("Ignore") => Ok(FieldValidation::Ignore),
            Some("Strict") => Ok(FieldValidation::Strict),
            Some(other) => Err(Status::bad_request(format!(
                "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
            ))),
        }
    }

    pub(crate) fn pairs(&self) -> &[(String, String)] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_numbers_read_as_kubernetes_reads_them() {
        let query = Query::parse(Some("watch=1&follow=false&limit=5&x=a%20b&x=c&bare"));
        assert!(query.flag("watch") && !query.flag("follow") && query.flag("bare") && !query.flag("absent"));
        assert_eq!(query.number("limit").ok().flatten(), Some(5));
        assert_eq!(query.get("x"), Some("a b"));
        assert!(Query::parse(Some("limit=x")).number("limit").is_err());
        assert!(Query::parse(Some("dryRun=Some")).dry_run().is_err());
    }
}
