//! How deep the programs of a BPF object go on the stack, from their instructions.
//!
//! A verifier allows 512 bytes for a program and everything that it calls. It takes each function's deepest use of
//! its frame, rounds it up, and adds up along every chain of calls; callbacks of `bpf_loop` count as calls
//! (`check_max_stack_depth`). Older kernels, 6.1 among them, round each frame up to 32 bytes, later ones with a JIT to
//! 16: what one takes may be too deep for another, so the older rule counts. A tail call begins anew.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    elf::{Object, Symbol},
    process::Outcome,
};

/// Most that a chain of calls may need of the 512 bytes, by the older rounding.
pub(super) const LIMIT: usize = 448;

/// What older kernels round each frame up to.
const ROUNDING: usize = 32;

/// Bytes of an instruction.
const LEN: usize = 8;

/// The frame pointer.
const FRAME: u8 = 10;

/// The deepest chain of calls of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    pub program: String,
    /// Bytes, by the older rounding.
    pub depth: usize,
    /// Functions of the chain, the program first, and the bytes that each uses of its frame.
    pub functions: Vec<(String, usize)>,
}

/// Section and offset of a function's first instruction.
type Place = (usize, usize);

/// What matters of a function.
struct Function {
    name: String,
    /// Bytes of its frame.
    frame: usize,
    calls: BTreeSet<Place>,
}

/// The deepest chain of each program, by name.
///
/// # Errors
/// The bytes are no BPF object, or call what is no function of it.
pub(super) fn chains(file: &[u8]) -> Outcome<Vec<Chain>> {
    let object = Object::parse(file).ok_or("no BPF object")?;
    let mut functions = BTreeMap::new();
    let mut programs = Vec::new();
    for symbol in object.symbols.iter().filter(|symbol| symbol.function) {
        let Some(section) = object.sections.get(symbol.section).filter(|section| section.executable) else { continue };
        let place = (symbol.section, symbol.value);
        let function = read(&object, symbol).ok_or_else(|| format!("{} cannot be read", symbol.name))?;
        functions.insert(place, function);
        if symbol.global && section.name != ".text" {
            programs.push(place);
        }
    }
    let mut deepest = BTreeMap::new();
    let mut found = programs
        .into_iter()
        .map(|place| {
            let (depth, path) = descend(&functions, place, &mut deepest, &mut Vec::new())?;
            let functions: Vec<_> =
                path.iter().map(|place| (short(&functions[place].name), functions[place].frame)).collect();
            Ok(Chain { program: functions[0].0.clone(), depth, functions })
        })
        .collect::<Outcome<Vec<_>>>()?;
    found.sort_by(|a, b| a.program.cmp(&b.program));
    Ok(found)
}

/// The last part of a mangled name, with what tells generic functions apart; others as they are.
fn short(name: &str) -> String {
    if !name.starts_with("_R") {
        return name.to_owned();
    }
    // Lengths and identifiers: `…7recrypt11fill_header`. The first is the crate, with its hash in front.
    let (mut parts, mut rest) = (Vec::new(), name);
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let digits = rest[start..].find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len() - start);
        let len: usize = rest[start..start + digits].parse().unwrap_or(0);
        let begin = start + digits;
        match rest
            .get(begin..begin + len)
            .filter(|part| len > 1 && part.chars().all(|c| c.is_alphanumeric() || c == '_'))
        {
            Some(part) => {
                parts.push(part);
                rest = &rest[begin + len..];
            }
            None => rest = &rest[begin..],
        }
    }
    match parts.as_slice() {
        [.., module, function] => {
            format!("{module}::{function}{}", if rest.is_empty() { "" } else { rest.trim_end_matches('_') })
        }
        _ => name.to_owned(),
    }
}

/// Depth and path of the deepest chain from a function on.
fn descend(
    functions: &BTreeMap<Place, Function>,
    place: Place,
    known: &mut BTreeMap<Place, (usize, Vec<Place>)>,
    above: &mut Vec<Place>,
) -> Outcome<(usize, Vec<Place>)> {
    if let Some(chain) = known.get(&place) {
        return Ok(chain.clone());
    }
    let function =
        functions.get(&place).ok_or_else(|| format!("a call goes to {place:x?}, where no function begins"))?;
    if above.contains(&place) {
        return Err(format!("{} calls itself", function.name));
    }
    above.push(place);
    let mut deepest = (0, Vec::new());
    for callee in &function.calls {
        let chain = descend(functions, *callee, known, above)?;
        if chain.0 > deepest.0 {
            deepest = chain;
        }
    }
    above.pop();
    // A function without a frame counts too.
    let own = function.frame.max(1).next_multiple_of(ROUNDING);
    let chain = (own + deepest.0, [vec![place], deepest.1].concat());
    known.insert(place, chain.clone());
    Ok(chain)
}

/// One instruction.
struct Instruction {
    code: u8,
    destination: u8,
    source: u8,
    offset: i16,
    immediate: i32,
}

impl Instruction {
    fn read(bytes: &[u8]) -> Option<Self> {
        let &[code, registers, o0, o1, i0, i1, i2, i3] = bytes.first_chunk::<LEN>()?;
        Some(Self {
            code,
            destination: registers & 15,
            source: registers >> 4,
            offset: i16::from_le_bytes([o0, o1]),
            immediate: i32::from_le_bytes([i0, i1, i2, i3]),
        })
    }

    fn class(&self) -> u8 {
        self.code & 7
    }
}

/// Classes and instructions (include/uapi/linux/bpf.h, bpf_common.h).
const LDX: u8 = 1;
const ST: u8 = 2;
const STX: u8 = 3;
const ALU: u8 = 4;
const JMP: u8 = 5;
const JMP32: u8 = 6;
const ALU64: u8 = 7;
const LOAD_64: u8 = 0x18;
const ADD_IMMEDIATE: u8 = 0x07;
const MOVE: u8 = 0xbf;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
/// Source register of a call of a function of the object.
const PSEUDO_CALL: u8 = 1;
/// Source register of a load of a function's address.
const PSEUDO_FUNCTION: u8 = 4;

fn read(object: &Object<'_>, symbol: &Symbol<'_>) -> Option<Function> {
    let code = object.sections.get(symbol.section)?.data;
    let code = code.get(symbol.value..symbol.value.checked_add(symbol.size)?)?;
    let instructions: Vec<Instruction> = code.chunks_exact(LEN).map(Instruction::read).collect::<Option<_>>()?;
    let relocated: BTreeMap<usize, usize> =
        object.relocations.get(symbol.section)?.iter().map(|it| (it.offset, it.symbol)).collect();
    let mut calls = BTreeSet::new();
    for (n, instruction) in instructions.iter().enumerate() {
        let at = symbol.value + n * LEN;
        let target = relocated.get(&at).and_then(|&index| object.symbols.get(index));
        calls.extend(callee(instruction, symbol.section, at, target));
    }
    calls.retain(|place: &Place| object.sections.get(place.0).is_some_and(|section| section.executable));
    Some(Function { name: symbol.name.to_owned(), frame: frame(&instructions), calls })
}

/// The function that an instruction calls, or whose address it takes.
fn callee(instruction: &Instruction, section: usize, at: usize, target: Option<&Symbol<'_>>) -> Option<Place> {
    let place = |section, offset: i64| Some((section, usize::try_from(offset).ok()?));
    let (len, immediate) = (LEN as i64, i64::from(instruction.immediate));
    match (instruction.code, instruction.source, target) {
        // The immediate counts instructions, from the next one, or from the symbol's: -1 is the symbol itself.
        (CALL, PSEUDO_CALL, Some(symbol)) => place(symbol.section, symbol.value as i64 + (immediate + 1) * len),
        (CALL, PSEUDO_CALL, None) => place(section, at as i64 + (immediate + 1) * len),
        // Bytes from the symbol; data and maps are in sections that are not executable.
        (LOAD_64, _, Some(symbol)) => place(symbol.section, symbol.value as i64 + immediate),
        (LOAD_64, PSEUDO_FUNCTION, None) => place(section, at as i64 + (immediate + 1) * len),
        _ => None,
    }
}

/// The lowest byte below the frame pointer that is accessed, or of which the address is taken.
///
/// Addresses are followed from `mov` of the frame pointer through additions of constants, up to the next jump's
/// target: the compiler makes each anew where it is used.
fn frame(instructions: &[Instruction]) -> usize {
    let targets: BTreeSet<i64> = instructions
        .iter()
        .enumerate()
        .filter(|(_, it)| matches!(it.class(), JMP | JMP32) && !matches!(it.code, CALL | EXIT))
        // `gotol` has its distance in the immediate.
        .map(|(n, it)| n as i64 + 1 + if it.code == 0x06 { i64::from(it.immediate) } else { i64::from(it.offset) })
        .collect();
    let mut lowest = 0_i64;
    // Distance of each register from the frame pointer, where it points into the frame.
    let mut pointers = [None; 16];
    let mut second_half = false;
    for (n, it) in instructions.iter().enumerate() {
        if std::mem::take(&mut second_half) {
            continue;
        }
        if targets.contains(&(n as i64)) {
            pointers = [None; 16];
        }
        pointers[FRAME as usize] = Some(0_i64);
        let (destination, source) = (pointers[it.destination as usize], pointers[it.source as usize]);
        let touched = match it.class() {
            LDX => source,
            ST | STX => destination,
            _ => None,
        };
        lowest = lowest.min(touched.map_or(0, |base| base + i64::from(it.offset)));
        match (it.code, it.class()) {
            (MOVE, _) => pointers[it.destination as usize] = source,
            (ADD_IMMEDIATE, _) => {
                let sum = destination.map(|base| base + i64::from(it.immediate));
                lowest = lowest.min(sum.unwrap_or(0));
                pointers[it.destination as usize] = sum;
            }
            (CALL, _) => pointers[..6].fill(None),
            (LOAD_64, _) => {
                pointers[it.destination as usize] = None;
                second_half = true;
            }
            (_, LDX | ALU | ALU64) => pointers[it.destination as usize] = None,
            _ => {}
        }
    }
    usize::try_from(-lowest).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ebpf;

    fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
        Instruction { code, destination, source, offset, immediate }
    }

    #[test]
    fn a_frame_is_as_deep_as_the_lowest_byte_that_is_touched() {
        // *(u64 *)(r10 - 24) = r1
        assert_eq!(frame(&[instruction(0x7b, 10, 1, -24, 0)]), 24);
        // r2 = r10; r2 += -40; call; r1 = *(u64 *)(r2 + 8): r2 is gone after the call
        let code = [
            instruction(MOVE, 2, 10, 0, 0),
            instruction(ADD_IMMEDIATE, 2, 0, 0, -40),
            instruction(CALL, 0, 0, 0, 1),
            instruction(0x79, 1, 2, -100, 0),
        ];
        assert_eq!(frame(&code), 40);
        // r6 = r10; r6 += -16; *(u64 *)(r6 - 32) = 0
        let code =
            [instruction(MOVE, 6, 10, 0, 0), instruction(ADD_IMMEDIATE, 6, 0, 0, -16), instruction(0x7a, 6, 0, -32, 0)];
        assert_eq!(frame(&code), 48);
        assert_eq!(frame(&[instruction(EXIT, 0, 0, 0, 0)]), 0);
    }

    #[test]
    fn the_deepest_chain_is_taken_and_frames_are_rounded_up() {
        let function = |name: &str, frame, calls: &[usize]| Function {
            name: name.into(),
            frame,
            calls: calls.iter().map(|&at| (1, at)).collect(),
        };
        let mut functions = BTreeMap::from([
            ((1, 0), function("main", 33, &[8, 16])),
            ((1, 8), function("shallow", 100, &[])),
            ((1, 16), function("through", 0, &[24])),
            ((1, 24), function("deep", 97, &[])),
        ]);
        let (depth, path) = descend(&functions, (1, 0), &mut BTreeMap::new(), &mut Vec::new()).unwrap();
        assert_eq!((depth, path), (64 + 32 + 128, vec![(1, 0), (1, 16), (1, 24)]));
        functions.insert((1, 24), function("deep", 97, &[0]));
        assert!(descend(&functions, (1, 0), &mut BTreeMap::new(), &mut Vec::new()).is_err());
        functions.remove(&(1, 24));
        assert!(descend(&functions, (1, 0), &mut BTreeMap::new(), &mut Vec::new()).is_err());
    }

    #[test]
    fn mangled_names_become_readable() {
        assert_eq!(short("_RNvNtCsjv7yw4YMTaM_17penstock_datapath7recrypt11fill_header"), "recrypt::fill_header");
        assert_eq!(short("penstock_ingress"), "penstock_ingress");
    }

    /// Needs the objects: `cargo xtask test` and `build-ebpf` build them.
    #[test]
    fn no_chain_of_calls_is_too_deep_for_an_old_kernel() {
        let mut too_deep = Vec::new();
        for object in ebpf::OBJECTS {
            let path = ebpf::object_path().with_file_name(object);
            let file = std::fs::read(&path).unwrap_or_else(|error| {
                panic!("{}: {error}: run `cargo xtask build-ebpf` first", path.display());
            });
            for chain in chains(&file).unwrap() {
                println!("{object}: {:4} of {LIMIT} bytes: {:?}", chain.depth, chain.functions);
                if chain.depth > LIMIT {
                    too_deep.push(format!("{}: {} bytes: {:?}", chain.program, chain.depth, chain.functions));
                }
            }
        }
        assert!(too_deep.is_empty(), "more than {LIMIT} bytes of stack:\n{}", too_deep.join("\n"));
    }
}
