// What the CUDA operators share: launches, 16-byte accesses, arrays of pointers, reductions without atomics.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>

#include "../math.h"
#include "../ops.h"

namespace archloom {

constexpr int threads = 256;
constexpr int most_candidates = 64;  // their pointers travel as a kernel's arguments

// `count` pointers, one per candidate.
template <class T>
struct Pointers {
  T* at[most_candidates];
};

inline cudaStream_t stream_of(const Tensor& x) {
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

// Blocks for n elements, each thread taking about one 16-byte access, with a grid-stride loop beyond.
inline unsigned blocks_for(Index n, Index per_thread) {
  const Index wanted = (n + threads * per_thread - 1) / (threads * per_thread);
  return unsigned(std::min<Index>(std::max<Index>(wanted, 1), 8192));
}

// Elements of one 16-byte access.
template <class T>
struct alignas(16) Pack {
  static constexpr int size = 16 / int(sizeof(T));
  T values[size];
};

inline bool is_aligned(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; }

// f(element, value type) for every element: `body.template run<W>(first)` handles W elements from `first` on.
// Whole packs where `packed`, then one by one.
template <class T, class Body>
__device__ __forceinline__ void grid_stride(Index n, bool packed, Body body) {
  const Index me = Index(blockIdx.x) * blockDim.x + threadIdx.x, all = Index(gridDim.x) * blockDim.x;
  constexpr int W = Pack<T>::size;
  const Index whole = packed ? n / W : 0;
  for (Index p = me; p < whole; p += all) body.template run<W>(p * W);
  for (Index i = whole * W + me; i < n; i += all) body.template run<1>(i);
}

// W elements from p on, widened.
template <int W, class T>
__device__ __forceinline__ void load(const T* p, compute_t<T>* into) {
  if constexpr (W == 1) {
    into[0] = widen(*p);
  } else {
    const Pack<T> pack = *reinterpret_cast<const Pack<T>*>(p);
#pragma unroll
    for (int i = 0; i < W; ++i) into[i] = widen(pack.values[i]);
  }
}

template <int W, class T>
__device__ __forceinline__ void store(T* p, const compute_t<T>* from) {
  if constexpr (W == 1) {
    *p = narrow<T>(from[0]);
  } else {
    Pack<T> pack;
#pragma unroll
    for (int i = 0; i < W; ++i) pack.values[i] = narrow<T>(from[i]);
    *reinterpret_cast<Pack<T>*>(p) = pack;
  }
}

// The same for W elements that lie packed, or one by one where they are not aligned.
template <int W, class T>
__device__ __forceinline__ void load_at(const T* p, bool packed, compute_t<T>* into) {
  if (packed) return load<W>(p, into);
#pragma unroll
  for (int i = 0; i < W; ++i) into[i] = widen(p[i]);
}

template <int W, class T>
__device__ __forceinline__ void store_at(T* p, bool packed, const compute_t<T>* from) {
  if (packed) return store<W>(p, from);
#pragma unroll
  for (int i = 0; i < W; ++i) p[i] = narrow<T>(from[i]);
}

// Calls f(T*) with a null pointer of the element type that `dtype` names.
template <class F>
void typed(Dtype dtype, F f) {
  switch (dtype) {
    case Dtype::f32: return f((float*)nullptr);
    case Dtype::f64: return f((double*)nullptr);
    case Dtype::bf16: return f((bf16*)nullptr);
    case Dtype::f16: return f((f16*)nullptr);
  }
}

// Small tensors in the computing type, contiguous; on the stream, without waiting for it.
inline Tensor coefficients(const Tensor& x, Dtype dtype) {
  return torch::stable::contiguous(torch::stable::to(x, compute_scalar(dtype)));
}

inline void check_count(const Tensors& xs, const char* op) {
  STD_TORCH_CHECK(
      xs.size() <= most_candidates, "archloom::", op, " takes at most ", most_candidates, " candidates on CUDA");
}

template <class T>
Pointers<const T> inputs_of(const Tensors& xs, const char* op) {
  check_count(xs, op);
  Pointers<const T> pointers{};
  for (std::size_t k = 0; k < xs.size(); ++k) pointers.at[k] = static_cast<const T*>(xs[k].const_data_ptr());
  return pointers;
}

template <class T>
Pointers<T> outputs_of(const Tensors& xs, const char* op) {
  check_count(xs, op);
  Pointers<T> pointers{};
  for (std::size_t k = 0; k < xs.size(); ++k) pointers.at[k] = static_cast<T*>(xs[k].mutable_data_ptr());
  return pointers;
}

inline bool all_aligned(const Tensors& xs) {
  return std::all_of(xs.begin(), xs.end(), [](const Tensor& x) { return is_aligned(x.const_data_ptr()); });
}

// out[k] = sum over `count` values partial[k * stride_k + i * stride_i], one block per k, always in one order.
template <class S>
__global__ void sum_partials(const double* partial, Index count, Index stride_k, Index stride_i, S* out) {
  __shared__ double sums[threads];
  double sum = 0;
  for (Index i = threadIdx.x; i < count; i += threads) sum += partial[blockIdx.x * stride_k + i * stride_i];
  sums[threadIdx.x] = sum;
  __syncthreads();
  for (int half = threads / 2; half > 0; half /= 2) {
    if (int(threadIdx.x) < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x == 0) out[blockIdx.x] = S(sums[0]);
}

}  // namespace archloom
