//! Objects with every field set, one per kind, decode without a warning and lose nothing.
use controller_object::decode::{FieldValidation, decode};
use controller_object::media::MediaType;
use controller_object::resource::{Table, join_version};
use serde_json::Value;
use std::path::Path;

/// Every leaf of `want` must be in `have`.
fn lost(want: &Value, have: &Value, path: &str, out: &mut Vec<String>) {
    match (want, have) {
        (Value::Null, _) => {}
        (Value::Object(want), Value::Object(have)) => {
            for (key, value) in want.iter().filter(|e| !e.1.is_null()) {
                match have.get(key) {
                    Some(found) => lost(value, found, &format!("{path}.{key}"), out),
                    None => out.push(format!("{path}.{key}")),
                }
            }
        }
        (Value::Array(want), Value::Array(have)) if want.len() == have.len() => {
            for (i, (want, have)) in want.iter().zip(have).enumerate() {
                lost(want, have, &format!("{path}[{i}]"), out);
            }
        }
        (want, have) if want == have => {}
        // Quantities and times come out in their canonical form.
        (Value::String(want), Value::String(have)) => {
            let quantity = |s: &str| api::quantity::Quantity::parse(s).ok();
            let time = |s: &str| s.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_second);
            let same = quantity(want).is_some_and(|q| quantity(have) == Some(q))
                || time(want).is_some_and(|t| time(have) == Some(t));
            if !same {
                out.push(format!("{path}: {want} became {have}"));
            }
        }
        (want, have) => out.push(format!("{path}: {want} became {have}")),
    }
}

#[test]
fn nothing_is_lost() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/roundtrip");
    let Ok(entries) = std::fs::read_dir(&folder) else {
        println!("skipped: no test data at {}", folder.display());
        return;
    };
    let table = Table::builtin();
    let (mut checked, mut faults) = (0, Vec::new());
    for entry in entries.filter_map(Result::ok).filter(|e| e.path().extension().is_some_and(|x| x == "json")) {
        let bytes = std::fs::read(entry.path()).unwrap();
        let original: Value = serde_json::from_slice(&bytes).unwrap();
        let version = original["apiVersion"].as_str().unwrap_or_default();
        let (group, short) = version.split_once('/').unwrap_or(("", version));
        let Some(resource) = table.find_kind(group, short, original["kind"].as_str().unwrap_or_default()) else {
            continue;
        };
        let name = format!("{} {}", join_version(group, short), resource.kind);
        match decode(table, resource, MediaType::Json, &bytes, FieldValidation::Warn) {
            Ok(decoded) => {
                faults.extend(decoded.warnings.iter().map(|w| format!("{name}: {w}")));
                let mut gone = Vec::new();
                lost(&original, &decoded.object, "", &mut gone);
                faults.extend(gone.into_iter().map(|g| format!("{name}: lost {g}")));
            }
            Err(status) => faults.push(format!("{name}: {status}")),
        }
        checked += 1;
    }
    assert!(checked > 60, "only {checked} kinds were found");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn protobuf_says_the_same() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/roundtrip");
    let Ok(entries) = std::fs::read_dir(&folder) else {
        println!("skipped: no test data at {}", folder.display());
        return;
    };
    let (mut checked, mut unknown, mut faults) = (0, 0, Vec::new());
    for entry in entries.filter_map(Result::ok).filter(|e| e.path().extension().is_some_and(|x| x == "pb")) {
        let path = entry.path();
        let original: Value = serde_json::from_slice(&std::fs::read(path.with_extension("json")).unwrap()).unwrap();
        let name = path.file_stem().unwrap_or_default().display();
        if original.get("kind").is_none() {
            continue; // a WatchEvent: no object
        }
        match controller_object::protobuf::decode(&std::fs::read(&path).unwrap()) {
            Ok(decoded) => {
                let mut different = Vec::new();
                lost(&original, &decoded, "", &mut different);
                lost(&decoded, &original, " (more)", &mut different);
                faults.extend(different.into_iter().map(|d| format!("{name}: {d}")));
                // And back: the same bytes as Kubernetes wrote.
                match controller_object::protobuf::encode(&original) {
                    Ok(bytes) if bytes == std::fs::read(&path).unwrap() => {}
                    Ok(bytes) => {
                        let want = std::fs::read(&path).unwrap();
                        let at = bytes.iter().zip(&want).take_while(|(a, b)| a == b).count();
                        let near = |bytes: &[u8]| {
                            String::from_utf8_lossy(&bytes[at.saturating_sub(24)..bytes.len().min(at + 24)])
                                .escape_debug()
                                .to_string()
                        };
                        faults.push(format!("{name}: byte {at}: {} instead of {}", near(&bytes), near(&want)));
                    }
                    Err(status) => faults.push(format!("{name}: encoding: {status}")),
                }
                checked += 1;
            }
            Err(status) if status.message.contains("no kind") => unknown += 1,
            Err(status) => faults.push(format!("{name}: {status}")),
        }
    }
    println!("{checked} kinds, {unknown} of versions that are not served");
    assert!(checked > 75, "only {checked} kinds were found");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
