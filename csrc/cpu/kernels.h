// The CPU kernels as raw-pointer functions, one table per instruction set. No PyTorch here.
//
// Every function works on the range it is given and starts no thread. Coefficients are doubles and are
// narrowed to the computing type inside. `stream` asks for stores past the caches, for results too large for
// them; where the target is not aligned, ordinary stores are used. `channels` are counted from the first of the given range.
#pragma once

#include <cstdint>

#include "../types.h"

namespace archloom {

using Index = std::int64_t;

// x[outer][channels][inner], dense: NCHW has inner = H W, and channels_last outer = N H W, inner = 1.
struct Planes {
  Index outer, channels, inner;
};

// Coefficients of `count` candidates over a range of channels, [candidate][channel]; swish: dz = g swish'(a x + b).
struct NormCoefficients {
  const double* mean;
  const double* A;
  const double* B;
  const double* D;
};

struct Kernels {
  // y = swish(x); dx = g swish'(x)
  void (*swish)(Dtype, void* y, const void* x, Index n, bool stream);
  void (*swish_backward)(Dtype, void* dx, const void* g, const void* x, Index n, bool stream);

  void (*sigmoid)(Dtype, void* y, const void* x, Index n);

  // y = x * scale + skip; skip may be null
  void (*scale_add)(Dtype, void* y, const void* x, const void* skip, double scale, Index n, bool stream);

  // y[begin, end) = sum_k weights[k] xs[k]
  void (*mixed_sum)(
      Dtype, void* y, const void* const* xs, const double* weights, Index count, Index begin, Index end, bool stream);
  // dxs[k] = weights[k] g (dxs may be null); dots[k] = sum g xs[k] over the range (dots may be null)
  void (*mixed_sum_backward)(
      Dtype, void* const* dxs, double* dots, const void* g, const void* const* xs, const double* weights, Index count,
      Index begin, Index end, bool stream);

  // Batch normalization, planes: channels [c0, c1), every outer position.
  void (*moments_planes)(Dtype, const void* x, Planes, Index c0, Index c1, double* mean, double* m2);
  void (*affine_planes)(
      Dtype, void* y, const void* const* xs, Index count, Planes, Index c0, Index c1, const double* a, const double* b,
      bool swish, bool stream);
  void (*reduce_planes)(
      Dtype, const void* g, const void* const* xs, Index count, Planes, Index c0, Index c1, const double* mean,
      const double* a, const double* b, bool swish, double* totals, double* dots);
  void (*grad_planes)(
      Dtype, void* const* dxs, const void* g, const void* const* xs, Index count, Planes, Index c0, Index c1,
      NormCoefficients, const double* a, const double* b, bool swish, bool stream);

  // The same for rows [r0, r1) of x[rows][channels], every channel.
  void (*moments_rows)(Dtype, const void* x, Index channels, Index r0, Index r1, double* mean, double* m2);
  void (*affine_rows)(
      Dtype, void* y, const void* const* xs, Index count, Index channels, Index r0, Index r1, const double* a,
      const double* b, bool swish, bool stream);
  void (*reduce_rows)(
      Dtype, const void* g, const void* const* xs, Index count, Index channels, Index r0, Index r1, const double* mean,
      const double* a, const double* b, bool swish, double* totals, double* dots);
  void (*grad_rows)(
      Dtype, void* const* dxs, const void* g, const void* const* xs, Index count, Index channels, Index r0, Index r1,
      NormCoefficients, const double* a, const double* b, bool swish, bool stream);

  // dx = f g and dots[channel] = sum g x, f per channel: one image's planes, or rows of one image.
  void (*gate_backward_planes)(
      Dtype, void* dx, const void* g, const void* x, const double* f, Index channels, Index inner, double* dots,
      bool stream);
  void (*gate_backward_rows)(
      Dtype, void* dx, const void* g, const void* x, const double* f, Index channels, Index r0, Index r1, double* dots,
      bool stream);
};

// Null where the build or the machine lacks the instruction set.
const Kernels* kernels_baseline();
const Kernels* kernels_avx2();
const Kernels* kernels_avx512();

// The table in use: the best that this machine has, unless ARCHLOOM_CPU_CAPABILITY or `select_isa` says otherwise.
const Kernels& kernels();

}  // namespace archloom

#define ARCHLOOM_EXPORT __attribute__((visibility("default")))

extern "C" {
// Comma-separated names of the sets that can run here, best last.
ARCHLOOM_EXPORT const char* archloom_isa_available();
ARCHLOOM_EXPORT const char* archloom_isa_selected();
// 0 when `name` was selected, 1 when it cannot run here. "auto" selects the best.
ARCHLOOM_EXPORT int archloom_isa_select(const char* name);
}
