//! Files, TCP connections, signals: landlock.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, LandlockStatus,
    NetPort, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus,
    Scope, make_bitflags, path_beneath_rules,
};

use crate::{Access, Missing, Sandbox};

/// What is asked for; newer kernels could close more, which nobody has tried with farpipe.
const NEWEST: ABI = ABI::V7;

/// Closes all but what is allowed. The version that this kernel has.
pub(crate) fn close(sandbox: &Sandbox) -> Result<u32, Missing> {
    let threads = threads();
    if threads.map(NonZeroUsize::get) != Some(1) {
        let count = threads.map_or_else(|| "an unknown number of".to_owned(), |n| n.to_string());
        return Err(Missing(format!("{count} threads run already")));
    }
    let status = restrict(sandbox).map_err(|error| Missing(format!("landlock: {error}")))?;
    match (status.landlock, status.ruleset) {
        (
            LandlockStatus::Available { effective_abi, .. },
            RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced,
        ) => Ok(effective_abi as u32),
        (LandlockStatus::NotEnabled, _) => Err(Missing(
            "landlock is switched off in this kernel".to_owned(),
        )),
        (LandlockStatus::NotImplemented | LandlockStatus::Available { .. }, _) => Err(Missing(
            "this kernel has no landlock, or does not let it be used here".to_owned(),
        )),
    }
}

fn restrict(sandbox: &Sandbox) -> Result<landlock::RestrictionStatus, RulesetError> {
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .scope(scope(sandbox))?;
    if sandbox.tcp_ports.is_some() {
        ruleset = ruleset.handle_access(AccessNet::ConnectTcp)?;
    }
    let mut ruleset = ruleset.create()?;
    for (place, access) in &sandbox.places {
        ruleset = ruleset.add_rules(path_beneath_rules([place], rights(*access)))?;
    }
    for file in &sandbox.alone {
        ruleset = ruleset.add_rules(path_beneath_rules([file], rights(Access::Read)))?;
    }
    for port in sandbox.tcp_ports.iter().flatten() {
        ruleset = ruleset.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
    }
    ruleset.restrict_self()
}

/// Whom it cannot reach outside.
fn scope(sandbox: &Sandbox) -> BitFlags<Scope> {
    let mut scope = Scope::from_all(NEWEST);
    if sandbox.reaches_abstract {
        scope.remove(Scope::AbstractUnixSocket);
    }
    if sandbox.signals_others {
        scope.remove(Scope::Signal);
    }
    scope
}

fn rights(access: Access) -> BitFlags<AccessFs> {
    let read = make_bitflags!(AccessFs::{ReadFile | ReadDir});
    let append = read | make_bitflags!(AccessFs::{WriteFile | Truncate | MakeReg});
    match access {
        Access::Read => read,
        Access::Append => append,
        Access::Change => append | AccessFs::RemoveFile,
        Access::All => {
            let others = make_bitflags!(AccessFs::{Execute | MakeChar | MakeBlock});
            AccessFs::from_all(NEWEST) & !others
        }
    }
}

/// The threads of this process; `None` where that cannot be known.
fn threads() -> Option<NonZeroUsize> {
    let tasks = std::fs::read_dir(PathBuf::from("/proc/self/task")).ok()?;
    NonZeroUsize::new(tasks.count())
}
