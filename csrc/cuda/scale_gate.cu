// scale_gate on CUDA: x * sigmoid(s), s per sample and channel.
#include "common.cuh"

namespace archloom {
namespace {

// contiguous: planes of `pixels`, one per (sample, channel); channels_last: rows of `channels`, `pixels` per sample.
struct Layout {
  Index batch, channels, pixels;
  bool rows;
  __device__ Index gate(Index i) const {
    return rows ? (i / (channels * pixels)) * channels + i % channels : i / pixels;
  }
  __device__ Index at(Index b, Index c, Index p) const {
    return rows ? (b * pixels + p) * channels + c : (b * channels + c) * pixels + p;
  }
};

template <class T>
struct GateBody {
  T* y;
  const T* x;
  const compute_t<T>* s;
  Layout layout;
  template <int W>
  __device__ void run(Index i) const {
    compute_t<T> v[W];
    load<W>(x + i, v);
#pragma unroll
    for (int j = 0; j < W; ++j) v[j] *= scalar::sigmoid(s[layout.gate(i + j)]);
    store<W>(y + i, v);
  }
};

template <class T>
__global__ void __launch_bounds__(threads) gate(Index n, bool packed, GateBody<T> body) {
  grid_stride<T>(n, packed, body);
}

// dx = sigmoid(s) g and ds = sigmoid'(s) sum g x: a block per plane, or per sample and 32 channels.
template <class T>
__global__ void __launch_bounds__(threads) gate_backward(
    Layout layout, T* dx, const T* g, const T* x, const compute_t<T>* s, compute_t<T>* ds) {
  using S = compute_t<T>;
  __shared__ double dots[threads];
  const int t = int(threadIdx.x), lowest = layout.rows ? 32 : 1;
  const Index b = blockIdx.y, c = layout.rows ? Index(blockIdx.x) * 32 + t % 32 : Index(blockIdx.x);
  for (Index sample = b; sample < layout.batch; sample += gridDim.y) {
    double dot = 0;
    S factor = 0;
    if (c < layout.channels) {
      factor = scalar::sigmoid(s[sample * layout.channels + c]);
      for (Index p = t / lowest; p < layout.pixels; p += threads / lowest) {
        const Index i = layout.at(sample, c, p);
        const S grad = widen(g[i]);
        dx[i] = narrow<T>(factor * grad);
        dot += double(grad * widen(x[i]));
      }
    }
    dots[t] = dot;
    __syncthreads();
    for (int half = threads / 2; half >= lowest; half /= 2) {
      if (t < half) dots[t] += dots[t + half];
      __syncthreads();
    }
    if (t < lowest && c < layout.channels) ds[sample * layout.channels + c] = S(dots[t]) * factor * (S(1) - factor);
  }
}

Layout layout_of(const Tensor& x) {
  const Extent e = extent_of(x);
  const Index batch = x.size(0);
  if (e.inner > 1) return {batch, e.channels, e.inner, false};
  return {batch, e.channels, e.outer / std::max<Index>(batch, 1), true};
}

void check(const Tensor& x, const Tensor& s) {
  check_device("scale_gate", x, s);
  STD_TORCH_CHECK(
      x.dim() >= 2 && s.dim() >= 2 && s.size(0) == x.size(0) && s.numel() == x.size(0) * x.size(1),
      "archloom::scale_gate: s must have shape (N, C) or (N, C, 1, ...) for x of shape (N, C, ...)");
}

Tensor scale_gate(const Tensor& x, const Tensor& s) {
  const Dtype dtype = dtype_of(x, "scale_gate");
  check(x, s);
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const Tensor dense = image_layout(x), gates = coefficients(s, dtype);
  Tensor y = torch::stable::empty_like(dense);
  const Index n = y.numel();
  if (n == 0) return y;
  const bool packed = all_aligned({dense, y});
  typed(dtype, [&](auto* null) {
    using T = std::remove_pointer_t<decltype(null)>;
    const GateBody<T> body{
        (T*)y.mutable_data_ptr(), (const T*)dense.const_data_ptr(), (const compute_t<T>*)gates.const_data_ptr(),
        layout_of(dense)};
    gate<T><<<blocks_for(n, Pack<T>::size), threads, 0, stream_of(x)>>>(n, packed, body);
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return y;
}

std::tuple<Tensor, Tensor> scale_gate_backward(const Tensor& grad, const Tensor& x, const Tensor& s) {
  const Dtype dtype = dtype_of(x, "scale_gate_backward");
  check(x, s);
  check_device("scale_gate_backward", x, grad);
  check_grad(grad, x, "scale_gate_backward");
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const Tensor dense = image_layout(x), gates = coefficients(s, dtype);
  Tensor dx = torch::stable::empty_like(dense), ds = torch::stable::empty_like(gates);
  const Tensor g = laid_out_like(grad, dx);
  if (dx.numel() == 0) return {dx, torch::stable::to(torch::stable::zero_(ds), s.scalar_type())};
  const Layout layout = layout_of(dense);
  const dim3 grid(
      unsigned(layout.rows ? (layout.channels + 31) / 32 : layout.channels),
      unsigned(std::min<Index>(layout.batch, 65535)));
  typed(dtype, [&](auto* null) {
    using T = std::remove_pointer_t<decltype(null)>;
    using S = compute_t<T>;
    gate_backward<T><<<grid, threads, 0, stream_of(x)>>>(
        layout, (T*)dx.mutable_data_ptr(), (const T*)g.const_data_ptr(), (const T*)dense.const_data_ptr(),
        (const S*)gates.const_data_ptr(), (S*)ds.mutable_data_ptr());
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {dx, torch::stable::to(ds, s.scalar_type())};
}

}  // namespace
}  // namespace archloom

STABLE_TORCH_LIBRARY_IMPL(archloom, CUDA, m) {
  m.impl("scale_gate", TORCH_BOX(&archloom::scale_gate));
  m.impl("scale_gate_backward", TORCH_BOX(&archloom::scale_gate_backward));
}
