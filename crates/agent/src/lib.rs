//! One host's side of pipes: endpoints, and the pump between them and streams.

pub mod endpoint;
