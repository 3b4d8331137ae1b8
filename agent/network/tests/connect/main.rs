//! Pods connected by real links in namespaces of the tests' own; as root, with iproute2 and nftables to look.

mod namespace;

use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::{IpAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use agent_network::{NetworkError, reset};
use namespace::{Namespace, as_host, open, tool};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn packets_reach_what_they_should_with_the_right_source() {
    as_host(async |leases| {
        let host = Namespace::current();
        let outside = Namespace::outside();
        tool("ip link set up0 mtu 1400");

        let network = open("a0000001", leases).await;
        network.set_pod_range("10.42.3.0/24".parse().unwrap()).await.unwrap();
        let (a, b) = (Namespace::new(), Namespace::new());
        assert_eq!(network.setup("a", &a.path()).await.unwrap(), [ip("10.42.3.2")]);
        assert_eq!(network.setup("b", &b.path()).await.unwrap(), [ip("10.42.3.3")]);

        assert_eq!(a.reach(&b, ip("10.42.3.3")).unwrap(), ip("10.42.3.2"), "pod to pod keeps its source");
        assert_eq!(a.reach(&a, ip("10.42.3.2")).unwrap(), ip("10.42.3.2"), "pod to itself");
        assert_eq!(host.reach(&a, ip("10.42.3.2")).unwrap(), ip("10.42.3.1"), "host to pod");
        assert_eq!(a.reach(&host, ip("192.0.2.1")).unwrap(), ip("10.42.3.2"), "pod to the host's address");
        assert_eq!(a.reach(&host, ip("10.42.3.1")).unwrap(), ip("10.42.3.2"), "pod to the node's pod address");
        assert_eq!(a.reach(&outside, ip("192.0.2.2")).unwrap(), ip("192.0.2.1"), "pod to outside is masqueraded");
        let pod_link = a.run(|| tool("ip link show eth0"));
        assert!(pod_link.contains("0a:68:0a:2a:03:02"), "{pod_link}");
        assert!(pod_link.contains("mtu 1400"), "the uplink's: {pod_link}");
        assert!(tool("ip link").contains("alias pod a"));
        network.teardown("a").await.unwrap();
        assert!(b.reach(&a, ip("10.42.3.2")).is_err());
    });
}

#[test]
fn whoever_asks_for_an_address_that_no_pod_has_is_told_at_once() {
    as_host(async |leases| {
        let outside = Namespace::outside();
        let network = open("a0000009", leases).await;
        network.set_pod_range("10.42.9.0/24".parse().unwrap()).await.unwrap();
        network.set_pod_range("10.42.3.0/24".parse().unwrap()).await.unwrap();
        let pod = Namespace::new();
        network.setup("a", &pod.path()).await.unwrap();
        let patience = Duration::from_secs(3);
        let asks = || TcpStream::connect_timeout(&"10.42.3.9:80".parse().unwrap(), patience).unwrap_err().kind();
        for (who, namespace) in [("outside", &outside), ("a pod", &pod), ("the host", &Namespace::current())] {
            assert_eq!(namespace.run(asks), ErrorKind::HostUnreachable, "{who}");
        }
        assert!(outside.reach(&pod, ip("10.42.3.2")).is_ok(), "a pod's own route wins");
        assert!(!tool("ip route").contains("10.42.9.0"), "the earlier range is anybody's");
        reset("a0000009").await.unwrap();
        assert!(!tool("ip route").contains("unreachable"));
    });
}

#[test]
fn a_pod_cannot_speak_with_another_source() {
    as_host(async |leases| {
        let network = open("a0000002", leases).await;
        network.set_pod_range("10.42.0.0/24".parse().unwrap()).await.unwrap();
        let (liar, peer) = (Namespace::new(), Namespace::new());
        network.setup("liar", &liar.path()).await.unwrap();
        network.setup("peer", &peer.path()).await.unwrap();
        liar.run(|| tool("ip address add 10.42.0.77/32 dev eth0"));
        let heard = peer.run(|| UdpSocket::bind("10.42.0.3:999").unwrap());
        heard.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let say = |source: &str| {
            liar.run(|| UdpSocket::bind((source, 0)).unwrap().send_to(b"x", "10.42.0.3:999").unwrap());
            heard.recv(&mut [0; 8])
        };
        assert!(say("10.42.0.2").is_ok());
        assert!(say("10.42.0.77").is_err());
        // The rules alone hold, where the distribution's default for links is loose or none.
        for link in tool("ls /proc/sys/net/ipv4/conf").split_whitespace().filter(|link| link.starts_with('g')) {
            std::fs::write(format!("/proc/sys/net/ipv4/conf/{link}/rp_filter"), "0").unwrap();
        }
        assert!(say("10.42.0.77").is_err());
        assert!(say("10.42.0.2").is_ok());
    });
}

#[test]
fn rules_are_what_the_tool_reads_and_only_ours() {
    as_host(async |leases| {
        tool("nft add table inet gantry-other");
        // Also where another link is of the instance's group.
        tool("ip link add other type veth peer name peer");
        tool("ip link set other group 0x10000003");
        let network = open("10000003", leases).await;
        for range in ["10.42.1.0/24", "10.42.2.0/24", "10.42.2.0/24"] {
            network.set_pod_range(range.parse().unwrap()).await.unwrap();
        }
        let rules = tool("nft list table inet gantry-10000003");
        let expected = "ip saddr 10.42.2.0/24 ip daddr != 10.42.0.0/16 oifname != \"g100000*\" masquerade fully-random";
        assert_eq!(rules.matches(expected).count(), 1, "{rules}");
        assert!(!rules.contains("10.42.1.0"), "{rules}");
        assert!(rules.contains("iifname \"g100000*\" fib saddr . iif oif missing drop"), "{rules}");
        assert_eq!(tool("cat /proc/sys/net/ipv4/ip_forward").trim(), "1");

        for bad in ["10.43.0.0/24", "10.0.0.0/8"] {
            let error = network.set_pod_range(bad.parse().unwrap()).await.unwrap_err();
            assert!(matches!(error, NetworkError::RangeOutside { .. }), "{error}");
        }
        let error = network.set_pod_range("10.42.0.0/31".parse().unwrap()).await.unwrap_err();
        assert!(matches!(error, NetworkError::RangeTooSmall { .. }), "{error}");
        let pod = Namespace::new();
        network.setup("pod", &pod.path()).await.unwrap();
        reset("10000003").await.unwrap();
        assert_eq!(tool("ip -brief link show type veth").lines().count(), 2);
        reset("10000003").await.unwrap();
        assert_eq!(tool("nft list tables").trim(), "table inet gantry-other");
    });
}

#[test]
fn a_restarted_agent_finds_its_pods_and_clears_the_rest() {
    as_host(async |leases| {
        let (kept, gone) = (Namespace::new(), Namespace::new());
        let range = "10.42.0.0/24".parse().unwrap();
        let network = open("a0000004", leases.clone()).await;
        network.set_pod_range(range).await.unwrap();
        let address = network.setup("kept", &kept.path()).await.unwrap();
        network.setup("gone", &gone.path()).await.unwrap();
        assert_eq!(network.setup("kept", &kept.path()).await.unwrap(), address);
        drop(network);

        let network = open("a0000004", leases.clone()).await;
        network.retain(&HashSet::from(["kept".to_owned()])).await.unwrap();
        assert_eq!(tool("ip -brief link show type veth").lines().count(), 1);
        network.set_pod_range(range).await.unwrap();
        assert_eq!(network.setup("kept", &kept.path()).await.unwrap(), address);
        assert_eq!(Namespace::current().reach(&kept, address[0]).unwrap(), ip("10.42.0.1"));

        // Its sandbox was rebuilt while the old namespace is still there.
        let rebuilt = Namespace::new();
        assert_eq!(network.setup("kept", &rebuilt.path()).await.unwrap(), address);
        assert_eq!(Namespace::current().reach(&rebuilt, address[0]).unwrap(), ip("10.42.0.1"));
        assert_eq!(tool("ip -brief link show type veth").lines().count(), 1);

        // A link whose lease is lost belongs to nobody.
        std::fs::remove_dir_all(&leases).unwrap();
        let network = open("a0000004", leases).await;
        network.retain(&HashSet::from(["kept".to_owned()])).await.unwrap();
        assert_eq!(tool("ip -brief link show type veth"), "");
    });
}

#[test]
fn failures_name_the_cause_and_keep_nothing() {
    as_host(async |leases| {
        let network = open("a0000005", leases).await;
        network.set_pod_range("10.42.0.0/30".parse().unwrap()).await.unwrap();
        let pod = Namespace::new();
        let error = network.setup("pod", "/proc/self/ns/nothing".as_ref()).await.unwrap_err();
        assert!(matches!(error, NetworkError::Namespace { .. }), "{error}");
        let error = network.setup("pod", "/proc/self/ns/uts".as_ref()).await.unwrap_err();
        assert!(matches!(error, NetworkError::Namespace { .. }), "{error}");
        let error = network.setup("pod", &Namespace::current().path()).await.unwrap_err();
        assert!(matches!(error, NetworkError::HostNamespace { .. }), "{error}");
        let error = network.setup("../pod", &pod.path()).await.unwrap_err();
        assert!(matches!(error, NetworkError::Uid { .. }), "{error}");
        pod.run(|| tool("ip link add eth0 type veth peer name other"));
        let error = network.setup("pod", &pod.path()).await.unwrap_err();
        assert!(matches!(error, NetworkError::Occupied { .. }), "{error}");
        assert_eq!(tool("ip -brief link show type veth"), "");

        // The one address of the range is free again.
        let (pod, late) = (Namespace::new(), Namespace::new());
        network.setup("pod", &pod.path()).await.unwrap();
        let error = network.setup("late", &late.path()).await.unwrap_err();
        assert_eq!(error.to_string(), "pod range 10.42.0.0/30 has no free address: 1 are taken");
        network.teardown("pod").await.unwrap();
        network.teardown("pod").await.unwrap();
        network.setup("late", &late.path()).await.unwrap();
    });
}

#[test]
fn setup_waits_for_the_range_and_many_pods_come_at_once() {
    as_host(async |leases| {
        const PODS: usize = 100;
        let network = open("a0000006", leases).await;
        let pods: Vec<_> = (0..PODS).map(|_| Namespace::new()).collect();
        let setups = pods.iter().enumerate().map(|(number, pod)| {
            let network = network.clone();
            let path = pod.path();
            tokio::spawn(async move { network.setup(&format!("pod-{number}"), &path).await })
        });
        let setups: Vec<_> = setups.collect();
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(setups.iter().all(|setup| !setup.is_finished()));

        let start = Instant::now();
        network.set_pod_range("10.42.0.0/24".parse().unwrap()).await.unwrap();
        let mut addresses = HashSet::new();
        for setup in setups {
            addresses.extend(setup.await.unwrap().unwrap());
        }
        println!("{PODS} pods at once: {:?}", start.elapsed());
        assert_eq!(addresses.len(), PODS);

        let one = Namespace::new();
        let start = Instant::now();
        network.setup("one", &one.path()).await.unwrap();
        println!("one pod beside them: {:?}", start.elapsed());
        let start = Instant::now();
        network.teardown("one").await.unwrap();
        println!("its teardown: {:?}", start.elapsed());
        let start = Instant::now();
        let teardowns: Vec<_> = (0..PODS / 2)
            .map(|number| {
                let network = network.clone();
                tokio::spawn(async move { network.teardown(&format!("pod-{number}")).await })
            })
            .collect();
        for teardown in teardowns {
            teardown.await.unwrap().unwrap();
        }
        println!("teardown of {} pods: {:?}", PODS / 2, start.elapsed());
        let start = Instant::now();
        reset("a0000006").await.unwrap();
        println!("reset of {} pods: {:?}", PODS / 2, start.elapsed());
        assert_eq!(tool("ip -brief link show type veth"), "");
        assert_eq!(tool("nft list tables"), "");
    });
}

#[test]
fn links_and_leases_agree_whatever_was_given_up() {
    as_host(async |leases| {
        let network = open("a0000007", leases.clone()).await;
        network.set_pod_range("10.42.0.0/24".parse().unwrap()).await.unwrap();
        let pods: Vec<_> = (0..12).map(|_| Namespace::new()).collect();
        let mut works = Vec::new();
        for round in 0..6 {
            for (number, pod) in pods.iter().enumerate() {
                let (network, uid, path) = (network.clone(), format!("pod-{number}"), pod.path());
                works.push(tokio::spawn(async move {
                    match (round + number) % 3 {
                        0 => network.teardown(&uid).await,
                        _ => network.setup(&uid, &path).await.map(drop),
                    }
                }));
            }
            tokio::time::sleep(Duration::from_micros(700)).await;
            for work in works.iter().step_by(2) {
                work.abort();
            }
        }
        for work in works {
            work.await.unwrap_or(Ok(())).unwrap();
        }
        // Work that was given up ends in its own time; the next on the same pod waits for it.
        let kept = HashSet::from(["pod-0".to_owned(), "pod-1".to_owned()]);
        for uid in &kept {
            let number: usize = uid["pod-".len()..].parse().unwrap();
            network.setup(uid, &pods[number].path()).await.unwrap();
        }
        network.retain(&kept).await.unwrap();
        assert_eq!(tool("ip -brief link show type veth").lines().count(), 2);
        assert_eq!(std::fs::read_dir(leases).unwrap().count(), 2);
    });
}
