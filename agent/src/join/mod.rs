//! A machine's way into a cluster that another machine serves: whom to trust by the hash of a token, who it is by a
//! certificate that the cluster signs for it, and what the cluster's network looks like by an object of the cluster.
//! Once a machine has joined, it needs no token any more: its certificates renew themselves while it runs.

mod client;
mod identity;
mod live;

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api::join_token::JoinToken;
use api::well_known::{CONFIG_MAP_CLUSTER, NAMESPACE_SYSTEM};
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::jiff::Timestamp;
use kube::api::Api;
use sha2::{Digest as _, Sha256};

use crate::execute::chain;
use identity::{Identity, Part, Wanted};
use live::Live;

/// How often certificates are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(3600);
/// How long a member waits before it asks again a server that cannot be reached: at first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
const CLIENT: &str = "client";
const SERVING: &str = "serving";

/// Who wants to join, and where.
#[derive(Debug, Clone)]
pub struct Wishes {
    /// The API server, `https://HOST:PORT`.
    pub server: String,
    /// `None` for a machine that has joined before.
    pub token: Option<JoinToken>,
    /// Where keys and certificates are kept.
    pub dir: PathBuf,
    /// The Node's name.
    pub node_name: String,
    /// The Node's addresses.
    pub addresses: Vec<IpAddr>,
}

/// What the cluster's network looks like: the ConfigMap `gantry-cluster` of `kube-system`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// All pods' addresses.
    pub cluster_cidr: Ipv4Net,
    /// All Services' addresses.
    pub service_cidr: Ipv4Net,
    /// The address of the cluster's DNS.
    pub cluster_dns: Ipv4Addr,
    /// The cluster's DNS domain.
    pub cluster_domain: String,
}

/// A member of a cluster.
pub struct Member {
    /// Speaks to the API server as this node.
    pub client: kube::Client,
    /// Shows this node's certificate, and takes those of the cluster's clients.
    pub kubelet_tls: Arc<rustls::ServerConfig>,
    /// The cluster's network.
    pub cluster: Cluster,
    /// The same identity as a kubeconfig, for the processes of this node.
    pub kubeconfig: PathBuf,
    renewal: Renewal,
}

/// Why a machine could not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// A file could not be read or written.
    #[error("{}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The machine has never joined and has no token.
    #[error(
        "this machine has not joined a cluster yet: --token is needed, as `gantry token create` prints it on the server"
    )]
    NoToken,
    /// The URL is none.
    #[error("--server {0:?}: expected https://HOST:PORT")]
    Server(String),
    /// The server did not answer.
    #[error("asking {server} for its authority")]
    Unreachable {
        /// Where.
        server: String,
        /// The cause.
        #[source]
        source: Box<kube::Error>,
    },
    /// The server is not the one that the token was made by.
    #[error("{server} is not the server that --token is for: the hash of its authority is another")]
    OtherServer {
        /// Where.
        server: String,
    },
    /// The directory holds the certificate of another node.
    #[error("{} belongs to node {found}: give --node-name {found}, or another --data-dir", dir.display())]
    OtherNode {
        /// Where.
        dir: PathBuf,
        /// Whose it is.
        found: String,
    },
    /// A key or a request could not be made.
    #[error("making a key")]
    Key(#[source] rcgen::Error),
    /// PEM that is none.
    #[error("reading a certificate")]
    Pem(#[source] rustls::pki_types::pem::Error),
    /// TLS could not be configured.
    #[error("configuring TLS")]
    Tls(#[source] rustls::Error),
    /// The verifier of clients could not be made.
    #[error("configuring client certificates")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
    /// A certificate could not be asked for: mostly a token that has ended.
    #[error("asking for a certificate")]
    Ask {
        /// The cause.
        #[source]
        source: Box<kube::Error>,
    },
    /// Nobody approved.
    #[error("nobody approved the certificate request {request}")]
    Unanswered {
        /// Its name.
        request: String,
    },
    /// Somebody said no.
    #[error("the certificate request {request} was refused: {why}")]
    Refused {
        /// Its name.
        request: String,
        /// The reason.
        why: String,
    },
    /// The cluster does not say what its network looks like.
    #[error("reading the ConfigMap gantry-cluster of kube-system")]
    Cluster {
        /// The cause.
        #[source]
        source: Box<kube::Error>,
    },
    /// It says something else.
    #[error("the ConfigMap gantry-cluster of kube-system: {field} is missing or malformed")]
    ClusterField {
        /// Which field.
        field: &'static str,
    },
}

/// Joins, or comes back as the member that this machine was: then it waits for its server, which may start later.
pub async fn join(wishes: &Wishes) -> Result<Member, JoinError> {
    let dir = &wishes.dir;
    std::fs::create_dir_all(dir).map_err(|source| JoinError::File { path: dir.clone(), source })?;
    let server = server_of(&wishes.server)?;
    let authority = authority(wishes, &server).await?;
    let known = Identity::read(dir, CLIENT)?;
    if let Some(found) = known.as_ref().and_then(Identity::node).filter(|found| *found != wishes.node_name) {
        return Err(JoinError::OtherNode { dir: dir.clone(), found });
    }
    let node = &wishes.node_name;
    let is_member = known.is_some();
    let own = match known {
        Some(own) => own,
        None => {
            let token = wishes.token.as_ref().ok_or(JoinError::NoToken)?;
            let newcomer = client::by_token(&server, &authority, &token.bearer())?;
            let own = Identity::request(&newcomer, &Wanted { node, part: Part::Client }).await?;
            own.write(dir, CLIENT)?;
            own
        }
    };
    let live = Live::new(&own)?;
    let client = client::by_certificate(&server, &authority, Arc::clone(&live))?;
    let cluster = cluster(&client, is_member).await?;
    let serving = match Identity::read(dir, SERVING)? {
        Some(serving) if wishes.addresses.iter().all(|address| serving.names(*address)) => serving,
        _ => {
            let serving = Identity::request(&client, &Wanted { node, part: Part::Server(&wishes.addresses) }).await?;
            serving.write(dir, SERVING)?;
            serving
        }
    };
    let live_serving = Live::new(&serving)?;
    let kubelet_tls = client::serving(Arc::clone(&live_serving), &authority)?;
    let kubeconfig = dir.join("kubeconfig");
    let renewal = Renewal {
        client: client.clone(),
        wishes: wishes.clone(),
        server,
        authority,
        kubeconfig: kubeconfig.clone(),
        own: (own, live),
        serving: (serving, live_serving),
    };
    renewal.write_kubeconfig(&renewal.own.0)?;
    Ok(Member { client, kubelet_tls, cluster, kubeconfig, renewal })
}

impl Member {
    /// Renews the certificates when a third of their life is left, for as long as it is polled.
    pub async fn keep(self) {
        let mut renewal = self.renewal;
        loop {
            if let Err(error) = renewal.look().await {
                tracing::warn!(error = chain(&error), "renewing this node's certificates");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// What renewing needs.
struct Renewal {
    client: kube::Client,
    wishes: Wishes,
    server: http::Uri,
    authority: String,
    kubeconfig: PathBuf,
    own: (Identity, Arc<Live>),
    serving: (Identity, Arc<Live>),
}

impl Renewal {
    async fn look(&mut self) -> Result<(), JoinError> {
        let (now, node) = (Timestamp::now(), &self.wishes.node_name);
        if self.own.0.is_old(now) {
            let new = Identity::request(&self.client, &Wanted { node, part: Part::Client }).await?;
            self.write_kubeconfig(&new)?;
            renew(&mut self.own, new, &self.wishes.dir, CLIENT)?;
        }
        if self.serving.0.is_old(now) {
            let part = Part::Server(&self.wishes.addresses);
            let new = Identity::request(&self.client, &Wanted { node, part }).await?;
            renew(&mut self.serving, new, &self.wishes.dir, SERVING)?;
        }
        Ok(())
    }

    fn write_kubeconfig(&self, own: &Identity) -> Result<(), JoinError> {
        write_private(&self.kubeconfig, &client::kubeconfig(&self.server, &self.authority, own))
    }
}

/// Shows the new one and keeps it. Where that fails the old one is still the known one, so that it is tried again.
fn renew(known: &mut (Identity, Arc<Live>), new: Identity, dir: &Path, name: &str) -> Result<(), JoinError> {
    known.1.replace(&new)?;
    new.write(dir, name)?;
    known.0 = new;
    Ok(())
}

/// `https://HOST:PORT` without a path; the port is 6443 where none is given.
fn server_of(text: &str) -> Result<http::Uri, JoinError> {
    let wrong = || JoinError::Server(text.to_owned());
    let uri: http::Uri = text.trim_end_matches('/').parse().map_err(|_| wrong())?;
    let host = uri.host().filter(|_| uri.scheme_str() == Some("https") && matches!(uri.path(), "" | "/"));
    let port = uri.port_u16().unwrap_or(6443);
    format!("https://{}:{port}", host.ok_or_else(wrong)?).parse().map_err(|_| wrong())
}

/// The certificate of the cluster's authority: the one that is known, or the server's if the token's hash is its.
async fn authority(wishes: &Wishes, server: &http::Uri) -> Result<String, JoinError> {
    let path = wishes.dir.join("server-ca.crt");
    if let Some(known) = identity::read(&path)? {
        return Ok(known);
    }
    let token = wishes.token.as_ref().ok_or(JoinError::NoToken)?;
    let told = client::told_authority(server).await?;
    if hex::encode(Sha256::digest(told.as_bytes())) != token.authority {
        return Err(JoinError::OtherServer { server: server.to_string() });
    }
    write_private(&path, &told)?;
    Ok(told)
}

async fn cluster(client: &kube::Client, is_member: bool) -> Result<Cluster, JoinError> {
    let map = told(client, is_member).await.map_err(|source| JoinError::Cluster { source: Box::new(source) })?;
    let data = map.data.unwrap_or_default();
    let text = |field: &'static str| data.get(field).ok_or(JoinError::ClusterField { field });
    let range = |field| text(field)?.parse().map_err(|_| JoinError::ClusterField { field });
    Ok(Cluster {
        cluster_cidr: range("cluster-cidr")?,
        service_cidr: range("service-cidr")?,
        cluster_dns: text("cluster-dns")?.parse().map_err(|_| JoinError::ClusterField { field: "cluster-dns" })?,
        cluster_domain: text("cluster-domain")?.clone(),
    })
}

/// The object that says it. A member asks until its server answers: no event tells that another machine can be reached.
async fn told(client: &kube::Client, is_member: bool) -> Result<ConfigMap, kube::Error> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE_SYSTEM);
    let is_silent = |error: &kube::Error| !matches!(error, kube::Error::Api(status) if status.code < 500);
    let (mut pause, longest) = PAUSES;
    loop {
        match api.get(CONFIG_MAP_CLUSTER).await {
            Err(error) if is_member && is_silent(&error) => {
                tracing::warn!(error = chain(&error), "the server cannot be reached; it is asked again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(longest);
            }
            answer => return answer,
        }
    }
}

/// Replaces a file that only its owner may read.
fn write_private(path: &Path, text: &str) -> Result<(), JoinError> {
    let write = || -> std::io::Result<()> {
        let new = path.with_extension("new");
        // What a crash left may have other rights.
        drop(std::fs::remove_file(&new));
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    };
    write().map_err(|source| JoinError::File { path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use http::{Method, Response};
    use http_body_util::BodyExt as _;
    use kube::client::Body;
    use rcgen::{CertificateParams, CertificateSigningRequestParams, DnType, Issuer, KeyPair};
    use serde_json::{Value, json};

    use super::*;

    /// A certificate of node `a` that ends so many days from now, of a life of a hundred.
    fn identity(days_left: i64) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "system:node:a");
        let now = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(Timestamp::now().as_second().unsigned_abs());
        let days = |count: i64| Duration::from_secs(count.unsigned_abs() * 86_400);
        (params.not_before, params.not_after) = (now - days(100 - days_left), now + days(days_left));
        Identity { certificate: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
    }

    /// A server that signs whatever it is asked for.
    fn signing() -> kube::Client {
        let key = KeyPair::generate().unwrap();
        let issuer = Arc::new(Issuer::new(CertificateParams::default(), key));
        let asked = Arc::new(std::sync::Mutex::new(Value::Null));
        let answer = move |request: http::Request<Body>| {
            let (issuer, asked) = (Arc::clone(&issuer), Arc::clone(&asked));
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                let mut asked = asked.lock().unwrap();
                let object = match parts.method {
                    Method::POST => {
                        let mut object: Value = serde_json::from_slice(&body).unwrap();
                        object["metadata"]["name"] = "csr-1".into();
                        let pem = STANDARD.decode(object["spec"]["request"].as_str().unwrap()).unwrap();
                        let request = CertificateSigningRequestParams::from_pem(str::from_utf8(&pem).unwrap()).unwrap();
                        let signed = request.signed_by(&issuer).unwrap().pem();
                        *asked = object.clone();
                        asked["status"] = json!({"certificate": STANDARD.encode(signed)});
                        object
                    }
                    _ => json!({"kind": "CertificateSigningRequestList", "apiVersion": "certificates.k8s.io/v1",
                        "metadata": {"resourceVersion": "1"}, "items": [*asked]}),
                };
                Ok::<_, std::convert::Infallible>(Response::new(Body::from(object.to_string().into_bytes())))
            }
        };
        kube::Client::new(tower::service_fn(answer), "default")
    }

    /// A server that answers the first two requests not at all and with a 503, then like `last`.
    async fn asked_of(last: (u16, Value)) -> (Result<Cluster, JoinError>, usize) {
        let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let answer = move |_: http::Request<Body>| {
            let (code, object) = match count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
                0 => return std::future::ready(Err(std::io::Error::other("no route"))),
                1 => (503, json!({"kind": "Status", "status": "Failure", "code": 503})),
                _ => last.clone(),
            };
            let body = Body::from(object.to_string().into_bytes());
            std::future::ready(Ok(Response::builder().status(code).body(body).unwrap()))
        };
        let client = kube::Client::new(tower::service_fn(answer), "default");
        (cluster(&client, true).await, asked.load(std::sync::atomic::Ordering::Relaxed))
    }

    #[tokio::test]
    async fn a_member_waits_for_its_server_and_believes_what_it_says() {
        let data = json!({"cluster-cidr": "10.1.0.0/16", "service-cidr": "10.2.0.0/16", "cluster-dns": "10.2.0.10",
            "cluster-domain": "d"});
        let (found, asked) = asked_of((200, json!({"metadata": {"name": "gantry-cluster"}, "data": data}))).await;
        assert_eq!((found.unwrap().cluster_domain.as_str(), asked), ("d", 3));
        let refusal =
            json!({"kind": "Status", "status": "Failure", "code": 403, "reason": "Forbidden", "message": "no"});
        let (found, asked) = asked_of((403, refusal)).await;
        assert!(matches!(found, Err(JoinError::Cluster { .. })) && asked == 3);
    }

    #[tokio::test]
    async fn what_is_old_is_renewed_and_shown_at_once_and_what_is_not_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (old, fresh) = (identity(30), identity(40));
        let mut renewal = Renewal {
            client: signing(),
            wishes: Wishes {
                server: "https://a:1".into(),
                token: None,
                dir: dir.path().into(),
                node_name: "a".into(),
                addresses: vec!["10.0.0.1".parse().unwrap()],
            },
            server: server_of("https://a:1").unwrap(),
            authority: String::new(),
            kubeconfig: dir.path().join("kubeconfig"),
            own: (old.clone(), Live::new(&old).unwrap()),
            serving: (fresh.clone(), Live::new(&fresh).unwrap()),
        };
        renewal.look().await.unwrap();
        let renewed = Identity::read(dir.path(), CLIENT).unwrap().expect("it is kept");
        assert_ne!(renewed.certificate, old.certificate);
        assert_eq!(renewed.node().as_deref(), Some("a"));
        let kubeconfig = std::fs::read_to_string(dir.path().join("kubeconfig")).unwrap();
        assert!(kubeconfig.contains(&STANDARD.encode(&renewed.certificate)));
        assert_eq!(renewal.own.1.shown(), Live::new(&renewed).unwrap().shown());
        assert_eq!(renewal.serving.0.certificate, fresh.certificate);
        assert!(Identity::read(dir.path(), SERVING).unwrap().is_none(), "nobody asked for another one");
    }

    #[test]
    fn servers_have_a_scheme_a_host_and_no_path() {
        for (text, want) in [
            ("https://10.0.0.1:7443", Some("https://10.0.0.1:7443/")),
            ("https://a.example/", Some("https://a.example:6443/")),
            ("https://[fd00::1]:1", Some("https://[fd00::1]:1/")),
            ("http://10.0.0.1", None),
            ("10.0.0.1:6443", None),
            ("https://a.example/path", None),
        ] {
            assert_eq!(server_of(text).ok().map(|uri| uri.to_string()).as_deref(), want, "{text}");
        }
    }
}
