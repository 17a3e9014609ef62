/* Instructions of the DSP extension, and their meaning in plain C for other machines.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef EDGEPRUNE_SIMD_H
#define EDGEPRUNE_SIMD_H

#include "edgeprune_kernels.h"

/* GCC spills accumulators when it unrolls the inner loops; clang does not. */
#if defined(__clang__)
#define EDGEPRUNE_UNROLL _Pragma("clang loop unroll_count(4)")
#else
#define EDGEPRUNE_UNROLL _Pragma("GCC unroll 1")
#endif

EDGEPRUNE_INLINE uint32_t load(const void *address)
{
    uint32_t word;
    __builtin_memcpy(&word, address, 4);
    return word;
}

EDGEPRUNE_INLINE void store(void *address, uint32_t word)
{
    __builtin_memcpy(address, &word, 4);
}

#if defined(__ARM_FEATURE_DSP) && defined(__GNUC__)

/* Bytes 0 and 2 as two int16. */
EDGEPRUNE_INLINE int32_t even(uint32_t word)
{
    int32_t result;
    __asm__("sxtb16 %0, %1" : "=r"(result) : "r"(word));
    return result;
}

/* Bytes 1 and 3 as two int16. */
EDGEPRUNE_INLINE int32_t odd(uint32_t word)
{
    int32_t result;
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(result) : "r"(word));
    return result;
}

#define EDGEPRUNE_MULTIPLY(name)                                                                   \
    EDGEPRUNE_INLINE int32_t name(int32_t a, int32_t b, int32_t sum)                               \
    {                                                                                              \
        __asm__(#name " %0, %1, %2, %0" : "+r"(sum) : "r"(a), "r"(b));                             \
        return sum;                                                                                \
    }
EDGEPRUNE_MULTIPLY(smlad)
EDGEPRUNE_MULTIPLY(smlabb)
EDGEPRUNE_MULTIPLY(smlatt)

#else

EDGEPRUNE_INLINE int32_t pair(int32_t low, int32_t high)
{
    return (int32_t)(((uint32_t)low & 0xFFFFu) | (uint32_t)high << 16);
}

EDGEPRUNE_INLINE int32_t even(uint32_t word)
{
    return pair((int8_t)word, (int8_t)(word >> 16));
}

EDGEPRUNE_INLINE int32_t odd(uint32_t word)
{
    return pair((int8_t)(word >> 8), (int8_t)(word >> 24));
}

EDGEPRUNE_INLINE int32_t smlabb(int32_t a, int32_t b, int32_t sum)
{
    return sum + (int16_t)a * (int16_t)b;
}

EDGEPRUNE_INLINE int32_t smlatt(int32_t a, int32_t b, int32_t sum)
{
    return sum + (a >> 16) * (b >> 16);
}

EDGEPRUNE_INLINE int32_t smlad(int32_t a, int32_t b, int32_t sum)
{
    return smlabb(a, b, smlatt(a, b, sum));
}

#endif

/* saturate(zero_point + round_half_even((float)sum * scale)) */
EDGEPRUNE_INLINE int8_t finish(int32_t sum, float scale, int32_t zero_point)
{
#if defined(__ARM_FP) && (__ARM_FP & 4) && defined(__GNUC__)
    const float product = (float)sum * scale;
    int32_t rounded;
    __asm__("vcvtr.s32.f32 %0, %1" : "=t"(rounded) : "t"(product));
#elif defined(__arm__)
    /* No FPU: the mantissa of the scale as an integer; half is rounded up instead of to even. */
    const uint32_t bits = load(&scale);
    const int shift = 150 - (int)(bits >> 23);
    const int64_t product = (int64_t)sum * (int32_t)((bits & 0x7FFFFFu) | 0x800000u);
    const int32_t rounded = shift > 62 ? 0 : (int32_t)((product + ((int64_t)1 << (shift - 1))) >> shift);
#else
    float product = (float)sum * scale;
    product = product < -1024.0f ? -1024.0f : product > 1024.0f ? 1024.0f : product;
    const volatile float shifted = product + 12582912.0f; /* 1.5 * 2^23: no bits for a fraction */
    const int32_t rounded = (int32_t)(shifted - 12582912.0f);
#endif
    return (int8_t)edgeprune_saturate(rounded + zero_point);
}

EDGEPRUNE_INLINE int8_t *set(int8_t value, int8_t *target, int32_t count)
{
    for (; count > 0; count--)
    {
        *target++ = value;
    }
    return target;
}

#endif
