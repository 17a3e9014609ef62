/* Host side: which layer an executed instruction belongs to.

   The table gives a class to every halfword of the model's code: KEEP for functions that any layer
   may call, OUTSIDE for what is called between inferences, INFER for the body of the inference
   function, and from FIRST_LAYER on one class a layer. The class stays what it was while KEEP code
   runs, so that a kernel counts for the layer that called it. All other code is OUTSIDE. */
#pragma once
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEEP = 0, OUTSIDE = 1, INFER = 2, FIRST_LAYER = 3 };

struct table {
    uint32_t base, halfwords, classes; /* head of the file */
    uint16_t *owner;
    uint64_t *counts;
    uint32_t current;
};

static inline void attribute(struct table *table, uint32_t address, uint64_t instructions) {
    const uint32_t index = (address - table->base) >> 1;
    const uint32_t owner = index < table->halfwords ? table->owner[index] : OUTSIDE;
    if (owner != KEEP) table->current = owner;
    table->counts[table->current] += instructions;
}

/* Reads base, halfwords and classes (32 bits each) and one 16-bit class a halfword. */
static inline int table_read(struct table *table, const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) return 0;
    int read = fread(table, sizeof(uint32_t), 3, file) == 3;
    if (read) {
        table->owner = malloc(table->halfwords * sizeof *table->owner);
        table->counts = calloc(table->classes, sizeof *table->counts);
        table->current = OUTSIDE;
        read = table->owner && table->counts &&
               fread(table->owner, sizeof *table->owner, table->halfwords, file) == table->halfwords;
    }
    fclose(file);
    return read;
}

/* Writes the instructions of each class, one line each. */
static inline int table_write(const struct table *table, const char *path) {
    FILE *file = fopen(path, "w");
    if (!file) return 0;
    for (uint32_t owner = 0; owner < table->classes; ++owner)
        fprintf(file, "%llu\n", (unsigned long long)table->counts[owner]);
    return fclose(file) == 0;
}
