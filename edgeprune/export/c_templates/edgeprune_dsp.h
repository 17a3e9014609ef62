/* Convolutions of edgeprune for processors with DSP extension. SPDX-License-Identifier: Apache-2.0
 *
 * Weights are laid out by the generator for these loops, with the zero point of the input folded
 * into the bias. Scales are single precision and results are rounded half to even, as onnxruntime
 * does it, so that results agree bit by bit; see edgeprune_simd.h for processors without FPU.
 */
#ifndef EDGEPRUNE_DSP_H
#define EDGEPRUNE_DSP_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What follows the sums: result = saturate(zero_point + round(sum * scale[channel])). */
typedef struct
{
    const int32_t *bias;
    const float *scale;
    int32_t zero_point;
} edgeprune_output;

typedef struct
{
    int32_t height, width, channels;
    int32_t output_height, output_width, output_channels;
    int32_t kernel_height, kernel_width, stride_y, stride_x, pad_top, pad_left;
    int32_t dilation_y, dilation_x, groups;
    int32_t zero_point; /* of the input, for the padding */
} edgeprune_shape;

/* Output rows in pairs, their weights alternating word by word, a last odd row by itself; rows
   padded with 0 to whole words. */
void edgeprune_convolve(const int8_t *input, int8_t *output, const edgeprune_shape *shape,
                        const uint32_t *weights, const edgeprune_output *result, int32_t *scratch);

/* Weights as int16, two in a word: by blocks of four channels (0, 2, 1, 3), tap by tap; then the last
   channels one by one. */
void edgeprune_depthwise(const int8_t *input, int8_t *output, const edgeprune_shape *shape,
                         const int32_t *weights, const edgeprune_output *result, int32_t *scratch);

/* Output rows in fours, their weights alternating word by word; then the last rows one by one. */
void edgeprune_fully_connected(const int8_t *input, int8_t *output, int32_t inputs, int32_t outputs,
                               const uint32_t *weights, const edgeprune_output *result);

#ifdef __cplusplus
}
#endif

#endif
