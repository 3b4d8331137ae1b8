//! A number, or a percentage of a total.
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Where a share goes that is no whole number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rounding {
    Up,
    Down,
}

/// The number that is meant; what cannot be read is none.
pub(crate) fn of(value: &IntOrString, total: i32, rounding: Rounding) -> i32 {
    match value {
        IntOrString::Int(count) => (*count).max(0),
        IntOrString::String(text) => {
            let percent = text.strip_suffix('%').and_then(|digits| digits.parse::<u32>().ok());
            percent.map_or(0, |percent| percent_of(percent, total, rounding))
        }
    }
}

/// So many percent of a total.
pub(crate) fn percent_of(percent: u32, total: i32, rounding: Rounding) -> i32 {
    let product = i64::from(percent) * i64::from(total.max(0));
    let rounded = match rounding {
        Rounding::Up => (product + 99).div_euclid(100),
        Rounding::Down => product.div_euclid(100),
    };
    i32::try_from(rounded).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_rounded_as_asked() {
        let text = |text: &str| IntOrString::String(text.into());
        assert_eq!(of(&text("25%"), 10, Rounding::Up), 3);
        assert_eq!(of(&text("25%"), 10, Rounding::Down), 2);
        assert_eq!(of(&text("many"), 10, Rounding::Up), 0);
        assert_eq!(of(&IntOrString::Int(-4), 10, Rounding::Up), 0);
        assert_eq!(of(&text("100%"), i32::MAX, Rounding::Up), i32::MAX);
    }
}
