//! From a query to an answer. Pure.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::zone::{Data, Found, Zone};

/// How long answers about the cluster may be kept, in seconds, as CoreDNS has it.
const TTL: u32 = 5;
/// What an answer over UDP may take without EDNS (RFC 1035, 4.2.1), and what is said to take with it.
const PLAIN_UDP: u16 = 512;
const EDNS_UDP: u16 = 1232;

/// What is to be done with a query.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Here is the answer.
    Answer(Box<Message>),
    /// The name is not the cluster's.
    Ask,
    /// The answer so far is an alias; the records of this name belong to it.
    Follow(Box<Message>, Name),
    /// It deserves no answer.
    Drop,
}

/// Decides about a query.
pub(super) fn decide(zone: &Zone, query: &Message, now: u32) -> Outcome {
    if query.metadata.message_type != MessageType::Query {
        // Answering answers goes round for ever.
        return Outcome::Drop;
    }
    let refuse = |code| Outcome::Answer(Box::new(reply(query, code)));
    if query.metadata.op_code != OpCode::Query {
        return refuse(ResponseCode::NotImp);
    }
    let [question] = query.queries.as_slice() else { return refuse(ResponseCode::FormErr) };
    if query.version() > 0 {
        return refuse(ResponseCode::BADVERS);
    }
    if question.query_class() != DNSClass::IN {
        return refuse(ResponseCode::Refused);
    }
    if matches!(question.query_type(), RecordType::AXFR | RecordType::IXFR) {
        return refuse(ResponseCode::Refused);
    }
    match zone.find(&labels(question.name())) {
        Found::Elsewhere => Outcome::Ask,
        Found::Nothing => {
            let mut answer = authoritative(query, ResponseCode::NXDomain);
            answer.authorities.extend(authority(zone, now));
            Outcome::Answer(Box::new(answer))
        }
        Found::Records(all) => records(zone, query, question, &all, now),
    }
}

fn records(zone: &Zone, query: &Message, question: &Query, all: &[Data], now: u32) -> Outcome {
    let mut answer = authoritative(query, ResponseCode::NoError);
    let wanted = question.query_type();
    let wants = |kind| wanted == kind || wanted == RecordType::ANY;
    let owner = question.name();
    let record = |data| Record::from_rdata(owner.clone(), TTL, data);
    let mut alias = None;
    for data in all {
        match data {
            Data::Address(address) if wants(RecordType::A) => answer.answers.push(record(RData::A(A(*address)))),
            Data::Text(text) if wants(RecordType::TXT) => {
                answer.answers.push(record(RData::TXT(TXT::new(vec![text.clone()]))));
            }
            Data::Pointer(target) if wants(RecordType::PTR) => {
                answer.answers.extend(name(target).map(|target| record(RData::PTR(PTR(target)))));
            }
            Data::Alias(target) => {
                let target = name(target);
                answer.answers.extend(target.clone().map(|target| record(RData::CNAME(CNAME(target)))));
                alias = target.filter(|_| wanted != RecordType::CNAME);
            }
            Data::Server(port, target, address) if wanted == RecordType::SRV => {
                let Some(target) = name(target) else { continue };
                let server = SRV::new(0, 100, *port, target.clone());
                answer.answers.push(record(RData::SRV(server)));
                let known = answer.additionals.iter().any(|own| own.name == target);
                if !known {
                    answer.additionals.push(Record::from_rdata(target, TTL, RData::A(A(*address))));
                }
            }
            _ => {}
        }
    }
    if answer.answers.is_empty() {
        answer.authorities.extend(authority(zone, now));
    }
    match alias {
        Some(target) => Outcome::Follow(Box::new(answer), target),
        None => Outcome::Answer(Box::new(answer)),
    }
}

/// A reply with nothing in it.
pub(super) fn reply(query: &Message, code: ResponseCode) -> Message {
    let mut reply = Message::error_msg(query.metadata.id, query.metadata.op_code, code);
    reply.metadata.recursion_desired = query.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.queries.clone_from(&query.queries);
    if query.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(EDNS_UDP);
        edns.set_rcode_high(u8::try_from(u16::from(code) >> 4).unwrap_or(0));
        reply.edns = Some(edns);
    }
    reply
}

fn authoritative(query: &Message, code: ResponseCode) -> Message {
    let mut reply = reply(query, code);
    reply.metadata.authoritative = true;
    reply
}

/// Says how long a "no" may be kept (RFC 2308).
fn authority(zone: &Zone, now: u32) -> Option<Record> {
    let domain = name(&zone.domain())?;
    let (server, keeper) =
        (name(&format!("ns.dns.{}", zone.domain()))?, name(&format!("hostmaster.{}", zone.domain()))?);
    let soa = SOA::new(server, keeper, now, 7200, 1800, 86_400, TTL);
    Some(Record::from_rdata(domain, TTL, RData::SOA(soa)))
}

fn name(text: &str) -> Option<Name> {
    let mut name = Name::from_ascii(text).ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// The labels of a name, lower case.
pub(super) fn labels(name: &Name) -> Vec<String> {
    name.iter().map(|label| String::from_utf8_lossy(label).to_ascii_lowercase()).collect()
}

/// The bytes of an answer for a client that takes so many.
pub(super) fn bytes(answer: &Message, limit: usize) -> Option<Vec<u8>> {
    let whole = answer.to_vec().ok()?;
    if whole.len() <= limit {
        return Some(whole);
    }
    let mut smaller = answer.clone();
    smaller.additionals.clear();
    match smaller.to_vec() {
        Ok(bytes) if bytes.len() <= limit => Some(bytes),
        _ => answer.truncate().to_vec().ok(),
    }
}

/// How many bytes a client takes over UDP.
pub(super) fn udp_limit(query: &Message) -> usize {
    let wished = query.edns.as_ref().map_or(PLAIN_UDP, |edns| edns.max_payload().clamp(PLAIN_UDP, EDNS_UDP));
    usize::from(wished)
}
