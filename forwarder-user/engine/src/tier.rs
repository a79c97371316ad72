//! Which of its ways a server can go, and what each costs: said at start, by `penstock doctor` and by the API.

use std::fmt;

use serde::Serialize;

/// What carries the media wherever it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// The kernel engine, with all of its programs.
    Full,
    /// The kernel engine, whose packets with one viewer go the way of those with many.
    WithoutShortWay,
    /// The userspace engine, sending by XDP.
    UserspaceXdp,
    /// The userspace engine, sending by sockets.
    UserspaceSockets,
}

impl Level {
    /// For people.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::WithoutShortWay => "without the short way for one viewer",
            Self::UserspaceXdp => "userspace by XDP",
            Self::UserspaceSockets => "userspace by sockets",
        }
    }

    /// CPU time of the whole machine for a copy, in µs: for a packet with one viewer, with 8, and with 64, of 1,100
    /// bytes. From docs/benchmarks.md, and so of its machine; 9.2 is no measurement of its own, but the first figure
    /// times what the long way took of the short one in decision 17.
    pub const fn cost_us(self) -> [f64; 3] {
        match self {
            Self::Full => [5.7, 2.5, 2.0],
            Self::WithoutShortWay => [9.2, 2.5, 2.0],
            Self::UserspaceXdp => [6.1, 1.2, 0.9],
            Self::UserspaceSockets => [6.2, 1.4, 2.9],
        }
    }

    /// The same as text.
    pub fn cost(self) -> String {
        let [one, eight, many] = self.cost_us();
        format!("{one} µs of CPU for a packet with one viewer, {eight} µs for a copy with 8, {many} µs with 64")
    }
}

/// A level, and why it is none above it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tier {
    /// The best that this machine gives.
    pub level: Level,
    /// `None` where nothing is amiss.
    pub why: Option<String>,
}

impl Tier {
    /// With all fields that the API shows.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "name": self.level,
            "title": self.level.title(),
            "why": self.why,
            "cost": self.level.cost(),
            "cost_us": self.level.cost_us(),
        })
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.level.title(), self.level.cost())?;
        self.why.as_ref().map_or(Ok(()), |why| write!(f, ": {why}"))
    }
}

impl Serialize for Tier {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_json().serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tier_says_what_it_costs_and_why() {
        let full = Tier { level: Level::Full, why: None };
        assert!(full.to_string().starts_with("full (5.7 µs of CPU for a packet with one viewer, "), "{full}");
        let sockets = Tier { level: Level::UserspaceSockets, why: Some("no rights".into()) };
        assert!(sockets.to_string().ends_with("2.9 µs with 64): no rights"), "{sockets}");
        let json = serde_json::to_value(&sockets).unwrap();
        assert_eq!((json["name"].as_str(), json["why"].as_str()), (Some("userspace_sockets"), Some("no rights")));
    }
}
