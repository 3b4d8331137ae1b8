use std::net::Ipv4Addr;

use hickory_proto::op::Edns;
use hickory_proto::rr::rdata::{A, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::super::zone::tests::zone;
use super::*;

fn bound() -> (Sockets, SocketAddr) {
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = udp.local_addr().unwrap();
    let tcp = std::net::TcpListener::bind(address).unwrap();
    (Sockets::new(udp.into(), tcp.into()).unwrap(), address)
}

/// A server that answers everything: `many.` with a lot, cut over UDP.
async fn other_server() -> (SocketAddr, Arc<std::sync::atomic::AtomicUsize>) {
    let (sockets, address) = bound();
    let count = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let answer = |bytes: &[u8], over_udp: bool| {
        let query = Message::from_vec(bytes).unwrap();
        let name = query.queries[0].name().clone();
        let mut answer = answer::reply(&query, ResponseCode::NoError);
        if name.to_ascii().starts_with("many") && over_udp {
            answer.metadata.truncation = true;
        } else if name.to_ascii().starts_with("many") {
            let text = || RData::TXT(TXT::new(vec!["x".repeat(250)]));
            answer.answers.extend((0..20).map(|_| Record::from_rdata(name.clone(), 60, text())));
        } else {
            let data = RData::A(A(Ipv4Addr::new(192, 0, 2, 80)));
            answer.answers.push(Record::from_rdata(name, 60, data));
        }
        answer.to_vec().unwrap()
    };
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((length, client)) = sockets.udp.recv_from(&mut buffer).await {
            counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            sockets.udp.send_to(&answer(&buffer[..length], true), client).await.unwrap();
        }
    });
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = sockets.tcp.accept().await {
            let mut bytes = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut bytes).await.unwrap();
            let answer = answer(&bytes, false);
            stream.write_u16(u16::try_from(answer.len()).unwrap()).await.unwrap();
            stream.write_all(&answer).await.unwrap();
        }
    });
    (address, count)
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut query = Message::query();
    query.metadata.recursion_desired = true;
    query.queries.push(Query::query(Name::from_ascii(format!("{name}.")).unwrap(), kind));
    query
}

async fn over_udp(to: SocketAddr, query: &Message) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&query.to_vec().unwrap(), to).await.unwrap();
    let mut buffer = [0; 4096];
    let length = tokio::time::timeout(IDLE, socket.recv(&mut buffer)).await.unwrap().unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

async fn over_tcp(to: SocketAddr, query: &Message) -> Message {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let bytes = query.to_vec().unwrap();
    stream.write_u16(u16::try_from(bytes.len()).unwrap()).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let mut bytes = vec![0; usize::from(stream.read_u16().await.unwrap())];
    stream.read_exact(&mut bytes).await.unwrap();
    Message::from_vec(&bytes).unwrap()
}

async fn server() -> (SocketAddr, Arc<std::sync::atomic::AtomicUsize>) {
    let (sockets, address) = bound();
    let (other, count) = other_server().await;
    tokio::spawn(run(sockets, Arc::new(RwLock::new(zone())), Arc::new(Upstream::at(vec![other])), Default::default()));
    (address, count)
}

#[tokio::test]
async fn answers_over_both_protocols() {
    let (at, count) = server().await;
    for (name, kind, code, answers) in [
        ("web.d.svc.cluster.local", RecordType::A, ResponseCode::NoError, 1),
        ("WEB.d.svc.Cluster.local", RecordType::A, ResponseCode::NoError, 1),
        ("web.d.svc.cluster.local", RecordType::AAAA, ResponseCode::NoError, 0),
        ("none.d.svc.cluster.local", RecordType::A, ResponseCode::NXDomain, 0),
        ("_sql._tcp.db.d.svc.cluster.local", RecordType::SRV, ResponseCode::NoError, 2),
        ("5.0.43.10.in-addr.arpa", RecordType::PTR, ResponseCode::NoError, 1),
        ("dns-version.cluster.local", RecordType::TXT, ResponseCode::NoError, 1),
        ("example.org", RecordType::A, ResponseCode::NoError, 1),
        ("away.d.svc.cluster.local", RecordType::A, ResponseCode::NoError, 2),
    ] {
        let query = query(name, kind);
        for answer in [over_udp(at, &query).await, over_tcp(at, &query).await] {
            let own = (answer.metadata.response_code, answer.answers.len(), answer.metadata.id);
            assert_eq!(own, (code, answers, query.metadata.id), "{name} {kind}: {answer:?}");
            assert_eq!(answer.queries, query.queries, "{name}: the question as it was written");
            let is_no = answers == 0;
            assert_eq!(answer.authorities.first().is_some_and(|r| r.record_type() == RecordType::SOA), is_no, "{name}");
        }
    }
    assert_eq!(
        count.load(std::sync::atomic::Ordering::SeqCst),
        1,
        "example.org was asked for once, the rest remembered"
    );
}

#[tokio::test]
async fn long_answers_are_cut_over_udp_and_whole_over_tcp() {
    let (at, _) = server().await;
    let mut query = query("many.example.org", RecordType::TXT);
    let cut = over_udp(at, &query).await;
    assert!(cut.metadata.truncation && cut.answers.is_empty());
    assert_eq!(over_tcp(at, &query).await.answers.len(), 20);
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    query.edns = Some(edns);
    let cut = over_udp(at, &query).await;
    assert!(cut.metadata.truncation && cut.edns.is_some());
}

#[tokio::test]
async fn what_is_no_query_hurts_nobody() {
    let (at, _) = server().await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut response = query("web.d.svc.cluster.local", RecordType::A);
    response.metadata.message_type = hickory_proto::op::MessageType::Response;
    for bytes in [vec![], vec![0; 11], vec![0xff; 600], response.to_vec().unwrap()] {
        socket.send_to(&bytes, at).await.unwrap();
    }
    let mut two = query("a.d.svc.cluster.local", RecordType::A);
    two.queries.push(two.queries[0].clone());
    assert_eq!(over_udp(at, &two).await.metadata.response_code, ResponseCode::FormErr);
    assert_eq!(over_udp(at, &query("web.d.svc.cluster.local", RecordType::A)).await.answers.len(), 1);
    assert_eq!(
        over_udp(at, &query("x.cluster.local", RecordType::AXFR)).await.metadata.response_code,
        ResponseCode::Refused
    );
}
