//! The network as pods and clients meet it, line by line of Kubernetes' conformance tests (release 1.37): names, endpoints,
//! Services. One shared server, a namespace per test. A test's name begins with the numbers of the lines that it covers;
//! `hack/conformance` counts.

mod endpoints;
mod names;
mod reach;
mod scene;
mod services;
