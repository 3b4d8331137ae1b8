//! Host ports: two pods of a node cannot have the same one, unless on different addresses.
use crate::node::Taken;
use crate::pod::Shape;

const ANY_ADDRESS: &str = "0.0.0.0";

pub(super) fn conflict(taken: &Taken, pod: &Shape) -> bool {
    pod.load.host_ports.iter().any(|(address, protocol, number)| {
        taken.host_ports.iter().any(|(used_address, used_protocol, used_number)| {
            number == used_number
                && protocol == used_protocol
                && (address == used_address || **address == *ANY_ADDRESS || **used_address == *ANY_ADDRESS)
        })
    })
}
