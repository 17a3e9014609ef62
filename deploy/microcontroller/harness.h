/* What the parts of the harness share, and what the generated adapter.c gives it. */
#pragma once
#include <stdint.h>

/* Exit codes, read by edgeprune. */
enum { DONE = 0, FAULT = 99, NO_FILES = 98 };

/* Appended to every output. */
struct status {
    uint32_t stack_bytes;   /* deepest stack of `infer`, its own frame and return address included */
    uint32_t broken;        /* 0; 1 for a broken canary, 2 for a kernel that refused */
    uint32_t scratch_bytes; /* scratch that was written, where the model tells */
};

extern uint32_t __stack_bottom[], __stack_top[];
extern uint32_t __fence_start[], __fence_end[]; /* memory behind the model's, which it must not touch */

/* main.c */
void run(void);

/* host.c: requests to the machine that emulates this one (Arm semihosting) */
int host_open(const char *name, int mode);
int host_read(int file, void *to, uint32_t bytes);
int host_write(int file, const void *from, uint32_t bytes);
void host_print(const char *text);
void host_exit(int code) __attribute__((noreturn));

/* adapter.c, generated for each model */
extern const uint32_t model_input_bytes, model_output_bytes;
extern uint32_t *model_stack_top; /* stack pointer at the call of the model */
void *model_input(void);
void *model_output(void);
void model_prepare(void);
void model_infer(void);
uint32_t model_broken(void);
uint32_t model_scratch_bytes(void);
