//! What every side must compute alike: names, quantities, selectors, a pod's requests and QoS, YAML.
//! Never does IO, never knows tokio, HTTP or a client.
//! Start reading at `quantity` and `selector`.
pub mod address;
pub mod affinity;
pub mod causes;
pub mod device_taint;
pub mod disruption;
pub mod event;
pub mod exposition;
pub mod field;
pub mod indexes;
pub mod join_token;
pub mod name;
pub mod pod;
pub mod quantity;
pub mod quota;
pub mod resource_claim;
pub mod schedule;
pub mod selector;
pub mod toleration;
pub mod volume;
pub mod well_known;
pub mod yaml;
