use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use e2e::client::eventually;

use super::app::{App, LONG};

/// Who served, or what went wrong.
fn get(address: SocketAddr) -> Result<String, String> {
    let mut stream =
        TcpStream::connect_timeout(&address, Duration::from_secs(10)).map_err(|error| error.to_string())?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).map_err(|error| error.to_string())?;
    write!(stream, "GET / HTTP/1.0\r\nHost: web\r\n\r\n").map_err(|error| error.to_string())?;
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(|error| error.to_string())?;
    match text.split_once("served by ") {
        Some((head, who)) if head.starts_with("HTTP/1.1 200") => Ok(who.trim().to_owned()),
        _ => Err(text),
    }
}

/// Ends those who ask, also when a check fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Nobody who asks notices that a server, or what is before it, is replaced.
pub(crate) fn scene(app: &App) {
    app.whole("deployment/nginx");
    app.whole("deployment/haproxy");
    let service = app.get(&["service", "web"]);
    let address: SocketAddr = format!("{}:80", service["spec"]["clusterIP"].as_str().unwrap()).parse().unwrap();
    eventually("each of three serves", LONG, || {
        let served: BTreeSet<String> = (0..9).filter_map(|_| get(address).ok()).collect();
        (served.len() == 3).then_some(())
    });
    let names = |label: &str| -> Vec<String> {
        let pods = app.get(&["pods", "-l", label]);
        let pods = pods["items"].as_array().into_iter().flatten();
        pods.filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned)).collect()
    };
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut served = 0;
            while !is_over.load(Ordering::Relaxed) {
                get(address).unwrap_or_else(|error| panic!("request {served}: {error}"));
                served += 1;
                std::thread::sleep(Duration::from_millis(20));
            }
            served
        });
        let over = Over(&is_over);
        for (label, workload) in [("app=nginx", "deployment/nginx"), ("app=haproxy", "deployment/haproxy")] {
            for pod in names(label) {
                app.lose(&pod, false);
                app.whole(workload);
            }
        }
        drop(over);
        let served = asking.join().expect("every request is answered");
        assert!(served > 100, "{served} requests");
    });
}
