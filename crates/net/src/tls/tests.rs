//! TLS streams against each other, and against peers that are none.

pub(crate) mod pki;
mod sealed;
mod sides;
mod streams;
