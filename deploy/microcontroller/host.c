/* Arm semihosting: files and exit of the emulating machine.
   Numbers: "Semihosting for AArch32 and AArch64", Arm IHI 0104, chapter 4. */
#include "harness.h"

enum { SYS_OPEN = 0x01, SYS_WRITE0 = 0x04, SYS_WRITE = 0x05, SYS_READ = 0x06, SYS_EXIT_EXTENDED = 0x20 };
enum { APPLICATION_EXIT = 0x20026 };

static int call(int operation, const void *argument) {
    register int r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

int host_open(const char *name, int mode) {
    uint32_t length = 0;
    while (((const volatile char *)name)[length]) ++length;
    const uint32_t block[3] = {(uint32_t)name, (uint32_t)mode, length};
    return call(SYS_OPEN, block);
}

/* Both return the number of bytes that were not transferred. */
int host_read(int file, void *to, uint32_t bytes) {
    const uint32_t block[3] = {(uint32_t)file, (uint32_t)to, bytes};
    return call(SYS_READ, block);
}

int host_write(int file, const void *from, uint32_t bytes) {
    const uint32_t block[3] = {(uint32_t)file, (uint32_t)from, bytes};
    return call(SYS_WRITE, block);
}

void host_print(const char *text) { call(SYS_WRITE0, text); }

void host_exit(int code) {
    const uint32_t block[2] = {APPLICATION_EXIT, (uint32_t)code};
    for (;;) call(SYS_EXIT_EXTENDED, block);
}
