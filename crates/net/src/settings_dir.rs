//! Where a user's farpipe keeps what it is told to keep: policy, tokens.

use std::path::PathBuf;

/// `/etc/farpipe` for root, `$XDG_CONFIG_HOME/farpipe` or `~/.config/farpipe` for others. Relative
/// values of the variables do not count, as the XDG specification has it.
#[must_use]
pub fn settings_dir() -> PathBuf {
    let absolute = |name: &str| {
        let value = std::env::var_os(name).map(PathBuf::from);
        value.filter(|path| path.is_absolute())
    };
    let configured = absolute("XDG_CONFIG_HOME");
    if configured.is_none() && rustix::process::geteuid().is_root() {
        return PathBuf::from("/etc/farpipe");
    }
    let home = || {
        absolute("HOME")
            .unwrap_or_else(|| PathBuf::from("/etc"))
            .join(".config")
    };
    configured.unwrap_or_else(home).join("farpipe")
}
