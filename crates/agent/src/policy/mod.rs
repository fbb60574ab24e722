//! What this host does for whom: nothing that its policy does not allow.
//!
//! A policy is a list of rules, from a YAML file (`file`) and from flags (`flags`). A rule says who it
//! is for and what it grants; rules only ever allow, so their order does not matter, and a file that
//! is cut off between two lines allows less, never more. [`Policy::decide`] takes one typed caller and
//! one request whose paths are resolved already (`resolve`), reads nothing and names the rule that
//! decided. `live` keeps the newest good file while the agent runs. docs/policy.md is the manual.

mod address;
mod command;
mod environment;
mod file;
mod flags;
mod grant;
mod live;
mod reach;
mod request;
mod resolve;
#[cfg(test)]
mod tests;
mod who;

use std::fmt;
use std::path::PathBuf;

use farpipe_proto::identity::Caller;
use farpipe_yaml::Place;

use self::environment::Environment;
use self::grant::Grant;

pub use self::file::{LoadError, default_path};
pub use self::flags::{Allow, AllowEnv, AllowError, Flags};
pub use self::live::LivePolicy;
pub use self::reach::Reach;
pub use self::request::{Exec, Request, Setting};
pub use self::resolve::{Program, ProgramError, target};
pub use self::who::Who;

/// What may be done here, and by whom.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    rules: Vec<Rule>,
    /// A relay's word is enough for what reaches into the host.
    trust_relay: bool,
    /// Why a file that should be here is not.
    unusable: Option<String>,
}

#[derive(Debug, Clone)]
struct Rule {
    who: Vec<Who>,
    grants: Vec<(Grant, Origin)>,
    /// Variables that a caller may set in a command's environment.
    environment: Environment,
    /// Directories beneath which a caller may have a command run.
    directories: Vec<PathBuf>,
}

/// Where a rule stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Its place in a file; displayed as `FILE:LINE:COLUMN`.
    File(Place),
    /// A flag of the command line, as it was typed.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(place) => write!(f, "{place}"),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// What a policy says of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It may be done, within limits.
    Allowed {
        /// The rule that says so.
        rule: Origin,
        /// Within which limits.
        within: Within,
    },
    /// It may not.
    Denied(Denied),
}

/// How what is allowed has to be done, so that it is what the rule meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Within {
    /// Just so.
    AsAsked,
    /// By running this file, with this path as its `argv[0]`: what a caller calls it would choose
    /// what a multi-call binary does.
    Program(PathBuf),
    /// Beneath this directory, opened so that no link leads out of it.
    Directory(PathBuf),
}

/// Why something may not be done: for the log of this host, and for whoever tests a policy. A caller is
/// told [`Denied::TOLD`] alone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Nothing is allowed that no rule allows.
    #[error("no rule allows {caller} to {request}")]
    NoRule {
        /// Who asked.
        caller: String,
        /// For what.
        request: String,
    },
    /// A relay that lies would get what it wants.
    #[error(
        "{rule} would allow it, but nothing but a relay says who this is: \
         an end-to-end or direct certificate is needed, or `trust_relay: true`"
    )]
    NeedsCertificate {
        /// The rule that would allow it.
        rule: Origin,
    },
    /// A variable that the rule does not list.
    #[error("{rule} would allow it without the variable {name}, which its `env` does not list")]
    Variable {
        /// The rule that would allow it.
        rule: Origin,
        /// The variable, escaped.
        name: String,
    },
    /// A variable that makes other programs of programs.
    #[error("{rule} would allow it without the variable {name}, which no caller may set")]
    NeverVariable {
        /// The rule that would allow it.
        rule: Origin,
        /// The variable, escaped.
        name: String,
    },
    /// A directory that the rule does not list.
    #[error("{rule} would allow it, but not in that directory: its `cwd` does not list it")]
    Directory {
        /// The rule that would allow it.
        rule: Origin,
    },
    /// There is a policy, and it could not be read.
    #[error("nothing is allowed, because the policy cannot be used: {0}")]
    Unusable(String),
}

impl Denied {
    /// What a caller is told: rules and paths of this host are not its business.
    pub const TOLD: &str = "the policy of that host does not allow it; its log says why";

    /// The rule that came nearest to allowing it.
    #[must_use]
    pub fn rule(&self) -> Option<&Origin> {
        match self {
            Self::NeedsCertificate { rule }
            | Self::Variable { rule, .. }
            | Self::NeverVariable { rule, .. }
            | Self::Directory { rule } => Some(rule),
            Self::NoRule { .. } | Self::Unusable(_) => None,
        }
    }
}

impl Policy {
    /// The same, and what `flags` allow to every caller that was let in.
    #[must_use]
    pub fn and_flags(mut self, flags: &Flags) -> Self {
        self.rules.extend(flags.rules());
        self
    }

    /// A policy in the place of one that cannot be used.
    fn unusable(why: String) -> Self {
        Self {
            unusable: Some(why),
            ..Self::default()
        }
    }

    /// Whether nothing at all is allowed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.grants() == 0
    }

    /// How many things are granted.
    #[must_use]
    pub fn grants(&self) -> usize {
        self.rules.iter().map(|rule| rule.grants.len()).sum()
    }

    /// Whether `caller` may do that. Paths in `request` are resolved; see [`Program`] and [`target`].
    #[must_use]
    pub fn decide(&self, caller: &Caller, request: &Request<'_>) -> Decision {
        self.decide_by(caller, request, |rule| rule.is_for(caller))
    }

    /// Whether there is anybody who may do that.
    pub(crate) fn decide_for_somebody(&self, request: &Request<'_>) -> Decision {
        self.decide_by(&Caller::ThisUser, request, |_| true)
    }

    fn decide_by(
        &self,
        caller: &Caller,
        request: &Request<'_>,
        is_for: impl Fn(&Rule) -> bool,
    ) -> Decision {
        let mut objection = None;
        for rule in self.rules.iter().filter(|rule| is_for(rule)) {
            for (grant, origin) in &rule.grants {
                let Some(within) = grant.covers(request) else {
                    continue;
                };
                match self.objection(caller, request, rule, grant, origin) {
                    None => {
                        let rule = origin.clone();
                        return Decision::Allowed { rule, within };
                    }
                    Some(denied) => {
                        objection.get_or_insert(denied);
                    }
                }
            }
        }
        let unusable = || self.unusable.clone().map(Denied::Unusable);
        Decision::Denied(
            objection
                .or_else(unusable)
                .unwrap_or_else(|| Denied::NoRule {
                    caller: caller.to_string(),
                    request: request.to_string(),
                }),
        )
    }

    /// What stands against a request that a rule's grant covers.
    fn objection(
        &self,
        caller: &Caller,
        request: &Request<'_>,
        rule: &Rule,
        grant: &Grant,
        origin: &Origin,
    ) -> Option<Denied> {
        let rule_is = || origin.clone();
        if request.reaches_into_host() && caller.rests_on_relay() && !self.trust_relay {
            return Some(Denied::NeedsCertificate { rule: rule_is() });
        }
        let setting = request.setting()?;
        for name in setting.environment {
            let Some(refused) = rule.environment.refuses(name) else {
                continue;
            };
            let (rule, name) = (rule_is(), name.display().to_string());
            let name = name.escape_debug().to_string();
            return Some(match refused {
                environment::Refused::Never => Denied::NeverVariable { rule, name },
                environment::Refused::NotListed => Denied::Variable { rule, name },
            });
        }
        let directory = setting.directory?;
        // Whoever may run anything may change the directory first.
        let is_listed = rule
            .directories
            .iter()
            .any(|dir| directory.starts_with(dir));
        let is_plain = resolve::is_plain(directory);
        let may = is_plain && (is_listed || grant.runs_anything());
        (!may).then(|| Denied::Directory { rule: rule_is() })
    }
}

impl Rule {
    fn is_for(&self, caller: &Caller) -> bool {
        self.who.iter().any(|who| who.is(caller))
    }
}
