//! The BPF objects that this program was built with. `build.rs` embeds what `cargo xtask build-ebpf` has built;
//! nothing, if that was not run: then there is no kernel engine and no XDP transmitter.

use std::sync::LazyLock;

use sha1::{Digest as _, Sha1};

/// Aligned for the ELF parser.
static DATAPATH: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/penstock-datapath"));
static TRANSMIT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/penstock-transmit"));

/// There is none in this program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this program was built without the BPF object: run `cargo xtask build-ebpf` (after `cargo xtask setup \
     --build-only`), and build it again"
)]
pub struct Missing;

/// The datapath.
///
/// # Errors
/// [`Missing`].
pub fn datapath() -> Result<&'static [u8], Missing> {
    other().map_or_else(|| embedded(DATAPATH), Ok)
}

/// In debug builds tests can name another datapath, with a program that the kernel refuses.
fn other() -> Option<&'static [u8]> {
    static OTHER: LazyLock<Option<Vec<u8>>> =
        LazyLock::new(|| std::fs::read(std::env::var_os("PENSTOCK_TEST_OBJECT")?).ok());
    if cfg!(debug_assertions) { OTHER.as_deref() } else { None }
}

/// The userspace engine's transmitter.
///
/// # Errors
/// [`Missing`].
pub fn transmit() -> Result<&'static [u8], Missing> {
    embedded(TRANSMIT)
}

fn embedded(object: &'static [u8]) -> Result<&'static [u8], Missing> {
    if object.is_empty() { Err(Missing) } else { Ok(object) }
}

/// SHA-1 of the datapath's object: equal objects have equal ids, wherever they were built. `None`: it is missing.
pub fn id() -> Option<String> {
    let object = datapath().ok()?;
    Some(Sha1::digest(object).iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use aya_obj::Object;

    use super::*;

    /// Fails in a build without them, and says so: who tests the engines wants to know.
    #[test]
    fn the_embedded_objects_have_their_programs() {
        for (object, program) in [(datapath(), "penstock_ingress"), (transmit(), "penstock_transmit")] {
            let object = object.unwrap_or_else(|missing| panic!("{missing}"));
            let parsed = Object::parse(object).unwrap();
            assert!(parsed.programs.contains_key(program), "{program}");
        }
        assert_eq!(id().map(|id| id.len()), Some(40));
    }
}
