//! Other software's rules that packets of pods must pass as well. Only looked at, never changed.

use netlink_packet_netfilter::nftables::{ChainAttribute, ChainMessage, Hook, InetHookNumber, NfTablesMessage};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};
use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::NetworkError;
use crate::netlink::Conversation;

/// `NF_DROP`, linux/netfilter.h.
const DROP: u32 = 0;

/// A chain that drops every forwarded packet which no rule of it lets through. In nftables a packet must pass every
/// chain of a hook, so what our rules accept is dropped there all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Barrier {
    /// The table, such as `filter`.
    pub table: String,
    /// The chain, such as `FORWARD`.
    pub chain: String,
}

/// Chains of nftables (iptables-nft makes such as well) that drop forwarded packets by default.
pub fn forward_barriers() -> Result<Vec<Barrier>, NetworkError> {
    let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0);
    let question = NfTablesMessage::GetChain(ChainMessage { attributes: vec![] });
    let message = NetfilterMessage::new(header, NetfilterMessageInner::NfTables(question));
    let replies = Conversation::open(NETLINK_NETFILTER)
        .and_then(|mut conversation| conversation.list(message))
        .map_err(NetworkError::ListChains)?;
    let chains = replies.into_iter().filter_map(|reply| match reply.inner {
        NetfilterMessageInner::NfTables(NfTablesMessage::NewChain(chain)) => barrier(&chain.attributes),
        _ => None,
    });
    Ok(chains.collect())
}

fn barrier(attributes: &[ChainAttribute]) -> Option<Barrier> {
    let mut barrier = Barrier { table: String::new(), chain: String::new() };
    let (mut drops, mut forwards) = (false, false);
    for attribute in attributes {
        match attribute {
            ChainAttribute::Table(name) => barrier.table.clone_from(name),
            ChainAttribute::Name(name) => barrier.chain.clone_from(name),
            ChainAttribute::Policy(policy) => drops = *policy == DROP,
            ChainAttribute::Hook(hook) => forwards = hook.contains(&Hook::Number(InetHookNumber::Forward.into())),
            _ => {}
        }
    }
    (drops && forwards).then_some(barrier)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_drops_forwarded_packets_is_a_barrier() {
        let chain = |policy, hook: InetHookNumber| {
            barrier(&[
                ChainAttribute::Table("filter".into()),
                ChainAttribute::Name("FORWARD".into()),
                ChainAttribute::Policy(policy),
                ChainAttribute::Hook(vec![Hook::Priority(0), Hook::Number(hook.into())]),
            ])
        };
        let found = chain(DROP, InetHookNumber::Forward).unwrap();
        assert_eq!((found.table.as_str(), found.chain.as_str()), ("filter", "FORWARD"));
        assert_eq!(chain(1, InetHookNumber::Forward), None);
        assert_eq!(chain(DROP, InetHookNumber::PostRouting), None);
    }
}
