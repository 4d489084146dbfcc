// SPDX-License-Identifier: Apache-2.0
/*
 * acri-holder: PID 1 of a pod that shares its PID namespace.
 *
 * It keeps the namespace alive, reaps every orphan in it and does nothing else. It has no libc and no writable data;
 * what it needs from the kernel is listed once, in `filter` below.
 *
 *   acri ──spawn──▶ launcher ──clone3(NEWPID, NEWNS, PARENT, INTO_CGROUP)──▶ holder (a child of acri, not of launcher)
 *                      │ report PID, exit                                      │ empty root, uid 65535, no capability,
 *                      ▼                                                       ▼ no_new_privs, seccomp
 *                                                                          report READY ─▶ reap until SIGTERM or SIGINT
 *
 * Why a launcher: on cgroup v2 a process that is moved costs an RCU grace period (8 to 16 ms measured); one that is
 * born in its cgroup costs nothing, and only clone3(2) can do that.
 *
 * argv: "acri-holder" ID (for ps). Environment "ACRI_LAUNCH=1" asks for the launch; fd 0 is then the report pipe, and
 * fd 1, where open, the cgroup's directory. Without that variable somebody else (an OCI runtime, for an infra
 * container) made the namespaces: the privileges go all the same, and the reaping starts at once.
 *
 * A report is 8 bytes, `struct report`. acri reads up to the end of the file: exactly PID then READY is success; the
 * last copy of the pipe is closed after the filter is in force.
 */
#include <asm/unistd.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <linux/filter.h>
#include <linux/mount.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <linux/wait.h>
#include <stddef.h>
#include <stdint.h>

#define NOBODY 65535
#define EINVAL 22
#define ENOSYS 38
#define SIGINT 2
#define SIGTERM 15
#define SIGCHLD 17
#define SIG_SETMASK 2
#define F_GETFD 1
#define MNT_DETACH 2
#define BIT(signal) (1ULL << ((signal) - 1))

/* The step that failed, as holder.py names it. */
enum step {
    STEP_CLONE = 1,
    STEP_SESSION = 2,
    STEP_ROOT = 3,
    STEP_FILES = 4,
    STEP_BOUNDING = 5,
    STEP_IDS = 6,
    STEP_CAPABILITIES = 7,
    STEP_NO_NEW_PRIVS = 8,
    STEP_SECCOMP = 9,
    STEP_SIGNALS = 10,
};

/* kind 'P': value is the holder's pid, step 1 if it was born in its cgroup. 'R': ready. 'E': step, value is errno. */
struct report {
    uint8_t kind;
    uint8_t step;
    uint16_t reserved;
    int32_t value;
};

#if defined(__x86_64__)
#define OUR_ARCH AUDIT_ARCH_X86_64
__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall run\n\thlt\n");

static long call6(long nr, long a, long b, long c, long d, long e, long f)
{
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}
#elif defined(__aarch64__)
#define OUR_ARCH AUDIT_ARCH_AARCH64
__asm__(".globl _start\n_start:\n\tmov x29, #0\n\tmov x30, #0\n\tmov x0, sp\n\tbl run\n\tbrk #0\n");

static long call6(long nr, long a, long b, long c, long d, long e, long f)
{
    register long x8 __asm__("x8") = nr;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc #0"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
                     : "memory");
    return x0;
}
#else
#error "no system call convention for this machine"
#endif

#define CALL1(nr, a) call6(nr, (long)(a), 0, 0, 0, 0, 0)
#define CALL2(nr, a, b) call6(nr, (long)(a), (long)(b), 0, 0, 0, 0)
#define CALL3(nr, a, b, c) call6(nr, (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define CALL4(nr, a, b, c, d) call6(nr, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)
#define CALL5(nr, a, b, c, d, e) call6(nr, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)

static __attribute__((noreturn)) void quit(int status)
{
    for (;;)
        CALL1(__NR_exit_group, status);
}

static void report(char kind, int step, long value)
{
    struct report record = {(uint8_t)kind, (uint8_t)step, 0, (int32_t)value};
    CALL3(__NR_write, 0, &record, sizeof record);
}

/* Ends the process, and with it the half-made namespace, if a system call failed. */
static void need(long result, enum step step, int reporting)
{
    if (result >= 0)
        return;
    if (reporting)
        report('E', step, -result);
    quit(70 + (int)step);
}

#define ALLOW(name)                                    \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, name, 0, 1), \
    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

/* Everything the holder may still ask for. Whatever else, or another system call convention, kills it. */
static const struct sock_filter filter[] = {
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, OUR_ARCH, 1, 0),
    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
    ALLOW(__NR_rt_sigtimedwait),
    ALLOW(__NR_wait4),
    ALLOW(__NR_exit_group),
    ALLOW(__NR_close), /* once, of the report pipe, to say that this filter is in force */
    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
};

/*
 * An empty read-only root. /proc is only a directory that surely exists: the new root is mounted over it in our own
 * mount namespace, and the old one is dropped with everything that was mounted in it, so no pin or volume of the host
 * lives on here. MS_PRIVATE first, or the unmounting would reach the host.
 */
static long empty_root(void)
{
    long result = CALL5(__NR_mount, 0, "/", 0, MS_REC | MS_PRIVATE, 0);
    if (result < 0)
        return result;
    result = CALL5(__NR_mount, "acri-holder", "/proc", "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC,
                   "size=4k,nr_inodes=1,mode=555");
    if (result < 0)
        return result;
    result = CALL1(__NR_chdir, "/proc");
    if (result < 0)
        return result;
    result = CALL2(__NR_pivot_root, ".", ".");
    if (result >= 0)
        result = CALL2(__NR_umount2, ".", MNT_DETACH);
    else if (result == -EINVAL) { /* the host runs from its initramfs, which cannot be pivoted away */
        result = CALL5(__NR_mount, ".", "/", 0, MS_MOVE, 0);
        if (result >= 0)
            result = CALL1(__NR_chroot, ".");
    }
    return result < 0 ? result : CALL1(__NR_chdir, "/");
}

static void drop_privileges(int reporting)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct none[2] = {{0, 0, 0}, {0, 0, 0}};
    long capability = 0;
    long result = 0;

    /* The first number that the kernel does not know ends the list. Without CAP_SETPCAP (an infra container, where
     * the OCI runtime emptied the set) there is nothing to drop, and the first call says so. */
    for (; capability < 64 && result >= 0; capability++)
        result = CALL2(__NR_prctl, PR_CAPBSET_DROP, capability);
    if (reporting && result != -EINVAL)
        need(result, STEP_BOUNDING, reporting);
    if (reporting) {
        need(CALL2(__NR_setgroups, 0, 0), STEP_IDS, 1);
        need(CALL3(__NR_setresgid, NOBODY, NOBODY, NOBODY), STEP_IDS, 1);
        need(CALL3(__NR_setresuid, NOBODY, NOBODY, NOBODY), STEP_IDS, 1);
    }
    need(CALL5(__NR_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), STEP_CAPABILITIES, reporting);
    need(CALL2(__NR_capset, &header, none), STEP_CAPABILITIES, reporting);
    need(CALL5(__NR_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0), STEP_CAPABILITIES, reporting);
    need(CALL5(__NR_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), STEP_NO_NEW_PRIVS, reporting);
}

/* PID 1's life. All signals are blocked, so those that we wait for are kept for us even from inside the namespace. */
static __attribute__((noreturn)) void reap(void)
{
    const uint64_t awaited = BIT(SIGCHLD) | BIT(SIGTERM) | BIT(SIGINT);

    for (;;) {
        long signal = CALL4(__NR_rt_sigtimedwait, &awaited, 0, 0, sizeof awaited);
        if (signal == SIGTERM || signal == SIGINT)
            quit(0);
        while (CALL4(__NR_wait4, -1, 0, WNOHANG | __WALL, 0) > 0)
            ;
    }
}

static __attribute__((noreturn)) void hold(int reporting)
{
    const uint64_t all = ~0ULL;
    struct sock_fprog program = {sizeof filter / sizeof filter[0], (struct sock_filter *)filter};

    need(CALL4(__NR_rt_sigprocmask, SIG_SETMASK, &all, 0, sizeof all), STEP_SIGNALS, reporting);
    CALL2(__NR_prctl, PR_SET_NAME, "acri-holder");
    if (reporting) {
        need(CALL1(__NR_setsid, 0), STEP_SESSION, 1);
        need(empty_root(), STEP_ROOT, 1);
    }
    need(CALL3(__NR_close_range, reporting ? 1 : 0, ~0U, 0), STEP_FILES, reporting);
    drop_privileges(reporting);
    if (reporting)
        report('R', 0, 0);
    need(CALL3(__NR_prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), STEP_SECCOMP, reporting);
    CALL1(__NR_close, 0);
    reap();
}

static __attribute__((noreturn)) void launch(void)
{
    const uint64_t flags = CLONE_NEWPID | CLONE_NEWNS | CLONE_PARENT;
    struct clone_args args = {.flags = flags};
    int in_cgroup = CALL2(__NR_fcntl, 1, F_GETFD) >= 0;

    if (in_cgroup) {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = 1;
    }
    long pid = CALL2(__NR_clone3, &args, sizeof args);
    if (pid == -ENOSYS) { /* an outer container's seccomp profile: acri moves the holder afterwards */
        in_cgroup = 0;
        pid = CALL5(__NR_clone, flags, 0, 0, 0, 0);
    }
    need(pid, STEP_CLONE, 1);
    if (pid == 0)
        hold(1);
    report('P', in_cgroup, pid);
    quit(0);
}

__attribute__((used, noreturn)) void run(const long *stack)
{
    static const char wanted[] = "ACRI_LAUNCH=1";
    const char *const *environment = (const char *const *)(stack + 1 + stack[0] + 1);
    const char *first = environment[0];
    size_t i = 0;

    while (first && i < sizeof wanted && first[i] == wanted[i])
        i++;
    if (i == sizeof wanted)
        launch();
    hold(0);
}
