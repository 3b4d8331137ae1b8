//! Cluster fixture and scenarios, driving the binary over the wire.
//! Never uses an in-house crate.
//! Start reading at `tests/walkthrough.rs`.

pub mod api;
pub mod client;
pub mod cluster;
pub mod devices;
pub mod dra;
pub mod driver;
mod grpc;
pub mod machine;
pub mod neighbour;
pub mod shared;
pub mod wire;

/// Ends a test early when the machine lacks something; the reason is printed and counted by `hack/test`.
#[macro_export]
macro_rules! need {
    ($check:expr) => {
        if let Err(reason) = $check {
            println!("skipped: {reason}");
            return;
        }
    };
}
