/* Host side: a plugin of qemu that counts instructions by layer, a translated block at a time.
   qemu-system-arm ... -plugin qemu_counter.so,table=FILE,counts=FILE

   Distributions ship no header of the plugin interface; what is used of it is declared here. These
   functions kept their meaning from version 1 (qemu 7) on. */
#include "counter.h"

#define EXPORT __attribute__((visibility("default")))

struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef void (*on_translation)(uint64_t plugin, struct qemu_plugin_tb *block);
typedef void (*on_execution)(unsigned cpu, void *block);
typedef void (*at_end)(uint64_t plugin, void *unused);

extern void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t plugin, on_translation call);
extern void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *block, on_execution call,
                                                 int registers, void *argument);
extern void qemu_plugin_register_atexit_cb(uint64_t plugin, at_end call, void *argument);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *block, size_t);
extern uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *instruction);

EXPORT int qemu_plugin_version = PLUGIN_VERSION;

struct block {
    uint32_t address, instructions;
};

static struct table table;
static const char *table_path, *counts_path;

static void executed(unsigned cpu, void *argument) {
    const struct block *block = argument;
    (void)cpu;
    attribute(&table, block->address, block->instructions);
}

static void translated(uint64_t plugin, struct qemu_plugin_tb *tb) {
    struct block *block = malloc(sizeof *block); /* lives as long as qemu */
    (void)plugin;
    if (!block) abort();
    block->address = (uint32_t)qemu_plugin_insn_vaddr(qemu_plugin_tb_get_insn(tb, 0));
    block->instructions = (uint32_t)qemu_plugin_tb_n_insns(tb);
    qemu_plugin_register_vcpu_tb_exec_cb(tb, executed, 0, block);
}

static void finished(uint64_t plugin, void *unused) {
    (void)plugin, (void)unused;
    if (!table_write(&table, counts_path)) fprintf(stderr, "counts cannot be written\n");
}

EXPORT int qemu_plugin_install(uint64_t plugin, const void *info, int count, char **arguments) {
    (void)info;
    for (int index = 0; index < count; ++index) {
        if (!strncmp(arguments[index], "table=", 6)) table_path = strdup(arguments[index] + 6);
        if (!strncmp(arguments[index], "counts=", 7)) counts_path = strdup(arguments[index] + 7);
    }
    if (!table_path || !counts_path || !table_read(&table, table_path)) return -1;
    qemu_plugin_register_vcpu_tb_trans_cb(plugin, translated);
    qemu_plugin_register_atexit_cb(plugin, finished, 0);
    return 0;
}
