/* Depthwise convolution for the DSP extension. SPDX-License-Identifier: Apache-2.0 */
#include "edgeprune_dsp.h"
#include "edgeprune_simd.h"

#define EDGEPRUNE_TAP(tap)                                                                         \
    do                                                                                             \
    {                                                                                              \
        const uint32_t word = load(pointers[tap] + channel);                                       \
        const int32_t x = even(word), y = odd(word);                                               \
        const int32_t low = weights[2 * (tap)], high = weights[2 * (tap) + 1];                     \
        a = smlabb(x, low, a);                                                                     \
        b = smlabb(y, high, b);                                                                    \
        c = smlatt(x, low, c);                                                                     \
        d = smlatt(y, high, d);                                                                    \
    } while (0)

/* One pixel: `taps` pointers to pixels, all channels. Kernels of 3 x 3 are unrolled. */
EDGEPRUNE_INLINE void pixel(const int8_t *const *pointers, int32_t taps, int nine, int32_t channels,
                            const int32_t *weights, const edgeprune_output *result, int8_t *output)
{
    const int32_t *bias = result->bias;
    const float *scale = result->scale;
    const int32_t zero_point = result->zero_point;
    int32_t channel = 0;
    for (; channel + 4 <= channels; channel += 4)
    {
        int32_t a = bias[0], b = bias[1], c = bias[2], d = bias[3];
        if (nine)
        {
            EDGEPRUNE_TAP(0);
            EDGEPRUNE_TAP(1);
            EDGEPRUNE_TAP(2);
            EDGEPRUNE_TAP(3);
            EDGEPRUNE_TAP(4);
            EDGEPRUNE_TAP(5);
            EDGEPRUNE_TAP(6);
            EDGEPRUNE_TAP(7);
            EDGEPRUNE_TAP(8);
        }
        else
        {
            for (int32_t tap = 0; tap < taps; tap++)
            {
                EDGEPRUNE_TAP(tap);
            }
        }
        output[0] = finish(a, scale[0], zero_point);
        output[1] = finish(b, scale[1], zero_point);
        output[2] = finish(c, scale[2], zero_point);
        output[3] = finish(d, scale[3], zero_point);
        weights += 2 * taps;
        output += 4;
        bias += 4;
        scale += 4;
    }
    const int8_t *weight = (const int8_t *)weights;
    for (; channel < channels; channel++)
    {
        int32_t sum = *bias++;
        for (int32_t tap = 0; tap < taps; tap++, weight += 2)
        {
            int16_t factor;
            __builtin_memcpy(&factor, weight, 2);
            sum += pointers[tap][channel] * factor;
        }
        *output++ = finish(sum, *scale++, zero_point);
    }
}

static __attribute__((noinline)) void pixel_9(const int8_t *const *pointers, int32_t channels,
                                              const int32_t *weights,
                                              const edgeprune_output *result, int8_t *output)
{
    pixel(pointers, 9, 1, channels, weights, result, output);
}

static __attribute__((noinline)) void pixel_n(const int8_t *const *pointers, int32_t taps,
                                              int32_t channels, const int32_t *weights,
                                              const edgeprune_output *result, int8_t *output)
{
    pixel(pointers, taps, 0, channels, weights, result, output);
}

/* Scratch: a pointer for each tap, an offset for each tap, one pixel of padding. */
void edgeprune_depthwise(const int8_t *input, int8_t *output, const edgeprune_shape *s,
                         const int32_t *weights, const edgeprune_output *result, int32_t *scratch)
{
    const int32_t taps = s->kernel_height * s->kernel_width;
    const int8_t **const pointers = (const int8_t **)scratch;
    int32_t *const offsets = (int32_t *)(pointers + taps);
    int8_t *const padding = (int8_t *)(offsets + taps);
    const int32_t reach_y = (s->kernel_height - 1) * s->dilation_y;
    const int32_t reach_x = (s->kernel_width - 1) * s->dilation_x;
    set((int8_t)s->zero_point, padding, s->channels);
    for (int32_t tap = 0; tap < taps; tap++)
    {
        const int32_t y = tap / s->kernel_width * s->dilation_y;
        offsets[tap] = (y * s->width + tap % s->kernel_width * s->dilation_x) * s->channels;
    }
    int32_t y = -s->pad_top;
    for (int32_t i = 0; i < s->output_height; i++, y += s->stride_y)
    {
        int32_t x = -s->pad_left;
        for (int32_t j = 0; j < s->output_width; j++, x += s->stride_x)
        {
            const int8_t *corner = input + (y * s->width + x) * s->channels;
            if (y >= 0 && x >= 0 && y + reach_y < s->height && x + reach_x < s->width)
            {
                for (int32_t tap = 0; tap < taps; tap++)
                {
                    pointers[tap] = corner + offsets[tap];
                }
            }
            else
            {
                int32_t tap = 0;
                for (int32_t v = y; v <= y + reach_y; v += s->dilation_y)
                {
                    for (int32_t u = x; u <= x + reach_x; u += s->dilation_x, tap++)
                    {
                        const int inside = v >= 0 && v < s->height && u >= 0 && u < s->width;
                        pointers[tap] = inside ? corner + offsets[tap] : padding;
                    }
                }
            }
            if (taps == 9)
            {
                pixel_9(pointers, s->channels, weights, result, output);
            }
            else
            {
                pixel_n(pointers, taps, s->channels, weights, result, output);
            }
            output += s->channels;
        }
    }
}
