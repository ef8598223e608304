//! Quantities: `500m`, `1.5`, `64Mi`, `1e3`.
//!
//! Owns parsing, comparison and the canonical form, in exact integers: an [`Amount`] counts
//! billionths. A finer number is rounded away from zero, as Kubernetes does, so that a request is
//! never understated.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

const NANO: i128 = 1_000_000_000;
/// Longest text read as a quantity; real ones have a dozen characters.
const MAX_LEN: usize = 64;

/// Suffixes in steps of a thousand from 10^-9.
const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
/// Suffixes in steps of 1024 from 1024^1.
const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/// How a quantity was written, which its canonical form keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// `1500m`, `2k`
    Decimal,
    /// `64Mi`
    Binary,
    /// `1e3`
    Exponent,
}

/// Why a text is no quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not of the form number, suffix.
    #[error("must be a number with an optional suffix, such as 500m, 1.5, 64Mi or 1e3")]
    Malformed,
    /// Beyond 2^63-1 in magnitude.
    #[error("is too large: the largest quantity is 9223372036854775807")]
    TooLarge,
}

/// A number of something, exact to a billionth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Amount {
    nano: i128,
    format: Format,
}

impl Amount {
    /// Reads the Kubernetes notation.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        if text.len() > MAX_LEN {
            return Err(QuantityError::Malformed);
        }
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || whole.len() + fraction.len() == 0 {
            return Err(QuantityError::Malformed);
        }
        let (unit, format) = parse_suffix(suffix)?;
        let nano = scale(whole.trim_start_matches('0'), fraction.trim_end_matches('0'), unit)?;
        if nano > i128::from(i64::MAX) * NANO {
            return Err(QuantityError::TooLarge);
        }
        Ok(Self { nano: if negative { -nano } else { nano }, format })
    }

    /// A number of thousandths, as CPU time is counted.
    pub fn from_milli(milli: i64) -> Self {
        Self { nano: i128::from(milli) * (NANO / 1000), format: Format::Decimal }
    }

    /// A number of bytes.
    pub fn from_bytes(bytes: i64) -> Self {
        Self { nano: i128::from(bytes) * NANO, format: Format::Binary }
    }

    /// In billionths.
    pub fn nano(self) -> i128 {
        self.nano
    }

    /// In thousandths, rounded up; the largest `i64` stands for anything larger.
    pub fn milli(self) -> i64 {
        saturate(ceil_div(self.nano, NANO / 1000))
    }

    /// In units, rounded up.
    pub fn units(self) -> i64 {
        saturate(ceil_div(self.nano, NANO))
    }
}

impl PartialOrd for Amount {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Amount {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // The format only breaks ties, so that equal in order means equal.
        (self.nano, self.format as u8).cmp(&(other.nano, other.format as u8))
    }
}

/// The canonical form: no fraction, the largest suffix that loses nothing.
impl std::fmt::Display for Amount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.nano == 0 {
            return f.write_str("0");
        }
        if self.format == Format::Binary && self.nano % NANO == 0 {
            let (mut value, mut power) = (self.nano / NANO, 0);
            while value % 1024 == 0 && power < BINARY.len() {
                value /= 1024;
                power += 1;
            }
            return write!(f, "{value}{}", if power == 0 { "" } else { BINARY[power - 1] });
        }
        let (mut value, mut power) = (self.nano, 0);
        while value % 1000 == 0 && power < DECIMAL.len() - 1 {
            value /= 1000;
            power += 1;
        }
        match self.format {
            Format::Exponent if power != 3 => write!(f, "{value}e{}", power as i32 * 3 - 9),
            _ => write!(f, "{value}{}", DECIMAL[power]),
        }
    }
}

/// What a suffix multiplies with.
enum Unit {
    /// A power of ten.
    Ten(i32),
    /// A power of two.
    Two(u32),
}

fn parse_suffix(suffix: &str) -> Result<(Unit, Format), QuantityError> {
    if let Some(i) = DECIMAL.iter().position(|s| *s == suffix) {
        return Ok((Unit::Ten(i as i32 * 3 - 9), Format::Decimal));
    }
    if let Some(i) = BINARY.iter().position(|s| *s == suffix) {
        return Ok((Unit::Two((i as u32 + 1) * 10), Format::Binary));
    }
    let exponent = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError::Malformed)?;
    let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(QuantityError::Malformed);
    }
    // Too many digits for an i32 decide the result like any large exponent does.
    let power = exponent.parse().unwrap_or(if exponent.starts_with('-') { i32::MIN / 2 } else { i32::MAX / 2 });
    Ok((Unit::Ten(power), Format::Exponent))
}

/// `whole.fraction` times the unit, in billionths, rounded up. Digits only, without outer zeros.
fn scale(whole: &str, fraction: &str, unit: Unit) -> Result<i128, QuantityError> {
    let mut mantissa = 0_i128;
    for digit in whole.bytes().chain(fraction.bytes()) {
        let next = mantissa.checked_mul(10).and_then(|m| m.checked_add(i128::from(digit - b'0')));
        mantissa = next.ok_or(QuantityError::TooLarge)?;
    }
    if mantissa == 0 {
        return Ok(0);
    }
    let power = match unit {
        Unit::Ten(power) => power.saturating_add(9),
        Unit::Two(bits) => {
            mantissa = mantissa.checked_mul(1 << bits).ok_or(QuantityError::TooLarge)?;
            9
        }
    }
    .saturating_sub(fraction.len() as i32);
    let factor = |p: i32| 10_i128.checked_pow(p.unsigned_abs());
    if power >= 0 {
        factor(power).and_then(|f| mantissa.checked_mul(f)).ok_or(QuantityError::TooLarge)
    } else {
        // A divisor beyond i128 exceeds any mantissa: what is left rounds up to one billionth.
        Ok(factor(power).map_or(1, |f| ceil_div(mantissa, f)))
    }
}

fn ceil_div(value: i128, by: i128) -> i128 {
    value.div_euclid(by) + i128::from(value.rem_euclid(by) != 0)
}

fn saturate(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

/// Thousandths, rounded up. `None` if it is no quantity.
pub fn milli(quantity: &Quantity) -> Option<i64> {
    Amount::parse(&quantity.0).ok().map(Amount::milli)
}

/// Units such as bytes or pods, rounded up. `None` if it is no quantity.
pub fn bytes(quantity: &Quantity) -> Option<i64> {
    Amount::parse(&quantity.0).ok().map(Amount::units)
}

/// A number of thousandths of a core: `500m`, `2`.
pub fn from_milli(milli: i64) -> Quantity {
    Quantity(Amount::from_milli(milli).to_string())
}

/// A number of bytes: `64Mi`, `1500`.
pub fn from_bytes(bytes: i64) -> Quantity {
    Quantity(Amount::from_bytes(bytes).to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, nano: i128, canonical: &str) {
        let amount = Amount::parse(text).unwrap();
        assert_eq!(amount.nano(), nano, "{text}");
        assert_eq!(amount.to_string(), canonical, "{text}");
    }

    #[test]
    fn quantities_are_read_exactly_and_written_in_canonical_form() {
        check("0", 0, "0");
        check("-0.0", 0, "0");
        check("1.5", 3 * NANO / 2, "1500m");
        check("1500m", 3 * NANO / 2, "1500m");
        check("2000m", 2 * NANO, "2");
        check("1000", 1000 * NANO, "1k");
        check(".5", NANO / 2, "500m");
        check("5.", 5 * NANO, "5");
        check("+1", NANO, "1");
        check("-1500m", -3 * NANO / 2, "-1500m");
        check("1.5Gi", (3 << 29) * NANO, "1536Mi");
        check("1024Mi", (1 << 30) * NANO, "1Gi");
        check("0.5Ki", 512 * NANO, "512");
        check("1e3", 1000 * NANO, "1e3");
        check("1E3", 1000 * NANO, "1e3");
        check("15e2", 1500 * NANO, "1500");
        check("5e-1", NANO / 2, "500e-3");
        check("1E", NANO.pow(3), "1E");
        check("100n", 100, "100n");
        check("0.1n", 1, "1n");
        check("-0.1n", -1, "-1n");
        check("1e-99999999999", 1, "1e-9");
        check("7Ei", (7 << 60) * NANO, "7Ei");
        check("000000000000000000000000000000000000000000000000001", NANO, "1");
    }

    #[test]
    fn what_is_no_quantity_is_refused_with_a_sentence() {
        for text in ["", "x", "1x", "1 Mi", "1mi", "1KI", "1.2.3", ".", "-", "e3", "1e", "1e+", "0x10", "1_000", "١"] {
            assert_eq!(Amount::parse(text), Err(QuantityError::Malformed), "{text}");
        }
        for text in
            ["9223372036854775808", "8Ei", "1e19", "1e999999999999", "9999999999999999999999999999999999999999E"]
        {
            assert_eq!(Amount::parse(text), Err(QuantityError::TooLarge), "{text}");
        }
        assert!(QuantityError::Malformed.to_string().contains("such as 500m"));
    }

    #[test]
    fn conversions_round_up() {
        let q = |text: &str| Quantity(text.into());
        assert_eq!(milli(&q("100u")), Some(1));
        assert_eq!(milli(&q("-100u")), Some(0));
        assert_eq!(milli(&q("2")), Some(2000));
        assert_eq!(milli(&q("7Ei")), Some(i64::MAX));
        assert_eq!(bytes(&q("1m")), Some(1));
        assert_eq!(bytes(&q("64Mi")), Some(64 << 20));
        assert_eq!(bytes(&q("lots")), None);
        assert_eq!(from_milli(250).0, "250m");
        assert_eq!(from_bytes(3 << 30).0, "3Gi");
    }

    proptest! {
        #[test]
        fn the_canonical_form_reads_back_as_the_same_amount(
            value in any::<i64>(), suffix in proptest::sample::select(vec!["n", "u", "m", "", "k", "Ki", "Mi", "e-3", "e2"]),
        ) {
            if let Ok(amount) = Amount::parse(&format!("{value}{suffix}")) {
                let canonical = amount.to_string();
                let again = Amount::parse(&canonical).unwrap();
                prop_assert_eq!(again.nano(), amount.nano(), "{}", &canonical);
                prop_assert_eq!(again.to_string(), canonical);
            }
        }

        #[test]
        fn milli_and_bytes_survive_the_round_trip(value in any::<i32>()) {
            prop_assert_eq!(milli(&from_milli(value.into())), Some(value.into()));
            prop_assert_eq!(bytes(&from_bytes(value.into())), Some(value.into()));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[-+0-9.eEkKmMiGn]{0,70}|\\PC{0,20}") {
            let _ = Amount::parse(&text);
        }
    }
}
