//! What came to each viewer's port, counted in BPF, so that hundreds of viewers cost next to nothing: RTP
//! that nobody opens ends there, the rest goes on to their WebRTC stacks.

use anyhow::{Context, Result};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, MapData},
    programs::{Xdp, XdpMode},
};
use tests_engine::bpf::object_path;
use tests_kit::netns::NetNs;

/// Of RTP, without extensions.
const HEADER: usize = 12;

/// As in `tests/ebpf/src/bench.rs`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Port {
    wanted: u64,
    packets: u64,
    media: u64,
}

// SAFETY: numbers only, without padding.
unsafe impl Pod for Port {}

/// The program at the viewers' interface. Dropping it removes it.
pub struct Ports {
    _ebpf: Ebpf,
    ports: Array<MapData, Port>,
}

/// What came to a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// RTP of any kind.
    pub packets: u64,
    /// Packets that are as long as those of the load: parameter sets, which servers put between them, are shorter.
    pub media: u64,
}

impl Ports {
    /// Attaches it, for packets of a load with so many bytes of RTP payload.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn attach(namespace: &NetNs, interface: &str, payload: usize) -> Result<Self> {
        let path = object_path().with_file_name("penstock-bench");
        let object =
            std::fs::read(&path).with_context(|| format!("{}: run `cargo xtask build-ebpf` first", path.display()))?;
        let shortest = u16::try_from(HEADER + payload)?;
        let mut ebpf = EbpfLoader::new()
            .override_global("MEDIA_LEN", &shortest, true)
            .load(&object)
            .with_context(|| path.display().to_string())?;
        let ports = ebpf.take_map("PORTS").context("PORTS")?.try_into()?;
        let program: &mut Xdp = ebpf.program_mut("bench_watch").context("bench_watch")?.try_into()?;
        program.load().context("bench_watch")?;
        let index = namespace.ifindex(interface)?;
        namespace.run(|| program.attach_to_if_index(index, XdpMode::Driver)).context("bench_watch")?;
        Ok(Self { _ebpf: ebpf, ports })
    }

    /// Lets RTP to a port pass.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn want(&mut self, port: u16) -> Result<()> {
        let now = self.ports.get(&port.into(), 0)?;
        Ok(self.ports.set(u32::from(port), Port { wanted: 1, ..now }, 0)?)
    }

    /// What came so far.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn count(&self, port: u16) -> Result<Count> {
        let Port { packets, media, .. } = self.ports.get(&port.into(), 0)?;
        Ok(Count { packets, media })
    }
}
