//! Which signal tells a container to end, and how signals are spelt.

use k8s_openapi::api::core::v1::Container;

use super::Executor;

const SIGTERM: i32 = 15;
/// As programs count them: the C library keeps the first two for itself.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// `lifecycle.stopSignal`, else the image's STOPSIGNAL, else SIGTERM.
pub(super) fn of(executor: &Executor, container: &Container) -> i32 {
    asked(executor, container).unwrap_or(SIGTERM)
}

fn asked(executor: &Executor, container: &Container) -> Option<i32> {
    if let Some(own) = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.as_ref()) {
        return number(own);
    }
    let image = executor.host.images.find(container.image.as_deref()?).ok()??;
    let config = executor.host.images.config(&image).ok()?;
    number(config.config().as_ref()?.stop_signal().as_ref()?)
}

/// The number of a signal: `15`, `TERM`, `SIGTERM`, `SIGRTMIN+3`, `SIGRTMAX-1`.
fn number(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    let name = text.strip_prefix("SIG").unwrap_or(text);
    let realtime =
        |rest: &str, base: i32| if rest.is_empty() { Some(base) } else { Some(base + rest.parse::<i32>().ok()?) };
    match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) => realtime(rest, RTMIN),
        (_, Some(rest)) => realtime(rest, RTMAX),
        (None, None) => format!("SIG{name}").parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32),
    }
    .filter(|number| (1..=RTMAX).contains(number))
}

/// A signal as the API spells it: `SIGTERM`, `SIGRTMIN+3`, `SIGRTMAX-1`.
pub(super) fn name(number: i32) -> String {
    // The greater half counts from the end.
    let middle = (RTMIN + RTMAX) / 2;
    match number {
        RTMIN => "SIGRTMIN".into(),
        RTMAX => "SIGRTMAX".into(),
        number if (RTMIN..=middle).contains(&number) => format!("SIGRTMIN+{}", number - RTMIN),
        number if (middle..RTMAX).contains(&number) => format!("SIGRTMAX-{}", RTMAX - number),
        number => match nix::sys::signal::Signal::try_from(number) {
            Ok(signal) => signal.as_str().to_owned(),
            Err(_) => number.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_in_any_spelling_and_told_in_one() {
        for (text, told) in [
            ("15", "SIGTERM"),
            ("TERM", "SIGTERM"),
            ("SIGUSR1", "SIGUSR1"),
            ("RTMIN", "SIGRTMIN"),
            ("SIGRTMIN+3", "SIGRTMIN+3"),
            ("49", "SIGRTMIN+15"),
            ("50", "SIGRTMAX-14"),
            ("RTMAX-1", "SIGRTMAX-1"),
            ("SIGRTMAX", "SIGRTMAX"),
        ] {
            assert_eq!(number(text).map(name).as_deref(), Some(told), "{text}");
        }
        assert_eq!((number("SIGNOPE"), number("RTMAX+1"), number("x")), (None, None, None));
    }
}
