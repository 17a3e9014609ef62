/* Matrix times vector for the DSP extension. SPDX-License-Identifier: Apache-2.0 */
#include "edgeprune_dsp.h"
#include "edgeprune_simd.h"

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
