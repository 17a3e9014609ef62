/* Functions that the runtime of a freestanding compiler does not define. Absolute errors of those in
   single precision stay below 1e-6 where the result is of order 1; tests compare them with Python's. */
#include <math.h>

/* Adding 1.5 * 2^23 leaves no fraction bits; the core rounds half to even. */
float rintf(float x) {
    const volatile float shift = 12582912.0f;
    if (!(fabsf(x) < 4194304.0f)) return x;
    volatile float shifted = x + shift;
    return copysignf(shifted - shift, x);
}

float nearbyintf(float x) { return rintf(x); }

/* The same in double precision, with 1.5 * 2^52. */
double nearbyint(double x) {
    const volatile double shift = 6755399441055744.0;
    if (!(x < 2251799813685248.0 && x > -2251799813685248.0)) return x;
    volatile double shifted = x + shift;
    return __builtin_copysign(shifted - shift, x);
}

long long llrint(double x) { return (long long)nearbyint(x); }

/* tanh x = 1 - 2 / (exp(2 x) + 1); below 0.1 its series, which that form would cancel away. */
float tanhf(float x) {
    const float size = fabsf(x), square = x * x;
    if (size < 0.1f) return x * (1.0f + square * (-1.0f / 3 + square * (2.0f / 15)));
    if (size > 10.0f) return copysignf(1.0f, x);
    return copysignf(1.0f - 2.0f / (expf(2.0f * size) + 1.0f), x);
}

/* Abramowitz and Stegun, Handbook of Mathematical Functions (1964), 7.1.26: error below 1.5e-7. */
float erff(float x) {
    const float size = fabsf(x), t = 1.0f / (1.0f + 0.3275911f * size);
    const float series =
        t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
    return copysignf(1.0f - series * expf(-size * size), x);
}

/* Whole powers by squaring, the others by exp(y log x). */
float powf(float x, float y) {
    const float whole = rintf(y);
    if (whole == y && fabsf(y) <= 64.0f) {
        float result = 1.0f, factor = x;
        for (unsigned left = (unsigned)fabsf(y); left; left >>= 1, factor *= factor)
            if (left & 1u) result *= factor;
        return y < 0 ? 1.0f / result : result;
    }
    if (x == 0.0f) return y > 0 ? 0.0f : INFINITY;
    const float size = expf(y * logf(fabsf(x)));
    if (x > 0) return size;
    if (whole != y) return NAN;
    return fmodf(fabsf(y), 2.0f) == 1.0f ? -size : size;
}
