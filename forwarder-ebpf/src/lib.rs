//! Penstock's datapath. One packet's way: `ingress` → (`bpf_redirect_map`, n clones) → `egress`.
#![no_std]
