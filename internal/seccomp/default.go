package seccomp

import "strings"

// Default is the profile that holds where nothing is said. It lets through what
// programs in containers use; what is for who runs the machine comes with the
// capability for it. All else is EPERM, or ENOSYS where it is newer than this
// text.
func Default() *Profile {
	p := &Profile{otherwise: refuse | eperm, arches: []string{"386", "arm"}} // programs of 32 bits are let live
	let := func(calls string, more ...func(*rule)) {
		r := rule{calls: strings.Fields(calls), action: allow}
		for _, m := range more {
			m(&r)
		}
		p.rules = append(p.rules, r)
	}
	for _, calls := range []string{filesCalls, memoryCalls, processCalls, timeCalls, talkCalls, ownCalls} {
		let(calls)
	}
	for _, g := range capabilityCalls() {
		for cap := range strings.FieldsSeq(g.caps) {
			let(g.calls, with(cap))
		}
	}
	// Before it, a tracer could have a call that was looked at be another one.
	let("ptrace", func(r *rule) { r.includes.kernel = version{4, 8} })
	// Domains (personality(2)) as far as they only say how uname answers:
	// PER_LINUX, PER_LINUX32, either with UNAME26, and asking.
	for _, persona := range []uint64{0, 8, 0x20000, 0x20008, 0xffffffff} {
		let("personality", arg(comparison{0, equal, persona, 0}))
	}
	p.rules = append(p.rules, namespaceRules()...)
	p.rules = append(p.rules, socketRules()...)
	return p
}

func with(cap string) func(*rule) {
	return func(r *rule) { r.includes.caps = append(r.includes.caps, "CAP_"+cap) }
}

func without(cap string) func(*rule) {
	return func(r *rule) { r.excludes.caps = append(r.excludes.caps, "CAP_"+cap) }
}

func arg(c comparison) func(*rule) { return func(r *rule) { r.args = append(r.args, c) } }

// newNamespaces are the flags of clone(2) that make one: CLONE_NEWNS, NEWCGROUP,
// NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET.
const newNamespaces = 0x7e020000

// namespaceRules let clone make processes and threads. What clone3 is asked for
// is in memory, where a filter cannot look: libraries that are told it is not
// there use clone.
func namespaceRules() []rule {
	clone := rule{calls: []string{"clone"}, action: allow}
	arg(comparison{0, maskedEqual, newNamespaces, 0})(&clone)
	clone3 := rule{calls: []string{"clone3"}, action: refuse | enosys}
	without("SYS_ADMIN")(&clone3)
	return []rule{clone, clone3}
}

// afVsock is the family of sockets that lead out of a machine to its host.
const afVsock = 40

// socketRules refuse that family to containers that did not ask for it: on some
// systems it is the way to the agent. The kernel looks at the low half alone, and
// so do these. socketcall, which has its arguments in memory, is not let through
// on the 32-bit architecture.
func socketRules() []rule {
	vsock := rule{calls: []string{"socket", "socketpair"}, action: refuse | eperm}
	arg(comparison{0, maskedEqual, 0xffffffff, afVsock})(&vsock)
	vsock.excludes.vsock = true
	return []rule{vsock, {calls: []string{"socket", "socketpair"}, action: allow}}
}

// What everybody may. A call stands here because it is about the caller, its
// files and its equals, and the kernel asks for rights where it should.
const (
	filesCalls = `access cachestat chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3
		faccessat faccessat2 fadvise64 fadvise64_64 arm_fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat
		fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr file_getattr file_setattr flistxattr flock
		fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futimesat getcwd
		getdents getdents64 getxattr getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel
		io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioctl lchown lchown32 lgetxattr
		link linkat listxattr listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 mkdir mkdirat
		mknod mknodat name_to_handle_at newfstatat oldfstat oldlstat oldstat open openat openat2 pread64 preadv preadv2
		pwrite64 pwritev pwritev2 read readahead readdir readlink readlinkat readv removexattr removexattrat rename
		renameat renameat2 rmdir sendfile sendfile64 setxattr setxattrat splice stat stat64 statfs statfs64 statx symlink
		symlinkat sync sync_file_range sync_file_range2 arm_sync_file_range syncfs tee truncate truncate64 umask unlink
		unlinkat utime utimensat utimensat_time64 utimes vmsplice write writev`

	memoryCalls = `brk madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall mmap
		mmap2 mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect process_mrelease
		remap_file_pages`

	processCalls = `arch_prctl breakpoint cacheflush capget capset execve execveat exit exit_group fork get_robust_list
		get_thread_area getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getpgid getpgrp getpid
		getppid getpriority getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid gettid getuid getuid32
		ioprio_get ioprio_set kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lsm_get_self_attr
		lsm_list_modules lsm_set_self_attr modify_ldt nice oldolduname olduname pause pidfd_open pidfd_send_signal prctl
		prlimit64 restart_syscall rseq rseq_slice_yield rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo
		rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max
		sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
		sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp
		set_robust_list set_thread_area set_tid_address set_tls setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32
		setgroups setgroups32 setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32
		setreuid setreuid32 setrlimit setsid setuid setuid32 sgetmask sigaction sigaltstack signal sigpending sigprocmask
		sigreturn sigsuspend ssetmask sysinfo tgkill times tkill ugetrlimit uname uprobe uretprobe vfork wait4 waitid
		waitpid getcpu`

	// The clock is only read with the two of adjtimex's kind: setting it asks for a
	// capability in the kernel.
	timeCalls = `adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime
		clock_gettime64 clock_nanosleep clock_nanosleep_time64 getitimer gettimeofday nanosleep setitimer time
		timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64
		timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64`

	talkCalls = `accept accept4 bind connect epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2
		epoll_wait epoll_wait_old eventfd eventfd2 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake
		getpeername getsockname getsockopt ipc listen mq_getsetattr mq_notify mq_open mq_timedreceive
		mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd _newselect pipe
		pipe2 poll ppoll ppoll_time64 pselect6 pselect6_time64 recv recvfrom recvmmsg recvmmsg_time64 recvmsg select
		semctl semget semop semtimedop semtimedop_time64 send sendmmsg sendmsg sendto setsockopt shmat shmctl shmdt
		shmget shutdown signalfd signalfd4`

	ownCalls = `getrandom`
)

// capabilityGroup are calls that come with any one of some capabilities.
type capabilityGroup struct{ caps, calls string }

func capabilityCalls() []capabilityGroup {
	return []capabilityGroup{
		{"SYS_ADMIN", `bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick listmount listns lookup_dcookie mount
			mount_setattr move_mount open_tree open_tree_attr perf_event_open pivot_root quotactl quotactl_fd setdomainname
			sethostname setns statmount swapoff swapon syslog umount umount2 unshare`},
		{"BPF", "bpf"},
		{"PERFMON", "perf_event_open"},
		{"DAC_READ_SEARCH", "open_by_handle_at"},
		{"SYS_BOOT", "kexec_file_load kexec_load reboot"},
		{"SYS_CHROOT", "chroot"},
		{"SYS_MODULE", "delete_module finit_module init_module"},
		{"SYS_NICE", "get_mempolicy mbind migrate_pages move_pages set_mempolicy set_mempolicy_home_node"},
		{"SYS_PACCT", "acct"},
		{"SYS_PTRACE", "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev"},
		{"SYS_RAWIO", "ioperm iopl"},
		{"SYS_TIME", "clock_settime clock_settime64 settimeofday stime"},
		{"SYS_TTY_CONFIG", "vhangup"},
		{"SYSLOG", "syslog"},
	}
}
