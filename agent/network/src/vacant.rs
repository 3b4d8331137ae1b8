//! Addresses of the node's range that no pod has: whoever asks for one is told so at once, by the kernel (EHOSTUNREACH).
//! Without it such packets left by the default route, and who waited for a pod that is gone waited for minutes: its
//! connection stays with the old address for as long as it is tried (conntrack).
use ipnet::Ipv4Net;

use crate::instance::Instance;
use crate::route::{self, Route};
use crate::{NetworkError, sandbox};

/// Makes this range, and no earlier one, unreachable where no pod's own route leads. `None` for the end of the instance.
pub(crate) fn set(instance: &Instance, range: Option<Ipv4Net>) -> Result<(), NetworkError> {
    let failed = |source| NetworkError::OwnRange { source };
    let mut host = sandbox::open()?;
    let present = route::list(&mut host, instance).map_err(failed)?;
    let wanted = range.map(|range| Route { range, gateway: None });
    let gone = present.into_iter().filter(|route| route.gateway.is_none() && Some(*route) != wanted);
    let mut requests: Vec<_> = gone.map(|route| route.remove(instance)).collect();
    requests.extend(wanted.map(|route| route.add(instance)));
    if requests.is_empty() {
        return Ok(());
    }
    let answer = host.ask(requests).map_err(failed)?;
    answer.results.into_iter().collect::<Result<(), _>>().map_err(failed)
}
