//! A map of a loaded object as a handle of its type.

use std::io;

use aya::{
    Ebpf, Pod,
    maps::{Array, Map, MapData, MapError},
};

/// A map of the object.
///
/// # Errors
/// There is none of this name, or it is of another type.
pub(super) fn take<T: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, MapError> {
    take_map(ebpf, name)?.try_into()
}

/// The same, whatever its type.
///
/// # Errors
/// There is none of this name.
pub(super) fn take_map(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, MapError> {
    ebpf.take_map(name).ok_or_else(|| MapError::InvalidName { name: name.into() })
}

/// The same of an array.
///
/// # Errors
/// There is none of this name, or its values are of another size.
pub(super) fn array<V: Pod>(ebpf: &mut Ebpf, name: &'static str) -> Result<Array<MapData, V>, MapError> {
    take(ebpf, name)
}

/// The system call's error, where there was one.
pub fn as_io(error: MapError) -> io::Error {
    match error {
        MapError::SyscallError(error) => error.io_error,
        MapError::CreateError { io_error, .. } => io_error,
        other => io::Error::other(other.to_string()),
    }
}
