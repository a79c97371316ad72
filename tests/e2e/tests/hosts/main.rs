//! Hosts as they are: what the machine around a server does to it, and what becomes of the media. The real server, real
//! peers, in network namespaces. Needs root.

mod limits;
mod log;
mod network;
mod standstill;
mod uplinks;
