// drop_connect and drop_connect_add on CUDA: one factor per sample.
#include "common.cuh"

namespace archloom {
namespace {

template <class T>
struct ScaleBody {
  T* y;
  const T *x, *skip;  // skip may be null
  const compute_t<T>* scale;
  Index row;
  template <int W>
  __device__ void run(Index i) const {
    // packs are taken only where rows are made of whole ones
    const compute_t<T> s = scale[i / row];
    compute_t<T> v[W], add[W];
    load<W>(x + i, v);
    if (skip) load<W>(skip + i, add);
#pragma unroll
    for (int j = 0; j < W; ++j) v[j] = skip ? scalar::scale_add(v[j], s, add[j]) : v[j] * s;
    store<W>(y + i, v);
  }
};

template <class T>
__global__ void __launch_bounds__(threads) scale_rows(Index n, bool packed, ScaleBody<T> body) {
  grid_stride<T>(n, packed, body);
}

Tensor run(const Tensor& x, const Tensor* skip, const Tensor& scale, const char* op) {
  const Dtype dtype = dtype_of(x, op);
  check_device(op, x, scale);
  STD_TORCH_CHECK(
      x.dim() >= 1 && scale.dim() == 1 && scale.size(0) == x.size(0), "archloom::", op,
      " needs one factor per sample: scale of shape (x.shape[0],)");
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const Tensor dense = image_layout(x), factors = coefficients(scale, dtype);
  Tensor y = torch::stable::empty_like(dense);
  const Tensor dense_skip = skip ? laid_out_like(*skip, y) : y;
  const Index n = y.numel();
  if (n == 0) return y;
  const Index row = n / x.size(0);
  typed(dtype, [&](auto* null) {
    using T = std::remove_pointer_t<decltype(null)>;
    const bool packed = all_aligned({y, dense, dense_skip}) && row % Pack<T>::size == 0;
    const ScaleBody<T> body{
        (T*)y.mutable_data_ptr(), (const T*)dense.const_data_ptr(),
        skip ? (const T*)dense_skip.const_data_ptr() : nullptr, (const compute_t<T>*)factors.const_data_ptr(), row};
    scale_rows<T><<<blocks_for(n, Pack<T>::size), threads, 0, stream_of(x)>>>(n, packed, body);
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return y;
}

Tensor drop_connect(const Tensor& x, const Tensor& scale) { return run(x, nullptr, scale, "drop_connect"); }

Tensor drop_connect_add(const Tensor& x, const Tensor& skip, const Tensor& scale) {
  check_device("drop_connect_add", x, skip);
  STD_TORCH_CHECK(
      same_shape(x, skip) && skip.scalar_type() == x.scalar_type(),
      "archloom::drop_connect_add: x and skip must agree in shape and dtype");
  return run(x, &skip, scale, "drop_connect_add");
}

}  // namespace
}  // namespace archloom

STABLE_TORCH_LIBRARY_IMPL(archloom, CUDA, m) {
  m.impl("drop_connect", TORCH_BOX(&archloom::drop_connect));
  m.impl("drop_connect_add", TORCH_BOX(&archloom::drop_connect_add));
}
