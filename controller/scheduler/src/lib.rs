//! Chooses a node for every pod that has none: snapshot + pod -> decision, and one driver that binds.
//! Never reads a store, never starts a container, never decides with a clock in hand.
//! Start reading at `driver`.
pub mod amounts;
pub mod budget;
pub mod capacity;
mod claims;
mod class;
mod counts;
pub mod decide;
pub mod devices;
pub mod driver;
mod filter;
pub mod gang;
pub mod group;
mod hint;
mod memo;
pub mod metrics;
pub mod node;
pub mod pod;
pub mod preempt;
pub mod profile;
pub mod queue;
mod record;
mod relation;
mod score;
pub mod settings;
pub mod snapshot;
pub mod terms;
pub mod volumes;
mod write;

pub use driver::{Config, run};
