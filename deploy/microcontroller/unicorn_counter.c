/* Host side: a hook of unicorn on translated blocks. In Python it would take most of the time.

   The hook on single instructions is of no use here: it passes over instructions of an IT block
   whose condition fails, which the core issues all the same and qemu counts. */
#include "counter.h"

static struct table table;
static uint16_t *code;                    /* the machine code, halfword by halfword */
static struct known {
    uint32_t bytes, instructions;
} *blocks;                                /* of the block that starts at a halfword */

static void release(void) {
    free(table.owner);
    free(table.counts);
    free(code);
    free(blocks);
    table = (struct table){0};
    code = NULL;
    blocks = NULL;
}

/* `machine_code` holds the halfwords that the table describes. */
int counter_start(const char *path, const void *machine_code, uint32_t bytes) {
    release();
    if (!table_read(&table, path) || bytes / 2 < table.halfwords) return 0;
    code = malloc(table.halfwords * sizeof *code + sizeof *code);
    blocks = calloc(table.halfwords, sizeof *blocks);
    if (!code || !blocks) return 0;
    memcpy(code, machine_code, table.halfwords * sizeof *code);
    return 1;
}

/* The upper five bits of the first halfword tell 32-bit from 16-bit instructions (Armv7-M
   Architecture Reference Manual, A5.1). */
static uint32_t instructions_in(uint32_t first, uint32_t bytes) {
    uint32_t count = 0;
    for (uint32_t index = first, end = first + bytes / 2; index < end && index < table.halfwords; ++count)
        index += code[index] >> 11 >= 0x1D ? 2 : 1;
    return count;
}

/* Signature of uc_cb_hookcode_t. */
void counter_hook(void *engine, uint64_t address, uint32_t bytes, void *unused) {
    const uint32_t index = ((uint32_t)address - table.base) >> 1;
    (void)engine, (void)unused;
    if (index >= table.halfwords) {
        attribute(&table, (uint32_t)address, 0); /* the harness: nobody asks how much */
        return;
    }
    if (blocks[index].bytes != bytes) {
        blocks[index].bytes = bytes;
        blocks[index].instructions = instructions_in(index, bytes);
    }
    attribute(&table, (uint32_t)address, blocks[index].instructions);
}

int counter_write(const char *path) { return table_write(&table, path); }
