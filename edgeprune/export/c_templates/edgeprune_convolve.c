/* Convolution for the DSP extension. SPDX-License-Identifier: Apache-2.0 */
#include "edgeprune_dsp.h"
#include "edgeprune_simd.h"

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
