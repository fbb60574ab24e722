//! What a peer asks for, parsed: nothing behind this need check it again.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

use farpipe_proto::limits::{DETACHED_ID_MAX, KEEP_OUTPUT_MAX};
use farpipe_proto::wire::control;

/// A command that may be refused, and cannot be malformed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) what: What,
    /// Relative to the user's home directory; empty: there.
    pub(crate) cwd: PathBuf,
    pub(crate) env: Vec<(OsString, OsString)>,
    pub(crate) terminal: Option<Terminal>,
    /// It goes on without its caller.
    pub(crate) detached: Option<Detached>,
}

/// How a command is kept that goes on without its caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Detached {
    /// Its name among all such commands of the agent.
    pub(crate) id: String,
    /// Bytes of stdout that wait for somebody, at most, and as many of stderr.
    pub(crate) keep: usize,
    /// Whether the oldest are lost beyond that; else the command waits.
    pub(crate) drops: bool,
    /// Whether its stdin is empty.
    pub(crate) no_stdin: bool,
}

impl Detached {
    fn parse(asked: control::Detached) -> Result<Self, RequestError> {
        let is_word = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let id = asked.id;
        if id.is_empty() || id.len() > DETACHED_ID_MAX || !id.chars().all(is_word) {
            return Err(RequestError::Id);
        }
        let keep = usize::try_from(asked.keep).unwrap_or(usize::MAX);
        if keep == 0 || keep > KEEP_OUTPUT_MAX {
            return Err(RequestError::Keep);
        }
        Ok(Self {
            id,
            keep,
            drops: asked.drops,
            no_stdin: asked.no_stdin,
        })
    }
}

/// What is to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    /// A program with exactly these arguments.
    Program(OsString, Vec<OsString>),
    /// A line for `/bin/sh -c`.
    Line(OsString),
    /// The user's shell, as at a login.
    LoginShell,
}

/// The terminal that it runs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Terminal {
    pub(crate) size: Size,
    pub(crate) term: OsString,
}

/// Lines and characters of a terminal. What does not fit the system's numbers is as large as they
/// are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) rows: u16,
    pub(crate) cols: u16,
}

impl Size {
    pub(crate) fn new(rows: u32, cols: u32) -> Self {
        let fit = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
        Self {
            rows: fit(rows),
            cols: fit(cols),
        }
    }
}

/// Why a request is none. The peer's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RequestError {
    #[error("the command has a zero byte in it, which no system can pass on")]
    ZeroByte,
    #[error("'{0}' is no NAME=VALUE")]
    NoVariable(String),
    #[error("a shell takes one line, not {0}")]
    Lines(usize),
    #[error("the command is empty")]
    Empty,
    #[error("an id has 1 to {DETACHED_ID_MAX} letters, digits, dots, hyphens and underscores")]
    Id,
    #[error("from 1 byte to {} MiB of output can be kept", KEEP_OUTPUT_MAX >> 20)]
    Keep,
}

impl Request {
    pub(crate) fn parse(asked: control::Command) -> Result<Self, RequestError> {
        let control::Command {
            argv,
            shell,
            cwd,
            env,
            terminal,
            detached,
        } = asked;
        let term = terminal.iter().map(|terminal| &terminal.term);
        let all = argv.iter().chain(&env).chain([&cwd]).chain(term);
        if all.into_iter().any(|bytes| bytes.contains(&0)) {
            return Err(RequestError::ZeroByte);
        }
        let mut words = argv.into_iter().map(OsString::from_vec);
        let what = match (words.next(), shell) {
            (None, false) => What::LoginShell,
            (None, true) => return Err(RequestError::Lines(0)),
            (Some(line), true) if words.len() == 0 => What::Line(line),
            (Some(_), true) => return Err(RequestError::Lines(1 + words.len())),
            (Some(program), false) if program.is_empty() => return Err(RequestError::Empty),
            (Some(program), false) => What::Program(program, words.collect()),
        };
        Ok(Self {
            what,
            cwd: OsString::from_vec(cwd).into(),
            env: env
                .iter()
                .map(|pair| variable(pair))
                .collect::<Result<_, _>>()?,
            terminal: terminal.map(|terminal| Terminal {
                size: Size::new(terminal.rows, terminal.cols),
                term: OsString::from_vec(terminal.term),
            }),
            detached: detached.map(Detached::parse).transpose()?,
        })
    }

    /// What a peer would say to ask for the same, but for how it is kept that goes on without its caller.
    pub(super) fn to_wire(&self) -> control::Command {
        let bytes = |word: &OsString| word.clone().into_vec();
        let (argv, shell) = match &self.what {
            What::Program(program, args) => {
                let words = std::iter::once(program).chain(args);
                (words.map(bytes).collect(), false)
            }
            What::Line(line) => (vec![bytes(line)], true),
            What::LoginShell => (Vec::new(), false),
        };
        let pair = |(name, value): &(OsString, OsString)| {
            [name.as_bytes(), b"=", value.as_bytes()].concat()
        };
        control::Command {
            argv,
            shell,
            cwd: self.cwd.clone().into_os_string().into_vec(),
            env: self.env.iter().map(pair).collect(),
            terminal: self.terminal.as_ref().map(|terminal| control::Terminal {
                rows: terminal.size.rows.into(),
                cols: terminal.size.cols.into(),
                term: bytes(&terminal.term),
            }),
            detached: None,
        }
    }

    /// The command line, one word behind the other.
    pub(crate) fn line(&self) -> Vec<u8> {
        match &self.what {
            What::Program(program, args) => {
                let mut line = program.clone().into_vec();
                for arg in args {
                    line.push(b' ');
                    line.extend_from_slice(arg.as_bytes());
                }
                line
            }
            What::Line(line) => line.clone().into_vec(),
            What::LoginShell => b"(login shell)".to_vec(),
        }
    }

    /// What is run, for people.
    pub(crate) fn name(&self) -> &OsStr {
        match &self.what {
            What::Program(program, _) => program,
            What::Line(_) => "/bin/sh".as_ref(),
            What::LoginShell => "login shell".as_ref(),
        }
    }
}

fn variable(pair: &[u8]) -> Result<(OsString, OsString), RequestError> {
    let at = pair.iter().position(|byte| *byte == b'=');
    let Some(at) = at.filter(|at| *at > 0) else {
        // The value may be a secret.
        let name = String::from_utf8_lossy(pair).into_owned();
        return Err(RequestError::NoVariable(name));
    };
    let os = |bytes: &[u8]| OsStr::from_bytes(bytes).to_owned();
    Ok((os(&pair[..at]), os(&pair[at + 1..])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(argv: &[&[u8]], shell: bool) -> control::Command {
        control::Command {
            argv: argv.iter().map(|word| word.to_vec()).collect(),
            shell,
            ..control::Command::default()
        }
    }

    #[test]
    fn words_are_taken_as_they_are() {
        let request = Request::parse(asked(&[b"a b", b"", b"\xff*"], false)).expect("a command");
        let words = vec![OsString::new(), OsString::from_vec(b"\xff*".to_vec())];
        assert_eq!(request.what, What::Program("a b".into(), words));
        let request = Request::parse(asked(&[], false)).expect("a shell");
        assert_eq!(request.what, What::LoginShell);
    }

    #[test]
    fn what_is_passed_on_is_asked_for_once_more() {
        for command in [
            asked(&[], false),
            asked(&[b"a; b"], true),
            control::Command {
                cwd: b"/x".to_vec(),
                env: vec![b"A=b=c".to_vec(), b"B=".to_vec()],
                terminal: Some(control::Terminal {
                    rows: 3,
                    cols: 4,
                    term: b"vt".to_vec(),
                }),
                ..asked(&[b"a b", b"", b"\xff"], false)
            },
        ] {
            let request = Request::parse(command.clone()).expect("a request");
            assert_eq!(request.to_wire(), command);
        }
    }

    #[test]
    fn what_no_system_can_run_is_refused() {
        for (argv, shell, error) in [
            (&[&b"a\0b"[..]][..], false, RequestError::ZeroByte),
            (&[b""], false, RequestError::Empty),
            (&[], true, RequestError::Lines(0)),
            (&[b"a", b"b"], true, RequestError::Lines(2)),
        ] {
            assert_eq!(Request::parse(asked(argv, shell)), Err(error));
        }
        for pair in ["", "A", "=b"] {
            let mut command = asked(&[b"a"], false);
            command.env = vec![pair.as_bytes().to_vec()];
            let error = RequestError::NoVariable(pair.to_owned());
            assert_eq!(Request::parse(command), Err(error));
        }
    }

    #[test]
    fn a_variables_value_may_have_anything_in_it() {
        let pair = variable(b"A=b=\xff c").expect("a variable");
        assert_eq!(pair, ("A".into(), OsString::from_vec(b"b=\xff c".to_vec())));
    }
}
