/* Counts the instructions that qemu-aarch64 executes, and makes them the clock of the program.
 *
 *     qemu-aarch64 -B 0 -plugin libcounter.so,out=FILE ...
 *
 * Every clock_gettime of the emulated program answers with the number of instructions executed so
 * far, one microsecond for each. Whatever the program times with its own clock it thereby counts,
 * exactly and repeatably: onnxruntime's profiler yields instructions for each node. A snapshot of
 * all counters is kept for each reading and written to FILE when the program ends:
 *
 *     edgeprune-arm64 1 <number of threads>
 *     <clock> <instructions> <FMLA> <FMADD> <SDOT and UDOT>
 *     ...
 *
 * Debian ships no header for plugins, so the part of the interface in use is declared here:
 * QEMU 7.2, docs/devel/tcg-plugins.rst, version 1 of the interface. Instruction encodings:
 * Arm Architecture Reference Manual (DDI 0487), C4.1 (scalar floating point and Advanced SIMD).
 */
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#define PUBLIC __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { INLINE_ADD_U64 };

PUBLIC int qemu_plugin_version = 1;

size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int, void *, uint64_t);
void qemu_plugin_register_vcpu_init_cb(qemu_plugin_id_t,
                                       void (*)(qemu_plugin_id_t, unsigned));
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t,
                                           void (*)(qemu_plugin_id_t, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_syscall_cb(
    qemu_plugin_id_t, void (*)(qemu_plugin_id_t, unsigned, int64_t, uint64_t, uint64_t, uint64_t,
                               uint64_t, uint64_t, uint64_t, uint64_t, uint64_t));
void qemu_plugin_register_vcpu_syscall_ret_cb(
    qemu_plugin_id_t, void (*)(qemu_plugin_id_t, unsigned, int64_t, int64_t));
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, void *), void *);

enum { TOTAL, FMLA, FMADD, DOT, COUNTERS };
enum { CLOCK_GETTIME = 113 }; /* number of the system call on arm64 */

struct snapshot {
    uint64_t clock;
    uint64_t counts[COUNTERS];
};

/* Plain additions: exact as long as the program has one thread, which the reader checks. */
static uint64_t counters[COUNTERS];
static unsigned threads;
static struct snapshot *snapshots;
static size_t taken, room;
static const char *out;
static __thread uint64_t answer; /* where the program wants the time; guest addresses are ours */

static void fail(const char *what)
{
    fprintf(stderr, "edgeprune counter: %s\n", what);
    exit(3);
}

static int is_fmla(uint32_t word)
{
    return (word & 0xBFA0FC00) == 0x0E20CC00     /* vectors */
           || (word & 0xBF80F400) == 0x0F801000; /* by element */
}

static int is_fmadd(uint32_t word)
{
    return (word & 0xFFE08000) == 0x1F000000; /* single precision */
}

static int is_dot(uint32_t word)
{
    return (word & 0x9FE0FC00) == 0x0E809400     /* vectors */
           || (word & 0x9FC0F400) == 0x0F80E000; /* by element */
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *block)
{
    size_t length = qemu_plugin_tb_n_insns(block);
    uint64_t counts[COUNTERS] = {length};
    for (size_t index = 0; index < length; index++) {
        uint32_t word;
        memcpy(&word, qemu_plugin_insn_data(qemu_plugin_tb_get_insn(block, index)), sizeof word);
        counts[FMLA] += is_fmla(word);
        counts[FMADD] += is_fmadd(word);
        counts[DOT] += is_dot(word);
    }
    for (int kind = 0; kind < COUNTERS; kind++)
        if (counts[kind])
            qemu_plugin_register_vcpu_tb_exec_inline(block, INLINE_ADD_U64, &counters[kind],
                                                     counts[kind]);
}

static void called(qemu_plugin_id_t id, unsigned cpu, int64_t number, uint64_t clock,
                   uint64_t address, uint64_t a3, uint64_t a4, uint64_t a5, uint64_t a6,
                   uint64_t a7, uint64_t a8)
{
    answer = 0;
    if (number != CLOCK_GETTIME)
        return;
    if (taken == room) {
        room = room ? 2 * room : 4096;
        snapshots = realloc(snapshots, room * sizeof *snapshots);
        if (!snapshots)
            fail("no memory left for snapshots");
    }
    snapshots[taken].clock = clock;
    memcpy(snapshots[taken].counts, counters, sizeof counters);
    taken++;
    answer = address;
}

static void returned(qemu_plugin_id_t id, unsigned cpu, int64_t number, int64_t result)
{
    if (number != CLOCK_GETTIME || result != 0 || !answer)
        return;
    uint64_t count = snapshots[taken - 1].counts[TOTAL];
    int64_t time[2] = {(int64_t)(count / 1000000), (int64_t)(count % 1000000 * 1000)};
    memcpy((void *)(uintptr_t)answer, time, sizeof time);
}

static void started(qemu_plugin_id_t id, unsigned cpu)
{
    threads++;
}

static void ended(qemu_plugin_id_t id, void *unused)
{
    FILE *stream = fopen(out, "w");
    if (!stream)
        fail("cannot write the snapshots");
    fprintf(stream, "edgeprune-arm64 1 %u\n", threads);
    for (size_t index = 0; index < taken; index++) {
        fprintf(stream, "%llu", (unsigned long long)snapshots[index].clock);
        for (int kind = 0; kind < COUNTERS; kind++)
            fprintf(stream, " %llu", (unsigned long long)snapshots[index].counts[kind]);
        fputc('\n', stream);
    }
    if (fclose(stream))
        fail("cannot write the snapshots");
}

PUBLIC int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int count, char **arguments)
{
    for (int index = 0; index < count; index++)
        if (!strncmp(arguments[index], "out=", 4))
            out = strdup(arguments[index] + 4);
    if (!out)
        return 1;
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* ends with edgeprune, however that ends */
    qemu_plugin_register_vcpu_init_cb(id, started);
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    qemu_plugin_register_vcpu_syscall_ret_cb(id, returned);
    qemu_plugin_register_atexit_cb(id, ended, NULL);
    return 0;
}
