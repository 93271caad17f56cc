// The kernels for AVX-512 F, BW, DQ and VL: 64-byte vectors.
#include "vec_includes.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
// Everything of the standard library is included above: none of it may be compiled for this set alone.
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prefer-vector-width=512")
#define ARCHLOOM_ISA avx512
#define ARCHLOOM_VECTOR_BYTES 64
#define ARCHLOOM_AVX512 1
#include "kernels.inc"
#pragma GCC pop_options

namespace archloom {
const Kernels* kernels_avx512() {
  const bool has = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                   __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                   __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  return has ? &avx512::table : nullptr;
}
}  // namespace archloom
#else
namespace archloom {
const Kernels* kernels_avx512() { return nullptr; }
}  // namespace archloom
#endif
