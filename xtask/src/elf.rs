//! Reads a BPF object: little-endian ELF64, sections and symbols.

/// A section: name and contents.
pub struct Section<'a> {
    pub name: &'a str,
    /// `SHF_EXECINSTR` is set.
    pub executable: bool,
    /// Bytes in memory.
    pub size: usize,
    pub data: &'a [u8],
}

/// A global function or variable.
pub struct Symbol<'a> {
    pub name: &'a str,
    /// Index into [`Object::sections`].
    pub section: usize,
    pub size: usize,
    pub function: bool,
}

/// The parts of an ELF file that matter here.
pub struct Object<'a> {
    pub sections: Vec<Section<'a>>,
    pub symbols: Vec<Symbol<'a>>,
}

const SECTION_HEADER_LEN: usize = 64;
const SYMBOL_LEN: usize = 24;
const SYMBOL_TABLE: u64 = 2;
const NO_BITS: u64 = 8;
const EXECUTABLE: u64 = 4;

impl<'a> Object<'a> {
    /// `None` when the bytes are no such file.
    pub fn parse(file: &'a [u8]) -> Option<Self> {
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
                contents(index)?.chunks_exact(SYMBOL_LEN).filter_map(|entry| symbol(entry, strings)).collect()
            }
            None => Vec::new(),
        };
        Some(Self { sections, symbols })
    }

    /// Section by name.
    pub fn section(&self, name: &str) -> Option<&Section<'a>> {
        self.sections.iter().find(|section| section.name == name)
    }
}

/// A defined global symbol.
fn symbol<'a>(entry: &[u8], strings: &'a [u8]) -> Option<Symbol<'a>> {
    const GLOBAL: u64 = 1;
    const FUNCTION: u64 = 2;
    let info = number(entry, 4, 1)?;
    let section = number(entry, 6, 2)? as usize;
    (info >> 4 == GLOBAL && section != 0).then_some(())?;
    Some(Symbol {
        name: string(strings, number(entry, 0, 4)? as usize)?,
        section,
        size: number(entry, 16, 8)? as usize,
        function: info & 15 == FUNCTION,
    })
}

/// Little-endian number of `len` (at most 8) bytes.
pub fn number(bytes: &[u8], at: usize, len: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(len)?)?;
    Some(field.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
}

/// Zero-terminated string.
pub fn string(bytes: &[u8], at: usize) -> Option<&str> {
    let tail = bytes.get(at..)?;
    let len = tail.iter().position(|&byte| byte == 0)?;
    std::str::from_utf8(&tail[..len]).ok()
}
