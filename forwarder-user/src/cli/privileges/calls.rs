//! System calls that a server has no use for once it serves: a list of what is forbidden, not of what is allowed. The
//! libraries below us change what they use; the systemd unit and the containers' profile allow by list, and are tried by
//! tests as a whole.

use std::collections::BTreeMap;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

/// Starting programs, which only hooks of the configuration need.
const RUNNING: [libc::c_long; 2] = [libc::SYS_execve, libc::SYS_execveat];
/// Other processes' memory, other namespaces, mounts, modules, keys, and what has had holes.
const FORBIDDEN: [libc::c_long; 46] = [
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_syslog,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_mknodat,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_userfaultfd,
    libc::SYS_perf_event_open,
    libc::SYS_open_by_handle_at,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_personality,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_vhangup,
];

fn program(may_run: bool) -> Result<BpfProgram, seccompiler::BackendError> {
    let running = if may_run { &[][..] } else { &RUNNING };
    let rules = FORBIDDEN.iter().chain(running).map(|call| (*call, Vec::new())).collect::<BTreeMap<_, _>>();
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    SeccompFilter::new(rules, SeccompAction::Allow, refuse, std::env::consts::ARCH.try_into()?)?.try_into()
}

/// For every thread, and for the programs that hooks start (`may_run`), and for good; needs `no_new_privs`. Since Linux 5.11 the kernel remembers which calls a filter
/// always allows, so that those cost nothing.
///
/// # Errors
/// What the kernel says.
pub(super) fn forbid(may_run: bool) -> anyhow::Result<()> {
    Ok(seccompiler::apply_filter_all_threads(&program(may_run)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_can_be_made() {
        let len = |may_run| program(may_run).map(|program| program.len()).unwrap_or_default();
        assert!(len(true) > 0 && len(false) > len(true));
        let mut calls = [&FORBIDDEN[..], &RUNNING].concat();
        calls.sort_unstable();
        calls.dedup();
        assert_eq!(calls.len(), FORBIDDEN.len() + RUNNING.len());
    }
}
