//! Durable 2 KB writes through this store beside etcd's gRPC, on the same disk in one run: `bench DIR [SECONDS]`.
//! Prints a table; never judges. `hack/bench/store` starts etcd and calls it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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
        let value = Bytes::from(vec![b'v'; VALUE]);
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

/// Writes a second by `clients` writers, and the median and 99th percentile of one write.
async fn measure(peer: &Peer, clients: usize, time: Duration) -> Outcome<(f64, Duration, Duration)> {
    let next = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let writers = (0..clients).map(|_| {
        let (mut peer, next) = (peer.clone(), Arc::clone(&next));
        tokio::spawn(async move {
            let mut times = Vec::new();
            while started.elapsed() < time {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let one = Instant::now();
                peer.put(format!("/registry/bench/{number:010}")).await?;
                times.push(one.elapsed());
            }
            Outcome::Ok(times)
        })
    });
    let mut times = Vec::new();
    for writer in writers.collect::<Vec<_>>() {
        times.extend(writer.await??);
    }
    let rate = times.len() as f64 / started.elapsed().as_secs_f64();
    times.sort();
    Ok((rate, times[times.len() / 2], times[times.len() * 99 / 100]))
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

#[tokio::main]
async fn main() -> Outcome<()> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().ok_or("usage: bench DIR [SECONDS] [KEYS]")?;
    let seconds = args.next().map_or(Ok(5), |text| text.parse())?;
    let keys: u64 = args.next().map_or(Ok(200_000), |text| text.parse())?;
    let ours = Peer::Ours(Arc::new(Store::open(Disk::open(Path::new(&dir))?, Config::default())?));
    let stream = tokio::net::TcpStream::connect(ETCD).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let etcd = Peer::Etcd(sender);
    println!("durable 2 KB writes, {seconds} s each; ours and etcd's gRPC on the same disk");
    println!(
        "{:<22}{:>14}{:>14}{:>8}{:>10}{:>22}{:>22}",
        "", "ours /s", "etcd /s", "ratio", "promised", "ours p50/p99 ms", "etcd p50/p99 ms"
    );
    for held in [0, keys] {
        if held > 0 {
            load(&ours, held).await?;
            load(&etcd, held).await?;
        }
        for (clients, promised) in [(1, "1"), (64, "4")] {
            let time = Duration::from_secs(seconds);
            let (our_rate, our_median, our_tail) = measure(&ours, clients, time).await?;
            let (etcd_rate, etcd_median, etcd_tail) = measure(&etcd, clients, time).await?;
            let ms = |a: Duration, b: Duration| format!("{:.2}/{:.2}", a.as_secs_f64() * 1e3, b.as_secs_f64() * 1e3);
            println!(
                "{:<22}{our_rate:>14.0}{etcd_rate:>14.0}{:>8.2}{promised:>10}{:>22}{:>22}",
                format!("{clients} clients, {held} keys"),
                our_rate / etcd_rate,
                ms(our_median, our_tail),
                ms(etcd_median, etcd_tail),
            );
        }
    }
    Ok(())
}
