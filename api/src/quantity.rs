//! `resource.Quantity`: exact decimal numbers with the suffixes and the canonical form of Kubernetes.
use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// The family of suffixes that a quantity was written with and is printed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `m`, none, `k`, `M` ...
    DecimalSi,
    /// `Ki`, `Mi` ...
    BinarySi,
    /// `e3`, `E6`
    DecimalExponent,
}

/// An amount of a resource. Held in units of 10^-9, which is the finest step Kubernetes keeps.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nano: i128,
    format: Format,
}

/// Why a text is no quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// The text does not have the form of a quantity.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// The number part cannot be read.
    #[error("unable to parse numeric part of quantity")]
    Number,
    /// The suffix is not known.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

const NANO: i128 = 1_000_000_000;
/// Larger texts are cut to this amount, as Kubernetes does: the largest value of an int64.
const MAX_UNITS: i128 = i64::MAX as i128;
/// More digits than this cannot change the result after capping and rounding.
const MAX_DIGITS: usize = 400;

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self { nano: 0, format: Format::DecimalSi };

    /// So many billionths.
    pub fn from_nano(nano: i128) -> Self {
        Self { nano, format: Format::DecimalSi }
    }

    /// `units` whole units.
    pub fn from_units(units: i64, format: Format) -> Self {
        Self { nano: i128::from(units) * NANO, format }
    }

    /// `milli` thousandths.
    pub fn from_milli(milli: i64) -> Self {
        Self { nano: i128::from(milli) * 1_000_000, format: Format::DecimalSi }
    }

    /// Reads a quantity; see [`QuantityError`] for what is refused.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let number_end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(number_end);
        if number.len() > MAX_DIGITS {
            return Err(QuantityError::Number);
        }
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return Err(QuantityError::Format);
        }
        let (scale, format) = Scale::parse(suffix)?;
        let magnitude = scale.nano(whole, fraction);
        Ok(Self { nano: if negative { -magnitude } else { magnitude }, format })
    }

    /// The amount in 10^-9 units.
    pub fn nano(self) -> i128 {
        self.nano
    }

    /// Thousandths, rounded up (away from zero), capped to `i64`.
    pub fn milli(self) -> i64 {
        cap(divide_up(self.nano, 1_000_000))
    }

    /// Whole units, rounded up (away from zero), capped to `i64`.
    pub fn value(self) -> i64 {
        cap(divide_up(self.nano, NANO))
    }

    /// Whether the amount is nothing.
    pub fn is_zero(self) -> bool {
        self.nano == 0
    }

    /// Whether the amount is below nothing.
    pub fn is_negative(self) -> bool {
        self.nano < 0
    }

    /// Sum; keeps the format of `self` unless `self` is zero.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let format = if self.nano == 0 { other.format } else { self.format };
        Self { nano: self.nano.saturating_add(other.nano), format }
    }

    /// Difference; keeps the format of `self` unless `self` is zero.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        self.plus(Self { nano: -other.nano, format: other.format })
    }

    /// The larger of two amounts.
    #[must_use]
    pub fn larger(self, other: Self) -> Self {
        if other.nano > self.nano { other } else { self }
    }
}

fn divide_up(value: i128, by: i128) -> i128 {
    let (quotient, rest) = (value / by, value % by);
    match rest.signum() {
        1 => quotient + 1,
        -1 => quotient - 1,
        _ => quotient,
    }
}

fn cap(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

#[derive(Clone, Copy)]
enum Scale {
    Binary(u32),
    Decimal(i32),
}

impl Scale {
    fn parse(suffix: &str) -> Result<(Self, Format), QuantityError> {
        let binary = |shift| Ok((Self::Binary(shift), Format::BinarySi));
        let decimal = |power| Ok((Self::Decimal(power), Format::DecimalSi));
        match suffix {
            "" => decimal(0),
            "n" => decimal(-9),
            "u" => decimal(-6),
            "m" => decimal(-3),
            "k" => decimal(3),
            "M" => decimal(6),
            "G" => decimal(9),
            "T" => decimal(12),
            "P" => decimal(15),
            "E" => decimal(18),
            "Ki" => binary(10),
            "Mi" => binary(20),
            "Gi" => binary(30),
            "Ti" => binary(40),
            "Pi" => binary(50),
            "Ei" => binary(60),
            _ => match suffix.strip_prefix(['e', 'E']) {
                Some(exponent) if !exponent.is_empty() => {
                    let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
                    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                        return Err(QuantityError::Suffix);
                    }
                    let power: i32 = exponent.parse().map_err(|_| QuantityError::Suffix)?;
                    Ok((Self::Decimal(power), Format::DecimalExponent))
                }
                _ => {
                    let known = suffix.bytes().all(|b| b"eEinumkKMGTP+-0123456789".contains(&b));
                    Err(if known { QuantityError::Suffix } else { QuantityError::Format })
                }
            },
        }
    }

    /// `whole.fraction` times the scale in 10^-9 units, rounded up and capped.
    fn nano(self, whole: &str, fraction: &str) -> i128 {
        let most = MAX_UNITS * NANO;
        match self {
            Self::Decimal(power) => decimal_nano(whole, fraction, power).min(most),
            Self::Binary(shift) => {
                // The fraction of a binary quantity: keep twenty digits, enough for a nano after 2^60.
                let whole_units = decimal_nano(whole, "", -9);
                let whole_nano = whole_units.checked_mul((1i128 << shift) * NANO).unwrap_or(most);
                let mut numerator: i128 = 0;
                let mut denominator: i128 = 1;
                for digit in fraction.bytes().take(10) {
                    numerator = numerator * 10 + i128::from(digit - b'0');
                    denominator *= 10;
                }
                // numerator < 10^10, 2^60 * 10^9 < 10^28: the product stays below 10^38.
                let fraction_nano = numerator
                    .checked_mul((1i128 << shift) * NANO)
                    .map_or(most, |n| n / denominator + i128::from(n % denominator != 0));
                whole_nano.saturating_add(fraction_nano).min(most)
            }
        }
    }
}

/// `whole.fraction * 10^power` in 10^-9 units, rounded up; saturates well above the cap.
fn decimal_nano(whole: &str, fraction: &str, power: i32) -> i128 {
    let ceiling: i128 = MAX_UNITS * NANO * 10;
    // Position of the last kept digit: 10^-9 relative to the units after scaling.
    let keep = i64::from(power) + 9 + whole.len() as i64;
    let mut value: i128 = 0;
    let mut rest = false;
    let digits = whole.bytes().chain(fraction.bytes());
    let mut seen: i64 = 0;
    for digit in digits {
        if seen < keep {
            value = value.saturating_mul(10).saturating_add(i128::from(digit - b'0')).min(ceiling);
        } else if digit != b'0' {
            rest = true;
        }
        seen += 1;
    }
    while seen < keep && value != 0 && value < ceiling {
        value = value.saturating_mul(10).min(ceiling);
        seen += 1;
    }
    value + i128::from(rest)
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nano == other.nano
    }
}
impl Eq for Quantity {}
impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        Self::parse(text)
    }
}

impl fmt::Display for Quantity {
    /// The canonical form: the largest suffix that leaves no fraction.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nano == 0 {
            return f.write_str("0");
        }
        let binary = self.format == Format::BinarySi && self.nano.abs() >= 1024 * NANO && self.nano % NANO == 0;
        if binary {
            let mut units = self.nano / NANO;
            let mut suffix = 0;
            while units % 1024 == 0 && suffix < 6 {
                units /= 1024;
                suffix += 1;
            }
            return write!(f, "{units}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][suffix]);
        }
        let mut mantissa = self.nano;
        let mut power = -9i32;
        while mantissa % 1000 == 0 && power < 18 {
            mantissa /= 1000;
            power += 3;
        }
        if self.format == Format::DecimalExponent {
            return match power {
                0 => write!(f, "{mantissa}"),
                _ => write!(f, "{mantissa}e{power}"),
            };
        }
        let suffix = match power {
            -9 => "n",
            -6 => "u",
            -3 => "m",
            0 => "",
            3 => "k",
            6 => "M",
            9 => "G",
            12 => "T",
            15 => "P",
            _ => "E",
        };
        write!(f, "{mantissa}{suffix}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_forms() {
        for (text, want) in [
            ("0", "0"),
            ("100m", "100m"),
            ("0.1", "100m"),
            ("1000m", "1"),
            ("1.5", "1500m"),
            ("1024", "1024"),
            ("1Ki", "1Ki"),
            ("1024Ki", "1Mi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Ki", "512"),
            ("1e3", "1e3"),
            ("12e6", "12e6"),
            ("1000k", "1M"),
            ("1000000", "1M"),
            ("-5", "-5"),
            ("+5", "5"),
            (".5", "500m"),
            ("5.", "5"),
            ("1E", "1E"),
            ("0.0000000001", "1n"),
            ("100E", "9223372036854775807"),
            ("1500000", "1500k"),
            ("0.5Mi", "512Ki"),
            ("1e-3", "1e-3"),
            ("010", "10"),
        ] {
            assert_eq!(Quantity::parse(text).map(|q| q.to_string()).as_deref(), Ok(want), "{text}");
        }
    }

    #[test]
    fn refused_forms() {
        for text in ["", "-", "a", "1x", "1.2.3", "1 Gi", "1gi", "1e", "1e+", "1Kii", "0x10", "1mm", " 1", "--1", "1K"]
        {
            assert!(Quantity::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rounding_and_order() {
        let q = |s: &str| Quantity::parse(s).unwrap();
        assert_eq!(q("100m").value(), 1);
        assert_eq!(q("1u").milli(), 1);
        assert_eq!(q("1.5Gi").value(), 1_610_612_736);
        assert_eq!(q("2").milli(), 2000);
        assert!(q("1Gi") > q("1G"));
        assert_eq!(q("1"), q("1000m"));
        assert_eq!(q("1").plus(q("500m")).to_string(), "1500m");
        assert_eq!(q("1Gi").minus(q("1Mi")).to_string(), "1023Mi");
        assert_eq!(q("0").plus(q("1Gi")).to_string(), "1Gi");
    }
}
