//! `gantry token create|list|delete`: bootstrap tokens by which machines join (Kubernetes documentation,
//! "Authenticating with Bootstrap Tokens"), in the form that `gantry agent --token` takes.

use std::process::ExitCode;

use api::join_token::JoinToken;
use api::well_known::{GROUP_JOINING, NAMESPACE_SYSTEM};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use jiff::{SignedDuration, Timestamp};
use rand::seq::IndexedRandom as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::client::{Call, Session};
use crate::duration::{self, DurationArg};
use crate::failure::Failure;
use crate::kubeconfig::ConnectArgs;
use crate::output::table::Columns;
use crate::screen;

const TYPE: &str = "bootstrap.kubernetes.io/token";
const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// What can be done.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Make a token, and print it.
    Create(CreateArgs),
    /// Show the tokens that there are, without their secrets.
    List,
    /// Take tokens away: their ids, or the tokens themselves. Machines that have joined stay.
    Delete {
        /// Six letters or digits, as `list` shows them.
        #[arg(required = true, value_name = "TOKEN")]
        tokens: Vec<String>,
    },
}

/// Flags of `gantry token create`.
#[derive(Debug, clap::Args)]
pub(crate) struct CreateArgs {
    /// How long machines may join by it, such as 2h30m; 0 for ever.
    #[arg(long, default_value = "24h", value_name = "DURATION")]
    ttl: DurationArg,
    /// What it is for.
    #[arg(long, default_value = "", value_name = "TEXT")]
    description: String,
}

pub(crate) async fn run(connect: &ConnectArgs, verb: &Verb) -> Result<ExitCode, Failure> {
    let session = Session::open(connect).await?;
    match verb {
        Verb::Create(args) => create(&session, args).await?,
        Verb::List => list(&session).await?,
        Verb::Delete { tokens } => {
            let mut failures = Vec::new();
            for token in tokens {
                super::note(delete(&session, token).await, &mut failures)?;
            }
            return Ok(super::told(failures));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn secrets() -> String {
    format!("/api/v1/namespaces/{NAMESPACE_SYSTEM}/secrets")
}

async fn create(session: &Session, args: &CreateArgs) -> Result<(), Failure> {
    if args.ttl.is_negative() {
        return Err(Failure::error("--ttl: expected a duration, or 0 for ever"));
    }
    let (_, authority) = session.send_raw(Method::GET, Call::to("/cacerts")).await?;
    let token = JoinToken { authority: hex::encode(Sha256::digest(&authority)), id: letters(6), secret: letters(16) };
    let mut data = json!({"token-id": token.id, "token-secret": token.secret, "usage-bootstrap-authentication": "true",
        "auth-extra-groups": GROUP_JOINING});
    if !args.description.is_empty() {
        data["description"] = args.description.as_str().into();
    }
    if let Some(ttl) = args.ttl.nonzero() {
        let end = SignedDuration::try_from(ttl).ok().and_then(|ttl| Timestamp::now().checked_add(ttl).ok());
        let end = end.ok_or_else(|| Failure::error("--ttl: the token would end after the last date there is"))?;
        data["expiration"] = format!("{end:.0}").into();
    }
    let object = json!({"apiVersion": "v1", "kind": "Secret", "type": TYPE, "stringData": data,
        "metadata": {"name": format!("bootstrap-token-{}", token.id), "namespace": NAMESPACE_SYSTEM}});
    session.send(Method::POST, Call::to(secrets()).json(&object)).await?;
    screen::line(token.to_string())
}

/// Characters that nobody can guess.
fn letters(count: usize) -> String {
    let mut rng = rand::rng();
    (0..count).filter_map(|_| LETTERS.choose(&mut rng).copied().map(char::from)).collect()
}

async fn list(session: &Session) -> Result<(), Failure> {
    let call = Call::to(secrets()).with("fieldSelector", format!("type={TYPE}"));
    let answer = session.get(call).await?;
    let rows: Vec<Vec<String>> =
        answer["items"].as_array().into_iter().flatten().map(|secret| row(secret, Timestamp::now())).collect();
    if rows.is_empty() {
        screen::note("No tokens found.");
        return Ok(());
    }
    let head = ["TOKEN ID", "TTL", "EXPIRES", "DESCRIPTION", "GROUPS"].map(str::to_owned).to_vec();
    let all: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    screen::put(Columns::default().set(&all))
}

fn row(secret: &Value, now: Timestamp) -> Vec<String> {
    let data = |key: &str| {
        let bytes = STANDARD.decode(secret["data"][key].as_str().unwrap_or_default()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let or = |text: String, none: &str| if text.is_empty() { none.to_owned() } else { text };
    let expiration = data("expiration");
    let ttl = match expiration.parse::<Timestamp>() {
        Ok(end) if end <= now => "<expired>".to_owned(),
        Ok(end) => duration::human(end.duration_since(now).as_secs()),
        Err(_) => "<forever>".to_owned(),
    };
    vec![
        data("token-id"),
        ttl,
        or(expiration, "<never>"),
        or(data("description"), "<none>"),
        or(data("auth-extra-groups"), "<none>"),
    ]
}

async fn delete(session: &Session, token: &str) -> Result<(), Failure> {
    let id = match token.parse::<JoinToken>() {
        Ok(token) => token.id,
        Err(_) => token.split('.').next().unwrap_or_default().to_owned(),
    };
    if id.len() != 6 || !id.bytes().all(|byte| LETTERS.contains(&byte)) {
        return Err(Failure::error(format!("{id:?}: expected the six letters or digits of a token's id")));
    }
    session.send(Method::DELETE, Call::to(format!("{}/bootstrap-token-{id}", secrets()))).await?;
    screen::line(format!("token {id:?} deleted"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_say_how_long_a_token_is_good_and_never_its_secret() {
        let encode = |text: &str| STANDARD.encode(text);
        let secret = json!({"data": {"token-id": encode("abcdef"), "token-secret": encode("0123456789abcdef"),
            "expiration": encode("2026-01-01T02:00:00Z")}});
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let told = row(&secret, now);
        assert_eq!(told[..3], ["abcdef", "120m", "2026-01-01T02:00:00Z"].map(str::to_owned));
        assert!(!told.concat().contains("0123456789abcdef"));
        assert_eq!(row(&secret, "2026-01-02T00:00:00Z".parse().unwrap())[1], "<expired>");
        assert_eq!(row(&json!({"data": {}}), now)[1], "<forever>");
        assert!(letters(16).bytes().all(|byte| LETTERS.contains(&byte)) && letters(16) != letters(16));
    }
}
