//! ResourceQuotas: their status says what is used. The API server charges what is stored; here everything is counted
//! anew when a quota changes and when something that it limits is gone, by the same rules (`api::quota`).
mod apply;
mod plan;

pub(crate) use apply::{QuotaFacts, Reconciler, start};
