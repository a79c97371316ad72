//! Elements of maps of maps, many at once: the kernel waits for a grace period (10 to 25 ms) after each
//! single one, but once for a whole batch.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
};

use aya::maps::{DevMap, Map, MapData, MapError};
use aya_obj::generated::{
    bpf_attr,
    bpf_cmd::{self, BPF_MAP_UPDATE_BATCH, BPF_MAP_UPDATE_ELEM},
    bpf_map_type::BPF_MAP_TYPE_DEVMAP,
};

/// A devmap of its own with room for exactly `copies` entries, and its descriptor for a map of maps.
///
/// # Errors
/// What the kernel says.
pub fn new_devmap(copies: u32) -> Result<(DevMap<MapData>, OwnedFd), MapError> {
    let definition = aya_obj::Map::new_from_params(BPF_MAP_TYPE_DEVMAP as u32, 4, 8, copies, 0);
    let data = MapData::create(definition, "penstock_fanout", None)?;
    let fd = data.fd().as_fd().try_clone_to_owned().map_err(MapError::IoError)?;
    Ok((DevMap::try_from(Map::from_map_data(data)?)?, fd))
}

/// Elements to be replaced.
#[derive(Default)]
pub struct Batch {
    keys: Vec<u32>,
    values: Vec<u32>,
}

impl Batch {
    /// The map `value` is to be element `key`. It must live until [`write`](Self::write).
    pub fn add(&mut self, key: u32, value: BorrowedFd<'_>) {
        self.keys.push(key);
        self.values.push(value.as_raw_fd() as u32);
    }

    /// Replaces them, and waits until nothing in flight can see what was there before.
    ///
    /// # Errors
    /// What the kernel says; a part may have been replaced.
    pub fn write(&self, map: &Map) -> io::Result<()> {
        let map = &map_fd(map)?;
        if self.keys.is_empty() {
            return Ok(());
        }
        match self.write_together(map) {
            // Maps of maps take no batches before Linux 5.19: one grace period for each.
            Err(error) if error.raw_os_error() == Some(ENOTSUPP) => self.write_singly(map),
            result => result,
        }
    }

    fn write_together(&self, map: &OwnedFd) -> io::Result<()> {
        // SAFETY: all zeros is a valid argument of bpf(2).
        let mut argument: bpf_attr = unsafe { std::mem::zeroed() };
        argument.batch.keys = self.keys.as_ptr() as u64;
        argument.batch.values = self.values.as_ptr() as u64;
        argument.batch.count = self.keys.len() as u32;
        argument.batch.map_fd = map.as_raw_fd() as u32;
        // SAFETY: keys and values are `count` numbers of 4 bytes each, as the map has them, and outlive
        // the call.
        unsafe { bpf(BPF_MAP_UPDATE_BATCH, &mut argument) }
    }

    fn write_singly(&self, map: &OwnedFd) -> io::Result<()> {
        for (key, value) in self.keys.iter().zip(&self.values) {
            // SAFETY: all zeros is a valid argument of bpf(2).
            let mut argument: bpf_attr = unsafe { std::mem::zeroed() };
            argument.__bindgen_anon_2.map_fd = map.as_raw_fd() as u32;
            argument.__bindgen_anon_2.key = std::ptr::from_ref(key) as u64;
            argument.__bindgen_anon_2.__bindgen_anon_1.value = std::ptr::from_ref(value) as u64;
            // SAFETY: key and value are of 4 bytes, as the map has them, and outlive the call.
            unsafe { bpf(BPF_MAP_UPDATE_ELEM, &mut argument)? };
        }
        Ok(())
    }
}

/// The kernel's own "not supported", which libc does not know.
const ENOTSUPP: i32 = 524;

/// # Safety
/// What `argument` points to is as the command wants it.
unsafe fn bpf(command: bpf_cmd, argument: &mut bpf_attr) -> io::Result<()> {
    let size = size_of::<bpf_attr>() as libc::c_uint;
    // SAFETY: the kernel reads and writes `argument` alone, and what it points to.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_int, std::ptr::from_mut(argument), size) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn map_fd(map: &Map) -> io::Result<OwnedFd> {
    match map {
        Map::ArrayOfMaps(data) => data.fd().as_fd().try_clone_to_owned(),
        _ => Err(io::Error::other("the object's map is no array of maps")),
    }
}
