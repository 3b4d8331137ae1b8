//! Devices of drivers (dynamic resource allocation): drivers register here, are told to prepare the claims of pods before
//! their containers start, and to take that back when the pods have ended. Kubernetes documentation, "Dynamic Resource
//! Allocation"; the protocol is the kubelet's `dra/v1`. Start reading at `drivers`, then `prepare`.

mod drivers;
mod message;
mod prepare;
mod record;
mod unprepare;
mod wipe;

pub(crate) use drivers::{DeviceDrivers, KIND, forget, register};
pub(crate) use prepare::{devices, prepare};
pub(crate) use record::has_any;
pub(crate) use unprepare::unprepare;
pub(crate) use wipe::run;
