//! Services between real namespaces: a host, pods with servers, and a machine outside; as root.

#[path = "../connect/namespace.rs"]
#[allow(dead_code, reason = "shared with the other tests of this crate")]
mod namespace;

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use agent_network::{Endpoint, HostPort, Network, Protocol, ServicePort, Services};
use namespace::{Namespace, as_host, open, tool};

const PATIENCE: Duration = Duration::from_secs(2);
const CLUSTER: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 5);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const NODE_PORT: u16 = 30_080;

/// A host with two pods that serve, one that only asks, and a machine outside.
struct World {
    host: Namespace,
    outside: Namespace,
    servers: [Namespace; 2],
    client: Namespace,
    services: Services,
    _network: Network,
}

impl World {
    async fn new(instance: &str, leases: std::path::PathBuf) -> World {
        let outside = Namespace::outside();
        let network = open(instance, leases).await;
        network.set_pod_range("10.42.3.0/24".parse().unwrap()).await.unwrap();
        let pods = [Namespace::new(), Namespace::new(), Namespace::new()];
        for (index, pod) in pods.iter().enumerate() {
            network.setup(&format!("pod{index}"), &pod.path()).await.unwrap();
        }
        let [one, two, client] = pods;
        let world = World {
            host: Namespace::current(),
            outside,
            servers: [one, two],
            client,
            services: network.services().await.unwrap(),
            _network: network,
        };
        world.servers.iter().for_each(serve);
        world
    }
}

/// Answers TCP and UDP at port 8080 with the address that it was asked at and the client's.
fn serve(pod: &Namespace) {
    let (tcp, udp) = pod.run(|| (TcpListener::bind("0.0.0.0:8080").unwrap(), UdpSocket::bind("0.0.0.0:8080").unwrap()));
    let own = pod.run(|| tool("ip -4 -o address show dev eth0"));
    let own = own.split_whitespace().nth(3).unwrap().split('/').next().unwrap().to_owned();
    let name = own.clone();
    std::thread::spawn(move || {
        for mut stream in tcp.incoming().flatten() {
            let client = stream.peer_addr().unwrap().ip();
            // The client may be gone. It closes first: a server that waits for late packets of a port refuses its
            // next use by way of another address, whose clock runs differently.
            drop(stream.write_all(format!("{name} {client}\n").as_bytes()));
            drop(stream.set_read_timeout(Some(PATIENCE)));
            drop(stream.read(&mut [0]));
        }
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 16];
        while let Ok((_, client)) = udp.recv_from(&mut buffer) {
            drop(udp.send_to(format!("{own} {}", client.ip()).as_bytes(), client));
        }
    });
}

type Seen = (Ipv4Addr, Ipv4Addr);

fn parse(text: &str) -> Seen {
    let (server, client) = text.split_once(' ').unwrap();
    (server.parse().unwrap(), client.parse().unwrap())
}

/// Asks once: which server answered, and which address it saw.
fn ask(from: &Namespace, protocol: Protocol, to: (Ipv4Addr, u16)) -> std::io::Result<Seen> {
    let to = SocketAddr::from(to);
    from.run(|| match protocol {
        Protocol::Udp => {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            ask_with(&socket, to)
        }
        _ => {
            let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut text = String::new();
            BufReader::new(stream).read_line(&mut text)?;
            Ok(parse(text.trim_end()))
        }
    })
}

fn ask_with(socket: &UdpSocket, to: SocketAddr) -> std::io::Result<Seen> {
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(to)?;
    socket.send(b"x")?;
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer)?;
    Ok(parse(std::str::from_utf8(&buffer[..length]).unwrap()))
}

fn pod(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 42, 3, last)
}

fn endpoint(last: u8) -> Endpoint {
    Endpoint { address: pod(last), port: 8080, is_ready: true, is_serving: true, is_terminating: false, is_local: true }
}

fn service(protocol: Protocol, endpoints: &[u8]) -> ServicePort {
    ServicePort {
        key: format!("default/web/http/{protocol:?}"),
        protocol,
        port: 80,
        cluster_address: Some(CLUSTER),
        external_addresses: vec![Ipv4Addr::new(198, 51, 100, 7)],
        node_port: Some(NODE_PORT),
        is_internal_local: false,
        is_external_local: false,
        affinity_seconds: None,
        endpoints: endpoints.iter().map(|last| endpoint(*last)).collect(),
    }
}

#[test]
fn every_client_reaches_every_kind_of_place() {
    as_host(async |leases| {
        let mut world = World::new("a0000011", leases).await;
        let both = [service(Protocol::Tcp, &[2, 3]), service(Protocol::Udp, &[2, 3])];
        let host_port =
            |protocol| HostPort { host_address: None, protocol, host_port: 8888, address: pod(3), port: 8080 };
        world.services.apply(&both, &[host_port(Protocol::Tcp), host_port(Protocol::Udp)]).unwrap();
        let external = Ipv4Addr::new(198, 51, 100, 7);
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            for (who, client, own) in
                [("pod", &world.client, pod(4)), ("host", &world.host, HOST), ("outside", &world.outside, OUTSIDE)]
            {
                for (place, what) in [
                    ((CLUSTER, 80), "cluster"),
                    ((HOST, NODE_PORT), "node port"),
                    ((external, 80), "external"),
                    ((HOST, 8888), "host port"),
                ] {
                    let mut servers = BTreeSet::new();
                    for _ in 0..24 {
                        let seen = ask(client, protocol, place);
                        let (server, source) =
                            seen.unwrap_or_else(|error| panic!("{who}, {what}, {protocol:?}: {error}"));
                        assert_eq!(source, own, "{who}, {what}, {protocol:?}: the client's address is kept");
                        servers.insert(server);
                    }
                    let expected =
                        if what == "host port" { BTreeSet::from([pod(3)]) } else { BTreeSet::from([pod(2), pod(3)]) };
                    assert_eq!(servers, expected, "{who}, {what}, {protocol:?}");
                }
            }
            let loopback = ask(&world.host, protocol, (Ipv4Addr::LOCALHOST, NODE_PORT)).unwrap();
            assert_eq!(loopback.1, pod(1), "{protocol:?}: from loopback to a node port");
            // Servers ask their own Service: now and then they meet themselves.
            for _ in 0..24 {
                let (server, source) = ask(&world.servers[0], protocol, (CLUSTER, 80)).unwrap();
                assert_eq!(source, if server == pod(2) { pod(1) } else { pod(2) }, "{protocol:?}: to itself");
            }
        }
    });
}

#[test]
fn what_serves_nothing_refuses_at_once_and_loopback_stays_closed() {
    as_host(async |leases| {
        let mut world = World::new("a0000012", leases).await;
        let services = [service(Protocol::Tcp, &[]), service(Protocol::Udp, &[])];
        world.services.apply(&services, &[]).unwrap();
        let external = Ipv4Addr::new(198, 51, 100, 7);
        // The kernel answers a client with so many errors a second at most.
        for limit in ["icmp_ratelimit", "icmp_ratemask"] {
            std::fs::write(format!("/proc/sys/net/ipv4/{limit}"), "0").unwrap();
        }
        for client in [&world.client, &world.host, &world.outside] {
            for place in [(CLUSTER, 80), (CLUSTER, 81), (external, 80), (HOST, NODE_PORT)] {
                for protocol in [Protocol::Tcp, Protocol::Udp] {
                    let begin = Instant::now();
                    let error = ask(client, protocol, place).unwrap_err();
                    // The sender of a packet that is refused on its way out learns it from the call.
                    let at_once = error.kind() == std::io::ErrorKind::PermissionDenied;
                    let refused = error.kind() == std::io::ErrorKind::ConnectionRefused;
                    assert!(refused || at_once && protocol == Protocol::Udp, "{place:?} {protocol:?}: {error}");
                    assert!(begin.elapsed() < Duration::from_millis(500), "{place:?} {protocol:?}");
                }
            }
        }
        // A pod that routes 127/8 to the host must not reach what listens there.
        let _secret = TcpListener::bind("127.0.0.1:7777").unwrap();
        world.client.run(|| {
            tool("ip link set lo down");
            std::fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1").unwrap();
            tool("ip route add 127.0.0.0/8 dev eth0 src 10.42.3.4");
            tool("ip neigh replace 127.0.0.1 lladdr 0a:68:a9:fe:01:01 dev eth0");
        });
        let reached = ask(&world.client, Protocol::Tcp, (Ipv4Addr::LOCALHOST, 7777));
        assert!(reached.is_err());
    });
}

/// As if some time had passed.
fn forget(services: &mut Services) -> usize {
    services.forget(Instant::now() + Duration::from_secs(1)).unwrap()
}

#[test]
fn flows_of_udp_leave_an_endpoint_that_is_gone() {
    as_host(async |leases| {
        let mut world = World::new("a0000013", leases).await;
        world.services.apply(&[service(Protocol::Udp, &[2])], &[]).unwrap();
        assert_eq!(forget(&mut world.services), 0);
        for (client, place) in [(&world.client, (CLUSTER, 80)), (&world.outside, (HOST, NODE_PORT))] {
            world.services.apply(&[service(Protocol::Udp, &[2])], &[]).unwrap();
            let socket = client.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
            assert_eq!(ask_with(&socket, place.into()).unwrap().0, pod(2));
            world.services.apply(&[service(Protocol::Udp, &[3])], &[]).unwrap();
            assert_eq!(ask_with(&socket, place.into()).unwrap().0, pod(2), "it may still answer");
            assert_eq!(forget(&mut world.services), 1);
            assert_eq!(ask_with(&socket, place.into()).unwrap().0, pod(3), "{place:?}");
        }
        // Of a Service that is gone nothing is left either.
        world.services.apply(&[], &[]).unwrap();
        assert_eq!(forget(&mut world.services), 2);
    });
}

#[test]
fn a_client_stays_with_its_endpoint_while_it_lives() {
    as_host(async |leases| {
        let mut world = World::new("a0000014", leases).await;
        let with =
            |endpoints: &[u8]| ServicePort { affinity_seconds: Some(10_800), ..service(Protocol::Tcp, endpoints) };
        world.services.apply(&[with(&[2, 3])], &[]).unwrap();
        let again = |world: &World| -> BTreeSet<Ipv4Addr> {
            (0..16).map(|_| ask(&world.client, Protocol::Tcp, (CLUSTER, 80)).unwrap().0).collect()
        };
        let first = again(&world);
        assert_eq!(first.len(), 1);
        let kept = *first.first().unwrap();
        // A new endpoint changes nothing for it; the end of its own does, once.
        world.services.apply(&[with(&[2, 3, 9])], &[]).unwrap();
        assert_eq!(again(&world), first);
        let other = if kept == pod(2) { 3 } else { 2 };
        world.services.apply(&[with(&[other])], &[]).unwrap();
        assert_eq!(again(&world), BTreeSet::from([pod(other)]));
        world.services.apply(&[with(&[2, 3])], &[]).unwrap();
        assert_eq!(again(&world), BTreeSet::from([pod(other)]), "it stays with the one it found then");
    });
}

#[test]
fn local_policies_keep_to_this_node() {
    as_host(async |leases| {
        let mut world = World::new("a0000015", leases).await;
        let elsewhere = Endpoint { is_local: false, ..endpoint(3) };
        let service = ServicePort {
            is_external_local: true,
            endpoints: vec![endpoint(2), elsewhere],
            ..service(Protocol::Tcp, &[])
        };
        world.services.apply(std::slice::from_ref(&service), &[]).unwrap();
        let ask_many = |client: &Namespace, place| -> BTreeSet<Ipv4Addr> {
            (0..24).map(|_| ask(client, Protocol::Tcp, place).unwrap().0).collect()
        };
        assert_eq!(ask_many(&world.outside, (HOST, NODE_PORT)), BTreeSet::from([pod(2)]));
        assert_eq!(ask_many(&world.client, (HOST, NODE_PORT)).len(), 2, "pods are not outside");
        assert_eq!(ask_many(&world.client, (CLUSTER, 80)).len(), 2);
        let inside = ServicePort { is_internal_local: true, is_external_local: false, ..service };
        world.services.apply(&[inside], &[]).unwrap();
        assert_eq!(ask_many(&world.client, (CLUSTER, 80)), BTreeSet::from([pod(2)]));
        // An endpoint elsewhere answers by way of this node: it sees the node's address.
        let sources: BTreeSet<Seen> =
            (0..24).map(|_| ask(&world.outside, Protocol::Tcp, (HOST, NODE_PORT)).unwrap()).collect();
        assert!(sources.contains(&(pod(2), OUTSIDE)));
        assert!(sources.iter().all(|(server, source)| *server == pod(2) || *source != OUTSIDE), "{sources:?}");
    });
}

#[test]
fn nothing_fails_while_endpoints_come_and_go() {
    as_host(async |leases| {
        let mut world = World::new("a0000016", leases).await;
        let sets: [&[u8]; 3] = [&[2, 3], &[2], &[3]];
        let services = |set: &[u8]| [service(Protocol::Tcp, set), service(Protocol::Udp, set)];
        world.services.apply(&services(sets[0]), &[]).unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let ask_on = |client: &'static str, namespace| {
                let done = &done;
                scope.spawn(move || {
                    let mut count = 0;
                    while !done.load(std::sync::atomic::Ordering::Relaxed) {
                        for protocol in [Protocol::Tcp, Protocol::Udp] {
                            for place in [(CLUSTER, 80), (HOST, NODE_PORT)] {
                                let seen = ask(namespace, protocol, place);
                                seen.unwrap_or_else(|error| panic!("{client} {protocol:?} {place:?}: {error}"));
                                count += 1;
                            }
                        }
                    }
                    count
                })
            };
            let asking = [ask_on("pod", &world.client), ask_on("host", &world.host), ask_on("outside", &world.outside)];
            for round in 0..150 {
                world.services.apply(&services(sets[round % 3]), &[]).unwrap();
                if world.services.forgets_at().is_some_and(|at| at <= Instant::now()) {
                    world.services.forget(Instant::now()).unwrap();
                }
                std::thread::sleep(Duration::from_millis(3));
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            let counts = asking.map(|asking| asking.join().unwrap());
            assert!(counts.iter().all(|count| *count > 100), "{counts:?}");
        });
    });
}

#[test]
fn two_instances_do_not_touch_each_other_and_reset_leaves_nothing() {
    as_host(async |leases| {
        let mut world = World::new("a0000017", leases.clone()).await;
        world.services.apply(&[service(Protocol::Tcp, &[2])], &[]).unwrap();
        let other = open("b0000017", leases.join("other")).await;
        other.set_pod_range("10.42.9.0/24".parse().unwrap()).await.unwrap();
        let mut theirs = other.services().await.unwrap();
        let service = ServicePort {
            cluster_address: Some(Ipv4Addr::new(10, 43, 0, 6)),
            node_port: None,
            ..service(Protocol::Tcp, &[3])
        };
        theirs.apply(&[service], &[]).unwrap();
        assert_eq!(ask(&world.client, Protocol::Tcp, (CLUSTER, 80)).unwrap().0, pod(2));
        agent_network::reset("b0000017").await.unwrap();
        assert_eq!(ask(&world.client, Protocol::Tcp, (CLUSTER, 80)).unwrap().0, pod(2));
        let tables = tool("nft list tables");
        assert!(!tables.contains("b0000017") && tables.contains("gantry-a0000017-services"), "{tables}");
        // A new agent knows nothing of the old one's rules and replaces them in one go.
        let mut fresh = world._network.services().await.unwrap();
        fresh.apply(&[self::service(Protocol::Tcp, &[3])], &[]).unwrap();
        assert_eq!(ask(&world.client, Protocol::Tcp, (CLUSTER, 80)).unwrap().0, pod(3));
        agent_network::reset("a0000017").await.unwrap();
        assert_eq!(tool("nft list tables"), "");
    });
}

#[test]
fn one_change_among_a_thousand_services_is_small() {
    as_host(async |leases| {
        let network = open("a0000018", leases).await;
        network.set_pod_range("10.42.3.0/24".parse().unwrap()).await.unwrap();
        let mut services = network.services().await.unwrap();
        let mut all: Vec<ServicePort> = (0..1000u32)
            .map(|index| ServicePort {
                key: format!("default/service-{index}/http/TCP"),
                cluster_address: Some(Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 43, 1, 0)) + index)),
                external_addresses: vec![],
                node_port: None,
                endpoints: (2..12).map(endpoint).collect(),
                ..service(Protocol::Tcp, &[])
            })
            .collect();
        let whole = services.apply(&all, &[]).unwrap();
        let mut changes = Vec::new();
        for round in 0..20 {
            all[round * 40].endpoints.pop();
            changes.push(services.apply(&all, &[]).unwrap());
        }
        changes.sort_by_key(|change| change.took);
        let middle = changes[changes.len() / 2];
        println!(
            "1000 services x 10: {} bytes in {:?}; one endpoint: {} bytes in {:?}",
            whole.bytes, whole.took, middle.bytes, middle.took
        );
        assert!(middle.bytes < 2048, "{middle:?}");
        assert!(services.apply(&all, &[]).unwrap().bytes == 0);
    });
}

#[test]
fn rules_are_what_the_tool_reads() {
    as_host(async |leases| {
        let mut world = World::new("a0000019", leases).await;
        let service = ServicePort {
            affinity_seconds: Some(60),
            is_external_local: true,
            endpoints: vec![endpoint(2), endpoint(3), Endpoint { is_local: false, ..endpoint(9) }],
            ..service(Protocol::Tcp, &[])
        };
        world.services.apply(&[service], &[]).unwrap();
        let shown = tool("nft list table inet gantry-a0000019-services");
        for line in [
            "ip daddr . meta l4proto . th dport vmap @addresses",
            "fib daddr type local meta l4proto . th dport vmap @ports",
            "ip daddr 10.43.0.0/16 meta l4proto tcp reject with tcp reset",
            "ip saddr . ip daddr @itself snat ip to 10.42.3.1",
            "10.43.0.5 . tcp . 80 : goto in/default/web/http/Tcp",
        ] {
            assert!(shown.contains(line), "no {line:?} in\n{shown}");
        }
    });
}
