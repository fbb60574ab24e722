//! System calls: seccomp.
//!
//! What is denied is named, and the rest is allowed: a list of what is allowed would be broken by another C
//! library, allocator or kernel, in ways that show only then. A denied call fails, and kills nobody: EPERM, which
//! says what it is, or ENOSYS for what is tried first by libraries that know another way. What the
//! kernel runs for us out of our sight (io_uring) is denied as a whole, and so are the numbers of the x32 ABI,
//! by which each call could be made once more.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, apply_filter_all_threads,
};

use crate::{Missing, Sandbox};

/// Closes them in all threads.
pub(crate) fn close(sandbox: &Sandbox) -> Result<(), Missing> {
    let missing = |error: &dyn std::fmt::Display| Missing(format!("seccomp: {error}"));
    let programs = programs(sandbox).map_err(|error| missing(&error))?;
    // A later one asks the earlier ones, too.
    for program in programs {
        apply_filter_all_threads(&program).map_err(|error| missing(&error))?;
    }
    Ok(())
}

/// What fails with EPERM, whatever its arguments.
#[rustfmt::skip]
const DENIED: &[c_long] = &[
    // Other programs.
    libc::SYS_execve, libc::SYS_execveat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
    // Other processes: their memory, their descriptors.
    libc::SYS_ptrace, libc::SYS_process_vm_readv, libc::SYS_process_vm_writev, libc::SYS_kcmp,
    libc::SYS_pidfd_getfd, libc::SYS_process_madvise,
    // Ways into the kernel: large, and of no use to who moves bytes.
    libc::SYS_bpf, libc::SYS_perf_event_open, libc::SYS_userfaultfd,
    libc::SYS_add_key, libc::SYS_keyctl, libc::SYS_request_key,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
    // What files there are, past their permissions.
    libc::SYS_mount, libc::SYS_umount2, libc::SYS_mount_setattr, libc::SYS_move_mount, libc::SYS_open_tree,
    libc::SYS_fsopen, libc::SYS_fsconfig, libc::SYS_fsmount, libc::SYS_fspick, libc::SYS_pivot_root,
    libc::SYS_chroot, libc::SYS_open_by_handle_at, libc::SYS_quotactl, libc::SYS_swapon, libc::SYS_swapoff,
    libc::SYS_fanotify_init, libc::SYS_mknodat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mknod,
    // Owners and attributes of files, which landlock knows nothing of.
    libc::SYS_fchown, libc::SYS_fchownat,
    libc::SYS_setxattr, libc::SYS_lsetxattr, libc::SYS_fsetxattr,
    libc::SYS_removexattr, libc::SYS_lremovexattr, libc::SYS_fremovexattr,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
    // Who this process is, and what it sees of the host.
    libc::SYS_setuid, libc::SYS_setgid, libc::SYS_setreuid, libc::SYS_setregid, libc::SYS_setresuid,
    libc::SYS_setresgid, libc::SYS_setfsuid, libc::SYS_setfsgid, libc::SYS_setgroups, libc::SYS_capset,
    libc::SYS_unshare, libc::SYS_setns, libc::SYS_personality,
    // The host itself.
    libc::SYS_init_module, libc::SYS_finit_module, libc::SYS_delete_module, libc::SYS_kexec_load,
    libc::SYS_reboot, libc::SYS_acct, libc::SYS_syslog, libc::SYS_vhangup,
    libc::SYS_settimeofday, libc::SYS_clock_settime, libc::SYS_clock_adjtime, libc::SYS_adjtimex,
    libc::SYS_sethostname, libc::SYS_setdomainname,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_kexec_file_load,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
];

/// Modes and times of files, which landlock knows nothing of either; denied as well, unless they are set.
#[rustfmt::skip]
const MODES: &[c_long] = &[
    libc::SYS_fchmod, libc::SYS_fchmodat, SYS_FCHMODAT2, libc::SYS_utimensat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chmod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_utime,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_utimes,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_futimesat,
];

/// Not in every C library's headers; one number on all architectures, as of all calls since 424.
const SYS_FCHMODAT2: c_long = 452;

/// What fails with ENOSYS: the first has its arguments in memory, where no rule can look, and C libraries go on
/// with `clone`; those who want io_uring do without.
const ABSENT: &[c_long] = &[
    libc::SYS_clone3,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
];

/// New namespaces, as flags of `clone`.
const NAMESPACES: &[i32] = &[
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

/// Sockets of other families reach parts of the kernel that nobody needs here.
const FAMILIES: &[i32] = &[
    libc::AF_UNIX,
    libc::AF_INET,
    libc::AF_INET6,
    libc::AF_NETLINK,
];

/// Orders to a terminal that type on it (TIOCSTI, TIOCLINUX): on that of who started us.
const TYPING: &[u64] = &[0x5412, 0x541c];

fn programs(sandbox: &Sandbox) -> Result<Vec<BpfProgram>, BackendError> {
    let whatever = |calls: &[c_long]| -> BTreeMap<i64, Vec<SeccompRule>> {
        calls.iter().map(|call| (*call, Vec::new())).collect()
    };
    let mut denied = whatever(DENIED);
    if !sandbox.changes_modes {
        denied.extend(whatever(MODES));
    }
    denied.insert(libc::SYS_clone, clones()?);
    denied.insert(libc::SYS_socket, vec![other_families()?]);
    denied.insert(libc::SYS_ioctl, typing()?);
    let mut programs = vec![
        program(denied, libc::EPERM)?,
        program(whatever(ABSENT), libc::ENOSYS)?,
    ];
    if cfg!(target_arch = "x86_64") {
        programs.push(x32());
    }
    Ok(programs)
}

fn program(rules: BTreeMap<i64, Vec<SeccompRule>>, error: i32) -> Result<BpfProgram, BackendError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let fails = SeccompAction::Errno(error.cast_unsigned());
    SeccompFilter::new(rules, SeccompAction::Allow, fails, arch)?.try_into()
}

/// Threads may be made, and nothing else.
fn clones() -> Result<Vec<SeccompRule>, BackendError> {
    let has = |flag: i32, value: u64| {
        let mask = SeccompCmpOp::MaskedEq(u64::from(flag.cast_unsigned()));
        SeccompRule::new(vec![argument(0, mask, value)?])
    };
    let mut rules = vec![has(libc::CLONE_THREAD, 0)?];
    for flag in NAMESPACES {
        rules.push(has(*flag, u64::from(flag.cast_unsigned()))?);
    }
    Ok(rules)
}

fn other_families() -> Result<SeccompRule, BackendError> {
    let others = FAMILIES.iter().map(|family| {
        let family = u64::from(family.cast_unsigned());
        argument(0, SeccompCmpOp::Ne, family)
    });
    SeccompRule::new(others.collect::<Result<_, _>>()?)
}

fn typing() -> Result<Vec<SeccompRule>, BackendError> {
    let rule = |order: &u64| SeccompRule::new(vec![argument(1, SeccompCmpOp::Eq, *order)?]);
    TYPING.iter().map(rule).collect()
}

/// The lower half of an argument: the kernel looks at no more of any of these.
fn argument(number: u8, op: SeccompCmpOp, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(number, SeccompCmpArgLen::Dword, op, value)
}

/// The calls of the x32 ABI, which are numbered from 2^30 and have the architecture of the others.
fn x32() -> BpfProgram {
    const FIRST: u32 = 0x4000_0000;
    const LOAD_NUMBER: u16 = 0x20;
    const IS_AT_LEAST: u16 = 0x35;
    const RETURN: u16 = 0x06;
    let step = |code, jf, k| seccompiler::sock_filter { code, jt: 0, jf, k };
    vec![
        step(LOAD_NUMBER, 0, 0),
        step(IS_AT_LEAST, 1, FIRST),
        step(
            RETURN,
            0,
            libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned(),
        ),
        step(RETURN, 0, libc::SECCOMP_RET_ALLOW),
    ]
}
