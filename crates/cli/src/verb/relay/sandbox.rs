//! What a relay has need of: it joins strangers, and reads what they send.

use std::path::Path;

use farpipe_net::{LoopbackSecret, runtime_dir};

use super::Args;
use crate::verb::sandbox::{Closed, usual};

/// A relay dials nobody; names of its doors are looked up, by TCP where an answer is long.
const DNS: u16 = 53;

impl Args {
    /// Closes what a relay with these settings has no need of: see [`Closed::by`].
    pub(super) fn close(&self, configuration: Option<&Path>) -> Closed {
        if self.sandbox.is_off() {
            return Closed::unwanted();
        }
        let mut sandbox = usual();
        sandbox.connect_only_to(&[DNS]);
        let certificates = self.tls.certificate_files();
        for file in configuration.into_iter().chain(certificates) {
            sandbox.read(file);
        }
        if let Some(tokens) = self.tls.token_file() {
            sandbox.replace(tokens);
        }
        if let Some(log) = self.audit.file() {
            sandbox.append(log);
        }
        if let Some(data) = self.topics.dir() {
            sandbox.change_below(data);
        }
        let is_plain = self.listen.iter().any(|door| !door.scheme.is_tls());
        // Made while it can be; why it could not is told where it is wanted.
        if is_plain && !self.behind.is_given() && LoopbackSecret::load_or_create().is_ok() {
            sandbox.read_below(&runtime_dir());
        }
        Closed::by(sandbox)
    }
}
