/* Start-up of the firmware: vector table, memory, floating point, faults. */
#include "harness.h"

extern uint32_t __data_load[], __data_start[], __data_end[], __bss_start[], __bss_end[];

void _start(void);
void fault(void);

/* The core reads the first stack pointer and the address of `_start` from here. */
__attribute__((section(".vectors"), used)) void *const vectors[16] = {
    __stack_top, (void *)_start, (void *)fault, (void *)fault, (void *)fault, (void *)fault,
    (void *)fault, (void *)fault, 0, 0, 0, (void *)fault, (void *)fault, 0, (void *)fault,
    (void *)fault,
};

void _start(void) {
    /* Access to floating point and, on Cortex-M55, to the vector extension. */
    *(volatile uint32_t *)0xE000ED88u |= 0xFu << 20;
    __asm__ volatile("dsb\n\tisb" ::: "memory");
    /* volatile: the compiler must not turn these loops into calls of memcpy, which would then be
       counted among the model's bytes. */
    volatile uint32_t *to = __data_start;
    for (const uint32_t *from = __data_load; to < (volatile uint32_t *)__data_end;) *to++ = *from++;
    for (to = __bss_start; to < (volatile uint32_t *)__bss_end;) *to++ = 0;
    run();
    host_exit(DONE);
}

/* Tells the host where the firmware failed: the core left the address on the stack. */
__attribute__((used)) void report(const uint32_t *frame) {
    volatile char text[10];
    for (int digit = 0; digit < 8; ++digit) {
        const uint32_t value = frame[6] >> (28 - 4 * digit) & 0xFu;
        text[digit] = (char)(value < 10 ? '0' + value : 'a' + value - 10);
    }
    text[8] = '\n';
    text[9] = 0;
    host_print("fault at 0x");
    host_print((const char *)text);
    host_exit(FAULT);
}

__attribute__((naked)) void fault(void) {
    __asm__ volatile("mrs r0, msp\n\tb report");
}
