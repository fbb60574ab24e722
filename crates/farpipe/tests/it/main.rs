//! The library as its users meet it: two programs, a relay between them, certificates.

mod net;
mod streams;
