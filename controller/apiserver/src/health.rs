//! `/livez`, `/readyz` and `/healthz`, with Kubernetes' words: what is checked, and what is the matter.
//!
//! A disk that hangs or is full makes the server not ready. It stays alive: reads and watches go on, and a restart would
//! free no disk.

use http::StatusCode;

use crate::query::Query;
use crate::server::State;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    Alive,
    Ready,
    Healthy,
}

struct Check {
    name: &'static str,
    trouble: Option<String>,
    /// Whether its trouble is the answer, or only told.
    counts: bool,
}

/// The answer for `/PATH` or `/PATH/CHECK`; `None` where nothing of that name is checked.
pub(crate) fn answer(state: &State, segments: &[&str], query: &Query) -> Option<(StatusCode, String)> {
    let (name, question) = match segments.first() {
        Some(name @ &"livez") => (*name, Question::Alive),
        Some(name @ &"readyz") => (*name, Question::Ready),
        Some(name @ &"healthz") => (*name, Question::Healthy),
        Some(_) | None => return None,
    };
    let store = state.registry.store.trouble().borrow().as_ref().map(ToString::to_string);
    let checks = [
        Check { name: "ping", trouble: None, counts: true },
        Check { name: "store", trouble: store, counts: question != Question::Alive },
    ];
    match segments.get(1..) {
        Some([]) | None => {
            let excluded = query.get("exclude");
            Some(summary(name, checks.iter().filter(|check| Some(check.name) != excluded), query.flag("verbose")))
        }
        Some([one]) => {
            let check = checks.iter().find(|check| check.name == *one || check.name == "store" && *one == "etcd")?;
            Some(match &check.trouble {
                None => (StatusCode::OK, "ok".to_owned()),
                Some(trouble) => (StatusCode::INTERNAL_SERVER_ERROR, format!("internal server error: {trouble}\n")),
            })
        }
        Some(_) => None,
    }
}

fn summary<'a>(name: &str, checks: impl Iterator<Item = &'a Check>, verbose: bool) -> (StatusCode, String) {
    let (mut text, mut failed) = (String::new(), false);
    for check in checks {
        match &check.trouble {
            None => text.push_str(&format!("[+]{} ok\n", check.name)),
            Some(trouble) => {
                failed |= check.counts;
                let weight = if check.counts { "failed" } else { "failed, no reason to restart" };
                text.push_str(&format!("[-]{} {weight}: {trouble}\n", check.name));
            }
        }
    }
    match (failed, verbose) {
        (true, _) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{text}{name} check failed\n")),
        (false, true) => (StatusCode::OK, format!("{text}{name} check passed\n")),
        (false, false) => (StatusCode::OK, "ok".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_that_does_not_count_is_only_told() {
        let check = |counts| [Check { name: "store", trouble: Some("full".into()), counts }];
        assert_eq!(summary("livez", check(false).iter(), false), (StatusCode::OK, "ok".into()));
        let told = "[-]store failed, no reason to restart: full\nlivez check passed\n";
        assert_eq!(summary("livez", check(false).iter(), true), (StatusCode::OK, told.into()));
        let failed = (StatusCode::INTERNAL_SERVER_ERROR, "[-]store failed: full\nreadyz check failed\n".into());
        assert_eq!(summary("readyz", check(true).iter(), false), failed);
    }
}
