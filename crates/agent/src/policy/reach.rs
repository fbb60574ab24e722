//! How far into the host a policy lets anybody reach: what an agent needs that serves it, and what may be taken from
//! its process (docs/decisions/0021-sandbox.md).

use std::path::{Path, PathBuf};

use super::Policy;
use super::grant::Grant;

/// All that somebody may have of the host, whoever it is. Ports and addresses are not in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach {
    /// Whether programs are run.
    pub programs: bool,
    /// Whether somebody chooses what they do: any program, or a shell.
    pub any_program: bool,
    /// Files, and directories with all below them, that are read.
    pub read: Vec<PathBuf>,
    /// Those that are changed, and those in which sockets are made.
    pub changed: Vec<PathBuf>,
}

impl Reach {
    fn of<'a>(grants: impl Iterator<Item = &'a Grant>) -> Self {
        let mut reach = Self::default();
        for grant in grants {
            reach.add(grant);
        }
        reach
    }

    fn add(&mut self, grant: &Grant) {
        self.any_program |= grant.runs_anything();
        match grant {
            Grant::Everything => {
                self.programs = true;
                self.changed.push(PathBuf::from("/"));
            }
            Grant::AnyProgram | Grant::Program(_) | Grant::Shell => self.programs = true,
            Grant::Read(root) => self.read.push(root.clone()),
            Grant::Write(root) | Grant::ListenUnix(root) => self.changed.push(root.clone()),
            Grant::Connect(_)
            | Grant::Listen(_)
            | Grant::ConnectUnix(_)
            | Grant::Publish(_)
            | Grant::Subscribe(_) => {}
        }
    }

    fn has(&self, other: &Self) -> bool {
        let within = |path: &PathBuf, roots: &[PathBuf]| is_below(path, roots);
        let reads = |path: &PathBuf| within(path, &self.read) || within(path, &self.changed);
        (self.programs || !other.programs)
            && other.read.iter().all(reads)
            && other.changed.iter().all(|path| within(path, &self.changed))
    }
}

fn is_below(path: &Path, roots: &[PathBuf]) -> bool {
    roots.iter().any(|root| path.starts_with(root))
}

impl Policy {
    /// How far it lets anybody reach.
    #[must_use]
    pub fn reach(&self) -> Reach {
        let grants = self.rules.iter().flat_map(|rule| &rule.grants);
        Reach::of(grants.map(|(grant, _)| grant))
    }

    /// The same without what goes beyond `kept`; and where that stands, in words.
    pub(super) fn within(mut self, kept: &Reach) -> (Self, Vec<String>) {
        let mut beyond = Vec::new();
        for rule in &mut self.rules {
            rule.grants.retain(|(grant, origin)| {
                let has = kept.has(&Reach::of(std::iter::once(grant)));
                if !has {
                    beyond.push(origin.to_string());
                }
                has
            });
        }
        (self, beyond)
    }
}
