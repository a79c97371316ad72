//! The engine's counters: of the kernel engine from the server's pinned maps, without a question to the server; of a
//! server without it from its API.

use std::path::Path;

use anyhow::{Context, Result};
use aya::maps::{Array, Map, MapData, PerCpuArray};
use forwarder_common::{
    Counter,
    counter::Kind,
    maps::{Server, xdp_mode},
};
use tests_kit::server;

/// Where the counters are read.
pub enum Meter<'a> {
    /// Open maps of a running server.
    Maps {
        counters: Box<PerCpuArray<MapData, u64>>,
        server: Box<Array<MapData, Server>>,
    },
    Api(&'a server::Server),
}

/// All counters at one moment, summed over CPUs.
#[derive(Clone, Debug, Default)]
pub struct Counters(Vec<u64>);

impl<'a> Meter<'a> {
    /// Opens the maps in the server's pin directory.
    ///
    /// # Errors
    /// Without root, or when no server has pinned maps there.
    pub fn open(pins: &Path) -> Result<Self> {
        let map = |name: &str| {
            let data = MapData::from_pin(pins.join(name)).with_context(|| pins.join(name).display().to_string())?;
            Map::from_map_data(data).with_context(|| name.to_owned())
        };
        let counters: PerCpuArray<_, u64> = map("COUNTERS")?.try_into()?;
        let server: Array<_, Server> = map("SERVER")?.try_into()?;
        Ok(Meter::Maps { counters: Box::new(counters), server: Box::new(server) })
    }

    /// Engine and mode, e.g. `kernel native`.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn engine(&self) -> Result<String> {
        let server = match self {
            Meter::Maps { server, .. } => server.get(&0, 0)?,
            Meter::Api(server) => {
                let state = server.get("/api/v1/state")?;
                return Ok(state["engine"].as_str().unwrap_or("unknown").to_owned());
            }
        };
        let modes = server.ifindex.iter().zip(server.mode).filter(|(ifindex, _)| **ifindex != 0);
        let mut names: Vec<&str> = modes
            .map(|(_, mode)| match mode {
                xdp_mode::NATIVE => "native",
                xdp_mode::GENERIC => "generic",
                _ => "not attached",
            })
            .collect();
        names.dedup();
        // The server writes the entry with its first sign of life.
        Ok(if names.is_empty() { "kernel".into() } else { format!("kernel {}", names.join(" and ")) })
    }

    /// Reads all counters.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn counters(&self) -> Result<Counters> {
        match self {
            Meter::Maps { counters, .. } => {
                let sum = |counter: &Counter| Ok(counters.get(&(*counter as u32), 0)?.iter().sum());
                Counter::ALL.iter().map(sum).collect::<Result<_>>().map(Counters)
            }
            Meter::Api(server) => {
                let state = server.get("/api/v1/state")?;
                let counters = &state["counters"]["engine"];
                Ok(Counters(Counter::ALL.iter().map(|it| counters[it.name()].as_u64().unwrap_or(0)).collect()))
            }
        }
    }
}

impl Counters {
    /// One counter.
    pub fn get(&self, counter: Counter) -> u64 {
        self.0.get(counter as usize).copied().unwrap_or(0)
    }

    /// Sum of a kind.
    pub fn sum(&self, kind: Kind) -> u64 {
        Counter::ALL.iter().filter(|counter| counter.kind() == kind).map(|counter| self.get(*counter)).sum()
    }

    /// Counters of a kind that are not zero.
    pub fn named(&self, kind: Kind) -> Vec<(&'static str, u64)> {
        let of_kind = Counter::ALL.iter().filter(|counter| counter.kind() == kind);
        of_kind.map(|counter| (counter.name(), self.get(*counter))).filter(|(_, value)| *value > 0).collect()
    }
}
