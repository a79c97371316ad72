//! Reads map definitions from BTF: each variable of the section `.maps` is a struct whose members
//! point at the map's type, key, value and size (numbers are lengths of arrays).

use crate::elf::{number, string};

/// A map as the object defines it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Map {
    pub name: String,
    /// `BPF_MAP_TYPE_*`.
    pub map_type: u64,
    pub max_entries: u64,
    /// Bytes.
    pub key_size: u64,
    /// Bytes.
    pub value_size: u64,
}

const KIND_INT: u32 = 1;
const KIND_POINTER: u32 = 2;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_TYPEDEF: u32 = 8;
const KIND_CONST: u32 = 10;
const KIND_FUNCTION_PROTOTYPE: u32 = 13;
const KIND_VARIABLE: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_DECL_TAG: u32 = 17;
const KIND_ENUM64: u32 = 19;

struct Type<'a> {
    name: &'a str,
    kind: u32,
    /// Number of members, parameters or variables.
    count: usize,
    /// Size in bytes or type id, by kind.
    size_or_type: u64,
    /// What follows the common part.
    body: &'a [u8],
}

struct Btf<'a> {
    /// Type ids start at 1.
    types: Vec<Type<'a>>,
    strings: &'a [u8],
}

/// All maps of a `.BTF` section; `None` when it cannot be read.
pub(crate) fn maps(section: &[u8]) -> Option<Vec<Map>> {
    let btf = Btf::parse(section)?;
    let Some(datasec) = btf.types.iter().find(|ty| ty.kind == KIND_DATASEC && ty.name == ".maps") else {
        return Some(Vec::new());
    };
    datasec.body.chunks_exact(12).map(|variable| btf.map(number(variable, 0, 4)?)).collect()
}

impl<'a> Btf<'a> {
    fn parse(section: &'a [u8]) -> Option<Self> {
        const MAGIC: u64 = 0xeb9f;
        if number(section, 0, 2)? != MAGIC {
            return None;
        }
        let header_len = number(section, 4, 4)? as usize;
        let part = |offset_at: usize, len_at: usize| {
            let start = header_len + number(section, offset_at, 4)? as usize;
            section.get(start..start + number(section, len_at, 4)? as usize)
        };
        let (mut rest, strings) = (part(8, 12)?, part(16, 20)?);
        let mut types = Vec::new();
        while !rest.is_empty() {
            let info = number(rest, 4, 4)? as u32;
            let (kind, count) = (info >> 24 & 31, (info & 0xffff) as usize);
            let len = 12 + body_len(kind, count);
            types.push(Type {
                name: string(strings, number(rest, 0, 4)? as usize)?,
                kind,
                count,
                size_or_type: number(rest, 8, 4)?,
                body: rest.get(12..len)?,
            });
            rest = rest.get(len..)?;
        }
        Some(Self { types, strings })
    }

    fn get(&self, id: u64) -> Option<&Type<'a>> {
        self.types.get(usize::try_from(id).ok()?.checked_sub(1)?)
    }

    fn map(&self, variable: u64) -> Option<Map> {
        let variable = self.get(variable)?;
        let mut map = Map { name: variable.name.to_owned(), ..Map::default() };
        self.collect(self.definition(variable.size_or_type)?, &mut map)?;
        Some(map)
    }

    /// Rust wraps the definition in newtypes (`UnsafeCell` and others): structs of one member.
    fn definition(&self, id: u64) -> Option<&Type<'a>> {
        let ty = self.get(id)?;
        match ty.kind {
            KIND_STRUCT if ty.count == 1 => self.definition(number(ty.body, 4, 4)?),
            _ => Some(ty),
        }
    }

    fn collect(&self, definition: &Type<'a>, map: &mut Map) -> Option<()> {
        for member in definition.body.chunks_exact(12).take(definition.count) {
            let target = self.get(number(member, 4, 4)?)?;
            if target.kind != KIND_POINTER {
                continue;
            }
            let id = target.size_or_type;
            match string(self.strings, number(member, 0, 4)? as usize)? {
                "type" => map.map_type = self.array_len(id)?,
                "max_entries" => map.max_entries = self.array_len(id)?,
                "key_size" => map.key_size = self.array_len(id)?,
                "value_size" => map.value_size = self.array_len(id)?,
                "key" => map.key_size = self.size(id)?,
                "value" => map.value_size = self.size(id)?,
                _ => {}
            }
        }
        Some(())
    }

    fn array_len(&self, id: u64) -> Option<u64> {
        let ty = self.get(id)?;
        if ty.kind == KIND_ARRAY { number(ty.body, 8, 4) } else { None }
    }

    fn size(&self, id: u64) -> Option<u64> {
        if id == 0 {
            return Some(0);
        }
        let ty = self.get(id)?;
        match ty.kind {
            KIND_INT | KIND_STRUCT | KIND_UNION | KIND_ENUM | KIND_ENUM64 => Some(ty.size_or_type),
            KIND_POINTER => Some(8),
            KIND_ARRAY => self.size(number(ty.body, 0, 4)?)?.checked_mul(number(ty.body, 8, 4)?),
            KIND_TYPEDEF..=KIND_CONST => self.size(ty.size_or_type),
            _ => None,
        }
    }
}

/// Bytes that follow the 12 common ones (Documentation/bpf/btf.rst).
fn body_len(kind: u32, count: usize) -> usize {
    match kind {
        KIND_INT | KIND_VARIABLE | KIND_DECL_TAG => 4,
        KIND_ARRAY => 12,
        KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => 12 * count,
        KIND_ENUM | KIND_FUNCTION_PROTOTYPE => 8 * count,
        _ => 0,
    }
}

/// `BPF_MAP_TYPE_*` as bpftool calls it.
pub(crate) fn map_type_name(map_type: u64) -> String {
    let name = match map_type {
        1 => "hash",
        2 => "array",
        5 => "percpu_hash",
        6 => "percpu_array",
        9 => "lru_hash",
        12 => "array_of_maps",
        13 => "hash_of_maps",
        14 => "devmap",
        25 => "devmap_hash",
        27 => "ringbuf",
        33 => "arena",
        other => return format!("type {other}"),
    };
    name.to_owned()
}
