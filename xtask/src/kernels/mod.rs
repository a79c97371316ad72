//! `cargo xtask kernels`: the kernels that people have, each booted in a guest, and Penstock run in it.
//!
//! | file | does |
//! | --- | --- |
//! | `catalogue` | which kernels |
//! | `linux` | a kernel from the archive: image and modules |
//! | `programs`, `libraries` | what runs in a guest, built for its machine, with its libraries |
//! | `cpio`, `initramfs` | all of it as the guest's file system |
//! | `guest` | qemu, and what a guest says |
//! | `stack` | how deep the programs go on the stack, from their instructions |
//! | `report` | limits, table, JSON |
//!
//! What happens in a guest: `tests/src/guest`.

mod catalogue;
mod cpio;
pub(crate) mod guest;
mod initramfs;
mod libraries;
mod linux;
mod programs;
mod report;
mod stack;

use std::{
    env, fs,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use self::{
    catalogue::{KERNELS, Kernel, Purpose},
    guest::{Machine, Qemu},
    linux::Linux,
    programs::{Extent, Programs},
    report::Matrix,
};
use crate::{
    archive,
    ebpf::{self, Objects},
    process::{Outcome, root},
    progress::{self, Console, Lane, Step},
    setup,
};

/// Guests that run at once: one for each core, since a guest has one.
const LANES: usize = 2;

/// Kernels of `cargo xtask test`: the two ends of the matrix.
const LEAST: [&str; 2] = ["6.1", "newest"];

/// Fixtures that run unless all are asked for. Each test loads the object anew, which an emulated processor needs
/// seconds for: these cover every file of fixtures, every verdict, both ways of a packet, native and generic mode.
const FIXTURES: [&str; 12] = [
    "ahead::tapped_packets_reach_userspace_in_the_clear",
    "classify::every_branch",
    "direct::one_two_one",
    "drops::every_reason",
    "egress::generic_mode",
    "egress::one_two_and_sixteen_members",
    "faults::a_dropped_copy_leaves_the_others_alone",
    "lengths::random_lengths_with_a_256_bit_key",
    "replay::each_packet_is_taken_once",
    "ring::a_full_ring_is_counted",
    "rows::every_fan_out",
    "vectors::rfc_7714",
];

/// What is asked for.
struct Options {
    kernels: Vec<Kernel>,
    /// Load and limits only.
    quick: bool,
    /// With programs as the tests' own build has them: nothing is built twice, and guests are slower.
    debug: bool,
    all_fixtures: bool,
    demo: bool,
    /// Ask the archive whether there are newer kernels.
    update: bool,
    /// Fetch what is missing, and nothing else.
    fetch: bool,
    json: Option<PathBuf>,
}

/// `cargo xtask kernels`.
///
/// # Errors
/// A kernel is beyond the limits, something failed in a guest, or a guest cannot be made.
pub(crate) fn run(arguments: &[&str]) -> Outcome {
    if arguments.contains(&"--list") {
        KERNELS.iter().for_each(|kernel| println!("{:<12} {}", kernel.name, kernel.from));
        return Ok(());
    }
    if arguments.contains(&"--json") {
        return json_alone(arguments);
    }
    let options = parse(arguments)?;
    if options.fetch {
        let made = Arc::new(Made::default());
        return progress::run(vec![options.kernels.iter().map(|it| fetch_step(*it, options.update, &made)).collect()]);
    }
    setup::run(setup::Scope::Everything)?;
    let extent = match (options.quick, options.debug) {
        (true, _) => Extent::Load,
        (false, true) => Extent::Debug,
        (false, false) => Extent::Release,
    };
    let matrix = matrix(&options, extent)?;
    if let Some(path) = &options.json {
        archive::write(path, &format!("{}\n", matrix.json()))?;
    }
    println!("\n{}", matrix.table());
    verdict(&matrix)
}

/// The least of it, for `cargo xtask test`: do all programs load on the oldest and the newest kernel, within limits?
///
/// # Errors
/// As [`run`].
pub(crate) fn least() -> Outcome {
    let kernels = LEAST.into_iter().filter_map(catalogue::find).collect();
    let options = Options {
        kernels,
        quick: true,
        debug: true,
        all_fixtures: false,
        demo: false,
        update: false,
        fetch: false,
        json: None,
    };
    let matrix = matrix(&options, Extent::Load)?;
    println!("\n{}", matrix.table());
    verdict(&matrix)
}

fn parse(arguments: &[&str]) -> Outcome<Options> {
    let mut options = Options {
        kernels: Vec::new(),
        quick: false,
        debug: false,
        all_fixtures: false,
        demo: false,
        update: false,
        fetch: false,
        json: None,
    };
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match *argument {
            "--kernel" => {
                let name = rest.next().ok_or("--kernel needs a name: --list shows them")?;
                let kernel = catalogue::find(name).ok_or_else(|| format!("no kernel {name}: --list shows them"))?;
                options.kernels.push(kernel);
            }
            "--quick" => options.quick = true,
            "--debug" => options.debug = true,
            "--all-fixtures" => options.all_fixtures = true,
            "--demo" => options.demo = true,
            "--update" => options.update = true,
            "--fetch" => options.fetch = true,
            "--json-file" => options.json = Some(rest.next().ok_or("--json-file needs a name")?.into()),
            other => return Err(format!("unknown option {other}")),
        }
    }
    if options.kernels.is_empty() {
        options.kernels = KERNELS.to_vec();
    }
    Ok(options)
}

/// Runs this program once more, with all that it prints on standard error, and prints only its JSON.
fn json_alone(arguments: &[&str]) -> Outcome {
    let file = root().join("target/kernels/report.json");
    archive::make(&root().join("target/kernels"))?;
    let own = env::current_exe().map_err(|error| format!("our own program: {error}"))?;
    let mut command = Command::new(own);
    command.arg("kernels").args(arguments.iter().filter(|argument| **argument != "--json"));
    command.arg("--json-file").arg(&file).stdout(Stdio::from(std::io::stderr()));
    if file.exists() {
        fs::remove_file(&file).map_err(|error| archive::failed(&file, &error))?;
    }
    let status = command.status().map_err(|error| format!("our own program: {error}"))?;
    if let Ok(report) = fs::read_to_string(&file) {
        print!("{report}");
    }
    if status.success() { Ok(()) } else { Err("the matrix has problems".into()) }
}

fn verdict(matrix: &Matrix) -> Outcome {
    let problems = matrix.problems();
    if problems.is_empty() {
        return Ok(());
    }
    let many = if problems.len() == 1 { "1 problem" } else { &format!("{} problems", problems.len()) };
    Err(format!("{many} on the kernels\n  {}", problems.join("\n  ")))
}

/// Builds, fetches, boots.
fn matrix(options: &Options, extent: Extent) -> Outcome<Matrix> {
    let start = Instant::now();
    let mut machines = Vec::new();
    for kernel in &options.kernels {
        if !machines.contains(&kernel.machine) {
            machines.push(kernel.machine);
        }
    }
    for machine in &machines {
        ebpf::build_for(machine.name(), Objects::All)?;
    }
    archive::make(&root().join("target/kernels"))?;
    let chains = chains()?;
    let made = Arc::new(Made::default());
    let fetch = options.kernels.iter().map(|kernel| fetch_step(*kernel, options.update, &made));
    let build = machines.iter().map(|machine| build_step(*machine, extent, &made));
    progress::run(vec![fetch.collect(), build.collect()])?;
    println!("kernels and programs are there after {:.0} s", start.elapsed().as_secs_f32());

    let programs = chains
        .iter()
        .flat_map(|(object, chains)| chains.iter().map(move |chain| (object.clone(), chain.program.clone())));
    let programs: Arc<Vec<(String, String)>> = Arc::new(programs.collect());
    let mut lanes: Vec<Lane> = (0..LANES).map(|_| Lane::new()).collect();
    for (n, kernel) in options.kernels.iter().enumerate() {
        lanes[n % LANES].push(guest_step(*kernel, steps(kernel, options), &made, &programs));
    }
    progress::run(lanes)?;
    let mut results = std::mem::take(&mut *lock(&made.results));
    results.sort_by_key(|result| KERNELS.iter().position(|kernel| kernel.name == result.kernel.name));
    Ok(Matrix { chains, results })
}

/// What a guest does.
fn steps(kernel: &Kernel, options: &Options) -> Vec<&'static str> {
    match (kernel.purpose, options.quick) {
        (Purpose::Refuse, _) => vec!["load", "refusal"],
        (Purpose::Serve, true) => vec!["load"],
        (Purpose::Serve, false) => {
            let mut steps =
                vec!["load", if options.all_fixtures { "fixtures" } else { "some-fixtures" }, "forward", "verify"];
            steps.extend(options.demo.then_some("demo"));
            steps
        }
    }
}

/// What the steps leave for each other.
#[derive(Default)]
struct Made {
    linux: Mutex<Vec<(&'static str, Arc<Linux>)>>,
    qemu: Mutex<Vec<(Machine, Qemu)>>,
    programs: Mutex<Vec<Programs>>,
    results: Mutex<Vec<report::Result>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn fetch_step(kernel: Kernel, update: bool, made: &Arc<Made>) -> Step {
    let made = made.clone();
    Step::new(format!("kernel {}", kernel.name), move |console| {
        let linux = linux::get(&kernel, update, console)?;
        console.print(&format!("{}\n", linux.release));
        if !lock(&made.qemu).iter().any(|(machine, _)| *machine == kernel.machine) {
            let qemu = Qemu::get(kernel.machine, &linux.image, console)?;
            lock(&made.qemu).push((kernel.machine, qemu));
        }
        lock(&made.linux).push((kernel.name, Arc::new(linux)));
        Ok(())
    })
}

fn build_step(machine: Machine, extent: Extent, made: &Arc<Made>) -> Step {
    let made = made.clone();
    Step::new(format!("programs for {}", machine.name()), move |console| {
        let programs = Programs::build(machine, extent, console)?;
        lock(&made.programs).push(programs);
        Ok(())
    })
}

fn guest_step(
    kernel: Kernel,
    steps: Vec<&'static str>,
    made: &Arc<Made>,
    programs: &Arc<Vec<(String, String)>>,
) -> Step {
    let (made, programs) = (made.clone(), programs.clone());
    Step::new(format!("guest {}", kernel.name), move |console| {
        let result = guest(kernel, &steps, &made, &programs, console)?;
        lock(&made.results).push(result);
        Ok(())
    })
}

fn guest(
    kernel: Kernel,
    steps: &[&str],
    made: &Made,
    names: &[(String, String)],
    console: &Console<'_>,
) -> Outcome<report::Result> {
    // Emulated, on a busy machine.
    let minutes = match steps {
        ["load"] => 20,
        steps if steps.contains(&"fixtures") => 180,
        _ => 60,
    };
    let patience = Duration::from_secs(minutes * 60);
    let missing = || format!("nothing was made for {}", kernel.name);
    let linux = lock(&made.linux).iter().find(|(name, _)| *name == kernel.name).map(|(_, linux)| linux.clone());
    let linux = linux.ok_or_else(missing)?;
    let qemu = lock(&made.qemu).iter().find(|(machine, _)| *machine == kernel.machine).map(|(_, qemu)| qemu.clone());
    let qemu = qemu.ok_or_else(missing)?;
    let programs = lock(&made.programs).iter().find(|it| it.machine == kernel.machine).cloned().ok_or_else(missing)?;
    let initramfs = root().join(format!("target/kernels/{}.cpio", kernel.name));
    initramfs::write(&initramfs, &linux, &programs, &FIXTURES)?;
    let report = qemu.run(&linux.image, &initramfs, steps, patience, console)?;
    fs::remove_file(&initramfs).map_err(|error| archive::failed(&initramfs, &error))?;
    Ok(report::Result::new(kernel, &linux.release, qemu.accelerator(), &report, steps, names))
}

/// Of all objects: what no kernel is needed for.
fn chains() -> Outcome<Vec<(String, Vec<stack::Chain>)>> {
    let read = |object: &str| {
        let path = ebpf::object_path().with_file_name(object);
        let file = fs::read(&path).map_err(|error| archive::failed(&path, &error))?;
        Ok((object.to_owned(), stack::chains(&file).map_err(|error| format!("{object}: {error}"))?))
    };
    ebpf::OBJECTS.iter().map(|object| read(object)).collect()
}
