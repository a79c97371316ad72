//! The server on the open internet: rights that end, HTTPS, proxies in front, and the API by which it is run.

mod api;
mod https;
mod proxies;
mod rights;
