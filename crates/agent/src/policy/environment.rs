//! The variables that a caller may set in a command's environment.

use std::ffi::OsStr;

/// Always allowed: language and terminal, as ssh servers do.
const USUAL: &[&str] = &[
    "LANG",
    "LANGUAGE",
    "LC_*",
    "TZ",
    "TERM",
    "COLORTERM",
    "NO_COLOR",
];

/// Never, whatever a policy lists: they choose what code a program runs, where it finds its files, or
/// who it thinks it runs as. Whoever may run anything can still set them, by `env`.
const NEVER: &[&str] = &[
    // The dynamic linker, and what libc loads or reads.
    "LD_*",
    "DYLD_*",
    "GCONV_PATH",
    "GLIBC_TUNABLES",
    "LOCPATH",
    "NLSPATH",
    "HOSTALIASES",
    "LOCALDOMAIN",
    "RES_OPTIONS",
    "RESOLV_*",
    "MALLOC_*",
    // Shells.
    "PATH",
    "IFS",
    "ENV",
    "BASH_ENV",
    "BASH_FUNC_*",
    "BASHOPTS",
    "SHELLOPTS",
    "CDPATH",
    "PS4",
    "PROMPT_COMMAND",
    "ZDOTDIR",
    // Interpreters.
    "PYTHON*",
    "PERL*",
    "RUBY*",
    "NODE_*",
    "LUA_*",
    "PHPRC",
    "PHP_INI_SCAN_DIR",
    "CLASSPATH",
    "JAVA_TOOL_OPTIONS",
    "_JAVA_OPTIONS",
    "JDK_JAVA_OPTIONS",
    // What others are run for, and with what.
    "GIT_*",
    "PAGER",
    "EDITOR",
    "VISUAL",
    "BROWSER",
    "LESSOPEN",
    "LESSCLOSE",
    "OPENSSL_*",
    "SSLKEYLOGFILE",
    "TERMINFO",
    "TERMINFO_DIRS",
    "TERMCAP",
    // Who it is, and what let it in.
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "XDG_*",
    "SUDO_*",
    "FARPIPE_*",
];

/// What a rule allows beside the usual.
#[derive(Debug, Clone, Default)]
pub(super) struct Environment {
    listed: Vec<String>,
}

/// Why a variable may not be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// By nobody.
    Never,
    /// Not by this rule.
    NotListed,
}

impl Environment {
    /// Names that were checked.
    pub(super) fn of<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let listed = names.map(str::to_owned).collect();
        Self { listed }
    }

    /// Adds `NAME`, `PREFIX*` or `*`.
    pub(super) fn list(&mut self, text: &str) -> Result<(), &'static str> {
        Self::check(text)?;
        self.listed.push(text.to_owned());
        Ok(())
    }

    /// Whether a text can be listed.
    pub(super) fn check(text: &str) -> Result<(), &'static str> {
        let name = text.strip_suffix('*').unwrap_or(text);
        if text.is_empty() || !(name.is_empty() || is_variable(name)) {
            return Err("a variable is NAME, or PREFIX* for all that begin so");
        }
        if !text.ends_with('*') && NEVER.iter().any(|never| fits(never, name)) {
            return Err("no caller may set this variable: it changes what programs do");
        }
        Ok(())
    }

    /// Why a variable may not be set; none if it may.
    pub(super) fn refuses(&self, name: &OsStr) -> Option<Refused> {
        let Some(name) = name.to_str().filter(|name| is_variable(name)) else {
            return Some(Refused::Never);
        };
        if NEVER.iter().any(|never| fits(never, name)) {
            return Some(Refused::Never);
        }
        let is_usual = USUAL.iter().any(|usual| fits(usual, name));
        let is_listed = || self.listed.iter().any(|listed| fits(listed, name));
        (!is_usual && !is_listed()).then_some(Refused::NotListed)
    }
}

fn fits(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(begin) => name.starts_with(begin),
        None => pattern == name,
    }
}

/// POSIX's names: what else a shell exports has functions in it.
fn is_variable(name: &str) -> bool {
    let is_in = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) && name.bytes().all(is_in)
}
