/* SPDX-License-Identifier: Apache-2.0 */
/* For compilers that bring no C library. What is inline in the instruction set, or defined by the
   compiler's runtime, is only declared; edgeprune's harness holds the rest (math.c). */
#pragma once

#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define isnan(x) __builtin_isnan(x)
#define isinf(x) __builtin_isinf(x)
#define isfinite(x) __builtin_isfinite(x)

#define fabsf(x) __builtin_fabsf(x)
#define sqrtf(x) __builtin_sqrtf(x)
#define copysignf(x, y) __builtin_copysignf(x, y)

float expf(float), logf(float), sinf(float), cosf(float), fmodf(float, float);
float floorf(float), ceilf(float), roundf(float), truncf(float);
float fmaxf(float, float), fminf(float, float);

float rintf(float), nearbyintf(float);
double nearbyint(double);
long long llrint(double);
float tanhf(float), erff(float), powf(float, float);
