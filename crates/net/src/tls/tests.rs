//! TLS streams against each other, and against peers that are none.

pub(crate) mod pki;
mod sides;
mod streams;
