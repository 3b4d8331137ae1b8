//! Devices that several may have at once: what of its capacity each takes. Pure. API reference, CapacityRequestPolicy.
use super::pool::Device;
use super::request::{Wish, short};
use api::quantity::Quantity;
use k8s_openapi::api::resource::v1::CapacityRequestPolicy;
use std::collections::BTreeMap;

/// What is taken of each capacity of a device, by its name.
pub(super) type Share = BTreeMap<String, Quantity>;

/// What a wish takes of a device: of every capacity something. `None` if the device is never given in such shares.
pub(super) fn share(wish: &Wish<'_>, device: &Device) -> Option<Share> {
    // What a device does not have it has nothing of.
    if !wish.is_large_enough(device) {
        return None;
    }
    let each = device.capacity.iter().map(|(name, whole)| {
        let of_name = |(asked, amount): (&&str, &Quantity)| {
            (*asked == name || short(asked, device) == Some(name.as_str())).then_some(*amount)
        };
        let wanted = wish.capacity.iter().find_map(of_name);
        Some((name.clone(), amount(wanted, *whole, device.policies.get(name))?))
    });
    each.collect()
}

fn amount(wanted: Option<Quantity>, whole: Quantity, policy: Option<&CapacityRequestPolicy>) -> Option<Quantity> {
    let parse = |text: &str| Quantity::parse(text).ok();
    let amount = match (wanted, policy) {
        (None, None) => whole,
        (None, Some(policy)) => policy.default.as_ref().and_then(|own| parse(&own.0)).unwrap_or(whole),
        (Some(wanted), None) => wanted,
        (Some(wanted), Some(policy)) => {
            let values = policy.valid_values.iter().flatten().filter_map(|own| parse(&own.0));
            if let Some(range) = &policy.valid_range {
                let max = range.max.as_ref().and_then(|own| parse(&own.0));
                let step = range.step.as_ref().and_then(|own| parse(&own.0));
                let amount = stepped(wanted, parse(&range.min.0).unwrap_or(Quantity::ZERO), step);
                if max.is_some_and(|max| amount > max) {
                    return None;
                }
                amount
            } else if policy.valid_values.as_ref().is_some_and(|all| !all.is_empty()) {
                values.filter(|own| *own >= wanted).min()?
            } else {
                wanted
            }
        }
    };
    (amount <= whole).then_some(amount)
}

/// The smallest of min, min + step, min + 2 * step ... that is enough.
fn stepped(wanted: Quantity, min: Quantity, step: Option<Quantity>) -> Quantity {
    if wanted <= min {
        return min;
    }
    let Some(step) = step.map(Quantity::nano).filter(|step| *step > 0) else { return wanted };
    let beyond = wanted.minus(min).nano();
    match beyond % step {
        0 => wanted,
        rest => wanted.plus(Quantity::from_nano(step - rest)),
    }
}

/// Adds a share to what is taken.
pub(super) fn add(taken: &mut Share, share: &Share) {
    for (name, amount) in share {
        let own = taken.entry(name.clone()).or_insert(Quantity::ZERO);
        *own = own.plus(*amount);
    }
}

/// Whether a device has room for what is taken.
pub(super) fn fits(taken: &Share, device: &Device) -> bool {
    taken.iter().all(|(name, amount)| device.capacity.get(name).is_none_or(|whole| amount <= whole))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, from_value, json};

    fn of(wanted: Option<&str>, policy: Value) -> Option<String> {
        let policy: Option<CapacityRequestPolicy> = from_value(policy).unwrap();
        let quantity = |text: &str| Quantity::parse(text).unwrap();
        amount(wanted.map(quantity), quantity("8Gi"), policy.as_ref()).map(|amount| amount.to_string())
    }

    #[test]
    fn a_request_takes_what_the_policy_makes_of_it() {
        let values = json!({"default": "1Gi", "validValues": ["1Gi", "2Gi", "6Gi"]});
        let range = json!({"default": "1Gi", "validRange": {"min": "1Gi", "max": "5Gi", "step": "2Gi"}});
        let open = json!({"default": "1Gi", "validRange": {"min": "1Gi"}});
        for (wanted, policy, want) in [
            (None, Value::Null, Some("8Gi")),
            (Some("3Gi"), Value::Null, Some("3Gi")),
            (Some("9Gi"), Value::Null, None),
            (None, json!({"default": "2Gi"}), Some("2Gi")),
            (None, json!({}), Some("8Gi")),
            (None, values.clone(), Some("1Gi")),
            (Some("512Mi"), values.clone(), Some("1Gi")),
            (Some("3Gi"), values.clone(), Some("6Gi")),
            (Some("7Gi"), values, None),
            (Some("1Mi"), range.clone(), Some("1Gi")),
            (Some("3Gi"), range.clone(), Some("3Gi")),
            (Some("3500Mi"), range.clone(), Some("5Gi")),
            (Some("6Gi"), range, None),
            (Some("7Gi"), open.clone(), Some("7Gi")),
            (Some("9Gi"), open, None),
        ] {
            assert_eq!(of(wanted, policy.clone()).as_deref(), want, "{wanted:?} {policy}");
        }
    }
}
