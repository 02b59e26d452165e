/* sandbox.c - the walls one by one, and each thread's filter.
 *
 * Thread: as sandbox.h says; sandbox_enter on every thread.  A forbidden call raises SIGSYS: its
 * handler notes the call in a page shared with the parent, then makes the one call at which the
 * kernel kills the process.
 * Sources: user_namespaces(7), pivot_root(2), seccomp(2), Linux
 * Documentation/userspace-api/landlock.rst. */
#include "sandbox.h"

#include <cap-ng.h>
#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "watch.h"

static enum sandbox_mode mode = SANDBOX_OFF;
static __thread enum filter_thread thread_kind = FILTER_NR;

/* Mapped anew, shared, before the fork: at a fixed distance from the code, so that the handler
 * finds it without reading memory that an attacker could have changed. */
static struct witness witness __attribute__((aligned(4096)));
_Static_assert(sizeof witness == 4096, "a page");

bool sandbox_is_up(void)
{
	return mode != SANDBOX_OFF;
}

/* --- what the user asked to be ---------------------------------------------------------------- */
static int join_cgroup(const char *dir, struct err *e)
{
	char path[400];
	int fd, rc = 0;

	snprintf(path, sizeof path, "%s%s/cgroup.procs", *dir == '/' ? "" : "/sys/fs/cgroup/", dir);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, "0", 1) != 1)
		rc = err_set(e, -errno, "cgroup %s: cannot join (%s); create it first", dir,
			     strerror(errno));
	if (fd >= 0)
		close(fd);
	return rc;
}

/* A name as `ip netns` makes them, or a path. */
static int join_netns(const char *name, struct err *e)
{
	char path[400];
	int fd, rc = 0;

	snprintf(path, sizeof path, "%s%s", strchr(name, '/') ? "" : "/run/netns/", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || setns(fd, CLONE_NEWNET) < 0)
		rc = err_set(e, -errno,
			"netns %s: cannot enter (%s); it takes root, and ip netns add",
			     name, strerror(errno));
	if (fd >= 0)
		close(fd);
	return rc;
}

static int join_ids(const struct sandbox_config *c, struct err *e)
{
	gid_t gid = c->gid;

	if (c->gid != SANDBOX_NO_ID && (setgroups(1, &gid) < 0 || setresgid(gid, gid, gid) < 0))
		return err_set(e, -errno, "gid %u: cannot become it (%s); start mvm as root",
			c->gid, strerror(errno));
	if (c->uid == SANDBOX_NO_ID)
		return 0;
	if ((c->gid == SANDBOX_NO_ID && getuid() != c->uid && setgroups(0, NULL) < 0) ||
	    setresuid(c->uid, c->uid, c->uid) < 0)
		return err_set(e, -errno, "uid %u: cannot become it (%s); start mvm as root",
			c->uid, strerror(errno));
	return 0;
}

int sandbox_join(const struct sandbox_config *c, struct err *e)
{
	int rc = 0;

	if (c->cgroup)
		rc = join_cgroup(c->cgroup, e);
	if (rc == 0 && c->netns)
		rc = join_netns(c->netns, e);
	if (rc == 0 && c->chroot && (chroot(c->chroot) < 0 || chdir("/") < 0))
		rc = err_set(e, -errno, "chroot %s: cannot enter (%s); start mvm as root",
			c->chroot, strerror(errno));
	return rc < 0 ? rc : join_ids(c, e);
}

/* --- the walls -------------------------------------------------------------------------------- */
/* What we opened closes on exec; what does not was handed down and is nobody's. */
static int wall_descriptors(void)
{
	DIR *d = opendir("/proc/self/fd");
	struct dirent *f;

	if (!d)
		return -errno;
	while ((f = readdir(d))) {
		int fd = atoi(f->d_name), flags = fd > STDERR_FILENO ? fcntl(fd, F_GETFD) : -1;

		if (flags >= 0 && !(flags & FD_CLOEXEC))
			close(fd);
	}
	closedir(d);
	return 0;
}

static int wall_no_new_privs(void)
{
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? -errno : 0;
}

/* The user's and group's IDs stay unmapped: inside, they are nobody's.  A root that may not have a
 * user namespace can have the others without. */
static int wall_namespaces(void)
{
	enum { ALL = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS };

	if (unshare(CLONE_NEWUSER | ALL) == 0 || unshare(ALL) == 0)
		return 0;
	return -errno;
}

/* An empty file system that nobody can write to, over any directory, becomes the root; the old root
 * goes. */
static int wall_root(void)
{
	static const char *const at[] = { "/proc", "/tmp", "/dev", "/etc", "/sys" };
	const unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
	int rc = -ENOENT;

	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return -errno;
	for (size_t i = 0; i < ARRAY_LEN(at) && rc < 0; i++)
		rc = mount("mvm", at[i], "tmpfs", flags, "size=4k,nr_inodes=2,mode=0555") < 0 ||
				     chdir(at[i]) < 0 ?
			     -errno : 0;
	if (rc < 0)
		return rc;
	if (syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
		return -errno;
	/* it has no room anyway */
	mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | flags, NULL);
	return 0;
}

/* The bounding set cannot be touched without a privilege that an ordinary user does not have, and
 * without the privilege to gain privileges it is moot. */
static int wall_capabilities(void)
{
	capng_clear(CAPNG_SELECT_ALL);
	if (capng_apply(CAPNG_SELECT_ALL) == 0)
		return 0;
	capng_clear(CAPNG_SELECT_CAPS);
	return capng_apply(CAPNG_SELECT_CAPS) == 0 ? 0 : -EPERM;
}

/* No rule, so nothing of what can be handled is allowed; opened files are not touched. */
static int wall_landlock(void)
{
	struct {
		u64 fs, net, scoped;
	} none = { (1 << 13) - 1, 3, 3 };
	long fd, abi = syscall(SYS_landlock_create_ruleset, NULL, 0,
			       LANDLOCK_CREATE_RULESET_VERSION);
	size_t bytes = abi >= 6 ? 24 : abi >= 4 ? 16 : 8;

	if (abi < 1)
		return -errno;
	none.fs |= (abi >= 2) << 13 | (abi >= 3) << 14 | (abi >= 5) << 15;
	fd = syscall(SYS_landlock_create_ruleset, &none, bytes, 0);
	if (fd < 0)
		return -errno;
	abi = syscall(SYS_landlock_restrict_self, (int)fd, 0) < 0 ? -errno : 0;
	close((int)fd);
	return (int)abi;
}

static const struct wall {
	const char *name, *without;
	int (*raise)(void);
} walls[] = {
	{ "descriptors", "what the caller left open stays so", wall_descriptors },
	{ "no new privileges", "", wall_no_new_privs },
	{ "namespaces", "filters and Landlock stand alone; the host may allow them by "
	  "sysctl user.max_user_namespaces or a policy of its security module", wall_namespaces },
	{ "empty root", "Landlock and the filters keep files away", wall_root },
	{ "capabilities", "", wall_capabilities },
	{ "Landlock", "the empty root and the filters keep files away", wall_landlock },
};

static void walls_raise(void)
{
	for (size_t i = 0; i < ARRAY_LEN(walls); i++) {
		int rc = walls[i].raise();

		if (rc < 0)
			log_info("sandbox", "no %s here (%s)%s%s", walls[i].name, strerror(-rc),
				 *walls[i].without ? ": " : "", walls[i].without);
	}
}

/* --- forbidden calls -------------------------------------------------------------------------- */
/* From the first instruction to the last this reads nothing but what the kernel has just put on the
 * signal stack, calls nothing and returns nowhere, and every signal is blocked: whoever took over
 * the thread cannot make it do anything else.  A fault in here kills, too. */
__attribute__((no_stack_protector)) static void trapped(int sig, siginfo_t *si, void *ctx)
{
	const greg_t *regs = ((ucontext_t *)ctx)->uc_mcontext.gregs;
	long die = FILTER_DIE;

	witness.code = (u32)si->si_code;
	witness.arch = si->si_arch;
	witness.nr = (u32)si->si_syscall;
	witness.rip = (u64)si->si_call_addr;
	witness.arg[0] = (u64)regs[REG_RDI];
	witness.arg[1] = (u64)regs[REG_RSI];
	witness.arg[2] = (u64)regs[REG_RDX];
	witness.thread = thread_kind;
	__asm__ volatile("syscall; ud2" : : "a"(die) : "rcx", "r11", "memory");
	__builtin_unreachable();
}

static void trap_install(void)
{
	struct sigaction sa = { .sa_sigaction = trapped, .sa_flags = SA_SIGINFO | SA_ONSTACK };

	sigfillset(&sa.sa_mask);
	sigaction(SIGSYS, &sa, NULL);
}

/* --- --sandbox log ---------------------------------------------------------------------------- */
/* A thread beside each: it is told of every forbidden call, says so, and lets it pass. */
struct reporter {
	enum filter_thread thread;
	_Atomic int fd; /* 0: not yet */
};

static void *report(void *arg)
{
	struct reporter *r = arg;
	struct seccomp_notif n;

	while (!r->fd)
		usleep(100);
	while (r->fd > 0) {
		struct seccomp_notif_resp answer = { .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE };

		memset(&n, 0, sizeof n);
		if (ioctl(r->fd, SECCOMP_IOCTL_NOTIF_RECV, &n) < 0)
			continue;
		log_warn("sandbox", WITNESS_TEXT ", would have been killed",
			 filter_thread_name(r->thread), (u32)n.data.nr,
			 (unsigned long long)n.data.args[0], (unsigned long long)n.data.args[1],
			 (unsigned long long)n.data.args[2],
			 (unsigned long long)watch_offset(n.data.instruction_pointer));
		answer.id = n.id;
		ioctl(r->fd, SECCOMP_IOCTL_NOTIF_SEND, &answer);
	}
	return NULL;
}

static long enter_logging(enum filter_thread t)
{
	const struct sock_fprog *p = filter_program(t);
	struct reporter *r = calloc(1, sizeof *r);
	struct sock_filter *f = calloc(p->len, sizeof *f);
	pthread_t thread;
	long fd;

	if (!r || !f || pthread_create(&thread, NULL, report, r))
		return -1;
	r->thread = t;
	memcpy(f, p->filter, p->len * sizeof *f);
	for (u32 i = 0; i < p->len; i++)
		if (f[i].code == (BPF_RET | BPF_K) && f[i].k == SECCOMP_RET_TRAP)
			f[i].k = SECCOMP_RET_USER_NOTIF;
	fd = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER,
		     &(struct sock_fprog){ p->len, f });
	r->fd = (int)fd;
	return fd;
}

/* --- processes and threads -------------------------------------------------------------------- */
static void limit(int what, u64 value)
{
	const struct rlimit r = { value, value };
	struct rlimit now;

	/* Never more than it was: that would take a privilege. */
	if (getrlimit(what, &now) == 0 && value < now.rlim_max)
		setrlimit(what, &r);
}

void sandbox_limit(u64 file_max)
{
	/* ppoll(2) wants room for what it is given; nothing can open any more */
	enum { FILES = 128 };

	if (mode != SANDBOX_ON) /* reporters are threads */
		return;
	limit(RLIMIT_NOFILE, FILES);
	limit(RLIMIT_FSIZE, file_max);
	limit(RLIMIT_NPROC, 0);
	limit(RLIMIT_MEMLOCK, 0);
	limit(RLIMIT_MSGQUEUE, 0);
}

void sandbox_enter(enum filter_thread t)
{
	long rc;

	thread_kind = t;
	if (mode == SANDBOX_OFF)
		return;
	if (t != FILTER_LOOP && t != FILTER_WATCH) /* those are mvm */
		prctl(PR_SET_NAME, filter_thread_name(t));
	/* The parent cannot have threads: its next child begins another PID namespace. */
	rc = mode == SANDBOX_LOG && t != FILTER_WATCH ? enter_logging(t) :
				   syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0,
					   filter_program(t));
	if (rc >= 0)
		return;
	log_err("sandbox",
		"the host kernel takes no seccomp filter (%s); --sandbox off does without",
		strerror(errno));
	_exit(EXIT_SANDBOX);
}

/* The parent's death is the child's, also if it came before the child could ask for that. */
static void child_bind(int parent)
{
	struct pollfd dead = { .fd = parent, .events = POLLIN };

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (parent >= 0 && poll(&dead, 1, 0) > 0)
		_exit(EXIT_SANDBOX);
	close(parent);
}

int sandbox_raise(const struct sandbox_config *c, void (*restore)(void), struct err *e)
{
	sigset_t all, before;
	pid_t child;
	int self;

	if (c->mode == SANDBOX_OFF)
		return 0;
	mode = c->mode;
	if (mmap(&witness, sizeof witness, PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
		return err_set(e, -errno, "sandbox: no memory (%s)", strerror(errno));
	witness.thread = FILTER_NR;
	trap_install();
	limit(RLIMIT_CORE, 0);
	walls_raise();
	sigfillset(&all);
	signal(SIGCHLD, SIG_DFL); /* ignored, it would reap the child itself */
	sigprocmask(SIG_SETMASK, &all, &before);
	self = (int)syscall(SYS_pidfd_open, getpid(), 0); /* Linux 5.3; else nobody checks */
	child = fork();
	if (child < 0)
		return err_set(e, -errno, "sandbox: cannot fork (%s); check the process limit",
			       strerror(errno));
	if (child > 0)
		watch(child, &witness, restore);
	child_bind(self);
	sigprocmask(SIG_SETMASK, &before, NULL);
	return 0;
}
