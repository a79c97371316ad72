//! The server on the open internet: rights that end, HTTPS and its certificates, proxies in front, and the API by which it is run.

mod acme;
mod api;
mod https;
mod proxies;
mod rights;
