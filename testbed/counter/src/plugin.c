/* A plugin of QEMU's translator: counts the instructions of each virtual CPU, those of each half of the address space for themselves, and says how many to whoever
 * connects to its socket.
 *
 * An instruction is counted as it begins, by code that the translator puts before it, on the CPU's own thread: nothing is lost and nothing waits. Counting
 * whole blocks would be cheaper and wrong: a block is left in its middle by a fault, and where it reaches a device (QEMU then translates that one instruction anew,
 * without any instrumentation, so that it isn't counted twice).
 *
 * QEMU's header isn't packaged; what is needed of it is declared here. */
#include <stdatomic.h>
#include <stdbool.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define EXPORTED __attribute__((visibility("default")))

/* Of include/plugins/qemu-plugin.h, in its version 7 (QEMU 11). */
struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_plugin_scoreboard;
struct place {
    struct qemu_plugin_scoreboard *scoreboard;
    size_t offset;
};
struct facts {
    const char *target;
    struct {
        int least, current;
    } version;
    bool is_system;
    struct {
        int at_start, at_most;
    } cpus;
};
enum { ADD = 0 };
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, void (*call)(struct qemu_plugin_tb *, void *), void *data);
void qemu_plugin_register_vcpu_init_cb(uint64_t id, void (*call)(unsigned, void *), void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
void qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(struct qemu_plugin_insn *, int operation, struct place, uint64_t);
struct qemu_plugin_scoreboard *qemu_plugin_scoreboard_new(size_t);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *);
uint64_t qemu_plugin_u64_get(struct place, unsigned cpu);

/* By this QEMU sees whether it is what the plugin was written for. */
EXPORTED int qemu_plugin_version = 7;

enum { CPUS = 256, HALVES = 2 };
/* By the highest bit of the instruction's address. */
static struct place executed[HALVES];
static int listener;
static int cpus;
static atomic_int begun;

static void translated(struct qemu_plugin_tb *block, void *nothing)
{
    (void)nothing;
    size_t length = qemu_plugin_tb_n_insns(block);
    for (size_t at = 0; at < length; at++) {
        struct qemu_plugin_insn *instruction = qemu_plugin_tb_get_insn(block, at);
        struct place place = executed[qemu_plugin_insn_vaddr(instruction) >> 63];
        qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(instruction, ADD, place, 1);
    }
}

/* To each who connects: a number for each half, of each CPU. */
static void *serve(void *nothing)
{
    for (;;) {
        int client = accept(listener, NULL, NULL);
        if (client < 0)
            continue;
        uint64_t counts[CPUS][HALVES];
        for (int cpu = 0; cpu < cpus; cpu++)
            for (int half = 0; half < HALVES; half++)
                counts[cpu][half] = qemu_plugin_u64_get(executed[half], cpu);
        /* Whoever has gone away again misses nothing. */
        (void)send(client, counts, cpus * sizeof counts[0], MSG_NOSIGNAL);
        close(client);
    }
    return nothing;
}

static void cpu_begins(unsigned cpu, void *nothing)
{
    (void)cpu;
    /* QEMU may move the counters while it makes place for one CPU more; so they are read when all are there. */
    if (atomic_fetch_add(&begun, 1) + 1 != cpus)
        return;
    /* Signals are QEMU's own threads'. */
    sigset_t all, before;
    pthread_t thread;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (pthread_create(&thread, NULL, serve, nothing) == 0)
        pthread_detach(thread);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

EXPORTED int qemu_plugin_install(uint64_t id, const struct facts *facts, int count, char **words)
{
    static const char key[] = "socket=";
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    if (count != 1 || strncmp(words[0], key, sizeof key - 1) != 0 || !facts->is_system)
        return -1;
    const char *path = words[0] + sizeof key - 1;
    cpus = facts->cpus.at_start;
    if (strlen(path) >= sizeof address.sun_path || cpus > CPUS)
        return -1;
    strcpy(address.sun_path, path);
    /* That of an earlier machine. */
    unlink(path);
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, 8) != 0)
        return -1;
    struct qemu_plugin_scoreboard *scoreboard = qemu_plugin_scoreboard_new(HALVES * sizeof(uint64_t));
    for (int half = 0; half < HALVES; half++)
        executed[half] = (struct place){ scoreboard, half * sizeof(uint64_t) };
    qemu_plugin_register_vcpu_init_cb(id, cpu_begins, NULL);
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated, NULL);
    return 0;
}
