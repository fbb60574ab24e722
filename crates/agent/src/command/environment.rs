//! The environment of a command: made anew, as at a login. The agent's own has what concerns the
//! agent.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::request::{Request, What};

/// Variables that make the loader run other code than the program's: never taken from a peer,
/// whatever is allowed.
const NEVER: [&str; 2] = ["LD_*", "DYLD_*"];
/// What a peer may set unless told otherwise: how text looks, and where the sun stands.
const ALLOWED: [&str; 7] = [
    "COLORTERM",
    "LANG",
    "LANGUAGE",
    "LC_*",
    "NO_COLOR",
    "TERM",
    "TZ",
];
/// Where programs are looked for if the agent itself was not told.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin";
const SHELL: &str = "/bin/sh";

/// The names of the variables that a peer may set. `NAME*` stands for all that begin so.
#[derive(Debug, Clone, Default)]
pub struct AllowedEnv(Vec<String>);

/// A variable that a peer may not set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EnvError {
    #[error("the variable {0} is never taken from a peer: it makes programs run other code")]
    Never(String),
    #[error(
        "the variable {0} may not be set here; the agent allows it with --allow-env {0}, or run \
         `env {0}=… COMMAND`"
    )]
    NotAllowed(String),
}

impl AllowedEnv {
    /// The usual names, and `more`.
    #[must_use]
    pub fn with(more: impl IntoIterator<Item = String>) -> Self {
        Self(ALLOWED.map(str::to_owned).into_iter().chain(more).collect())
    }

    fn check(&self, name: &OsStr) -> Result<(), EnvError> {
        let shown = || name.to_string_lossy().into_owned();
        if NEVER.iter().any(|pattern| covers(pattern, name)) {
            return Err(EnvError::Never(shown()));
        }
        if self.0.iter().any(|pattern| covers(pattern, name)) {
            return Ok(());
        }
        Err(EnvError::NotAllowed(shown()))
    }
}

fn covers(pattern: &str, name: &OsStr) -> bool {
    match pattern.strip_suffix('*') {
        Some(begin) => name.as_bytes().starts_with(begin.as_bytes()),
        None => name == pattern,
    }
}

/// The user that this process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: OsString,
    pub(crate) home: PathBuf,
    pub(crate) shell: OsString,
}

impl User {
    /// From /etc/passwd; what is not there (a directory service) from this process's environment.
    pub(crate) fn own() -> Self {
        let uid = rustix::process::getuid().as_raw();
        let passwd = std::fs::read("/etc/passwd").unwrap_or_default();
        Self::from_passwd(&passwd, uid).unwrap_or_else(|| Self::from_environment(uid))
    }

    fn from_passwd(passwd: &[u8], uid: u32) -> Option<Self> {
        let uid = uid.to_string();
        let mut lines = passwd.split(|byte| *byte == b'\n');
        lines.find_map(|line| {
            let fields: Vec<&[u8]> = line.split(|byte| *byte == b':').collect();
            let [name, _, of, _, _, home, shell] = fields[..] else {
                return None;
            };
            let os = |bytes: &[u8]| OsStr::from_bytes(bytes).to_owned();
            (of == uid.as_bytes()).then(|| Self {
                name: os(name),
                home: or(os(home), "/").into(),
                shell: or(os(shell), SHELL),
            })
        })
    }

    fn from_environment(uid: u32) -> Self {
        let var = |name: &str| std::env::var_os(name).unwrap_or_default();
        Self {
            name: or(var("USER"), &uid.to_string()),
            home: or(var("HOME"), "/").into(),
            shell: or(var("SHELL"), SHELL),
        }
    }
}

fn or(value: OsString, instead: &str) -> OsString {
    if value.is_empty() {
        instead.into()
    } else {
        value
    }
}

/// What a request comes to on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resolved {
    /// What is executed: looked for in PATH if there is no `/` in it.
    pub(crate) program: OsString,
    /// What it hears as its name.
    pub(crate) argv0: OsString,
    pub(crate) args: Vec<OsString>,
    pub(crate) cwd: PathBuf,
    pub(crate) env: Vec<(OsString, OsString)>,
}

/// Makes the whole environment of a request, with what the peer may set of it.
pub(crate) fn resolve(
    request: &Request,
    allowed: &AllowedEnv,
    user: &User,
) -> Result<Resolved, EnvError> {
    let own = |name: &str| std::env::var_os(name);
    let mut env: Vec<(OsString, OsString)> = vec![
        ("HOME".into(), user.home.clone().into()),
        ("LOGNAME".into(), user.name.clone()),
        ("PATH".into(), or(own("PATH").unwrap_or_default(), PATH)),
        ("SHELL".into(), user.shell.clone()),
        ("USER".into(), user.name.clone()),
    ];
    if let Some(lang) = own("LANG") {
        env.push(("LANG".into(), lang));
    }
    if let Some(terminal) = &request.terminal {
        env.push(("TERM".into(), terminal.term.clone()));
    }
    for (name, value) in &request.env {
        allowed.check(name)?;
        env.retain(|(other, _)| other != name);
        env.push((name.clone(), value.clone()));
    }
    let (program, argv0, args) = match &request.what {
        What::Program(program, args) => (program.clone(), program.clone(), args.clone()),
        What::Line(line) => {
            let args = vec!["-c".into(), line.clone()];
            (SHELL.into(), "sh".into(), args)
        }
        What::LoginShell => {
            // A shell whose name begins with a dash reads its profile.
            let mut argv0 = OsString::from("-");
            argv0.push(Path::new(&user.shell).file_name().unwrap_or_default());
            (user.shell.clone(), argv0, Vec::new())
        }
    };
    Ok(Resolved {
        program,
        argv0,
        args,
        cwd: user.home.join(&request.cwd),
        env,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_sets_what_is_allowed_and_never_what_the_loader_reads() {
        let allowed = AllowedEnv::with(["DEPLOY_*".to_owned(), "*".to_owned()]);
        assert_eq!(allowed.check("ANY".as_ref()), Ok(()));
        for name in ["LD_PRELOAD", "LD_", "DYLD_INSERT_LIBRARIES"] {
            let error = EnvError::Never(name.to_owned());
            assert_eq!(allowed.check(name.as_ref()), Err(error));
        }
        let allowed = AllowedEnv::with(["DEPLOY_*".to_owned()]);
        for name in ["LANG", "LC_ALL", "TZ", "DEPLOY_ID"] {
            assert_eq!(allowed.check(name.as_ref()), Ok(()), "{name}");
        }
        for name in ["PATH", "HOME", "BASH_ENV", "TZX", "LDX"] {
            let error = EnvError::NotAllowed(name.to_owned());
            assert_eq!(allowed.check(name.as_ref()), Err(error));
        }
    }

    #[test]
    fn the_user_is_the_one_of_passwd() {
        let passwd = b"root:x:0:0::/root:/bin/bash\n# a:b\nbo:x:70:70:Bo,,:/home/bo:\n";
        let user = User::from_passwd(passwd, 70).expect("it is there");
        assert_eq!(user.home, Path::new("/home/bo"));
        assert_eq!((user.name, user.shell), ("bo".into(), "/bin/sh".into()));
        assert_eq!(User::from_passwd(passwd, 7), None);
    }
}
