//! The media types of bodies.

/// What a body is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaType {
    /// `application/json`
    Json,
    /// `application/yaml`
    Yaml,
    /// `application/json-patch+json`
    JsonPatch,
    /// `application/merge-patch+json`
    MergePatch,
    /// `application/strategic-merge-patch+json`
    StrategicMergePatch,
    /// `application/apply-patch+yaml`
    ApplyYaml,
    /// `application/vnd.kubernetes.protobuf`
    Protobuf,
}

impl MediaType {
    /// Every media type, in the order in which errors list them.
    pub const ALL: [Self; 7] = [
        Self::Json,
        Self::Yaml,
        Self::JsonPatch,
        Self::MergePatch,
        Self::StrategicMergePatch,
        Self::ApplyYaml,
        Self::Protobuf,
    ];

    /// Reads a `Content-Type`; parameters such as `charset` are ignored. Empty means JSON.
    pub fn parse(content_type: &str) -> Option<Self> {
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        if essence.is_empty() {
            return Some(Self::Json);
        }
        if essence.eq_ignore_ascii_case("text/yaml") || essence.eq_ignore_ascii_case("application/x-yaml") {
            return Some(Self::Yaml);
        }
        Self::ALL.into_iter().find(|media| media.as_str().eq_ignore_ascii_case(essence))
    }

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
            Self::JsonPatch => "application/json-patch+json",
            Self::MergePatch => "application/merge-patch+json",
            Self::StrategicMergePatch => "application/strategic-merge-patch+json",
            Self::ApplyYaml => "application/apply-patch+yaml",
            Self::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for media in MediaType::ALL {
            assert_eq!(MediaType::parse(media.as_str()), Some(media));
        }
        assert_eq!(MediaType::parse("Application/JSON; charset=utf-8"), Some(MediaType::Json));
        assert_eq!(MediaType::parse(""), Some(MediaType::Json));
        assert_eq!(MediaType::parse("text/plain"), None);
    }
}
