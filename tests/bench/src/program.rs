//! Loads the BPF programs of the benchmark: `tests/ebpf/src/bench.rs`.

use anyhow::{Context, Result};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, DevMap},
    programs::{SchedClassifier, TcAttachType, Xdp, XdpMode},
};
use tests_engine::bpf::object_path;
use tests_kit::frame::Frame;

use super::{
    case::Case,
    scene::{
        self, Arrival, IN, MEDIA_PORT, OUT, PUBLISHER_PORT, RECEIVER_INTERFACE, RECEIVER_MAC, SERVER_OUT_MAC, Scene,
        VIEWER_PORT,
    },
};

/// What stands in for the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// Drops the load.
    Drop,
    /// Fans it out as it is.
    Limit,
}

/// Loads everything, with maps for this case.
///
/// # Errors
/// Without root, without a built object.
pub fn load(case: &Case) -> Result<Ebpf> {
    let path = object_path().with_file_name("penstock-bench");
    let object =
        std::fs::read(&path).with_context(|| format!("{}: run `cargo xtask build-ebpf` first", path.display()))?;
    EbpfLoader::new()
        .override_global("MEDIA_PORT", &MEDIA_PORT, true)
        .override_global("PUBLISHER_PORT", &PUBLISHER_PORT, true)
        .override_global("VIEWER_PORT", &VIEWER_PORT, true)
        .override_global("VIEWERS", &case.viewers, true)
        .override_global("WINDOW", &case.window(), true)
        .map_max_entries("LIMIT", case.viewers)
        .map_max_entries("RECEIVED", case.all_viewers())
        .map_max_entries("SENT", case.streams * case.window())
        .load(&object)
        .with_context(|| path.display().to_string())
}

/// Puts a program where the server would be. It stays as long as the object lives.
///
/// # Errors
/// What the kernel says.
pub fn stand_in(scene: &Scene, case: &Case, server: Server) -> Result<Ebpf> {
    let mut ebpf = load(case)?;
    let (inside, outside) = (scene.server.ifindex(IN)?, scene.server.ifindex(OUT)?);
    scene.server.run(|| {
        if server == Server::Limit {
            let egress = xdp(&mut ebpf, "bench_limit_egress")?.fd()?.try_clone()?;
            let mut limit: DevMap<_> = ebpf.map_mut("LIMIT").context("LIMIT")?.try_into()?;
            for viewer in 0..case.viewers {
                limit.set(viewer, outside, Some(&egress), 0)?;
            }
            let mut template: Array<_, [u8; 42]> = ebpf.map_mut("TEMPLATE").context("TEMPLATE")?.try_into()?;
            template.set(0, headers(case)?, 0)?;
            // A device sends redirected frames only while it has a program itself.
            xdp(&mut ebpf, "bench_drop")?.attach_to_if_index(outside, XdpMode::Driver)?;
        }
        let name = if server == Server::Limit { "bench_limit" } else { "bench_drop" };
        xdp(&mut ebpf, name)?.attach_to_if_index(inside, XdpMode::Driver).context(name)?;
        Ok::<_, anyhow::Error>(())
    })?;
    Ok(ebpf)
}

/// Headers of a copy, up to UDP.
fn headers(case: &Case) -> Result<[u8; 42]> {
    let sealed = scene::HEADER + case.payload + tests_kit::srtp::TAG;
    let mut frame = Frame::new(scene::locals()[1], scene::viewer(0), vec![0; sealed]);
    (frame.destination_mac, frame.source_mac) = (RECEIVER_MAC, SERVER_OUT_MAC);
    let mut headers: [u8; 42] = *frame.build().first_chunk().context("a frame is longer than its headers")?;
    // No UDP checksum.
    headers[40..].fill(0);
    Ok(headers)
}

/// Puts a counting program at the receivers' end.
///
/// # Errors
/// What the kernel says.
pub fn receive(scene: &Scene, ebpf: &mut Ebpf, arrival: Arrival) -> Result<()> {
    let interface = scene.receivers.ifindex(RECEIVER_INTERFACE)?;
    scene.receivers.run(|| {
        if arrival == Arrival::Xdp {
            xdp(ebpf, "bench_count")?.attach_to_if_index(interface, XdpMode::Driver).context("bench_count")?;
        } else {
            let program = ebpf.program_mut("bench_count_tc").context("bench_count_tc")?;
            let program: &mut SchedClassifier = program.try_into()?;
            program.load()?;
            program.attach(RECEIVER_INTERFACE, TcAttachType::Ingress).context("bench_count_tc")?;
        }
        Ok(())
    })
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program: &mut Xdp = ebpf.program_mut(name).with_context(|| name.to_owned())?.try_into()?;
    program.load().with_context(|| name.to_owned())?;
    Ok(program)
}
