//! BPF as the engines use it.
//!
//! | file | does |
//! | --- | --- |
//! | `object` | the objects that this program was built with |

pub mod object;
