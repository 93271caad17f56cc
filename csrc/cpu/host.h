// Small tensors to doubles and back, and byte addresses: what the CPU operators share.
#pragma once

#include <vector>

#include "../ops.h"
#include "kernels.h"

namespace archloom {

// Elements that one task should at least have, so that waking a thread pays.
constexpr Index grain = 32768;

// f(begin, end) over n elements in parallel; ranges begin at multiples of 1024, which keeps them aligned.
template <class F>
void each_range(Index n, Index least, F f) {
  constexpr Index unit = 1024;
  torch::stable::parallel_for(0, (n + unit - 1) / unit, std::max<Index>(1, least / unit), [&](Index u0, Index u1) {
    f(u0 * unit, std::min(n, u1 * unit));
  });
}

// Whether an operation that touches `tensors` times so many bytes writes its result past the caches. It spares
// reading every line that is to be overwritten, and the operation and the result's reader together take less time
// from where all that is touched does not fit; below that, more. 32 MB is what the cores of one die share on most
// machines; what glibc reports is a whole socket's sum.
inline bool exceeds_caches(Index tensors, Index bytes) { return tensors * bytes > (Index(32) << 20); }

inline const void* at(const void* p, Index element, Dtype dtype) {
  return static_cast<const char*>(p) + element * bytes_of(dtype);
}
inline void* at(void* p, Index element, Dtype dtype) { return static_cast<char*>(p) + element * bytes_of(dtype); }

inline void append_doubles(std::vector<double>& into, const Tensor& x) {
  const Tensor dense = x.is_contiguous() ? x : torch::stable::contiguous(x);
  const Index n = dense.numel();
  const void* p = dense.const_data_ptr();
  switch (dtype_of(x, "coefficients")) {
    case Dtype::f32: into.insert(into.end(), (const float*)p, (const float*)p + n); return;
    case Dtype::f64: into.insert(into.end(), (const double*)p, (const double*)p + n); return;
    case Dtype::bf16:
      for (Index i = 0; i < n; ++i) into.push_back(widen(((const bf16*)p)[i]));
      return;
    case Dtype::f16:
      for (Index i = 0; i < n; ++i) into.push_back(widen(((const f16*)p)[i]));
      return;
  }
}

inline std::vector<double> doubles(const Tensor& x) {
  std::vector<double> values;
  values.reserve(x.numel());
  append_doubles(values, x);
  return values;
}

inline std::vector<double> doubles(const Tensors& xs) {
  std::vector<double> values;
  for (const Tensor& x : xs) append_doubles(values, x);
  return values;
}

template <class T>
void narrow_into(void* p, const std::vector<double>& values) {
  for (std::size_t i = 0; i < values.size(); ++i) static_cast<T*>(p)[i] = narrow<T>(compute_t<T>(values[i]));
}

// A new tensor beside `like`, of the given shape and type, holding `values`.
inline Tensor from_doubles(
    const Tensor& like, const std::vector<Index>& shape, ScalarType type, const std::vector<double>& values) {
  Tensor made = torch::stable::new_empty(like, shape, type);
  void* p = made.mutable_data_ptr();
  switch (dtype_of(made, "coefficients")) {
    case Dtype::f32: narrow_into<float>(p, values); break;
    case Dtype::f64: narrow_into<double>(p, values); break;
    case Dtype::bf16: narrow_into<bf16>(p, values); break;
    case Dtype::f16: narrow_into<f16>(p, values); break;
  }
  return made;
}

}  // namespace archloom
