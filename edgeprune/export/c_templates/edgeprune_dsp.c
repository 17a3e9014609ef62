/* Convolutions of edgeprune for processors with DSP extension. SPDX-License-Identifier: Apache-2.0 */
#include "edgeprune_dsp.h"
#include "edgeprune_kernels.h"

/* GCC spills accumulators when it unrolls the inner loops; clang does not. */
#if defined(__clang__)
#define EDGEPRUNE_UNROLL _Pragma("clang loop unroll_count(4)")
#else
#define EDGEPRUNE_UNROLL _Pragma("GCC unroll 1")
#endif

/* ------------------------------------------------------------------------ instructions */

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

/* ------------------------------------------------------------------------- convolution */

/* Two columns of int16 alternate: four words hold 4 values of column 0 and 4 of column 1. */
static void expand(const int8_t *source, int32_t *column, int32_t words)
{
    EDGEPRUNE_UNROLL
    for (; words > 0; words--, source += 4, column += 4)
    {
        const uint32_t word = load(source);
        column[0] = even(word);
        column[1] = odd(word);
    }
}

static void fill(int32_t value, int32_t *column, int32_t words)
{
    for (; words > 0; words--, column += 4)
    {
        column[0] = value;
        column[1] = value;
    }
}

static int8_t *copy(const int8_t *source, int8_t *target, int32_t count)
{
    for (; count >= 4; count -= 4, source += 4, target += 4)
    {
        store(target, load(source));
    }
    for (; count > 0; count--)
    {
        *target++ = *source++;
    }
    return target;
}

static int8_t *set(int8_t value, int8_t *target, int32_t count)
{
    for (; count > 0; count--)
    {
        *target++ = value;
    }
    return target;
}

/* Both columns times all rows. The second result is written first: an odd last pixel passes the
   same place twice. */
static __attribute__((noinline)) void product(const int32_t *columns, const uint32_t *weights,
                                              int32_t words, int32_t rows,
                                              const int32_t *bias, const float *scale,
                                              int32_t zero_point, int8_t *first, int8_t *second)
{
    const int32_t *const end = columns + 4 * words;
    for (; rows > 1; rows -= 2)
    {
        int32_t a0 = bias[0], a1 = bias[0], b0 = bias[1], b1 = bias[1];
        const int32_t *column = columns;
        bias += 2;
        EDGEPRUNE_UNROLL
        do
        {
            const uint32_t a = weights[0], b = weights[1];
            const int32_t a_even = even(a), a_odd = odd(a), b_even = even(b), b_odd = odd(b);
            const int32_t x0 = column[0], y0 = column[1];
            a0 = smlad(a_even, x0, a0);
            b0 = smlad(b_even, x0, b0);
            a0 = smlad(a_odd, y0, a0);
            b0 = smlad(b_odd, y0, b0);
            const int32_t x1 = column[2], y1 = column[3];
            a1 = smlad(a_even, x1, a1);
            b1 = smlad(b_even, x1, b1);
            a1 = smlad(a_odd, y1, a1);
            b1 = smlad(b_odd, y1, b1);
            weights += 2;
            column += 4;
        } while (column != end);
        second[0] = finish(a1, scale[0], zero_point);
        second[1] = finish(b1, scale[1], zero_point);
        first[0] = finish(a0, scale[0], zero_point);
        first[1] = finish(b0, scale[1], zero_point);
        scale += 2;
        first += 2;
        second += 2;
    }
    if (rows)
    {
        int32_t a0 = bias[0], a1 = bias[0];
        for (const int32_t *column = columns; column != end; column += 4)
        {
            const uint32_t a = *weights++;
            a0 = smlad(even(a), column[0], a0);
            a0 = smlad(odd(a), column[1], a0);
            a1 = smlad(even(a), column[2], a1);
            a1 = smlad(odd(a), column[3], a1);
        }
        second[0] = finish(a1, scale[0], zero_point);
        first[0] = finish(a0, scale[0], zero_point);
    }
}

/* What an image needs to become columns; `line` is a column of int8 where words do not fit. */
typedef struct
{
    int32_t run;      /* channels of a group */
    int32_t joined;   /* a row of the kernel lies in one piece */
    int32_t reach_x;  /* from the first to the last pixel of a row */
    int8_t *line;
} edgeprune_columns;

/* A row of the kernel, `taps` pieces of `length` pixels from x on, where some lie outside. */
static void gather_edge(const int8_t *row, const edgeprune_shape *s, const edgeprune_columns *c,
                        int32_t inside, int32_t x, int32_t **column, int8_t **end)
{
    const int32_t pad = even((uint32_t)(uint8_t)s->zero_point * 0x01010101u);
    const int32_t taps = c->joined ? 1 : s->kernel_width;
    const int32_t length = c->joined ? s->kernel_width : 1;
    for (int32_t tap = 0; tap < taps; tap++, x += s->dilation_x)
    {
        int32_t before = x < 0 ? -x : 0;
        int32_t after = x + length > s->width ? x + length - s->width : 0;
        if (!inside || before > length || after > length)
        {
            before = length;
            after = 0;
        }
        const int32_t middle = length - before - after;
        const int8_t *pixel = row + (x + before) * s->channels;
        if (c->line)
        {
            *end = set((int8_t)s->zero_point, *end, before * c->run);
            *end = copy(pixel, *end, middle * c->run);
            *end = set((int8_t)s->zero_point, *end, after * c->run);
            continue;
        }
        const int32_t words = c->run / 4;
        fill(pad, *column, before * words);
        expand(pixel, *column + 4 * before * words, middle * words);
        fill(pad, *column + 4 * (before + middle) * words, after * words);
        *column += 4 * length * words;
    }
}

/* The values under the kernel at (y, x) as a column. */
static void gather(const int8_t *input, const edgeprune_shape *s, const edgeprune_columns *c,
                   int32_t y, int32_t x, int32_t *column)
{
    int32_t *next = column;
    int8_t *end = c->line;
    const int8_t *row = input + y * s->width * s->channels;
    const int32_t step = s->dilation_y * s->width * s->channels;
    const int whole = c->joined && x >= 0 && x + c->reach_x < s->width;
    const int32_t length = s->kernel_width * c->run;
    for (int32_t i = 0; i < s->kernel_height; i++, y += s->dilation_y, row += step)
    {
        const int inside = y >= 0 && y < s->height;
        if (!whole || !inside)
        {
            gather_edge(row, s, c, inside, x, &next, &end);
        }
        else if (end)
        {
            end = copy(row + x * s->channels, end, length);
        }
        else
        {
            expand(row + x * s->channels, next, length / 4);
            next += length;
        }
    }
    if (end)
    {
        expand(c->line, column, (int32_t)(end - c->line + 3) / 4);
    }
}

void edgeprune_convolve(const int8_t *input, int8_t *output, const edgeprune_shape *s,
                        const uint32_t *weights, const edgeprune_output *result, int32_t *scratch)
{
    const int32_t run = s->channels / s->groups, rows = s->output_channels / s->groups;
    const int32_t words = (run * s->kernel_height * s->kernel_width + 3) / 4;
    const edgeprune_columns columns = {
        run,
        s->dilation_x == 1 && s->groups == 1,
        (s->kernel_width - 1) * s->dilation_x,
        run % 4 ? (int8_t *)(scratch + 4 * words) : NULL,
    };
    const int32_t *bias = result->bias;
    const float *scale = result->scale;
    if (columns.line)
    {
        store(columns.line + 4 * words - 4, 0); /* weights there are 0, but the bytes are read */
    }
    for (int32_t group = 0; group < s->groups; group++)
    {
        int8_t *place = output, *previous = NULL;
        int32_t y = -s->pad_top;
        for (int32_t i = 0; i < s->output_height; i++, y += s->stride_y)
        {
            int32_t x = -s->pad_left;
            for (int32_t j = 0; j < s->output_width; j++, x += s->stride_x)
            {
                gather(input, s, &columns, y, x, scratch + (previous ? 2 : 0));
                if (previous)
                {
                    product(scratch, weights, words, rows, bias, scale, result->zero_point,
                            previous, place);
                    previous = NULL;
                }
                else
                {
                    previous = place;
                }
                place += s->output_channels;
            }
        }
        if (previous)
        {
            product(scratch, weights, words, rows, bias, scale, result->zero_point, previous,
                    previous);
        }
        input += run;
        output += rows;
        weights += rows * words;
        bias += rows;
        scale += rows;
    }
}

/* --------------------------------------------------------------------------- depthwise */

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

/* --------------------------------------------------------------------- fully connected */

/* The last 1 to 3 values as a word, the rest 0. */
static uint32_t last(const int8_t *input, int32_t count)
{
    uint32_t word = 0;
    for (int32_t i = 0; i < count; i++)
    {
        word |= (uint32_t)(uint8_t)input[i] << 8 * i;
    }
    return word;
}

#define EDGEPRUNE_COLUMN(word)                                                                     \
    do                                                                                             \
    {                                                                                              \
        const uint32_t p = weights[0], q = weights[1], r = weights[2], t = weights[3];             \
        const int32_t x = even(word), y = odd(word);                                               \
        a = smlad(even(p), x, a);                                                                  \
        a = smlad(odd(p), y, a);                                                                   \
        b = smlad(even(q), x, b);                                                                  \
        b = smlad(odd(q), y, b);                                                                   \
        c = smlad(even(r), x, c);                                                                  \
        c = smlad(odd(r), y, c);                                                                   \
        d = smlad(even(t), x, d);                                                                  \
        d = smlad(odd(t), y, d);                                                                   \
        weights += 4;                                                                              \
    } while (0)

void edgeprune_fully_connected(const int8_t *input, int8_t *output, int32_t inputs, int32_t outputs,
                               const uint32_t *weights, const edgeprune_output *result)
{
    const int8_t *const end = input + inputs / 4 * 4;
    const int32_t rest = inputs % 4;
    const uint32_t tail = last(end, rest);
    const int32_t *bias = result->bias;
    const float *scale = result->scale;
    for (; outputs >= 4; outputs -= 4)
    {
        int32_t a = bias[0], b = bias[1], c = bias[2], d = bias[3];
        EDGEPRUNE_UNROLL
        for (const int8_t *values = input; values != end; values += 4)
        {
            const uint32_t word = load(values);
            EDGEPRUNE_COLUMN(word);
        }
        if (rest)
        {
            EDGEPRUNE_COLUMN(tail);
        }
        output[0] = finish(a, scale[0], result->zero_point);
        output[1] = finish(b, scale[1], result->zero_point);
        output[2] = finish(c, scale[2], result->zero_point);
        output[3] = finish(d, scale[3], result->zero_point);
        output += 4;
        bias += 4;
        scale += 4;
    }
    for (; outputs > 0; outputs--)
    {
        int32_t sum = *bias++;
        for (const int8_t *values = input; values != end; values += 4)
        {
            const uint32_t word = load(values), row = *weights++;
            sum = smlad(even(row), even(word), sum);
            sum = smlad(odd(row), odd(word), sum);
        }
        if (rest)
        {
            const uint32_t row = *weights++;
            sum = smlad(even(row), even(tail), sum);
            sum = smlad(odd(row), odd(tail), sum);
        }
        *output++ = finish(sum, *scale++, result->zero_point);
    }
}
