// The mathematics of every operation, once: V is a scalar or a vector of them, on the host or the device.
//
// `exp_minus` is found by argument-dependent lookup for vectors and defined here for scalars. No include guard:
// a function is compiled for the instruction set that holds where it is written, so each of the CPU's
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

// e^-x, made for 1 + e^-x: a vector may stop at the smallest normal number.
ARCHLOOM_HD float exp_minus(float x) { return expf(-x); }
ARCHLOOM_HD double exp_minus(double x) { return exp(-x); }

// sigma(x) = 1 / (1 + e^-x). Divisions rather than reciprocals with a Newton step: processors have a unit for them
// that nothing else here keeps busy.
template <class V>
ARCHLOOM_HD V sigmoid(V x) {
  return V(1) / (V(1) + exp_minus(x));
}

// swish(x) = x sigma(x); NaN at -infinity, which is -infinity / infinity.
template <class V>
ARCHLOOM_HD V swish(V x) {
  return x / (V(1) + exp_minus(x));
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
