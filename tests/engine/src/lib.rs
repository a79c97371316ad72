//! Engines and BPF programs without a server around them: HTTP, ICE and DTLS are left out, so that a failure is
//! the engine's or the datapath's.

pub mod bpf;
pub mod keystream;
pub mod lab;
pub mod script;
pub mod wire;
