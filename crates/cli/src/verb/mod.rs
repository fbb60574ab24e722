//! The verbs, one file each, and the flags that several of them share.

pub(crate) mod cert;
pub(crate) mod connect;
pub(crate) mod listen;
pub(crate) mod pipe;
pub(crate) mod quickstart;
mod secure;
mod session;
