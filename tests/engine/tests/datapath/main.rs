//! The datapath, packet by packet: what goes in, what comes out, which counter moves.
//!
//! `penstock_ingress` runs alone by `BPF_PROG_TEST_RUN`. The kernel refuses that for devmap programs
//! (`-EINVAL` in `bpf_prog_test_run_xdp`), so `penstock_egress` runs where it belongs: behind a real
//! redirection, out of a veth, with every copy read back and opened by the reference.

mod ahead;
mod classify;
mod counters;
mod direct;
mod drops;
mod egress;
mod faults;
mod fixture;
mod lengths;
mod replay;
mod ring;
mod rows;
mod store;
mod vectors;
