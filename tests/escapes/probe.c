/*
 * What the tests of escapes try from inside a container, call by call. Linked
 * statically and knows no shell: it is the kernel that is asked.
 *
 *     probe WHAT ARG...     prints a line for each thing tried: its name, and how it went
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void went(const char *name, long result)
{
	printf("%s %s\n", name, result < 0 ? strerrorname_np(errno) : "OK");
}

/* Calls that Docker's default profile denies. The arguments are no use to anybody. */
static const struct { const char *name; long number; } denied[] = {
#define CALL(name) { #name, SYS_##name },
	CALL(acct) CALL(add_key) CALL(bpf) CALL(clock_settime) CALL(create_module) CALL(delete_module)
	CALL(fanotify_init) CALL(finit_module) CALL(fsconfig) CALL(fsmount) CALL(fsopen) CALL(fspick)
	CALL(get_kernel_syms) CALL(get_mempolicy) CALL(init_module) CALL(io_uring_enter)
	CALL(io_uring_register) CALL(io_uring_setup) CALL(ioperm) CALL(iopl) CALL(kcmp)
	CALL(kexec_file_load) CALL(kexec_load) CALL(keyctl) CALL(lookup_dcookie) CALL(mbind)
	CALL(migrate_pages) CALL(mount) CALL(mount_setattr) CALL(move_mount) CALL(move_pages)
	CALL(nfsservctl) CALL(open_by_handle_at) CALL(open_tree) CALL(perf_event_open)
	CALL(pidfd_getfd) CALL(pivot_root) CALL(process_madvise) CALL(query_module) CALL(quotactl)
	CALL(quotactl_fd) CALL(reboot) CALL(request_key) CALL(set_mempolicy) CALL(setdomainname)
	CALL(sethostname) CALL(setns) CALL(settimeofday) CALL(swapoff) CALL(swapon) CALL(_sysctl)
	CALL(sysfs) CALL(syslog) CALL(umount2) CALL(unshare) CALL(uselib) CALL(userfaultfd)
	CALL(ustat) CALL(vhangup) CALL(vserver)
#undef CALL
};

/* Each of them; prints only those that do not fail as a filter makes them. */
static int calls(void)
{
	for (size_t i = 0; i < sizeof denied / sizeof *denied; i++) {
		long result = syscall(denied[i].number, -1, -1, -1, -1, -1, -1);
		if (result >= 0 || errno != EPERM)
			went(denied[i].name, result);
	}
	printf("%zu tried\n", sizeof denied / sizeof *denied);
	return 0;
}

/* Calls whose arguments decide. */
static int arguments(void)
{
	static const struct { const char *name; unsigned long flag; } spaces[] = {
		{ "newns", CLONE_NEWNS }, { "newcgroup", CLONE_NEWCGROUP }, { "newuts", CLONE_NEWUTS },
		{ "newipc", CLONE_NEWIPC }, { "newuser", CLONE_NEWUSER }, { "newpid", CLONE_NEWPID },
		{ "newnet", CLONE_NEWNET },
	};
	for (size_t i = 0; i < sizeof spaces / sizeof *spaces; i++) {
		char name[64];
		long pid = syscall(SYS_clone, spaces[i].flag | SIGCHLD, 0, 0, 0, 0);
		if (pid == 0)
			_exit(0);
		snprintf(name, sizeof name, "clone %s", spaces[i].name);
		went(name, pid);
		/* The kernel takes the low half alone. */
		pid = syscall(SYS_clone, 1UL << 32 | spaces[i].flag | SIGCHLD, 0, 0, 0, 0);
		if (pid == 0)
			_exit(0);
		if (pid >= 0)
			printf("clone %s with high bits OK\n", spaces[i].name);
	}
	struct { uint64_t flags, rest[10]; } clone3 = { CLONE_NEWUSER, { 0 } };
	long pid = syscall(SYS_clone3, &clone3, sizeof clone3);
	if (pid == 0)
		_exit(0);
	went("clone3", pid);

	static const struct { const char *name; unsigned long family; } families[] = {
		{ "unix", AF_UNIX }, { "inet", AF_INET }, { "netlink", AF_NETLINK },
		{ "alg", 38 }, { "vsock", 40 },
		{ "alg with high bits", 1UL << 32 | 38 }, { "vsock with high bits", 1UL << 63 | 40 },
		{ "64", 64 }, { "-1", -1UL },
	};
	for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
		char name[64];
		snprintf(name, sizeof name, "socket %s", families[i].name);
		went(name, syscall(SYS_socket, families[i].family, SOCK_DGRAM, 0));
	}
	static const unsigned long personas[] = { 0, 8, 0x20000, 0x20008, 0xffffffff, 0x40000, 0x400000, 6 };
	for (size_t i = 0; i < sizeof personas / sizeof *personas; i++) {
		char name[64];
		snprintf(name, sizeof name, "personality %lx", personas[i]);
		went(name, syscall(SYS_personality, personas[i]));
		syscall(SYS_personality, 0);
	}
	return 0;
}

/* Numbers that nobody has given to a call, or that are another table's. */
static int numbers(void)
{
	static const long unknown[] = { 337, 400, 423, 480, 511, 512, 547, 999, 0x3fffffff, 0x7fffffff };
	for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
		char name[64];
		snprintf(name, sizeof name, "%lx", unknown[i]);
		went(name, syscall(unknown[i], -1, -1, -1, -1, -1, -1));
	}
	went("x32 getpid", syscall(0x40000000 | SYS_getpid));
	went("x32 mount", syscall(0x40000000 | SYS_mount, -1, -1, -1, -1, -1));
	return 0;
}

#ifdef __x86_64__
static long i386(long number, long a, long b, long c)
{
	long result;
	__asm__ volatile("int $0x80"
			 : "=a"(result)
			 : "a"(number), "b"(a), "c"(b), "d"(c), "S"(0), "D"(0)
			 : "memory", "r8", "r9", "r10", "r11");
	if (result < 0 && result > -4096) {
		errno = -result;
		return -1;
	}
	return result;
}
#endif

/* The same calls by their old numbers. */
static int old(void)
{
#ifdef __x86_64__
	went("getpid", i386(20, 0, 0, 0));
	went("mount", i386(21, 0, 0, 0));
	went("umount", i386(22, 0, 0, 0));
	went("stime", i386(25, 0, 0, 0));
	went("umount2", i386(52, 0, 0, 0));
	went("clone newuser", i386(120, CLONE_NEWUSER, 0, 0));
	went("pivot_root", i386(217, 0, 0, 0));
	went("keyctl", i386(288, 0, 0, 0));
	went("unshare", i386(310, CLONE_NEWUSER, 0, 0));
	went("setns", i386(346, -1, 0, 0));
	went("bpf", i386(357, -1, 0, 0));
	went("socket alg", i386(359, 38, SOCK_DGRAM, 0));
	went("socket vsock", i386(359, 40, SOCK_DGRAM, 0));
	went("io_uring_setup", i386(425, 0, 0, 0));
	went("clone3", i386(435, 0, 0, 0));
	went("unknown", i386(999, 0, 0, 0));
#endif
	return 0;
}

/* Which descriptors are open: asked one by one, since to list them opens one. */
static int fds(void)
{
	for (int fd = 0; fd < 4096; fd++)
		if (fcntl(fd, F_GETFD) >= 0)
			printf("%d\n", fd);
	return 0;
}

/* Does to the standard streams what only their owner may; were it done to the host's, it would do little harm. */
static int streams(void)
{
	for (int fd = 0; fd < 3; fd++) {
		int error = 0;
		if (fchmod(fd, 0667))
			error = errno;
		dprintf(2, "%d %s\n", fd, error ? strerrorname_np(error) : "OK");
	}
	return 0;
}

/* Types into the terminal that the standard streams are. */
static int types(void)
{
	static const unsigned long requests[] = { TIOCSTI, 1UL << 32 | TIOCSTI, TIOCLINUX, 1UL << 32 | TIOCLINUX };
	int fd;
	for (fd = 0; fd < 3 && !isatty(fd); fd++)
		;
	printf("a terminal %s\n", fd < 3 ? "OK" : "none");
	for (size_t i = 0; i < sizeof requests / sizeof *requests; i++)
		went(i < 2 ? "type" : "paste", syscall(SYS_ioctl, fd, requests[i], "\3"));
	went("take", ioctl(fd, TIOCSCTTY, 0));
	went("steal", ioctl(fd, TIOCSCTTY, 1));
	went("type", ioctl(fd, TIOCSTI, "\3"));
	went("/dev/tty", open("/dev/tty", O_RDWR));
	return 0;
}

/* Opens the program of every process for writing, in every way that there is. */
static int programs(void)
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	int tried = 0;
	while ((entry = readdir(proc))) {
		char path[300], again[64];
		if (*entry->d_name < '0' || *entry->d_name > '9')
			continue;
		snprintf(path, sizeof path, "/proc/%s/exe", entry->d_name);
		int fd = open(path, O_PATH);
		if (fd < 0)
			continue;
		tried++;
		/* What is mounted may be anybody's to change: read-only no more. */
		struct { uint64_t set, clear, propagation, userns; } attr = { 0, 1, 0, 0 };
		syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH, &attr, sizeof attr);
		snprintf(again, sizeof again, "/proc/self/fd/%d", fd);
		const char *ways[] = { path, again };
		static const int flags[] = { O_WRONLY, O_RDWR, O_WRONLY | O_TRUNC, O_WRONLY | O_APPEND };
		for (int way = 0; way < 2; way++)
			for (int flag = 0; flag < 4; flag++) {
				int out = open(ways[way], flags[flag]);
				if (out < 0)
					continue;
				char own[PATH_MAX] = "";
				if (readlink(path, own, sizeof own - 1) > 0 && !strcmp(own, "/probe"))
					continue;
				printf("%s opened: %s\n", path, own);
				if (write(out, "written", 7) == 7)
					printf("%s written\n", path);
			}
		close(fd);
	}
	printf("%d tried\n", tried);
	return 0;
}

static int look(const char *path, const struct stat *stat, int type, struct FTW *ftw)
{
	(void)ftw;
	if (type == FTW_F && S_ISREG(stat->st_mode) && access(path, W_OK) == 0)
		printf("%s\n", path);
	return 0;
}

/* Prints the files below directories that can be written to. */
static int writable(char **dirs)
{
	for (; *dirs; dirs++)
		nftw(*dirs, look, 16, FTW_PHYS);
	return 0;
}

/* Nests directories, deeper than names can say. */
static int deep(long levels)
{
	for (long level = 0; level < levels; level++) {
		if (mkdir("d", 0700)) {
			perror("mkdir");
			return 1;
		}
		int fd = open("d", O_RDONLY | O_DIRECTORY);
		if (fd < 0 || fchdir(fd))
			return 1;
		close(fd);
	}
	return 0;
}

/* Leaves orphans, which somebody must reap; tells how many of them are left as zombies. */
static int orphans(long number)
{
	for (long i = 0; i < number; i++) {
		pid_t pid = fork();
		if (pid < 0) {
			perror("fork");
			return 1;
		}
		if (pid == 0)
			_exit(fork() < 0);
		waitpid(pid, NULL, 0);
	}
	sleep(1);
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	int processes = 0;
	while ((entry = readdir(proc)))
		processes += *entry->d_name >= '0' && *entry->d_name <= '9';
	printf("%d processes\n", processes);
	return 0;
}

/* Forks without end, ignoring what would end it. */
static void bomb(void)
{
	for (int signal = 1; signal < 32; signal++)
		sigaction(signal, &(struct sigaction){ .sa_handler = SIG_IGN }, NULL);
	dprintf(1, "bomb\n");
	for (;;)
		if (fork() < 0)
			usleep(1000);
}

/* Exchanges two names again and again, for so many seconds or until it is killed. */
static int swap(const char *a, const char *b, long seconds)
{
	time_t end = time(NULL) + seconds;
	long rounds = 0;
	do {
		if (syscall(SYS_renameat2, AT_FDCWD, a, AT_FDCWD, b, 2))
			usleep(100);
		rounds++;
	} while (!seconds || (rounds & 63) || time(NULL) < end);
	return 0;
}

/* Becomes somebody else, and then a program: what su does. */
static int as(char **words)
{
	if (setgid(atoi(words[0])) || setuid(atoi(words[0])))
		return 1;
	execv(words[1], words + 1);
	return 1;
}

/* Survives its parent, if it can. */
static int survive(char **words)
{
	prctl(PR_SET_PDEATHSIG, 0);
	execv(words[0], words);
	return 1;
}

/* Waits for a signal as an init does, with all of them blocked. */
static int waits(void)
{
	sigset_t all;
	int signal;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	printf("ready\n");
	sigwait(&all, &signal);
	printf("got %d\n", signal);
	return 5;
}

/* Takes memory until there is none. */
static void eat(void)
{
	for (;;) {
		char *more = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (more != MAP_FAILED)
			memset(more, 1, 1 << 20);
	}
}

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc < 2)
		return 2;
	const char *what = argv[1];
	const char *first = argc > 2 ? argv[2] : "";
	if (!strcmp(what, "calls")) return calls();
	if (!strcmp(what, "arguments")) return arguments();
	if (!strcmp(what, "numbers")) return numbers();
	if (!strcmp(what, "old")) return old();
	if (!strcmp(what, "fds")) return fds();
	if (!strcmp(what, "streams")) return streams();
	if (!strcmp(what, "types")) return types();
	if (!strcmp(what, "programs")) return programs();
	if (!strcmp(what, "writable")) return writable(argv + 2);
	if (!strcmp(what, "deep")) return deep(atol(first));
	if (!strcmp(what, "orphans")) return orphans(atol(first));
	if (!strcmp(what, "waits")) return waits();
	if (!strcmp(what, "bomb")) bomb();
	if (!strcmp(what, "eat")) eat();
	if (!strcmp(what, "session")) return printf("%ld\n", syscall(SYS_keyctl, 0, -3, 0)) < 0;
	if (!strcmp(what, "swap") && argc > 3) return swap(argv[2], argv[3], argc > 4 ? atol(argv[4]) : 0);
	if (!strcmp(what, "as") && argc > 3) return as(argv + 2);
	if (!strcmp(what, "survive") && argc > 2) return survive(argv + 2);
	return 2;
}
