// Element types and the host/device marks, for code that knows nothing of PyTorch.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#include <cuda_fp16.h>
#define ARCHLOOM_HD __host__ __device__ __forceinline__
#else
#define ARCHLOOM_HD inline __attribute__((always_inline))
#endif

namespace archloom {

enum class Dtype : int { f32, f64, bf16, f16 };

// Storage only: arithmetic happens in float, which `widen` and `narrow` lead to and from.
struct bf16 {
  std::uint16_t bits;
};
struct f16 {
  std::uint16_t bits;
};

// The scalar that a storage type is computed in.
template <class T>
struct compute {
  using type = float;
};
template <>
struct compute<double> {
  using type = double;
};
template <class T>
using compute_t = typename compute<T>::type;

namespace bits {
template <class To, class From>
ARCHLOOM_HD To cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}
}  // namespace bits

ARCHLOOM_HD float widen(float x) { return x; }
ARCHLOOM_HD double widen(double x) { return x; }
ARCHLOOM_HD float widen(bf16 x) { return bits::cast<float>(std::uint32_t(x.bits) << 16); }

ARCHLOOM_HD float widen(f16 x) {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(x.bits));
#else
  const std::uint32_t sign = std::uint32_t(x.bits & 0x8000u) << 16;
  const std::uint32_t magnitude = x.bits & 0x7fffu;
  if (magnitude >= 0x7c00u)  // infinity or NaN
    return bits::cast<float>(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  if (magnitude >= 0x0400u)  // normal: the exponent's bias grows from 15 to 127
    return bits::cast<float>(sign | ((magnitude << 13) + (112u << 23)));
  // zero or subnormal: magnitude counts units of 2^-24
  const float value = float(magnitude) * (1.0f / 16777216.0f);
  return sign ? -value : value;
#endif
}

template <class T>
ARCHLOOM_HD T narrow(compute_t<T> x);

template <>
ARCHLOOM_HD float narrow<float>(float x) {
  return x;
}
template <>
ARCHLOOM_HD double narrow<double>(double x) {
  return x;
}

// Round to nearest, ties to even; NaN stays NaN.
template <>
ARCHLOOM_HD bf16 narrow<bf16>(float x) {
  const std::uint32_t b = bits::cast<std::uint32_t>(x);
  if (x != x) return bf16{std::uint16_t((b >> 16) | 0x40u)};
  return bf16{std::uint16_t((b + 0x7fffu + ((b >> 16) & 1u)) >> 16)};
}

template <>
ARCHLOOM_HD f16 narrow<f16>(float x) {
#if defined(__CUDA_ARCH__)
  return f16{__half_as_ushort(__float2half_rn(x))};
#else
  const std::uint32_t b = bits::cast<std::uint32_t>(x);
  const std::uint16_t sign = std::uint16_t((b >> 16) & 0x8000u);
  const std::uint32_t magnitude = b & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return f16{std::uint16_t(sign | 0x7e00u)};
  if (magnitude >= 0x477ff000u) return f16{std::uint16_t(sign | 0x7c00u)};  // 65520 and above round to infinity
  if (magnitude >= 0x38800000u) {                                            // normal: at least 2^-14
    const std::uint32_t shifted = magnitude - (112u << 23);
    return f16{std::uint16_t(sign | (shifted + 0xfffu + ((shifted >> 13) & 1u)) >> 13)};
  }
  // subnormal: adding 0.5 makes the float's unit 2^-24, the same as f16's, and rounds as it should
  const std::uint32_t sum = bits::cast<std::uint32_t>(bits::cast<float>(magnitude) + 0.5f);
  return f16{std::uint16_t(sign | (sum - 0x3f000000u))};
#endif
}

}  // namespace archloom
