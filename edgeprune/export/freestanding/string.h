/* SPDX-License-Identifier: Apache-2.0 */
/* For compilers that bring no C library: the compiler's runtime defines these functions. The
   macros let it see through copies of a known size, which -ffreestanding would forbid. */
#pragma once
#include <stddef.h>

void *memcpy(void *restrict to, const void *restrict from, size_t bytes);
void *memmove(void *to, const void *from, size_t bytes);
void *memset(void *to, int value, size_t bytes);
int memcmp(const void *first, const void *second, size_t bytes);

#define memcpy(to, from, bytes) __builtin_memcpy(to, from, bytes)
#define memmove(to, from, bytes) __builtin_memmove(to, from, bytes)
#define memset(to, value, bytes) __builtin_memset(to, value, bytes)
