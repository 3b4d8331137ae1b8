//! What every side must compute alike: names, quantities, selectors, a pod's requests and QoS, YAML.
//! Never does IO, never knows tokio, HTTP or a client.
//! Start reading at `quantity` and `selector`.
