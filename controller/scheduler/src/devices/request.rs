//! What a claim asks for, request by request, and what keeps a device from one: pure.
use super::pool::Device;
use api::device_taint::{NO_EXECUTE, NO_SCHEDULE, tolerates};
use api::quantity::Quantity;
use k8s_openapi::api::resource::v1::{
    CapacityRequirements, DeviceAttribute, DeviceClaim, DeviceConstraint, DeviceRequest, DeviceSelector, DeviceTaint,
    DeviceToleration,
};
use std::collections::BTreeMap;

/// How many devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// So many.
    Exact(usize),
    /// Every one that matches.
    All,
}

/// One way to meet a request: what it says, or one of its alternatives.
#[derive(Clone, Debug)]
pub(super) struct Wish<'a> {
    /// `request` or `request/alternative`.
    pub(super) name: String,
    pub(super) class: &'a str,
    pub(super) selectors: &'a [DeviceSelector],
    pub(super) mode: Mode,
    /// For who looks after devices: it takes them from nobody.
    pub(super) is_admin: bool,
    pub(super) tolerations: &'a [DeviceToleration],
    pub(super) capacity: BTreeMap<&'a str, Quantity>,
}

/// The ways to meet one request, the preferred one first.
pub(super) type Wishes<'a> = Vec<Wish<'a>>;

fn mode(mode: Option<&str>, count: Option<i64>) -> Result<Mode, String> {
    match mode {
        None | Some("ExactCount") => Ok(Mode::Exact(usize::try_from(count.unwrap_or(1)).unwrap_or(0))),
        Some("All") => Ok(Mode::All),
        Some(other) => Err(format!("unsupported count mode {other}")),
    }
}

fn capacity(wanted: Option<&CapacityRequirements>) -> BTreeMap<&str, Quantity> {
    let all = wanted.and_then(|wanted| wanted.requests.as_ref()).into_iter().flatten();
    all.map(|(name, own)| (name.as_str(), Quantity::parse(&own.0).unwrap_or(Quantity::ZERO))).collect()
}

/// The requests of a claim; an error says which one cannot be understood, in the words of Kubernetes where it has some.
pub(super) fn requests(claim: &DeviceClaim) -> Result<Vec<Wishes<'_>>, String> {
    claim.requests.iter().flatten().map(wishes).collect()
}

fn wishes(request: &DeviceRequest) -> Result<Wishes<'_>, String> {
    let own = &request.name;
    let named = |name: &str, error: String| format!("request {name}: {error}");
    if let Some(exactly) = &request.exactly {
        if exactly.derived_attributes.as_ref().is_some_and(|all| !all.is_empty()) {
            return Err(named(own, "derivedAttributes are not supported".to_owned()));
        }
        return Ok(vec![Wish {
            name: own.clone(),
            class: &exactly.device_class_name,
            selectors: exactly.selectors.as_deref().unwrap_or_default(),
            mode: mode(exactly.allocation_mode.as_deref(), exactly.count).map_err(|error| named(own, error))?,
            is_admin: exactly.admin_access == Some(true),
            tolerations: exactly.tolerations.as_deref().unwrap_or_default(),
            capacity: capacity(exactly.capacity.as_ref()),
        }]);
    }
    let mut all = Vec::new();
    for part in request.first_available.iter().flatten() {
        let name = format!("{own}/{}", part.name);
        if part.derived_attributes.as_ref().is_some_and(|all| !all.is_empty()) {
            return Err(named(&name, "derivedAttributes are not supported".to_owned()));
        }
        all.push(Wish {
            class: &part.device_class_name,
            selectors: part.selectors.as_deref().unwrap_or_default(),
            mode: mode(part.allocation_mode.as_deref(), part.count).map_err(|error| named(&name, error))?,
            is_admin: false,
            tolerations: part.tolerations.as_deref().unwrap_or_default(),
            capacity: capacity(part.capacity.as_ref()),
            name,
        });
    }
    match all.is_empty() {
        true => Err(named(own, "unsupported request type".to_owned())),
        false => Ok(all),
    }
}

/// Whether the name of a request, or of its whole, is in a list; an empty list means all.
pub(super) fn is_about(requests: &[String], name: &str) -> bool {
    let whole = name.split('/').next().unwrap_or(name);
    requests.is_empty() || requests.iter().any(|own| own == name || own == whole)
}

impl Wish<'_> {
    /// Whether a device has as much as is asked for; what a device does not have it has nothing of.
    pub(super) fn is_large_enough(&self, device: &Device) -> bool {
        self.capacity.iter().all(|(name, wanted)| {
            let held =
                device.capacity.get(*name).or_else(|| short(name, device).and_then(|own| device.capacity.get(own)));
            held.is_some_and(|held| held >= wanted)
        })
    }

    /// Whether all taints are tolerated that keep others from a device.
    pub(super) fn tolerates<'t>(&self, mut taints: impl Iterator<Item = &'t DeviceTaint>) -> bool {
        taints.all(|taint| {
            let is_harmless = !matches!(taint.effect.as_str(), NO_SCHEDULE | NO_EXECUTE);
            is_harmless || self.tolerations.iter().any(|own| tolerates(own, taint))
        })
    }
}

/// A name without the domain that is the device's driver, as drivers may write it.
pub(super) fn short<'n>(name: &'n str, device: &Device) -> Option<&'n str> {
    name.split_once('/').filter(|(domain, _)| *domain == &*device.id.driver).map(|(_, own)| own)
}

fn attribute<'d>(device: &'d Device, name: &str) -> Option<&'d DeviceAttribute> {
    let all = &device.attributes;
    let found = all.get(name).or_else(|| short(name, device).and_then(|own| all.get(own)))?;
    let is_list = found.bools.is_some() || found.ints.is_some() || found.strings.is_some() || found.versions.is_some();
    // Lists are compared otherwise, which nobody here does.
    (!is_list).then_some(found)
}

/// Whether a device can be given together with those that a constraint is about already.
pub(super) fn goes_with<'d>(
    constraint: &DeviceConstraint,
    device: &Device,
    mut others: impl Iterator<Item = &'d Device>,
) -> bool {
    match (&constraint.match_attribute, &constraint.distinct_attribute) {
        (Some(name), _) => {
            let Some(own) = attribute(device, name) else { return false };
            // All that were taken so far agree.
            others.next().is_none_or(|other| attribute(other, name) == Some(own))
        }
        (None, Some(name)) => {
            let Some(own) = attribute(device, name) else { return false };
            others.all(|other| attribute(other, name) != Some(own))
        }
        // One of a kind that is not known here is not met.
        (None, None) => false,
    }
}
