//! Who may run what: asks the policy, with what the caller's words come to on this host. The one
//! place that decides; everything that a command is asked for through comes here first.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use farpipe_proto::identity::{Asserting, Caller, LetInBy};

use super::environment::{self, Resolved, User};
use super::request::{Request, What};
use crate::policy::{self, Decision, Denied, Exec, Origin, Policy, Program, Setting, Within};

/// A command that its caller may have, as it is to be run.
#[derive(Debug)]
pub(crate) struct Permit {
    pub(crate) resolved: Resolved,
    /// The rule that says so.
    pub(crate) rule: Origin,
}

/// A command that its caller may not have, or that is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Objection {
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error("nothing says who asks")]
    Nobody,
    #[error(transparent)]
    Program(policy::ProgramError),
    #[error("cannot change to the directory '{}': {error}", dir.display())]
    Directory { dir: PathBuf, error: io::Error },
}

/// Why a command is not run.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) why: Objection,
    /// Whether its caller is told so: who may run anything may see what there is to be run. Others
    /// are told [`Denied::TOLD`].
    pub(crate) is_told: bool,
}

/// Whether `caller` may have `request`. What it names is looked up first: a rule is for a file, not
/// for a way to write its name. Blocks on the disk for a moment.
pub(crate) fn may(
    policy: &Policy,
    caller: Option<&Caller>,
    request: &Request,
) -> Result<Permit, Refused> {
    let Some(caller) = caller else {
        return Err(Refused::silently(Objection::Nobody));
    };
    let found = Found::look(request, User::own()).map_err(|why| {
        let anything = policy::Request::Shell(Setting::default());
        let is_told = matches!(policy.decide(caller, &anything), Decision::Allowed { .. });
        Refused { why, is_told }
    })?;
    found
        .decide(request, |wanted| policy.decide(caller, wanted))
        .map_err(|denied| Refused::silently(denied.into()))
}

/// The same, if there is anybody at all who may have `request`: how it is to be run, or why it is not. Blocks on the disk for a
/// moment.
pub(super) fn may_somebody(policy: &Policy, request: &Request) -> Result<Resolved, Objection> {
    let found = Found::look(request, User::own())?;
    let permit = found.decide(request, |wanted| policy.decide_for_somebody(wanted))?;
    Ok(permit.resolved)
}

/// Why `caller` may not have `request` by that policy, if the policy says so: that a program or a directory is
/// gone is no matter for what runs. Blocks on the disk for a moment.
pub(crate) fn denied(policy: &Policy, caller: &Caller, request: &Request) -> Option<Denied> {
    match may(policy, Some(caller), request).err()?.why {
        Objection::Denied(denied) => Some(denied),
        Objection::Nobody | Objection::Program(_) | Objection::Directory { .. } => None,
    }
}

impl Refused {
    fn silently(why: Objection) -> Self {
        Self {
            why,
            is_told: false,
        }
    }
}

/// What a request comes to on this host.
struct Found {
    user: User,
    path: OsString,
    cwd: PathBuf,
    /// None: a shell.
    program: Option<Program>,
}

impl Found {
    fn look(request: &Request, user: User) -> Result<Self, Objection> {
        let path = environment::path();
        let dir = user.home.join(&request.cwd);
        let cwd = match dir.canonicalize() {
            Ok(cwd) => cwd,
            Err(error) => return Err(Objection::Directory { dir, error }),
        };
        let program = match &request.what {
            What::Program(name, _) => {
                let found = Program::find(name, &path, &cwd).map_err(Objection::Program)?;
                Some(found)
            }
            What::Line(_) | What::LoginShell => None,
        };
        Ok(Self {
            user,
            path,
            cwd,
            program,
        })
    }

    fn decide(
        self,
        request: &Request,
        asked: impl FnOnce(&policy::Request<'_>) -> Decision,
    ) -> Result<Permit, Denied> {
        let names: Vec<OsString> = request.env.iter().map(|(name, _)| name.clone()).collect();
        let is_elsewhere = !request.cwd.as_os_str().is_empty();
        let setting = Setting {
            environment: &names,
            directory: is_elsewhere.then_some(self.cwd.as_path()),
        };
        let wanted = match (&request.what, &self.program) {
            (What::Program(_, arguments), Some(program)) => policy::Request::Exec(Exec {
                program,
                arguments,
                setting,
            }),
            (What::Program(..) | What::Line(_) | What::LoginShell, _) => {
                policy::Request::Shell(setting)
            }
        };
        let (rule, within) = match asked(&wanted) {
            Decision::Allowed { rule, within } => (rule, within),
            Decision::Denied(denied) => return Err(denied),
        };
        let Self {
            user,
            path,
            cwd,
            program,
        } = self;
        let (program, argv0, args) = match (&request.what, program) {
            (What::Program(name, args), Some(program)) => {
                let (program, argv0) = match within {
                    Within::Program(program) => (program.clone(), program.into()),
                    Within::AsAsked | Within::Directory(_) => {
                        (program.named().to_owned(), name.clone())
                    }
                };
                (program.into(), argv0, args.clone())
            }
            (What::Line(line), _) => environment::line(line),
            (What::LoginShell | What::Program(..), _) => user.login_shell(),
        };
        Ok(Permit {
            resolved: Resolved {
                program,
                argv0,
                args,
                cwd,
                env: environment::make(request, &user, path),
            },
            rule,
        })
    }
}

/// Whether `caller` may see, join and end what `starter` has started to go on without it: who has the
/// same name, shown no less well, and the user whom this agent runs as. Nobody else may, whatever the
/// policy lets them run.
pub(crate) fn may_manage(caller: Option<&Caller>, starter: Option<&Caller>) -> bool {
    match (caller, starter) {
        // By whose relay it comes or not: on loopback all are one user.
        (Some(Caller::ThisUser | Caller::Unnamed(LetInBy::Relay(Asserting::ThisUser))), _) => true,
        (Some(caller), Some(starter)) => {
            caller.identity().is_some()
                && caller.identity() == starter.identity()
                && (starter.rests_on_relay() || !caller.rests_on_relay())
        }
        (None, _) | (_, None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THIS: Asserting = Asserting::ThisUser;
    const ANOTHER: Asserting = Asserting::Another;

    /// Every way to be somebody that a name can be shown by, the ones that a relay cannot lie about
    /// first.
    fn shown(name: &str) -> [Caller; 5] {
        let name = format!("farpipe://local/client/{name}");
        let identity = || name.parse().expect("an identity");
        let fingerprint = [7; 32];
        [
            Caller::EndToEnd {
                identity: identity(),
                fingerprint,
            },
            Caller::Direct {
                identity: identity(),
                // Renewed meanwhile.
                fingerprint: [8; 32],
            },
            Caller::Token {
                identity: identity(),
            },
            Caller::RelayAsserted {
                identity: identity(),
                relay: THIS,
            },
            Caller::RelayAsserted {
                identity: identity(),
                relay: ANOTHER,
            },
        ]
    }

    fn nameless() -> [Option<Caller>; 4] {
        let relay = Caller::Unnamed(LetInBy::Relay(ANOTHER));
        let ticket = Caller::Unnamed(LetInBy::Ticket);
        let certificate = Caller::Unnamed(LetInBy::Certificate);
        [None, Some(relay), Some(ticket), Some(certificate)]
    }

    fn this_user() -> [Caller; 2] {
        let by_relay = Caller::Unnamed(LetInBy::Relay(THIS));
        [Caller::ThisUser, by_relay]
    }

    #[test]
    fn a_command_is_its_starters_however_well_that_one_is_shown_or_better() {
        let (alice, bob) = (shown("alice"), shown("bob"));
        for (n, starter) in alice.iter().enumerate() {
            for (m, caller) in alice.iter().enumerate() {
                // What another's relay says is worth less than all else.
                let is_worse = m == 4 && n != 4;
                let may = may_manage(Some(caller), Some(starter));
                assert_eq!(may, !is_worse, "{caller} of {starter}");
            }
            for caller in &bob {
                let may = may_manage(Some(caller), Some(starter));
                assert!(!may, "{caller} of {starter}");
            }
        }
    }

    #[test]
    fn who_has_no_name_has_nothing_and_nobody_else_has_what_they_started() {
        let named = shown("alice").map(Some);
        let all: Vec<_> = nameless().into_iter().chain(named).collect();
        for nobody in nameless() {
            for other in &all {
                let of = may_manage(nobody.as_ref(), other.as_ref());
                assert!(!of, "{nobody:?} of {other:?}");
                let by = may_manage(other.as_ref(), nobody.as_ref());
                assert!(!by, "{other:?} of {nobody:?}");
            }
        }
    }

    #[test]
    fn this_hosts_user_has_all_and_nobody_else_has_theirs() {
        let others: Vec<_> = nameless()
            .into_iter()
            .chain(shown("alice").map(Some))
            .collect();
        for user in this_user() {
            for other in &others {
                assert!(may_manage(Some(&user), other.as_ref()), "of {other:?}");
                assert!(!may_manage(other.as_ref(), Some(&user)), "{other:?}");
            }
            for same in this_user() {
                assert!(may_manage(Some(&user), Some(&same)), "{same:?}");
            }
        }
    }
}
