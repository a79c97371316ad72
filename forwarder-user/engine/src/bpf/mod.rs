//! BPF, beside the engines: whoever needs it (both engines, `doctor`, `inspect`, the build's facts) finds it here.
//!
//! | file | does |
//! | --- | --- |
//! | `object` | the objects that this program was built with |
//! | `check`, `realtime` | is the kernel one for the programs, and may this process use it? |
//! | `load`, `limits` | the datapath, verified and in the kernel, with tables of the sizes that were asked for |
//! | `verdict` | what the verifier says of a program that it refuses |
//! | `maps`, `keys`, `keystream`, `stores`, `handle` | typed handles of its maps |
//! | `outer` | many elements of a map of maps at once |
//! | `attach` | onto interfaces |
//! | `pins` | maps in a bpffs, for the inspection commands |
//! | `selftest` | are copies private in generic mode? |
//! | `probe` | the steps of a start one by one, for `penstock doctor` |

pub mod attach;
pub mod check;
mod error;
mod handle;
pub mod keys;
pub mod keystream;
mod limits;
pub mod load;
pub mod mapped;
pub mod maps;
pub mod object;
pub mod outer;
pub mod pins;
pub mod probe;
mod realtime;
mod selftest;
pub mod stores;
pub mod verdict;

pub use self::{
    attach::{MAX_INTERFACES, Mode, mode_name},
    error::StartError,
    handle::as_io,
    limits::Limits,
    load::describe,
    pins::Unmounter,
    verdict::Refusal,
};
