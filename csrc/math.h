// The mathematics of every operation, once: V is a scalar or a vector of them, on the host or the device.
//
// `exp_saturating` and `reciprocal` are found by argument-dependent lookup for vectors and defined here for
// scalars. No include guard: a function is compiled for the instruction set that holds where it is written, so each of the CPU's
// sets includes this file anew, into its own namespace. Elsewhere the namespace is `scalar`.
#if defined(ARCHLOOM_ISA)
#define ARCHLOOM_MATH ARCHLOOM_ISA
#else
#define ARCHLOOM_MATH scalar
#endif

#include <cmath>

#include "types.h"

namespace archloom {
namespace ARCHLOOM_MATH {

ARCHLOOM_HD float exp_saturating(float x) { return expf(x); }
ARCHLOOM_HD double exp_saturating(double x) { return exp(x); }

ARCHLOOM_HD float reciprocal(float x) { return 1.0f / x; }
ARCHLOOM_HD double reciprocal(double x) { return 1.0 / x; }

// sigma(x) = 1 / (1 + e^-x)
template <class V>
ARCHLOOM_HD V sigmoid(V x) {
  return reciprocal(V(1) + exp_saturating(-x));
}

// swish(x) = x sigma(x); NaN at -infinity, which is -infinity * 0.
template <class V>
ARCHLOOM_HD V swish(V x) {
  return x * sigmoid(x);
}

// swish'(x) = sigma(x) (1 + x (1 - sigma(x)))
template <class V>
ARCHLOOM_HD V swish_slope(V x) {
  const V s = sigmoid(x);
  return s * (V(1) + x * (V(1) - s));
}

// y = x s + skip
template <class V>
ARCHLOOM_HD V scale_add(V x, V s, V skip) {
  return x * s + skip;
}

// The affine form of BatchNorm: gamma (x - mean) / std + beta = a x + b.
template <class V>
ARCHLOOM_HD V affine(V x, V a, V b) {
  return a * x + b;
}

// BatchNorm's gradient to its input, its three terms grouped by what varies within a channel:
//   dx = A dz + B (x - mean) + D
template <class V>
ARCHLOOM_HD V norm_grad(V dz, V x, V mean, V A, V B, V D) {
  return A * dz + (B * (x - mean) + D);
}

}  // namespace ARCHLOOM_MATH
}  // namespace archloom

#undef ARCHLOOM_MATH
