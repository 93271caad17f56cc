// The kernels for AVX2 with FMA and F16C: 32-byte vectors.
#include "vec_includes.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
// Everything of the standard library is included above: none of it may be compiled for this set alone.
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#define ARCHLOOM_ISA avx2
#define ARCHLOOM_VECTOR_BYTES 32
#define ARCHLOOM_AVX2 1
#include "kernels.inc"
#pragma GCC pop_options

namespace archloom {
const Kernels* kernels_avx2() {
  const bool has = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  return has ? &avx2::table : nullptr;
}
}  // namespace archloom
#else
namespace archloom {
const Kernels* kernels_avx2() { return nullptr; }
}  // namespace archloom
#endif
