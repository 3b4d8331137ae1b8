//! What a command line points at: `TYPE`, `TYPE NAME...`, `TYPE/NAME...`, `TYPE,TYPE`.

use crate::failure::Failure;
use crate::kind::{Catalog, Kind};

/// One object, or with no name all objects of a kind.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Target<'a> {
    pub(crate) kind: &'a Kind,
    pub(crate) name: Option<String>,
}

/// Reads the arguments; an empty list of them gives an empty list.
pub(crate) fn parse<'a>(catalog: &'a Catalog, args: &[String]) -> Result<Vec<Target<'a>>, Failure> {
    let Some(first) = args.first() else { return Ok(Vec::new()) };
    if args.iter().any(|arg| arg.contains('/')) {
        return args.iter().map(|arg| one(catalog, arg)).collect();
    }
    let kinds = kinds(catalog, first)?;
    let names = &args[1..];
    let mut targets = Vec::new();
    for kind in kinds {
        match names {
            [] => targets.push(Target { kind, name: None }),
            names => targets.extend(names.iter().map(|name| Target { kind, name: Some(name.clone()) })),
        }
    }
    Ok(targets)
}

/// Reads `TYPE/NAME`.
pub(crate) fn one<'a>(catalog: &'a Catalog, arg: &str) -> Result<Target<'a>, Failure> {
    match arg.split('/').collect::<Vec<_>>().as_slice() {
        [kind, name] if !kind.is_empty() && !name.is_empty() => {
            Ok(Target { kind: catalog.expect(kind)?, name: Some((*name).to_owned()) })
        }
        [_] => Err(Failure::error(format!("{arg:?}: expected TYPE/NAME, because another argument has that form"))),
        _ => Err(Failure::error(format!(
            "arguments in resource/name form must have a single resource and name: {arg:?}"
        ))),
    }
}

fn kinds<'a>(catalog: &'a Catalog, words: &str) -> Result<Vec<&'a Kind>, Failure> {
    let mut kinds: Vec<&Kind> = Vec::new();
    for word in words.split(',').filter(|word| !word.is_empty()) {
        let category: Vec<&Kind> = catalog.category(word).collect();
        match category.is_empty() {
            true => kinds.push(catalog.expect(word)?),
            false => kinds.extend(category),
        }
    }
    match kinds.is_empty() {
        true => Err(Failure::error("the type of resource is empty")),
        false => Ok(kinds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    fn read(text: &str) -> Result<Vec<String>, String> {
        let catalog = crate::kind::tests::catalog();
        let targets = parse(&catalog, &words(text)).map_err(|failure| failure.to_string())?;
        Ok(targets.iter().map(|t| format!("{} {}", t.kind.plural, t.name.as_deref().unwrap_or("*"))).collect())
    }

    #[test]
    fn all_forms_are_read() {
        assert_eq!(read("po"), Ok(vec!["pods *".into()]));
        assert_eq!(read("po a b"), Ok(vec!["pods a".into(), "pods b".into()]));
        assert_eq!(read("po/a deploy/b"), Ok(vec!["pods a".into(), "deployments b".into()]));
        assert_eq!(read("po,svc"), Ok(vec!["pods *".into(), "services *".into()]));
        assert_eq!(read("all").map(|all| all.len()), Ok(3));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["nope", "po/a b", "po/a/b", "po/", ","] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
