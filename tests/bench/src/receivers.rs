//! All viewers: a BPF program that counts their packets, times some of them, and drops them.

use std::{
    os::fd::{AsFd as _, AsRawFd as _},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use aya::{
    Ebpf,
    maps::{Map, MapData, PerCpuArray},
};
use memmap2::{MmapOptions, MmapRaw};

use super::{
    case::Case,
    program,
    scene::{Arrival, Scene},
};

/// Buckets of a histogram: eight for each power of two.
const BUCKETS: usize = 512;

/// The receivers' end.
pub struct Receivers {
    /// With the programs and their links.
    _ebpf: Ebpf,
    received: PerCpuArray<MapData, u64>,
    latency: PerCpuArray<MapData, u64>,
    viewers: u32,
    pub times: SentTimes,
    /// Of the map behind `times`, for another process.
    pub times_map: u32,
}

impl Receivers {
    /// Attaches it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn start(scene: &Scene, case: &Case, arrival: Arrival) -> Result<Self> {
        let mut ebpf = program::load(case)?;
        program::receive(scene, &mut ebpf, arrival)?;
        let mut take = |name| ebpf.take_map(name).with_context(|| format!("the object has no map {name}"));
        let (received, latency, sent) = (take("RECEIVED")?, take("LATENCY")?, take("SENT")?);
        let Map::Array(sent) = sent else { anyhow::bail!("SENT is no array") };
        Ok(Self {
            received: received.try_into()?,
            latency: latency.try_into()?,
            viewers: case.all_viewers(),
            times_map: sent.info()?.id(),
            times: SentTimes::map(&sent, case)?,
            _ebpf: ebpf,
        })
    }

    /// Packets that came so far, by viewer.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn counts(&self) -> Result<Vec<u64>> {
        (0..self.viewers).map(|viewer| Ok(self.received.get(&viewer, 0)?.iter().sum())).collect()
    }

    /// Times that sampled copies took, since the start.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn latency(&self) -> Result<Histogram> {
        let buckets = (0..BUCKETS as u32).map(|bucket| Ok(self.latency.get(&bucket, 0)?.iter().sum()));
        Ok(Histogram(buckets.collect::<Result<_>>()?))
    }
}

/// When packets were sent, in memory that the receivers' program reads.
#[derive(Clone)]
pub struct SentTimes {
    memory: Arc<MmapRaw>,
    window: usize,
}

impl SentTimes {
    fn map(map: &MapData, case: &Case) -> Result<Self> {
        let window = case.window() as usize;
        let len = window * case.streams as usize * size_of::<u64>();
        let memory = MmapOptions::new().len(len).map_raw(map.fd().as_fd().as_raw_fd()).context("mapping SENT")?;
        Ok(Self { memory: Arc::new(memory), window })
    }

    /// The same memory, from another process.
    ///
    /// # Errors
    /// No such map.
    pub fn open(id: u32, case: &Case) -> Result<Self> {
        Self::map(&MapData::from_id(id)?, case)
    }

    /// A packet is sent now.
    pub fn note(&self, stream: u32, index: u64) {
        let place = stream as usize * self.window + index as usize % self.window;
        if (place + 1) * size_of::<u64>() <= self.memory.len() {
            // SAFETY: the place lies within the mapping, which is aligned to pages; nobody takes plain
            // references to it.
            let cell = unsafe { AtomicU64::from_ptr(self.memory.as_mut_ptr().cast::<u64>().add(place)) };
            cell.store(monotonic_ns(), Relaxed);
        }
    }
}

/// The clock of `bpf_ktime_get_ns`.
fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid place for a timespec. The call cannot fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Samples by bucket; each is an eighth of a power of two wide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram(pub Vec<u64>);

impl Default for Histogram {
    fn default() -> Self {
        Self(vec![0; BUCKETS])
    }
}

impl Histogram {
    /// Adds a sample in ns, into the bucket in which the receivers' program puts it.
    pub fn add(&mut self, ns: u64) {
        let exponent = ns.max(8).ilog2();
        let bucket = exponent as usize * 8 + (ns.max(8) >> (exponent - 3) & 7) as usize;
        if let Some(samples) = self.0.get_mut(bucket) {
            *samples += 1;
        }
    }

    /// What came since `before`.
    pub fn since(&self, before: &Self) -> Self {
        Self(self.0.iter().zip(&before.0).map(|(now, before)| now - before).collect())
    }

    /// The time within which this part of all samples lies, to an eighth of itself. `None`: no samples.
    pub fn quantile(&self, part: f64) -> Option<Duration> {
        let wanted = (self.0.iter().sum::<u64>() as f64 * part).ceil() as u64;
        let mut seen = 0;
        let bucket = self.0.iter().position(|samples| {
            seen += samples;
            seen >= wanted && wanted > 0
        })?;
        let (exponent, eighth) = (bucket as u32 / 8, bucket as u64 % 8);
        Some(Duration::from_nanos((9 + eighth) << exponent.saturating_sub(3).min(60)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_the_upper_ends_of_buckets() {
        let mut samples = Histogram::default();
        assert_eq!(samples.quantile(0.5), None);
        // 1,024 to 1,151 ns, and 1,048,576 to 1,179,647 ns.
        samples.0[80] = 99;
        samples.0[160] = 1;
        assert_eq!(samples.quantile(0.5), Some(Duration::from_nanos(1152)));
        assert_eq!(samples.quantile(0.99), Some(Duration::from_nanos(1152)));
        assert_eq!(samples.quantile(1.0), Some(Duration::from_nanos(1_179_648)));
    }

    #[test]
    fn samples_lie_in_their_buckets() {
        for ns in [8, 100, 1024, 1151, 1152, 5_000_000, 1 << 40] {
            let mut samples = Histogram::default();
            samples.add(ns);
            let end = samples.quantile(1.0).unwrap().as_nanos() as u64;
            assert!(end > ns && end <= ns + ns / 8 + 1, "{ns}: {end}");
        }
    }
}
