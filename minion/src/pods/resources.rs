//! Quantities as the engine takes them: thousandths of a core, bytes.

use coracle_api::core::Container;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// What a container asks for, and what it is held to. 0 where it says nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a core.
    pub cpu_request_milli: i64,
    /// Thousandths of a core.
    pub cpu_limit_milli: i64,
    /// Bytes.
    pub memory_request: i64,
    /// Bytes.
    pub memory_limit: i64,
}

impl Resources {
    /// Of a container. A limit stands in for a missing request.
    pub fn of(container: &Container) -> Self {
        let resources = container.resources.as_ref();
        let read = |map: Option<&std::collections::BTreeMap<_, Quantity>>, name: &str, unit: f64| {
            let value = map.and_then(|m| m.get(name)).and_then(|q| parse(&q.0)).unwrap_or(0.0) * unit;
            value.ceil().clamp(0.0, i64::MAX as f64) as i64
        };
        let limits = resources.and_then(|r| r.limits.as_ref());
        let requests = resources.and_then(|r| r.requests.as_ref());
        let or = |request: i64, limit: i64| if request == 0 { limit } else { request };
        let (cpu_limit_milli, memory_limit) = (read(limits, "cpu", 1000.0), read(limits, "memory", 1.0));
        Self {
            cpu_request_milli: or(read(requests, "cpu", 1000.0), cpu_limit_milli),
            cpu_limit_milli,
            memory_request: or(read(requests, "memory", 1.0), memory_limit),
            memory_limit,
        }
    }

    /// Docker's relative weight: 1024 a core, 2 at least. 0 asks for the engine's default.
    pub fn cpu_shares(self) -> i64 {
        match self.cpu_request_milli {
            0 => 0,
            milli => (milli.saturating_mul(1024) / 1000).clamp(2, 262_144),
        }
    }
}

/// A quantity in thousandths, rounded up.
pub(super) fn thousandths(text: &str) -> Option<i64> {
    parse(text).map(|n| (n * 1000.0).ceil().clamp(0.0, i64::MAX as f64) as i64)
}

/// The plain number that a quantity such as `500m`, `1.5`, `64Mi` or `1e3` stands for.
fn parse(text: &str) -> Option<f64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && !"+-.".contains(c)).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let factor = match suffix {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1024f64.powi(2),
        "Gi" => 1024f64.powi(3),
        "Ti" => 1024f64.powi(4),
        "Pi" => 1024f64.powi(5),
        "Ei" => 1024f64.powi(6),
        _ => return text.parse().ok().filter(|n: &f64| n.is_finite()),
    };
    number.parse::<f64>().ok().map(|n| n * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_of_all_forms_are_read() {
        for (text, expected) in [("500m", 0.5), ("1.5", 1.5), ("64Mi", 67_108_864.0), ("1e3", 1000.0), ("2k", 2000.0)] {
            assert_eq!(parse(text), Some(expected), "{text}");
        }
        for text in ["", "m", "1x", "Mi", "nan", "inf"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn shares_follow_the_request_with_the_least_weight_of_two() {
        let shares = |milli| Resources { cpu_request_milli: milli, ..Default::default() }.cpu_shares();
        assert_eq!([shares(0), shares(1), shares(500), shares(2000)], [0, 2, 512, 2048]);
    }
}
