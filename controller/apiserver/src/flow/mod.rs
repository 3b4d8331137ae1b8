//! Priority and fairness: how many requests are worked on at once, of whom, and who waits how long.
//! Each request belongs to a FlowSchema and through it to a priority level with seats of its own; within a level the
//! flows take turns. Kubernetes documentation, "API Priority and Fairness".

mod classify;
mod config;
pub(crate) mod defaults;
mod level;
mod turnstile;

use std::sync::Arc;
use std::time::Duration;

use controller_object::status::Status;
use controller_store::store::Store;
use http::{HeaderName, HeaderValue, Response};

use crate::authn::User;
use crate::authz::Action;
use crate::followed::Followed;
use config::Configuration;
use level::{Levels, Permit, Refused};
use turnstile::Turnstile;

const PREFIX: &str = "/registry/flowcontrol.apiserver.k8s.io/";
const SCHEMA_HEADER: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL_HEADER: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

/// Requests that are worked on at once, of all levels together; what Kubernetes allows by default.
const SEATS: usize = 600;
/// Who waits longer for a seat is refused.
const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// When a refused client may ask again, in seconds.
const AGAIN: u32 = 1;

/// Gives out seats.
pub(crate) struct FlowControl {
    configuration: Followed<Configuration>,
    levels: Arc<Levels>,
    turnstile: Turnstile,
}

/// A seat, and by which objects it was given; the seat is free again when this is dropped.
pub(crate) struct Seat {
    schema_uid: String,
    level_uid: String,
    _permit: Option<Permit>,
}

impl FlowControl {
    pub(crate) fn new(store: Arc<Store>) -> Self {
        Self {
            configuration: Followed::new(store, PREFIX, Configuration::read),
            levels: Arc::new(Levels::new(SEATS)),
            turnstile: Turnstile::new(),
        }
    }

    /// Waits for a seat. Refuses with 429 when the level has no room for more who wait.
    pub(crate) async fn seat(&self, user: &User, action: &Action<'_>) -> Result<Seat, Status> {
        let configuration = self.configuration.now();
        let Some(found) = classify::classify(&configuration, user, action) else {
            // Somebody took the mandatory objects away: everybody is served alike then.
            return Ok(Seat { schema_uid: String::new(), level_uid: String::new(), _permit: None });
        };
        let (schema_uid, level_uid) = (found.schema.uid.clone(), found.level.uid.clone());
        let permit = match &found.level.limits {
            None => None,
            Some(_) => {
                let flow = classify::flow(&found, user, action);
                let taken = Levels::acquire(&self.levels, &configuration, &found.level.name, flow, LONGEST_WAIT);
                let permit = taken.await.map_err(|refused| {
                    let why = match refused {
                        Refused::Full => "Too many requests, please try again later.",
                        Refused::Late => "Too many requests, please try again later. Nobody was done in time.",
                    };
                    Status::too_many_requests(why, AGAIN)
                })?;
                self.turnstile.pass().await;
                Some(permit)
            }
        };
        Ok(Seat { schema_uid, level_uid, _permit: permit })
    }
}

impl Seat {
    /// Tells the client what it was counted as.
    pub(crate) fn tell<B>(&self, response: &mut Response<B>) {
        for (name, uid) in [(SCHEMA_HEADER, &self.schema_uid), (LEVEL_HEADER, &self.level_uid)] {
            if let Ok(value) = HeaderValue::from_str(uid)
                && !uid.is_empty()
            {
                response.headers_mut().insert(name, value);
            }
        }
    }
}
