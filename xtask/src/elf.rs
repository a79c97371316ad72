//! What matters here of ELF files of little-endian machines, by the crate `object`: sections, symbols and relocations of
//! BPF objects, and which libraries a program names.

use object::{
    LittleEndian, Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SectionFlags, SymbolKind,
    elf::{DT_NEEDED, FileHeader64, SHF_EXECINSTR},
    read::elf::{Dyn as _, FileHeader as _},
};

/// A section: name and contents.
#[derive(Default)]
pub(crate) struct Section<'a> {
    pub name: &'a str,
    /// `SHF_EXECINSTR` is set.
    pub executable: bool,
    /// Bytes in memory.
    pub size: usize,
    pub data: &'a [u8],
}

/// An entry of the symbol table.
#[derive(Default)]
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

/// The parts of an ELF file that matter here. Tables have the file's own indices, which begin with an empty entry.
pub(crate) struct Object<'a> {
    pub sections: Vec<Section<'a>>,
    pub symbols: Vec<Symbol<'a>>,
    /// By section.
    pub relocations: Vec<Vec<Relocation>>,
}

impl<'a> Object<'a> {
    /// `None` when the bytes are no such file.
    pub(crate) fn parse(file: &'a [u8]) -> Option<Self> {
        let elf = object::File::parse(file).ok()?;
        let mut object = Self { sections: Vec::new(), symbols: Vec::new(), relocations: Vec::new() };
        for section in elf.sections() {
            let SectionFlags::Elf { sh_flags } = section.flags() else { return None };
            let read = Section {
                name: section.name().ok()?,
                executable: sh_flags & u64::from(SHF_EXECINSTR) != 0,
                size: usize::try_from(section.size()).ok()?,
                data: section.data().ok()?,
            };
            let relocations = section.relocations().filter_map(|(offset, relocation)| match relocation.target() {
                RelocationTarget::Symbol(symbol) => {
                    Some(Relocation { offset: usize::try_from(offset).ok()?, symbol: symbol.0 })
                }
                _ => None,
            });
            *place(&mut object.sections, section.index().0) = read;
            *place(&mut object.relocations, section.index().0) = relocations.collect();
        }
        for symbol in elf.symbols() {
            *place(&mut object.symbols, symbol.index().0) = Symbol {
                name: symbol.name().ok()?,
                section: symbol.section_index().map_or(0, |index| index.0),
                value: usize::try_from(symbol.address()).ok()?,
                size: usize::try_from(symbol.size()).ok()?,
                function: symbol.kind() == SymbolKind::Text,
                global: symbol.is_global(),
            };
        }
        Some(object)
    }

    /// Section by name.
    pub(crate) fn section(&self, name: &str) -> Option<&Section<'a>> {
        self.sections.iter().find(|section| section.name == name)
    }
}

/// The entry of a table at an index; those before it are made too.
fn place<T: Default>(table: &mut Vec<T>, index: usize) -> &mut T {
    if table.len() <= index {
        table.resize_with(index + 1, T::default);
    }
    &mut table[index]
}

/// Names of the libraries that a program or library asks the loader for (`DT_NEEDED`), in its order; none of a
/// static program. `None` when the bytes are no such file.
pub(crate) fn needed(file: &[u8]) -> Option<Vec<&str>> {
    let header = FileHeader64::<LittleEndian>::parse(file).ok()?;
    let endian = header.endian().ok()?;
    let sections = header.sections(endian, file).ok()?;
    let Some((entries, strings)) = sections.dynamic(endian, file).ok()? else { return Some(Vec::new()) };
    let strings = sections.strings(endian, file, strings).ok()?;
    let names = entries.iter().filter(|entry| entry.tag(endian) == DT_NEEDED);
    names.map(|entry| std::str::from_utf8(entry.string(endian, strings).ok()?).ok()).collect()
}
