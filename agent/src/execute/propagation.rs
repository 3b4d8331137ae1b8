//! Whether mounts can travel between a volume and its containers (`mountPropagation`): the machine's own mount must be
//! shared for that. Words as containerd has them; proc(5), mountinfo, on optional fields.

use std::path::Path;

/// Why `path` cannot be mounted with this propagation.
pub(crate) fn check(path: &Path, propagation: &str) -> Result<(), String> {
    let (fields, wanted): (&[&str], _) = match propagation {
        "rshared" => (&["shared:"], "a shared mount"),
        "rslave" => (&["shared:", "master:"], "a shared or slave mount"),
        _ => return Ok(()),
    };
    let path = path.canonicalize().map_err(|error| format!("{}: {error}", path.display()))?;
    let table = std::fs::read_to_string("/proc/self/mountinfo").map_err(|error| format!("mountinfo: {error}"))?;
    match mount_of(&table, &path) {
        Some((_, own)) if own.iter().any(|one| fields.iter().any(|field| one.starts_with(field))) => Ok(()),
        Some((point, _)) => {
            Err(format!("path {path:?} is mounted on {point:?} but it is not {wanted} (mount --make-rshared {point})"))
        }
        None => Err(format!("path {path:?} is on no mount")),
    }
}

/// The mount that a path lies on, with its optional fields: the longest that holds it, of those the newest.
fn mount_of<'a>(table: &'a str, path: &Path) -> Option<(&'a str, Vec<&'a str>)> {
    let mut best: Option<(&str, Vec<&str>)> = None;
    for line in table.lines() {
        let mut parts = line.split(' ').skip(4);
        let Some(point) = parts.next().filter(|point| path.starts_with(point)) else { continue };
        if best.as_ref().is_none_or(|(other, _)| point.len() >= other.len()) {
            best = Some((point, parts.skip(1).take_while(|part| *part != "-").collect()));
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_mount_says_whether_it_is_shared() {
        let table = "1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 8:1 / /srv rw,noatime shared:7 master:3 - ext4 /dev/b rw\n\
                     3 2 0:9 / /srv/x rw - tmpfs t rw\n";
        let of = |path: &str| mount_of(table, Path::new(path)).unwrap();
        assert_eq!(of("/etc"), ("/", vec![]));
        assert_eq!(of("/srv/data"), ("/srv", vec!["shared:7", "master:3"]));
        assert_eq!(of("/srv/x/y"), ("/srv/x", vec![]));
        assert_eq!(of("/srvother").0, "/");
    }
}
