//! The environment of a command: made anew, as at a login. The agent's own has what concerns the
//! agent. What a caller may add is the policy's to say.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::request::Request;

/// Where programs are looked for if the agent itself was not told.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin";
const SHELL: &str = "/bin/sh";

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

/// A command as it is executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resolved {
    /// The file.
    pub(crate) program: OsString,
    /// What it hears as its name.
    pub(crate) argv0: OsString,
    pub(crate) args: Vec<OsString>,
    /// All links in it are followed already.
    pub(crate) cwd: PathBuf,
    pub(crate) env: Vec<(OsString, OsString)>,
}

/// Where programs are looked for.
pub(crate) fn path() -> OsString {
    or(std::env::var_os("PATH").unwrap_or_default(), PATH)
}

/// What runs a line: the program, its name and its arguments.
pub(crate) fn line(line: &OsStr) -> (OsString, OsString, Vec<OsString>) {
    (SHELL.into(), "sh".into(), vec!["-c".into(), line.into()])
}

impl User {
    /// The same for the user's shell, as at a login.
    pub(crate) fn login_shell(&self) -> (OsString, OsString, Vec<OsString>) {
        // A shell whose name begins with a dash reads its profile.
        let mut argv0 = OsString::from("-");
        argv0.push(Path::new(&self.shell).file_name().unwrap_or_default());
        (self.shell.clone(), argv0, Vec::new())
    }
}

/// Makes the whole environment of a request whose variables the policy allows.
pub(crate) fn make(request: &Request, user: &User, path: OsString) -> Vec<(OsString, OsString)> {
    let mut env: Vec<(OsString, OsString)> = vec![
        ("HOME".into(), user.home.clone().into()),
        ("LOGNAME".into(), user.name.clone()),
        ("PATH".into(), path),
        ("SHELL".into(), user.shell.clone()),
        ("USER".into(), user.name.clone()),
    ];
    if let Some(lang) = std::env::var_os("LANG") {
        env.push(("LANG".into(), lang));
    }
    if let Some(terminal) = &request.terminal {
        env.push(("TERM".into(), terminal.term.clone()));
    }
    for (name, value) in &request.env {
        env.retain(|(other, _)| other != name);
        env.push((name.clone(), value.clone()));
    }
    env
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_is_the_one_of_passwd() {
        let passwd = b"root:x:0:0::/root:/bin/bash\n# a:b\nbo:x:70:70:Bo,,:/home/bo:\n";
        let user = User::from_passwd(passwd, 70).expect("it is there");
        assert_eq!(user.home, Path::new("/home/bo"));
        assert_eq!((user.name, user.shell), ("bo".into(), "/bin/sh".into()));
        assert_eq!(User::from_passwd(passwd, 7), None);
    }
}
