//! Reads ELF64 files of little-endian machines: sections and symbols of BPF objects, and which libraries a program names.

/// A section: name and contents.
pub(crate) struct Section<'a> {
    pub name: &'a str,
    /// `SHF_EXECINSTR` is set.
    pub executable: bool,
    /// Bytes in memory.
    pub size: usize,
    pub data: &'a [u8],
}

/// An entry of the symbol table.
pub(crate) struct Symbol<'a> {
    pub name: &'a str,
    /// Index into [`Object::sections`]; 0 where it is not defined here.
    pub section: usize,
    /// Offset in the section.
    pub value: usize,
    pub size: usize,
    pub function: bool,
    pub global: bool,
}

/// Where the linker has left a value for the loader.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Relocation {
    /// Offset in the section.
    pub offset: usize,
    /// Index into [`Object::symbols`].
    pub symbol: usize,
}

/// The parts of an ELF file that matter here.
pub(crate) struct Object<'a> {
    pub sections: Vec<Section<'a>>,
    /// The whole table, in its order.
    pub symbols: Vec<Symbol<'a>>,
    /// By section, in the order of [`sections`](Self::sections).
    pub relocations: Vec<Vec<Relocation>>,
}

const SECTION_HEADER_LEN: usize = 64;
const SYMBOL_LEN: usize = 24;
const RELOCATION_LEN: usize = 16;
const SYMBOL_TABLE: u64 = 2;
const DYNAMIC: u64 = 6;
const NO_BITS: u64 = 8;
/// Without addends, as BPF objects have them.
const RELOCATIONS: u64 = 9;
const EXECUTABLE: u64 = 4;

impl<'a> Object<'a> {
    /// `None` when the bytes are no such file.
    pub(crate) fn parse(file: &'a [u8]) -> Option<Self> {
        if !file.starts_with(b"\x7fELF\x02\x01") {
            return None;
        }
        let table = number(file, 40, 8)? as usize;
        let count = number(file, 60, 2)? as usize;
        let names_index = number(file, 62, 2)? as usize;
        let header = |index: usize| {
            let start = table.checked_add(index.checked_mul(SECTION_HEADER_LEN)?)?;
            file.get(start..start.checked_add(SECTION_HEADER_LEN)?)
        };
        let contents = |index: usize| {
            let header = header(index)?;
            if number(header, 4, 4)? == NO_BITS {
                return Some(&file[..0]);
            }
            let start = number(header, 24, 8)? as usize;
            file.get(start..start.checked_add(number(header, 32, 8)? as usize)?)
        };
        let names = contents(names_index)?;
        let sections = (0..count)
            .map(|index| {
                let header = header(index)?;
                Some(Section {
                    name: string(names, number(header, 0, 4)? as usize)?,
                    executable: number(header, 8, 8)? & EXECUTABLE != 0,
                    size: number(header, 32, 8)? as usize,
                    data: contents(index)?,
                })
            })
            .collect::<Option<Vec<_>>>()?;
        let symbols = match (0..count)
            .find(|&index| header(index).and_then(|header| number(header, 4, 4)) == Some(SYMBOL_TABLE))
        {
            Some(index) => {
                let strings = contents(number(header(index)?, 40, 4)? as usize)?;
                contents(index)?.chunks_exact(SYMBOL_LEN).map(|entry| symbol(entry, strings)).collect::<Option<_>>()?
            }
            None => Vec::new(),
        };
        let mut relocations = vec![Vec::new(); count];
        for index in 0..count {
            let header = header(index)?;
            if number(header, 4, 4)? == RELOCATIONS {
                let entries = contents(index)?.chunks_exact(RELOCATION_LEN).map(relocation);
                *relocations.get_mut(number(header, 44, 4)? as usize)? = entries.collect::<Option<_>>()?;
            }
        }
        Some(Self { sections, symbols, relocations })
    }

    /// Section by name.
    pub(crate) fn section(&self, name: &str) -> Option<&Section<'a>> {
        self.sections.iter().find(|section| section.name == name)
    }
}

fn symbol<'a>(entry: &[u8], strings: &'a [u8]) -> Option<Symbol<'a>> {
    const LOCAL: u64 = 0;
    const FUNCTION: u64 = 2;
    let info = number(entry, 4, 1)?;
    Some(Symbol {
        name: string(strings, number(entry, 0, 4)? as usize)?,
        section: number(entry, 6, 2)? as usize,
        value: number(entry, 8, 8)? as usize,
        size: number(entry, 16, 8)? as usize,
        function: info & 15 == FUNCTION,
        global: info >> 4 != LOCAL,
    })
}

fn relocation(entry: &[u8]) -> Option<Relocation> {
    Some(Relocation { offset: number(entry, 0, 8)? as usize, symbol: number(entry, 12, 4)? as usize })
}

/// Names of the libraries that a program or library asks the loader for (`DT_NEEDED`), in its order; none of a
/// static program. `None` when the bytes are no such file.
pub(crate) fn needed(file: &[u8]) -> Option<Vec<&str>> {
    const NEEDED: u64 = 1;
    if !file.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (table, count) = (number(file, 40, 8)? as usize, number(file, 60, 2)? as usize);
    let header = |index: usize| file.get(table + index * SECTION_HEADER_LEN..table + (index + 1) * SECTION_HEADER_LEN);
    let contents = |header: &[u8]| {
        let start = number(header, 24, 8)? as usize;
        file.get(start..start.checked_add(number(header, 32, 8)? as usize)?)
    };
    let dynamic = (0..count).filter_map(header).find(|header| number(header, 4, 4) == Some(DYNAMIC));
    let Some(dynamic) = dynamic else { return Some(Vec::new()) };
    let strings = contents(header(number(dynamic, 40, 4)? as usize)?)?;
    let entries = contents(dynamic)?.chunks_exact(16);
    entries
        .filter(|entry| number(entry, 0, 8) == Some(NEEDED))
        .map(|entry| string(strings, number(entry, 8, 8)? as usize))
        .collect()
}

/// Little-endian number of `len` (at most 8) bytes.
pub(crate) fn number(bytes: &[u8], at: usize, len: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(len)?)?;
    Some(field.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
}

/// Zero-terminated string.
pub(crate) fn string(bytes: &[u8], at: usize) -> Option<&str> {
    let tail = bytes.get(at..)?;
    let len = tail.iter().position(|&byte| byte == 0)?;
    std::str::from_utf8(&tail[..len]).ok()
}
