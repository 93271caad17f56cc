// swish on CUDA.
#include "common.cuh"

namespace archloom {
namespace {

template <class T>
struct SwishBody {
  T* y;
  const T* x;
  template <int W>
  __device__ void run(Index i) const {
    compute_t<T> v[W];
    load<W>(x + i, v);
#pragma unroll
    for (int j = 0; j < W; ++j) v[j] = scalar::swish(v[j]);
    store<W>(y + i, v);
  }
};

template <class T>
struct SwishBackwardBody {
  T* dx;
  const T *g, *x;
  template <int W>
  __device__ void run(Index i) const {
    compute_t<T> v[W], grad[W];
    load<W>(x + i, v);
    load<W>(g + i, grad);
#pragma unroll
    for (int j = 0; j < W; ++j) v[j] = grad[j] * scalar::swish_slope(v[j]);
    store<W>(dx + i, v);
  }
};

template <class T, class Body>
__global__ void __launch_bounds__(threads) elementwise(Index n, bool packed, Body body) {
  grid_stride<T>(n, packed, body);
}

Tensor swish(const Tensor& x) {
  const Dtype dtype = dtype_of(x, "swish");
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  Tensor y = torch::stable::empty_like(x);
  const Tensor dense = laid_out_like(x, y);
  const Index n = y.numel();
  if (n == 0) return y;
  const bool packed = all_aligned({y, dense});
  typed(dtype, [&](auto* null) {
    using T = std::remove_pointer_t<decltype(null)>;
    const SwishBody<T> body{(T*)y.mutable_data_ptr(), (const T*)dense.const_data_ptr()};
    elementwise<T><<<blocks_for(n, Pack<T>::size), threads, 0, stream_of(x)>>>(n, packed, body);
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return y;
}

Tensor swish_backward(const Tensor& grad, const Tensor& x) {
  const Dtype dtype = dtype_of(x, "swish_backward");
  check_device("swish_backward", x, grad);
  check_grad(grad, x, "swish_backward");
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  Tensor dx = torch::stable::empty_like(x);
  const Tensor dense = laid_out_like(x, dx), g = laid_out_like(grad, dx);
  const Index n = dx.numel();
  if (n == 0) return dx;
  const bool packed = all_aligned({dx, dense, g});
  typed(dtype, [&](auto* null) {
    using T = std::remove_pointer_t<decltype(null)>;
    const SwishBackwardBody<T> body{
        (T*)dx.mutable_data_ptr(), (const T*)g.const_data_ptr(), (const T*)dense.const_data_ptr()};
    elementwise<T><<<blocks_for(n, Pack<T>::size), threads, 0, stream_of(x)>>>(n, packed, body);
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return dx;
}

}  // namespace
}  // namespace archloom

STABLE_TORCH_LIBRARY_IMPL(archloom, CUDA, m) {
  m.impl("swish", TORCH_BOX(&archloom::swish));
  m.impl("swish_backward", TORCH_BOX(&archloom::swish_backward));
}
