// mixed_sum on CUDA. Weights are read on the device: nothing waits for it, and a graph can capture it.
#include "common.cuh"

namespace archloom {
namespace {

template <class T>
struct MixedSumBody {
  T* y;
  Pointers<const T> xs;
  const compute_t<T>* weights;
  int count;
  template <int W>
  __device__ void run(Index i) const {
    compute_t<T> sum[W], v[W];
    load<W>(xs.at[0] + i, sum);
#pragma unroll
    for (int j = 0; j < W; ++j) sum[j] *= weights[0];
    for (int k = 1; k < count; ++k) {
      const compute_t<T> w = weights[k];
      load<W>(xs.at[k] + i, v);
#pragma unroll
      for (int j = 0; j < W; ++j) sum[j] += w * v[j];
    }
    store<W>(y + i, sum);
  }
};

template <class T>
__global__ void __launch_bounds__(threads) mix(Index n, bool packed, MixedSumBody<T> body) {
  grid_stride<T>(n, packed, body);
}

// One thread's elements of a tile: dxs[k] = w_k g, and sum g x_k. The same elements where they lie aligned and are
// moved as one and where they are moved one by one: the sums are the same to the bit.
template <class T>
struct MixedSumBackward {
  Pointers<T> dxs;
  Pointers<const T> xs;
  const T* g;
  const compute_t<T>* weights;
  bool want_xs, want_weights;

  template <int W>
  __device__ compute_t<T> candidate(int k, Index i, bool packed, const compute_t<T>* grad) const {
    compute_t<T> v[W], dot = 0;
    if (want_weights) {
      load_at<W>(xs.at[k] + i, packed, v);
#pragma unroll
      for (int j = 0; j < W; ++j) dot += grad[j] * v[j];
    }
    if (want_xs) {
#pragma unroll
      for (int j = 0; j < W; ++j) v[j] = weights[k] * grad[j];
      store_at<W>(dxs.at[k] + i, packed, v);
    }
    return dot;
  }
};

// Tiles of `threads` accesses of W elements, the last few elements one by one. Every warp adds up its own dot
// products, the block joins them at its end in the order of the warps, and `sum_partials` the blocks in theirs.
template <class T>
__global__ void __launch_bounds__(threads)
    mix_backward(Index n, bool packed, int count, MixedSumBackward<T> body, double* partial) {
  constexpr int W = Pack<T>::size, warps = threads / 32;
  __shared__ double dots[warps][most_candidates];
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  for (int k = lane; k < count; k += 32) dots[warp][k] = 0;
  __syncwarp();
  const Index whole = n / W, rest = n - whole * W;
  const Index accesses = whole + rest, tiles = (accesses + threads - 1) / threads;
  for (Index tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const Index a = tile * threads + threadIdx.x;
    compute_t<T> grad[W];
    const bool is_pack = a < whole, is_one = !is_pack && a < accesses;
    const Index i = is_pack ? a * W : whole * W + (a - whole);
    if (is_pack) load_at<W>(body.g + i, packed, grad);
    if (is_one) load<1>(body.g + i, grad);
    for (int k = 0; k < count; ++k) {
      compute_t<T> dot = 0;
      if (is_pack) dot = body.template candidate<W>(k, i, packed, grad);
      if (is_one) dot = body.template candidate<1>(k, i, false, grad);
      if (body.want_weights) {
        for (int offset = 16; offset > 0; offset /= 2) dot += __shfl_down_sync(0xffffffffu, dot, offset);
        if (lane == 0) dots[warp][k] += double(dot);
      }
    }
  }
  if (!body.want_weights) return;
  __syncthreads();
  for (int k = int(threadIdx.x); k < count; k += threads) {
    double sum = 0;
    for (int w = 0; w < warps; ++w) sum += dots[w][k];
    partial[Index(blockIdx.x) * count + k] = sum;
  }
}

void check(const Tensors& xs, const Tensor& weights, const char* op) {
  check_candidates(xs, weights, op);
  check_count(xs, op);
  check_device(op, xs[0], xs, weights);
}

Tensor mixed_sum(Tensors xs, const Tensor& weights) {
  check(xs, weights, "mixed_sum");
  const Dtype dtype = dtype_of(xs[0], "mixed_sum");
  const torch::stable::accelerator::DeviceGuard guard(xs[0].get_device_index());
  Tensor y = torch::stable::empty_like(xs[0]);
  const Tensors dense = laid_out_like(xs, y);
  const Tensor w = coefficients(weights, dtype);
  const Index n = y.numel();
  if (n == 0) return y;
  const bool packed = all_aligned(dense) && is_aligned(y.const_data_ptr());
  typed(dtype, [&](auto* null) {
    using T = std::remove_pointer_t<decltype(null)>;
    const MixedSumBody<T> body{
        (T*)y.mutable_data_ptr(), inputs_of<T>(dense, "mixed_sum"), (const compute_t<T>*)w.const_data_ptr(),
        int(xs.size())};
    mix<T><<<blocks_for(n, Pack<T>::size), threads, 0, stream_of(y)>>>(n, packed, body);
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return y;
}

std::tuple<Tensors, Tensor> mixed_sum_backward(
    const Tensor& grad, Tensors xs, const Tensor& weights, bool want_xs, bool want_weights) {
  check(xs, weights, "mixed_sum_backward");
  check_device("mixed_sum_backward", xs[0], grad);
  const Dtype dtype = dtype_of(xs[0], "mixed_sum_backward");
  check_grad(grad, xs[0], "mixed_sum_backward");
  const torch::stable::accelerator::DeviceGuard guard(xs[0].get_device_index());
  const Index count = Index(xs.size()), n = grad.numel();
  const Tensor model = torch::stable::empty_like(xs[0]);  // the layout that y had
  const Tensor g = laid_out_like(grad, model), w = coefficients(weights, dtype);
  Tensors dxs;
  if (want_xs) {
    dxs.push_back(model);
    for (Index k = 1; k < count; ++k) dxs.push_back(torch::stable::empty_like(model));
  }
  const Tensors dense = want_weights ? laid_out_like(xs, model) : Tensors();
  // blocks and tiles depend on n alone, and with them the order of every sum
  const Index blocks = std::min<Index>(std::max<Index>(1, (n + threads * 16 - 1) / (threads * 16)), 2048);
  Tensor partial = torch::stable::new_empty(w, std::vector<Index>{blocks, count}, ScalarType::Double);
  Tensor dots = torch::stable::new_empty(w, std::vector<Index>{count});
  if (!want_weights) dots = torch::stable::zero_(dots);
  const cudaStream_t stream = stream_of(g);
  const bool packed = all_aligned(dense) && all_aligned(dxs) && is_aligned(g.const_data_ptr());
  typed(dtype, [&](auto* null) {
    using T = std::remove_pointer_t<decltype(null)>;
    using S = compute_t<T>;
    const MixedSumBackward<T> body{outputs_of<T>(dxs, "mixed_sum_backward"),
                                   inputs_of<T>(dense, "mixed_sum_backward"),
                                   (const T*)g.const_data_ptr(),
                                   (const S*)w.const_data_ptr(),
                                   want_xs,
                                   want_weights};
    double* sums = (double*)partial.mutable_data_ptr();
    mix_backward<T><<<unsigned(blocks), threads, 0, stream>>>(n, packed, int(count), body, sums);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    if (want_weights)
      sum_partials<S><<<unsigned(count), threads, 0, stream>>>(sums, blocks, 1, count, (S*)dots.mutable_data_ptr());
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {dxs, torch::stable::to(dots, weights.scalar_type())};
}

}  // namespace
}  // namespace archloom

STABLE_TORCH_LIBRARY_IMPL(archloom, CUDA, m) {
  m.impl("mixed_sum", TORCH_BOX(&archloom::mixed_sum));
  m.impl("mixed_sum_backward", TORCH_BOX(&archloom::mixed_sum_backward));
}
