//! Durable 2 KB writes through this store beside etcd's gRPC, on the same disk in one run: `bench DIR [SECONDS] [KEYS]`.
//! Prints a table; never judges. `hack/bench/store` starts etcd and calls it. Values are random bytes, so that no
//! compression flatters anybody.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{BufMut as _, Bytes, BytesMut};
use controller_store::disk::Disk;
use controller_store::model::Op;
use controller_store::store::{Config, Store};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};

const VALUE: usize = 2048;
const ETCD: &str = "127.0.0.1:12379";

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// One of the two stores, as a client of it.
#[derive(Clone)]
enum Peer {
    Ours(Arc<Store>),
    Etcd(SendRequest<Full<Bytes>>),
}

impl Peer {
    async fn put(&mut self, key: String) -> Outcome<()> {
        let value = random_value();
        match self {
            Self::Ours(store) => {
                store.commit(&[], vec![Op::Put { key: key.into(), value, ttl: None }]).await?;
            }
            Self::Etcd(sender) => {
                let request = http::Request::post(format!("http://{ETCD}/etcdserverpb.KV/Put"))
                    .header("content-type", "application/grpc")
                    .header("te", "trailers")
                    .body(Full::new(put_request(key.as_bytes(), &value)))?;
                let body = sender.send_request(request).await?.into_body().collect().await?;
                let status = body.trailers().and_then(|trailers| trailers.get("grpc-status").cloned());
                if status.is_none_or(|status| status != "0") {
                    return Err("etcd refused a write".into());
                }
            }
        }
        Ok(())
    }
}

/// Different bytes each time, from the splitmix64 sequence.
fn random_value() -> Bytes {
    static SEED: AtomicU64 = AtomicU64::new(1);
    let mut state = SEED.fetch_add(1, Ordering::Relaxed) << 32;
    let mut value = BytesMut::with_capacity(VALUE);
    while value.len() < VALUE {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value.put_u64(mixed ^ (mixed >> 31));
    }
    value.freeze()
}

/// etcdserverpb.PutRequest{key = 1, value = 2} in a gRPC frame.
fn put_request(key: &[u8], value: &[u8]) -> Bytes {
    let mut message = BytesMut::new();
    for (tag, bytes) in [(0x0a, key), (0x12, value)] {
        message.put_u8(tag);
        let mut length = bytes.len();
        while length >= 0x80 {
            message.put_u8((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.put_u8(length as u8);
        message.put_slice(bytes);
    }
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(message.len() as u32);
    frame.put_slice(&message);
    frame.freeze()
}

/// What writers saw.
struct Figures {
    /// Writes a second.
    rate: f64,
    median: Duration,
    tail: Duration,
}

impl Figures {
    fn of(mut times: Vec<Duration>, took: Duration) -> Self {
        times.sort();
        let at = |percent: usize| times.get(times.len() * percent / 100).copied().unwrap_or_default();
        Self { rate: times.len() as f64 / took.as_secs_f64(), median: at(50), tail: at(99) }
    }

    fn latency(&self) -> String {
        format!("{:.2}/{:.2}", self.median.as_secs_f64() * 1e3, self.tail.as_secs_f64() * 1e3)
    }
}

/// Which keys are written.
#[derive(Clone, Copy)]
enum Keys {
    /// Ones that were never written.
    New,
    /// The loaded ones, this many, in a shuffled order.
    Held(u64),
}

impl Keys {
    fn name(self, number: u64) -> String {
        static NEW: AtomicU64 = AtomicU64::new(0);
        match self {
            Self::New => format!("/registry/bench/{:010}", NEW.fetch_add(1, Ordering::Relaxed)),
            // A prime step visits every key before it visits one again.
            Self::Held(count) => format!("/registry/loaded/{:010}", number.wrapping_mul(7_368_787) % count),
        }
    }
}

/// As many writes as `clients` writers can do.
async fn measure(peer: &Peer, clients: usize, keys: Keys, time: Duration) -> Outcome<Figures> {
    let next = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let writers = (0..clients).map(|_| {
        let (mut peer, next) = (peer.clone(), Arc::clone(&next));
        tokio::spawn(async move {
            let mut times = Vec::new();
            while started.elapsed() < time {
                let key = keys.name(next.fetch_add(1, Ordering::Relaxed));
                let one = Instant::now();
                peer.put(key).await?;
                times.push(one.elapsed());
            }
            Outcome::Ok(times)
        })
    });
    let mut times = Vec::new();
    for writer in writers.collect::<Vec<_>>() {
        times.extend(writer.await??);
    }
    Ok(Figures::of(times, started.elapsed()))
}

/// 2,000 writes a second, two each millisecond whether or not those before have ended; a late start counts.
async fn measure_steady(peer: &Peer, time: Duration) -> Outcome<Figures> {
    let started = Instant::now();
    let mut clock = tokio::time::interval(Duration::from_millis(1));
    let mut writers = Vec::new();
    while started.elapsed() < time {
        let due = clock.tick().await;
        for _ in 0..2 {
            let mut peer = peer.clone();
            writers.push(tokio::spawn(async move {
                peer.put(Keys::New.name(0)).await?;
                Outcome::Ok(due.elapsed())
            }));
        }
    }
    let mut times = Vec::new();
    for writer in writers {
        times.push(writer.await??);
    }
    Ok(Figures::of(times, started.elapsed()))
}

/// Bytes that the files below `dir` take.
fn disk_use(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => disk_use(&entry.path()),
        Ok(meta) => meta.blocks() * 512,
        // A file that went meanwhile takes nothing.
        Err(_) => 0,
    };
    entries.filter_map(Result::ok).map(of).sum()
}

async fn load(peer: &Peer, keys: u64) -> Outcome<()> {
    let next = Arc::new(AtomicU64::new(0));
    let writers = (0..64).map(|_| {
        let (mut peer, next) = (peer.clone(), Arc::clone(&next));
        tokio::spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= keys {
                    return Outcome::Ok(());
                }
                peer.put(format!("/registry/loaded/{number:010}")).await?;
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await??;
    }
    Ok(())
}

fn open(dir: &Path) -> Outcome<Arc<Store>> {
    Ok(Arc::new(Store::open(Disk::open(dir)?, Config::default())?))
}

async fn connect() -> Outcome<Peer> {
    let stream = tokio::net::TcpStream::connect(ETCD).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(Peer::Etcd(sender))
}

fn print(what: &str, ours: &Figures, etcd: &Figures, ratio: f64, promised: &str) {
    println!(
        "{what:<34}{:>10.0}{:>10.0}{ratio:>8.2}{promised:>12}{:>16}{:>16}",
        ours.rate,
        etcd.rate,
        ours.latency(),
        etcd.latency(),
    );
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().ok_or("usage: bench DIR [SECONDS] [KEYS]")?;
    let dir = Path::new(&dir);
    let seconds = args.next().map_or(Ok(5), |text| text.parse())?;
    let keys: u64 = args.next().map_or(Ok(200_000), |text| text.parse())?;
    let time = Duration::from_secs(seconds);
    let ours = Peer::Ours(open(dir)?);
    let etcd = connect().await?;
    println!("durable 2 KB writes, {seconds} s each; ours and etcd's gRPC on the same disk");
    println!(
        "{:<34}{:>10}{:>10}{:>8}{:>12}{:>16}{:>16}",
        "", "ours /s", "etcd /s", "ratio", "promised", "ours p50/p99", "etcd p50/p99"
    );
    for held in [0, keys] {
        if held > 0 {
            load(&ours, held).await?;
            load(&etcd, held).await?;
        }
        for (clients, promised) in [(1, "1"), (64, "4")] {
            let our = measure(&ours, clients, Keys::New, time).await?;
            let their = measure(&etcd, clients, Keys::New, time).await?;
            print(&format!("{clients} clients, {held} keys held"), &our, &their, our.rate / their.rate, promised);
        }
    }
    let our = measure_steady(&ours, time).await?;
    let their = measure_steady(&etcd, time).await?;
    let tails = our.tail.as_secs_f64() / their.tail.as_secs_f64();
    print("2,000 a second, ratio of the p99", &our, &their, tails, "p99 10 ms");
    let most = {
        let (dir, stop) = (dir.to_path_buf(), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let sampler = std::thread::spawn(move || {
            let mut most = 0;
            while !stopped.load(Ordering::Relaxed) {
                most = most.max(disk_use(&dir));
                std::thread::sleep(Duration::from_millis(100));
            }
            most
        });
        let our = measure(&ours, 64, Keys::Held(keys), time).await?;
        let their = measure(&etcd, 64, Keys::Held(keys), time).await?;
        print("64 clients, overwriting held keys", &our, &their, our.rate / their.rate, "4");
        // Enough to turn the whole store over.
        load(&ours, keys).await?;
        load(&ours, keys).await?;
        stop.store(true, Ordering::Relaxed);
        sampler.join().map_err(|_| "measuring the disk failed")?
    };
    let Peer::Ours(store) = ours else { return Err("no store".into()) };
    let page = store.range(&Default::default())?;
    let live: usize = page.items.iter().map(|kv| kv.key.len() + kv.value.len()).sum();
    drop(page);
    drop(store);
    let used = disk_use(dir);
    let started = Instant::now();
    let store = open(dir)?;
    let took = started.elapsed().as_secs_f64();
    drop(store);
    let gigabytes = |bytes: f64| bytes / 1e9;
    println!(
        "files over live data after churn: {:.2}, at most {:.2} on the way (promised 3; {:.2} GB live)",
        used as f64 / live as f64,
        most as f64 / live as f64,
        gigabytes(live as f64),
    );
    println!(
        "opening again: {took:.2} s, {:.2} s a GB of live data (promised 4; files cached)",
        took / gigabytes(live as f64)
    );
    Ok(())
}
