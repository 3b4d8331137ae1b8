//! How the policy static gives out processors. `--cpu-manager-policy-options`; Kubernetes documentation, "Static policy
//! options". Pure.

/// What was asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// `full-pcpus-only`: containers get whole cores, or are refused.
    pub full_cores_only: bool,
    /// `distribute-cpus-across-numa`: what takes more than one NUMA node is spread evenly over as few as possible.
    pub distribute: bool,
    /// `align-by-socket`: what is on one socket counts as close together, whatever its NUMA nodes.
    pub align_by_socket: bool,
    /// `strict-cpu-reservation`: nobody but the machine runs on reserved processors.
    pub strict_reservation: bool,
    /// `prefer-align-cpus-by-uncorecache`: processors that share a cache come before others.
    pub prefer_cache: bool,
}

/// The names, as people write them.
const NAMES: [&str; 5] = [
    "full-pcpus-only",
    "distribute-cpus-across-numa",
    "align-by-socket",
    "strict-cpu-reservation",
    "prefer-align-cpus-by-uncorecache",
];

/// Go's `strconv.ParseBool`, which reads them for a kubelet.
fn flag(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

impl Options {
    /// Reads `NAME=BOOLEAN`, each by itself or with commas between.
    ///
    /// # Errors
    ///
    /// A name that is none, a value that is no boolean, options that contradict each other.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut own = Self::default();
        let pairs = texts.into_iter().flat_map(|text| text.split(',')).map(str::trim).filter(|text| !text.is_empty());
        for pair in pairs {
            let (name, value) =
                pair.split_once('=').ok_or_else(|| format!("{pair:?}: expected NAME=true or NAME=false"))?;
            let field = match name {
                "full-pcpus-only" => &mut own.full_cores_only,
                "distribute-cpus-across-numa" => &mut own.distribute,
                "align-by-socket" => &mut own.align_by_socket,
                "strict-cpu-reservation" => &mut own.strict_reservation,
                "prefer-align-cpus-by-uncorecache" => &mut own.prefer_cache,
                _ => {
                    return Err(format!("unknown CPU Manager Policy option: {name:?}; there are {}", NAMES.join(", ")));
                }
            };
            *field = flag(value)
                .ok_or_else(|| format!("bad value for option {name:?}: {value:?}, expected true or false"))?;
        }
        match own.prefer_cache && own.distribute {
            true => Err(format!("{} and {} cannot be used at the same time", NAMES[4], NAMES[1])),
            false => Ok(own),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_by_name_and_what_cannot_be_is_told() {
        let all = Options::parse(["full-pcpus-only=true,align-by-socket=1", "strict-cpu-reservation=false"]).unwrap();
        assert_eq!(all, Options { full_cores_only: true, align_by_socket: true, ..Options::default() });
        for (text, said) in [
            ("full-pcpus-only", "expected NAME=true"),
            ("full-pcpus-only=yes", "bad value for option \"full-pcpus-only\": \"yes\", expected true or false"),
            ("pcpus=true", "unknown CPU Manager Policy option: \"pcpus\"; there are full-pcpus-only, "),
            ("distribute-cpus-across-numa=true,prefer-align-cpus-by-uncorecache=true", "at the same time"),
        ] {
            let error = Options::parse([text]).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }
}
