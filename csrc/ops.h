// What every operator does to its arguments before a kernel sees them, on PyTorch's stable ABI.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <string>
#include <vector>

#include "types.h"

namespace archloom {

using Index = std::int64_t;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Tensors = std::vector<Tensor>;

inline Dtype dtype_of(const Tensor& x, const char* op) {
  switch (x.scalar_type()) {
    case ScalarType::Float: return Dtype::f32;
    case ScalarType::Double: return Dtype::f64;
    case ScalarType::BFloat16: return Dtype::bf16;
    case ScalarType::Half: return Dtype::f16;
    default:
      STD_TORCH_CHECK(false, "archloom::", op, " takes float32, float64, bfloat16 or float16; convert x first");
      return Dtype::f32;
  }
}

inline Index bytes_of(Dtype dtype) { return dtype == Dtype::f64 ? 8 : dtype == Dtype::f32 ? 4 : 2; }

// The type that coefficients and statistics have: float64 for float64, float32 for all others.
inline ScalarType compute_scalar(Dtype dtype) { return dtype == Dtype::f64 ? ScalarType::Double : ScalarType::Float; }

inline bool same_shape(const Tensor& a, const Tensor& b) {
  if (a.dim() != b.dim()) return false;
  for (Index d = 0; d < a.dim(); ++d)
    if (a.size(d) != b.size(d)) return false;
  return true;
}

inline bool same_layout(const Tensor& a, const Tensor& b) {
  for (Index d = 0; d < a.dim(); ++d)
    if (a.size(d) > 1 && a.stride(d) != b.stride(d)) return false;
  return true;
}

// The gradient that reaches a result which has x's shape and dtype.
inline void check_grad(const Tensor& grad, const Tensor& x, const char* op) {
  STD_TORCH_CHECK(same_shape(grad, x), "archloom::", op, ": grad and x differ in shape");
  STD_TORCH_CHECK(grad.scalar_type() == x.scalar_type(), "archloom::", op, ": grad and x differ in dtype");
}

inline void same_device(const char* op, const Tensor& x, const Tensor& other) {
  STD_TORCH_CHECK(
      other.device() == x.device(), "archloom::", op, " takes tensors of one device; move them all to that of x first");
}
inline void same_device(const char* op, const Tensor& x, const Tensors& others) {
  for (const Tensor& other : others) same_device(op, x, other);
}

// The dispatcher asks that some tensor is on the device that it calls; an operator on a device asks it of all.
template <class... T>
void check_device(const char* op, const Tensor& x, const T&... others) {
  (same_device(op, x, others), ...);
}

// x with the memory layout of `like`, which is dense, and its dtype; x itself where it has those already (an expanded
// gradient has not).
inline Tensor laid_out_like(const Tensor& x, const Tensor& like) {
  if (x.scalar_type() == like.scalar_type() && same_layout(x, like)) return x;
  Tensor copy = torch::stable::empty_like(like);
  return torch::stable::copy_(copy, x);
}

inline bool is_channels_last(const Tensor& x) {
  if (x.dim() != 4) return false;
  Index expected = 1;
  for (Index d : {Index(1), Index(3), Index(2), Index(0)}) {
    if (x.size(d) != 1 && x.stride(d) != expected) return false;
    expected *= x.size(d);
  }
  return true;
}

// x where images lie one after the other, contiguous or channels_last; else a contiguous copy.
inline Tensor image_layout(const Tensor& x) {
  if (x.is_contiguous() || is_channels_last(x)) return x;
  return torch::stable::contiguous(x);
}

// All in the image layout of the first.
inline Tensors image_layouts(const Tensors& xs) {
  const Tensor first = image_layout(xs[0]);
  Tensors dense{first};
  for (std::size_t k = 1; k < xs.size(); ++k) dense.push_back(laid_out_like(xs[k], first));
  return dense;
}

// x[outer][channels][inner] of an `image_layout` tensor; inner = 1 means rows of channels.
struct Extent {
  Index outer, channels, inner;
};

inline Extent extent_of(const Tensor& x) {
  const Index batch = x.size(0), channels = x.size(1);
  Index pixels = 1;
  for (Index d = 2; d < x.dim(); ++d) pixels *= x.size(d);
  if (pixels > 1 && x.is_contiguous()) return {batch, channels, pixels};
  return {batch * pixels, channels, 1};
}

inline void check_candidates(const Tensors& xs, const Tensor& weights, const char* op) {
  STD_TORCH_CHECK(!xs.empty(), "archloom::", op, " needs at least one candidate");
  STD_TORCH_CHECK(
      weights.dim() == 1 && weights.size(0) == Index(xs.size()), "archloom::", op, ": ", xs.size(),
      " candidates need weights of shape (", xs.size(), ",)");
  for (std::size_t k = 1; k < xs.size(); ++k) {
    STD_TORCH_CHECK(
        same_shape(xs[0], xs[k]), "archloom::", op, ": candidate ", k, " differs in shape from candidate 0");
    STD_TORCH_CHECK(
        xs[k].scalar_type() == xs[0].scalar_type(), "archloom::", op, ": candidate ", k,
        " differs in dtype from candidate 0");
  }
}

// What normalizes the channels of `count` candidates.
inline void check_affine(
    Index count, Index channels, const Tensors& gammas, const Tensors& betas, const std::vector<double>& eps,
    const char* op) {
  STD_TORCH_CHECK(
      Index(gammas.size()) == count && Index(betas.size()) == count && Index(eps.size()) == count, "archloom::", op,
      ": every candidate needs one gamma, one beta and one eps");
  for (Index k = 0; k < count; ++k)
    STD_TORCH_CHECK(
        gammas[k].numel() == channels && betas[k].numel() == channels, "archloom::", op,
        ": gamma and beta must have shape (", channels, ",)");
}

// The statistics that the forward has returned.
inline void check_statistics(Index count, Index channels, const Tensor& mean, const Tensor& var, const char* op) {
  for (const Tensor* x : {&mean, &var})
    STD_TORCH_CHECK(
        x->dim() == 2 && x->size(0) == count && x->size(1) == channels, "archloom::", op,
        ": mean and var must have shape (", count, ", ", channels, ")");
}

inline Tensors laid_out_like(const Tensors& xs, const Tensor& like) {
  Tensors dense;
  dense.reserve(xs.size());
  for (const Tensor& x : xs) dense.push_back(laid_out_like(x, like));
  return dense;
}

inline std::vector<const void*> inputs(const Tensors& xs) {
  std::vector<const void*> pointers;
  for (const Tensor& x : xs) pointers.push_back(x.const_data_ptr());
  return pointers;
}

inline std::vector<void*> outputs(const Tensors& xs) {
  std::vector<void*> pointers;
  for (const Tensor& x : xs) pointers.push_back(x.mutable_data_ptr());
  return pointers;
}

}  // namespace archloom
