//! TLS streams against each other, and against peers that are none.

mod pki;
mod sides;
mod streams;
