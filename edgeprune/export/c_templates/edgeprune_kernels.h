/* Integer kernels of edgeprune that CMSIS-NN does not have. SPDX-License-Identifier: Apache-2.0 */
#ifndef EDGEPRUNE_KERNELS_H
#define EDGEPRUNE_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#define EDGEPRUNE_INLINE static inline __attribute__((always_inline))

EDGEPRUNE_INLINE int32_t edgeprune_saturate(int32_t value)
{
#if defined(__ARM_FEATURE_SAT) && defined(__GNUC__)
    int32_t result;
    __asm__("ssat %0, #8, %1" : "=r"(result) : "r"(value));
    return result;
#else
    return value < -128 ? -128 : value > 127 ? 127 : value;
#endif
}

/* zero_point + round((value * multiplier) / 2^32), half up. */
EDGEPRUNE_INLINE int32_t edgeprune_scale(int32_t value, int32_t multiplier, int32_t zero_point)
{
#if defined(__ARM_FEATURE_DSP) && defined(__GNUC__)
    int32_t result;
    __asm__("smmlar %0, %1, %2, %3" : "=r"(result) : "r"(value), "r"(multiplier), "r"(zero_point));
    return result;
#else
    return zero_point + (int32_t)(((int64_t)value * multiplier + 0x80000000LL) >> 32);
#endif
}

/* output[i] = (first[i] * a + second[i] * b + constant) >> shift; output may be an operand. */
EDGEPRUNE_INLINE void edgeprune_add(const int8_t *first, const int8_t *second, int8_t *output,
                                    size_t count, int32_t a, int32_t b, int32_t constant, int shift)
{
    for (const int8_t *end = first + count; first != end;)
    {
        *output++ = (int8_t)edgeprune_saturate((*first++ * a + *second++ * b + constant) >> shift);
    }
}

/* output[i] = table[input[i] + 128]; output may be input. */
EDGEPRUNE_INLINE void edgeprune_lookup(const int8_t *input, int8_t *output, size_t count,
                                       const int8_t *table)
{
    const int8_t *middle = table + 128;
    for (const int8_t *end = input + count; input != end;)
    {
        *output++ = middle[*input++];
    }
}

/* Put `blocks` runs of `run` bytes `stride` bytes apart, through `table` where there is one. */
EDGEPRUNE_INLINE void edgeprune_place(const int8_t *input, int8_t *output, size_t blocks, size_t run,
                                      size_t stride, const int8_t *table)
{
    for (size_t block = 0; block < blocks; block++, output += stride)
    {
        for (size_t index = 0; index < run; index++)
        {
            const int8_t value = *input++;
            output[index] = table ? table[value + 128] : value;
        }
    }
}

/* Average of height * width pixels in another scale; constant = -zero point of input * pixels. */
EDGEPRUNE_INLINE void edgeprune_global_average(const int8_t *input, int8_t *output, size_t pixels,
                                               size_t channels, int32_t constant, int32_t multiplier,
                                               int shift, int32_t zero_point)
{
    for (size_t channel = 0; channel < channels; channel++)
    {
        const int8_t *value = input + channel;
        int32_t sum = constant;
        for (size_t pixel = 0; pixel < pixels; pixel++, value += channels)
        {
            sum += *value;
        }
        sum = (int32_t)((uint32_t)sum << shift);
        output[channel] = (int8_t)edgeprune_saturate(edgeprune_scale(sum, multiplier, zero_point));
    }
}

typedef struct
{
    int32_t height, width, channels;
    int32_t output_height, output_width;
    int32_t kernel_height, kernel_width;
    int32_t stride_y, stride_x, pad_top, pad_left;
    int32_t count_padding; /* divide by the whole window */
    int32_t zero_point;
} edgeprune_window;

/* sum / count, rounded half to even. */
EDGEPRUNE_INLINE int32_t edgeprune_divide(int32_t sum, int32_t count)
{
    int32_t quotient = sum / count;
    int32_t twice = 2 * (sum - quotient * count);
    if (twice > count || (twice == count && (quotient & 1)))
    {
        quotient++;
    }
    else if (twice < -count || (twice == -count && (quotient & 1)))
    {
        quotient--;
    }
    return quotient;
}

/* Average over windows, same scale on both sides; rounded as onnxruntime's QLinearAveragePool. */
EDGEPRUNE_INLINE void edgeprune_average(const int8_t *input, int8_t *output,
                                        const edgeprune_window *w)
{
    for (int32_t y = -w->pad_top, rows = w->output_height; rows > 0; rows--, y += w->stride_y)
    {
        const int32_t top = y < 0 ? 0 : y;
        const int32_t bottom = y + w->kernel_height < w->height ? y + w->kernel_height : w->height;
        for (int32_t x = -w->pad_left, columns = w->output_width; columns > 0;
             columns--, x += w->stride_x)
        {
            const int32_t left = x < 0 ? 0 : x;
            const int32_t right = x + w->kernel_width < w->width ? x + w->kernel_width : w->width;
            const int32_t inside = (bottom - top) * (right - left);
            const int32_t count = w->count_padding ? w->kernel_height * w->kernel_width : inside;
            const int8_t *corner = input + (top * w->width + left) * w->channels;
            for (int32_t channel = 0; channel < w->channels; channel++, corner++)
            {
                int32_t sum = (count - inside) * w->zero_point;
                const int8_t *row = corner;
                for (int32_t i = top; i < bottom; i++, row += w->width * w->channels)
                {
                    const int8_t *value = row;
                    for (int32_t j = left; j < right; j++, value += w->channels)
                    {
                        sum += *value;
                    }
                }
                *output++ = (int8_t)edgeprune_divide(sum, count);
            }
        }
    }
}

/* Softmax over runs of `length`: table[255 - d] = exp(-d * scale) in fixed point, `factor` =
   65536 / output scale. Sums of a run fit 32 bits. */
EDGEPRUNE_INLINE void edgeprune_softmax(const int8_t *input, int8_t *output, size_t runs,
                                        size_t length, const uint32_t *table, uint32_t factor,
                                        int32_t zero_point)
{
    for (; runs > 0; runs--, input += length, output += length)
    {
        int32_t largest = -128;
        uint32_t sum = 0;
        for (size_t index = 0; index < length; index++)
        {
            largest = input[index] > largest ? input[index] : largest;
        }
        const uint32_t *shifted = table + 255 - largest;
        for (size_t index = 0; index < length; index++)
        {
            sum += shifted[input[index]];
        }
        for (size_t index = 0; index < length; index++)
        {
            const uint64_t share = (uint64_t)shifted[input[index]] * factor >> 16;
            const uint32_t rounded = ((uint32_t)share + sum / 2) / sum;
            output[index] = (int8_t)edgeprune_saturate((int32_t)rounded + zero_point);
        }
    }
}

#endif
