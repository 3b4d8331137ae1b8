//! `gantry image pull`: with a bar for each layer on a terminal, with lines elsewhere.

use std::collections::HashMap;
use std::io::{IsTerminal as _, Read as _};
use std::sync::{Mutex, PoisonError};

use agent_image::digest::Digest;
use agent_image::document::Platform;
use agent_image::reference::Reference;
use agent_image::registry::credential::Credential;
use agent_image::registry::pull::{Patience, Progress, Puller, Wanted};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::{DataDir, RegistriesFile, shown};
use crate::failure::Failure;

/// A password is shorter than this.
const PASSWORD_MAX: u64 = 64 << 10;

/// What to pull, and as whom.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The image, as `nginx`, `quay.io/team/app:v1` or `nginx@sha256:...`.
    image: String,
    /// The platform, where the image has several; by default this machine's.
    #[arg(long, value_name = "OS/ARCHITECTURE")]
    platform: Option<Platform>,
    /// The user at the registry.
    #[arg(long, value_name = "NAME", requires = "password_stdin")]
    username: Option<String>,
    /// Read the user's password from standard input.
    #[arg(long, requires = "username")]
    password_stdin: bool,
    #[command(flatten)]
    registries: RegistriesFile,
    #[command(flatten)]
    data: DataDir,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let reference: Reference = args.image.parse()?;
    let credentials = match &args.username {
        Some(username) => vec![Credential::password(username, password()?)],
        None => vec![],
    };
    let puller = Puller::new(super::open(&args.data)?, args.registries.load()?, Patience::default());
    let platform = args.platform.clone().unwrap_or_else(Platform::own);
    let wanted = Wanted { reference, credentials, platform };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let display = Display::new();
    let tell = |progress| display.tell(progress);
    let pulled = runtime.block_on(async {
        tokio::select! {
            pulled = puller.pull(&wanted, &tell) => Some(pulled),
            _ = tokio::signal::ctrl_c() => None,
        }
    });
    display.end();
    let Some(pulled) = pulled else { return Err(Failure::error("interrupted; the next pull goes on from here")) };
    let image = pulled?;
    println!("{} {}", image.name, image.target());
    Ok(())
}

fn password() -> Result<String, Failure> {
    let mut text = String::new();
    std::io::stdin().lock().take(PASSWORD_MAX).read_to_string(&mut text)?;
    let password = text.trim_end_matches(['\r', '\n']);
    match password.is_empty() {
        true => Err(Failure::error("--password-stdin: standard input holds no password")),
        false => Ok(password.to_owned()),
    }
}

/// Where progress is shown.
enum Display {
    Bars { all: MultiProgress, layers: Mutex<HashMap<Digest, ProgressBar>> },
    Lines,
}

impl Display {
    fn new() -> Self {
        match std::io::stderr().is_terminal() {
            true => Self::Bars { all: MultiProgress::new(), layers: Mutex::default() },
            false => Self::Lines,
        }
    }

    fn tell(&self, progress: Progress) {
        match self {
            Self::Bars { all, layers } => {
                draw(all, &mut layers.lock().unwrap_or_else(PoisonError::into_inner), progress)
            }
            Self::Lines => {
                if let Some(line) = line(&progress) {
                    eprintln!("{line}");
                }
            }
        }
    }

    fn end(&self) {
        if let Self::Bars { layers, .. } = self {
            let layers = layers.lock().unwrap_or_else(PoisonError::into_inner);
            layers.values().filter(|bar| !bar.is_finished()).for_each(ProgressBar::abandon);
        }
    }
}

fn draw(all: &MultiProgress, layers: &mut HashMap<Digest, ProgressBar>, progress: Progress) {
    let finish = |bar: &ProgressBar, text: &'static str| {
        bar.set_position(bar.length().unwrap_or_default());
        bar.finish_with_message(text);
    };
    match progress {
        Progress::Layers(found) => {
            for (digest, size) in found {
                let bar = ProgressBar::new(size).with_prefix(short(&digest)).with_message("waiting");
                bar.set_style(style());
                layers.entry(digest).or_insert_with(|| all.add(bar));
            }
        }
        Progress::Present(digest) => layers.get(&digest).into_iter().for_each(|bar| finish(bar, "already here")),
        Progress::Downloaded { digest, have, of } => {
            if let Some(bar) = layers.get(&digest) {
                bar.set_message(if have == of { "unpacking" } else { "downloading" });
                bar.set_position(have);
            }
        }
        Progress::Retrying { digest, why, wait } => {
            if let Some(bar) = layers.get(&digest) {
                bar.set_message(format!("again in {:.1}s: {why}", wait.as_secs_f64()));
            }
        }
        Progress::Unpacked(digest) => layers.get(&digest).into_iter().for_each(|bar| finish(bar, "done")),
    }
}

fn style() -> ProgressStyle {
    let template = "{prefix} {bar:30} {decimal_bytes:>10}/{decimal_total_bytes:10} {wide_msg}";
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

/// What a log keeps: not every piece that comes.
fn line(progress: &Progress) -> Option<String> {
    match progress {
        Progress::Layers(layers) => {
            let size = layers.iter().map(|(_, size)| size).sum();
            Some(format!("{} layers, {}", layers.len(), shown::size(size)))
        }
        Progress::Present(digest) => Some(format!("{}: already here", short(digest))),
        Progress::Downloaded { digest, have, of } if have == of => {
            Some(format!("{}: downloaded {}", short(digest), shown::size(*of)))
        }
        Progress::Downloaded { .. } => None,
        Progress::Retrying { digest, why, wait } => {
            Some(format!("{}: {why}; again in {:.1}s", short(digest), wait.as_secs_f64()))
        }
        Progress::Unpacked(digest) => Some(format!("{}: unpacked", short(digest))),
    }
}

fn short(digest: &Digest) -> String {
    digest.hex()[..12].to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn lines_tell_what_a_log_keeps() {
        let digest = Digest::of(b"x");
        let told = |progress| line(&progress);
        let layers = Progress::Layers(vec![(digest.clone(), 1_200_000), (digest.clone(), 30)]);
        assert_eq!(told(layers).as_deref(), Some("2 layers, 1.2MB"));
        let downloaded = |have| Progress::Downloaded { digest: digest.clone(), have, of: 9 };
        assert_eq!(told(downloaded(8)), None);
        assert_eq!(told(downloaded(9)).as_deref(), Some("2d711642b726: downloaded 9B"));
        let retrying = Progress::Retrying { digest, why: "truncated".into(), wait: Duration::from_millis(1500) };
        assert_eq!(told(retrying).as_deref(), Some("2d711642b726: truncated; again in 1.5s"));
    }

    #[test]
    fn the_bars_have_a_style() {
        let template = "{prefix} {bar:30} {decimal_bytes:>10}/{decimal_total_bytes:10} {wide_msg}";
        assert!(ProgressStyle::with_template(template).is_ok());
    }
}
