//! Loads the embedded BPF object: table sizes and constants from the configuration.

use std::thread;

use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{MapData, ProgramArray},
    programs::{Program, ProgramError, ProgramFd, Xdp},
};

use forwarder_common::maps::{KEY_CHUNK, program};

use super::{Limits, Refusal, StartError, object, verdict};
use crate::ProgramFigures;

const INGRESS: &str = "penstock_ingress";
const FORWARD: &str = "penstock_forward";
const DIRECT: &str = "penstock_direct";
const EGRESS: &str = "penstock_egress";

/// A loaded datapath. Dropping it unloads the programs, and detaches them first.
pub struct Datapath {
    ebpf: Ebpf,
    /// For the entries of fan-out devmaps.
    pub egress: ProgramFd,
    /// The programs to which ingress passes packets on. They go with it: nobody else may hold it (see [`program`]).
    _programs: ProgramArray<MapData>,
    /// Whether there is a short way for streams with one viewer, or why not.
    pub short_way: Result<(), Missing>,
}

/// Why a program is missing that the others can do without.
#[derive(Clone, Debug)]
pub struct Missing {
    /// One sentence.
    pub reason: String,
    /// If the kernel refuses it.
    pub refusal: Option<Box<Refusal>>,
}

impl From<StartError> for Missing {
    fn from(error: StartError) -> Self {
        let reason = error.to_string();
        let refusal = if let StartError::Refused(refusal) = error { Some(refusal) } else { None };
        Self { reason, refusal }
    }
}

/// Loads and verifies the programs, attaches nothing yet. `direct`: with the short way for streams with one viewer,
/// if the kernel takes it. `chunks`: most chunks of kept packets.
///
/// # Errors
/// [`StartError::Refused`] with the verifier's log where there is one, [`StartError::Load`].
pub fn load(limits: &Limits, media_port: u16, direct: bool, chunks: usize) -> Result<Datapath, StartError> {
    let mut ebpf = load_object(limits, media_port, chunks)?;
    let [ingress, egress, forward, direct] =
        verify(&mut ebpf, [Some(INGRESS), Some(EGRESS), Some(FORWARD), direct.then_some(DIRECT)]);
    ingress.and(egress).and(forward)?;
    let egress = xdp(&mut ebpf, EGRESS)?.fd().map_err(program_error)?.try_clone();
    let egress = egress.map_err(|error| StartError::Load(error.to_string()))?;
    let programs = ebpf.take_map("PROGRAMS").ok_or_else(|| StartError::Load("the object has no PROGRAMS".into()))?;
    let mut programs = ProgramArray::try_from(programs).map_err(|error| StartError::Load(describe(&error)))?;
    set_next(&mut ebpf, &mut programs, program::FORWARD, FORWARD)?;
    let short_way = direct.and_then(|()| set_next(&mut ebpf, &mut programs, program::DIRECT, DIRECT));
    Ok(Datapath { ebpf, egress, _programs: programs, short_way: short_way.map_err(Missing::from) })
}

/// Has the kernel verify these programs, each on a thread of its own: it is most of the time that a start takes.
fn verify<const N: usize>(ebpf: &mut Ebpf, names: [Option<&str>; N]) -> [Result<(), StartError>; N] {
    let mut outcomes = names.map(|name| match name {
        Some(name) => Err(StartError::Load(format!("the object has no {name}"))),
        None => Err(StartError::SwitchedOff),
    });
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for (name, program) in ebpf.programs_mut() {
            let Some(place) = names.iter().position(|wanted| *wanted == Some(name)) else { continue };
            let load = move || -> Result<(), StartError> {
                let program: &mut Xdp = program.try_into().map_err(program_error)?;
                program.load().map_err(|error| refused(name, error))
            };
            let thread = thread::Builder::new().name("penstock-load".into()).spawn_scoped(scope, load);
            threads.push((place, thread));
        }
        for (place, thread) in threads {
            let joined = thread.map_err(StartError::Thread).and_then(|thread| {
                thread.join().unwrap_or_else(|_| Err(StartError::Load("loading a program panicked".into())))
            });
            outcomes[place] = joined;
        }
    });
    outcomes
}

/// Has ingress pass packets on to a program that is loaded.
fn set_next(ebpf: &mut Ebpf, programs: &mut ProgramArray<MapData>, place: u32, name: &str) -> Result<(), StartError> {
    let next = xdp(ebpf, name)?.fd().map_err(program_error)?;
    programs.set(place, next, 0).map_err(|error| StartError::Load(describe(&error)))
}

fn load_object(limits: &Limits, media_port: u16, chunks: usize) -> Result<Ebpf, StartError> {
    let object = object::datapath()?;
    let publisher_tracks = limits.publisher_tracks as u32;
    let subscriber_tracks = limits.subscriber_tracks as u32;
    let sessions = limits.sessions as u32;
    EbpfLoader::new()
        // Twice, because a publisher that moves has both its old and its new flows for a moment.
        .map_max_entries("FLOWS", 2 * publisher_tracks)
        .map_max_entries("PUBLISHER_TRACKS", publisher_tracks)
        .map_max_entries("PUBLISHER_STATE", publisher_tracks)
        .map_max_entries("ARRIVALS", publisher_tracks)
        .map_max_entries("FANOUTS", fanout_slots(limits))
        .map_max_entries("FANOUT_LISTS", fanout_slots(limits))
        .map_max_entries("PUBLISHER_KEYSTREAMS", publisher_tracks)
        .map_max_entries("SUBSCRIBER_KEYSTREAMS", subscriber_tracks)
        .map_max_entries("WINDOWS", publisher_tracks)
        .map_max_entries("KEYSTREAM_LOW", low_bytes(limits))
        .map_max_entries("SUBSCRIBER_TRACKS", subscriber_tracks)
        .map_max_entries("SUBSCRIBER_STATE", subscriber_tracks)
        .map_max_entries("SESSIONS", sessions)
        .map_max_entries("LEASES", sessions)
        .map_max_entries("KEYS", key_chunks(limits))
        .map_max_entries("TOWERS", key_chunks(limits))
        .map_max_entries("SUBSETS", key_chunks(limits))
        .map_max_entries("PATHS", 2 * sessions)
        .map_max_entries("STORES", chunks as u32)
        .override_global("MEDIA_PORT", &media_port, true)
        .load(object)
        .map_err(|error| StartError::Load(describe(&error)))
}

/// Two fan-outs for each publisher track, used in turn, and the last one for grace periods.
pub fn fanout_slots(limits: &Limits) -> u32 {
    2 * limits.publisher_tracks as u32 + 1
}

/// Places for keys of all sessions; they have room as sessions come.
fn key_chunks(limits: &Limits) -> u32 {
    limits.sessions.div_ceil(KEY_CHUNK) as u32
}

/// A record of every publisher track fits, 24 bytes each with its header; the kernel wants a power of
/// two and whole pages.
fn low_bytes(limits: &Limits) -> u32 {
    (32 * limits.publisher_tracks as u32).next_power_of_two().max(4096)
}

impl Datapath {
    /// The ingress program.
    ///
    /// # Errors
    /// None in a loaded object.
    pub fn ingress(&mut self) -> Result<&mut Xdp, StartError> {
        xdp(&mut self.ebpf, INGRESS)
    }

    /// The object, for its log buffer.
    pub fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// What the programs have cost, while the kernel keeps statistics; nothing otherwise.
    pub fn programs(&self) -> Vec<ProgramFigures> {
        let figures = self.ebpf.programs().filter_map(|(name, program)| {
            let info = program.info().ok()?;
            let run_time_ns = info.run_time().as_nanos() as u64;
            Some(ProgramFigures { name: name.to_owned(), runs: info.run_count(), run_time_ns })
        });
        figures.filter(|program| program.runs > 0).collect()
    }

    /// Starts counting what egress devices take and drop.
    ///
    /// # Errors
    /// Why the tracepoint cannot be had: then `transmitted` and `drop_ring_full` stay 0.
    pub fn watch_transmission(&mut self) -> Result<(), String> {
        const TRACEPOINT: &str = "xdp_devmap_xmit";
        for (_, program) in self.ebpf.programs_mut() {
            let attached = match program {
                Program::RawTracePoint(program) => program.load().and_then(|()| program.attach(TRACEPOINT)).map(|_| ()),
                Program::TracePoint(program) => {
                    program.load().and_then(|()| program.attach("xdp", TRACEPOINT)).map(|_| ())
                }
                Program::BtfTracePoint(program) => {
                    let btf = Btf::from_sys_fs().map_err(|error| describe(&error))?;
                    program.load(TRACEPOINT, &btf).and_then(|()| program.attach()).map(|_| ())
                }
                _ => Ok(()),
            };
            attached.map_err(|error| describe(&error))?;
        }
        Ok(())
    }
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp, StartError> {
    let program = ebpf.program_mut(name).ok_or_else(|| StartError::Load(format!("the object has no {name}")))?;
    program.try_into().map_err(program_error)
}

fn program_error(error: ProgramError) -> StartError {
    StartError::Load(describe(&error))
}

/// Why a program was not loaded.
pub fn refused(program: &str, error: ProgramError) -> StartError {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            StartError::Refused(Box::new(Refusal::new(program, &io_error, verifier_log.to_string())))
        }
        other => program_error(other),
    }
}

/// An error with its causes. A log in it is cut short.
pub fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    verdict::cut_short(&text)
}
