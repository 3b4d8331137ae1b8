//! Requests to one endpoint: let in by a token or a password, following redirects without giving them away.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, LOCATION, RANGE, RETRY_AFTER, USER_AGENT, WWW_AUTHENTICATE};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use serde::Deserialize;
use url::Url;

use super::body::{Pieces, words};
use super::challenge::{Challenge, challenges};
use super::config::{ConfigError, Registries, Scheme};
use super::credential::Credential;
use super::endpoint::Endpoint;
use super::error::{RequestError, innermost};
use super::retry::Tries;
use super::transport::{Patience, ResolveError, Transport};

const REDIRECTS_MAX: u32 = 5;
/// Answers that only say why not.
const REFUSAL_MAX: u64 = 16 << 10;
/// A token is a few KiB; some carry many group names.
const TOKEN_MAX: u64 = 1 << 20;
/// "Token Authentication Specification", `expires_in`: 60 seconds where nothing is said.
const TOKEN_LIFE: Duration = Duration::from_secs(60);
/// Longer lives are not believed: who we are may change meanwhile.
const TOKEN_LIFE_MAX: Duration = Duration::from_secs(3600);
/// Tokens remembered at a time.
const TOKENS_MAX: usize = 1000;

/// What all sessions share.
pub(crate) struct Remote {
    pub(crate) registries: Registries,
    pub(crate) patience: Patience,
    transport: Transport,
    tokens: Mutex<HashMap<TokenKey, Token>>,
}

#[derive(PartialEq, Eq, Hash, Clone)]
struct TokenKey {
    scheme: Scheme,
    authority: String,
    repository: String,
    credential: Option<Credential>,
}

#[derive(Clone)]
struct Token {
    header: String,
    until: Instant,
}

impl Remote {
    pub(crate) fn new(registries: Registries, patience: Patience) -> Self {
        Self { transport: Transport::new(&patience), registries, patience, tokens: Mutex::default() }
    }
}

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wish {
    pub(crate) method: Method,
    /// Below the repository: `manifests/TAG`, `blobs/DIGEST`.
    pub(crate) rest: String,
    pub(crate) accept: Option<&'static str>,
    /// The first byte that is wanted, if not the first of all.
    pub(crate) from: Option<u64>,
}

/// One endpoint.
pub(crate) struct Session<'a> {
    pub(crate) endpoint: Endpoint,
    remote: &'a Remote,
}

impl<'a> Session<'a> {
    /// Makes sure that the endpoint's certificates and keys can be used.
    pub(crate) fn new(remote: &'a Remote, endpoint: Endpoint) -> Result<Self, ConfigError> {
        remote.transport.client(&endpoint.base.authority, &endpoint.tls)?;
        Ok(Self { endpoint, remote })
    }

    /// The registry's name for people.
    pub(crate) fn registry(&self) -> &str {
        &self.endpoint.base.authority
    }

    pub(crate) fn stall(&self) -> Duration {
        self.remote.patience.stall
    }

    /// The count of what fails from here on.
    pub(crate) fn tries(&self) -> Tries {
        Tries::new(self.remote.patience.retry)
    }

    /// Asks, and answers what has a status of success.
    pub(crate) async fn ask(&self, wish: &Wish) -> Result<Response<Incoming>, RequestError> {
        let url =
            Url::parse(&self.endpoint.url(&wish.rest)).map_err(|error| RequestError::Malformed(error.to_string()))?;
        let mut refused = false;
        loop {
            let token = self.token();
            let answer = self.follow(wish, url.clone(), token.as_deref()).await?;
            if answer.status() != StatusCode::UNAUTHORIZED {
                return success(answer, self.stall()).await;
            }
            let headers = answer.headers().clone();
            let message = refusal(answer, self.stall()).await;
            if refused {
                return Err(RequestError::Unauthorized { anonymous: self.endpoint.credential.is_none(), message });
            }
            // A token from an earlier request is out of date; with a new one there is no third time.
            refused = true;
            let new = self.authorize(&headers, message).await?;
            self.remember(new);
        }
    }

    fn key(&self) -> TokenKey {
        TokenKey {
            scheme: self.endpoint.base.scheme,
            authority: self.endpoint.base.authority.clone(),
            repository: self.endpoint.repository.clone(),
            credential: self.endpoint.credential.clone(),
        }
    }

    fn token(&self) -> Option<String> {
        let tokens = self.remote.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.get(&self.key()).filter(|token| token.until > Instant::now()).map(|token| token.header.clone())
    }

    fn remember(&self, token: Token) {
        let mut tokens = self.remote.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        tokens.retain(|_, token| token.until > now);
        if tokens.len() < TOKENS_MAX {
            tokens.insert(self.key(), token);
        }
    }

    /// Sends a request and follows where it is sent on. What lets us in goes to the endpoint's own host only.
    async fn follow(
        &self,
        wish: &Wish,
        mut url: Url,
        authorization: Option<&str>,
    ) -> Result<Response<Incoming>, RequestError> {
        let first = url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let own = url.origin() == first.origin();
            let mut request = Request::builder().method(wish.method.clone()).uri(url.as_str());
            if let Some(accept) = wish.accept {
                request = request.header(ACCEPT, accept);
            }
            if let Some(from) = wish.from {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            if let Some(authorization) = authorization.filter(|_| own) {
                request = request.header(AUTHORIZATION, authorization);
            }
            let answer = self.send(&url, request, Bytes::new()).await?;
            let status = answer.status();
            if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
                // Another host's 401 is not about what we are to the registry.
                return match status == StatusCode::UNAUTHORIZED && !own {
                    true => success(answer, self.stall()).await,
                    false => Ok(answer),
                };
            }
            url = redirected(&url, answer.headers())?;
        }
        Err(RequestError::Redirect { to: shown(&url), why: "there were too many redirects before it" })
    }

    /// Sends one request as it is.
    async fn send(
        &self,
        url: &Url,
        request: http::request::Builder,
        body: Bytes,
    ) -> Result<Response<Incoming>, RequestError> {
        let authority = match url.port() {
            Some(port) => format!("{}:{port}", url.host_str().unwrap_or_default()),
            None => url.host_str().unwrap_or_default().to_owned(),
        };
        let tls = match authority == self.endpoint.base.authority {
            true => self.endpoint.tls.clone(),
            false => self.remote.registries.host(&authority).map(|host| host.tls.clone()).unwrap_or_default(),
        };
        let client = self.remote.transport.client(&authority, &tls);
        let client = client.map_err(|error| RequestError::Connect { reason: error.to_string() })?;
        let request = request
            .header(USER_AGENT, concat!("gantry/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(body))
            .map_err(|error| RequestError::Malformed(error.to_string()))?;
        let within = self.remote.patience.answer;
        match tokio::time::timeout(within, client.request(request)).await {
            Err(_) => Err(RequestError::NoAnswer(within)),
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) if error.is_connect() => Err(cannot_connect(&error)),
            Ok(Err(error)) => Err(RequestError::Broken { reason: innermost(&error) }),
        }
    }

    /// Gets what lets us in, as the registry asked for it.
    async fn authorize(&self, headers: &HeaderMap, message: Option<String>) -> Result<Token, RequestError> {
        let values = headers.get_all(WWW_AUTHENTICATE).iter();
        let texts: Vec<&str> = values.filter_map(|value| value.to_str().ok()).collect();
        let all: Vec<Challenge> = texts.iter().copied().flat_map(challenges).collect();
        let bearer = all.iter().find(|challenge| matches!(challenge, Challenge::Bearer { .. }));
        match bearer.or(all.first()) {
            Some(Challenge::Bearer { realm, service, scope }) => {
                let default = format!("repository:{}:pull", self.endpoint.repository);
                let scope = scope.clone().unwrap_or(default);
                self.fetch_token(realm, service.as_deref(), &scope).await.map_err(|source| RequestError::Token {
                    realm: realm.chars().take(200).collect(),
                    source: Box::new(source),
                })
            }
            Some(Challenge::Basic) => match &self.endpoint.credential {
                Some(credential) => Ok(Token { header: credential.basic(), until: Instant::now() + TOKEN_LIFE_MAX }),
                None => Err(RequestError::Unauthorized { anonymous: true, message }),
            },
            None => {
                let header = texts.join(", ");
                Err(RequestError::Challenge(header.chars().take(200).collect()))
            }
        }
    }

    async fn fetch_token(&self, realm: &str, service: Option<&str>, scope: &str) -> Result<Token, RequestError> {
        let bad = |why: String| RequestError::Malformed(why);
        let mut url = Url::parse(realm).map_err(|error| bad(format!("the realm is no URL: {error}")))?;
        let clear_is_fine = self.endpoint.base.scheme == Scheme::Http;
        if url.scheme() != "https" && !(url.scheme() == "http" && clear_is_fine) {
            return Err(bad("the realm is not https".into()));
        }
        let credential = self.endpoint.credential.as_ref();
        let refresh = credential.and_then(|credential| credential.identity_token.as_deref());
        let mut pairs = vec![("scope", scope)];
        pairs.extend(service.map(|service| ("service", service)));
        let (request, body) = match refresh {
            None => {
                url.query_pairs_mut().extend_pairs(&pairs);
                let request = Request::builder().method(Method::GET).uri(url.as_str());
                let basic = credential.map(Credential::basic);
                (basic.into_iter().fold(request, |request, basic| request.header(AUTHORIZATION, basic)), Bytes::new())
            }
            // "Docker Registry v2 OAuth2": an identity token is a refresh token.
            Some(refresh) => {
                pairs.extend([("grant_type", "refresh_token"), ("refresh_token", refresh), ("client_id", "gantry")]);
                let form = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(&pairs).finish();
                let request = Request::builder().method(Method::POST).uri(url.as_str());
                let kind = "application/x-www-form-urlencoded";
                (request.header(http::header::CONTENT_TYPE, kind), Bytes::from(form))
            }
        };
        let answer = self.send(&url, request, body).await?;
        if answer.status() == StatusCode::UNAUTHORIZED {
            let message = refusal(answer, self.stall()).await;
            return Err(RequestError::Unauthorized { anonymous: credential.is_none(), message });
        }
        let answer = success(answer, self.stall()).await?;
        let body = Pieces::new(answer, self.stall()).whole(TOKEN_MAX).await?;
        token_of(&body).ok_or_else(|| bad("the answer holds no token".into()))
    }
}

/// The token of a token server's answer.
fn token_of(body: &[u8]) -> Option<Token> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
        expires_in: Option<u64>,
    }
    let answer: Answer = serde_json::from_slice(body).ok()?;
    let token = answer.token.or(answer.access_token).filter(|token| !token.is_empty())?;
    let header = format!("Bearer {token}");
    http::HeaderValue::from_str(&header).ok()?;
    let life = answer.expires_in.map_or(TOKEN_LIFE, Duration::from_secs).clamp(TOKEN_LIFE, TOKEN_LIFE_MAX);
    // Renewed a little before its end.
    Some(Token { header, until: Instant::now() + life.mul_f64(0.9) })
}

/// Where an answer sends us on to.
fn redirected(from: &Url, headers: &HeaderMap) -> Result<Url, RequestError> {
    let text = headers.get(LOCATION).and_then(|value| value.to_str().ok());
    let refuse = |to: &str, why| Err(RequestError::Redirect { to: to.chars().take(200).collect(), why });
    let Some(text) = text else { return refuse("", "it names no place") };
    let Ok(to) = from.join(text) else { return refuse(text, "it is no URL") };
    match (from.scheme(), to.scheme()) {
        ("http" | "https", "https") | ("http", "http") => {}
        ("https", "http") => return refuse(&shown(&to), "it leads from https to http"),
        _ => return refuse(&shown(&to), "it is not http"),
    }
    match to.username().is_empty() && to.password().is_none() {
        true => Ok(to),
        false => refuse(&shown(&to), "it holds a user name"),
    }
}

/// A URL without what may be secret in it: storage services sign the query.
fn shown(url: &Url) -> String {
    format!("{}://{}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path()).chars().take(200).collect()
}

fn cannot_connect(error: &hyper_util::client::legacy::Error) -> RequestError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(inner) = cause {
        if let Some(ResolveError(reason)) = inner.downcast_ref() {
            return RequestError::Resolve { reason: reason.clone() };
        }
        cause = inner.source();
    }
    let reason = innermost(error);
    // rustls's words for an answer that is no TLS at all.
    match reason.contains("InvalidContentType") {
        true => RequestError::Connect {
            reason: "it does not speak TLS; where that is meant, give it an http:// endpoint in registries.yaml".into(),
        },
        false => RequestError::Connect { reason },
    }
}

async fn refusal(answer: Response<Incoming>, stall: Duration) -> Option<String> {
    // Why it refuses is a courtesy; where it cannot be read, the status says enough.
    words(&Pieces::new(answer, stall).whole(REFUSAL_MAX).await.ok()?)
}

/// An answer with a status of success, or its failure.
async fn success(answer: Response<Incoming>, stall: Duration) -> Result<Response<Incoming>, RequestError> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let retry_after = answer.headers().get(RETRY_AFTER).and_then(|value| after(value.to_str().ok()?));
    Err(RequestError::Status { status, message: refusal(answer, stall).await, retry_after })
}

/// `Retry-After`: seconds or a date; RFC 9110, section 10.2.3.
fn after(text: &str) -> Option<Duration> {
    match text.trim().parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => {
            let date = httpdate::parse_http_date(text).ok()?;
            Some(date.duration_since(SystemTime::now()).unwrap_or_default())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_go_nowhere_unsafe() {
        let to = |from: &str, location: &str| {
            let headers = HeaderMap::from_iter([(LOCATION, location.parse().unwrap())]);
            redirected(&Url::parse(from).unwrap(), &headers)
                .map(|url| url.to_string())
                .map_err(|error| error.to_string())
        };
        let base = "https://r.example/v2/a/blobs/x";
        assert_eq!(to(base, "https://cdn/x?sig=1").as_deref(), Ok("https://cdn/x?sig=1"));
        assert_eq!(to(base, "/elsewhere").as_deref(), Ok("https://r.example/elsewhere"));
        assert_eq!(to("http://r/x", "http://s/x").as_deref(), Ok("http://s/x"));
        for bad in ["http://cdn/x", "file:///etc/passwd", "https://u:p@cdn/x", "http://["] {
            assert!(to(base, bad).is_err(), "{bad}");
        }
        assert!(!to(base, "http://cdn/x?sig=secret").unwrap_err().contains("secret"));
    }

    #[test]
    fn answers_of_token_servers_are_read() {
        assert_eq!(token_of(br#"{"token":"t","expires_in":300}"#).unwrap().header, "Bearer t");
        assert_eq!(token_of(br#"{"access_token":"a"}"#).unwrap().header, "Bearer a");
        for bad in ["{}", r#"{"token":""}"#, r#"{"token":"a\nb"}"#, "x"] {
            assert!(token_of(bad.as_bytes()).is_none(), "{bad}");
        }
        let life = token_of(br#"{"token":"t","expires_in":99999999}"#).unwrap().until - Instant::now();
        assert!(life <= TOKEN_LIFE_MAX);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(after("7"), Some(Duration::from_secs(7)));
        assert_eq!(after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert_eq!(after("soon"), None);
    }
}
