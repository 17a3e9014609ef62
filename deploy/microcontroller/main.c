/* Runs the model over the samples in the file `input` and writes outputs to the file `output`; once there
   is a file `stop`, it begins no further sample. */
#include "harness.h"

enum { READ_BINARY = 1, WRITE_BINARY = 5 };
#define PAINT 0xA5C3A5C3u

/* Fills the stack from `from` up to the caller's frame. */
static void paint(volatile uint32_t *from) {
    volatile uint32_t *here;
    __asm__ volatile("mov %0, sp" : "=r"(here));
    while (from < here) *from++ = PAINT;
}

static void paint_fence(void) {
    for (volatile uint32_t *word = __fence_start; word < (volatile uint32_t *)__fence_end;) *word++ = PAINT;
}

/* 1 if the model wrote behind its own memory. */
static uint32_t fence_broken(void) {
    uint32_t broken = 0;
    for (volatile uint32_t *word = __fence_start; word < (volatile uint32_t *)__fence_end;)
        broken |= *word++ != PAINT;
    return broken;
}

void run(void) {
    const int input = host_open("input", READ_BINARY);
    const int output = host_open("output", WRITE_BINARY);
    if (input < 0 || output < 0) host_exit(NO_FILES);
    volatile uint32_t *lowest = __stack_bottom;
    paint_fence();
    while (host_read(input, model_input(), model_input_bytes) == 0) {
        struct status status;
        paint(lowest);
        model_prepare();
        model_infer();
        for (lowest = __stack_bottom; lowest < model_stack_top && *lowest == PAINT;) ++lowest;
        status.stack_bytes = (uint32_t)(model_stack_top - lowest) * sizeof *lowest;
        status.broken = model_broken() | fence_broken();
        status.scratch_bytes = model_scratch_bytes();
        if (host_write(output, model_output(), model_output_bytes) != 0 ||
            host_write(output, &status, sizeof status) != 0)
            host_exit(NO_FILES);
        if (host_open("stop", READ_BINARY) >= 0) return;
    }
}
