// drop_connect and drop_connect_add on the CPU: one factor per sample.
#include "host.h"

namespace archloom {
namespace {

// y[row] = x[row] * scale[row] (+ skip[row])
void scale_rows(Dtype dtype, Tensor& y, const Tensor& x, const Tensor* skip, const std::vector<double>& scale) {
  const Index n = y.numel();
  if (n == 0) return;
  const Index row = n / Index(scale.size());
  const void *in = x.const_data_ptr(), *add = skip ? skip->const_data_ptr() : nullptr;
  void* out = y.mutable_data_ptr();
  const bool stream = exceeds_caches(skip ? 3 : 2, n * bytes_of(dtype));
  each_range(n, grain, [&](Index begin, Index end) {
    for (Index i = begin; i < end;) {
      const Index b = i / row, stop = std::min(end, (b + 1) * row);
      kernels().scale_add(
          dtype, at(out, i, dtype), at(in, i, dtype), add ? at(add, i, dtype) : nullptr, scale[b], stop - i,
          stream);
      i = stop;
    }
  });
}

std::vector<double> checked_scale(const Tensor& x, const Tensor& scale) {
  STD_TORCH_CHECK(
      x.dim() >= 1 && scale.dim() == 1 && scale.size(0) == x.size(0),
      "archloom::drop_connect needs one factor per sample: scale of shape (x.shape[0],)");
  return doubles(scale);
}

Tensor drop_connect(const Tensor& x, const Tensor& scale) {
  const Dtype dtype = dtype_of(x, "drop_connect");
  const std::vector<double> factors = checked_scale(x, scale);
  const Tensor dense = image_layout(x);
  Tensor y = torch::stable::empty_like(dense);
  scale_rows(dtype, y, dense, nullptr, factors);
  return y;
}

Tensor drop_connect_add(const Tensor& x, const Tensor& skip, const Tensor& scale) {
  const Dtype dtype = dtype_of(x, "drop_connect_add");
  STD_TORCH_CHECK(
      same_shape(x, skip) && skip.scalar_type() == x.scalar_type(),
      "archloom::drop_connect_add: x and skip must agree in shape and dtype");
  const std::vector<double> factors = checked_scale(x, scale);
  const Tensor dense = image_layout(x);
  Tensor y = torch::stable::empty_like(dense);
  const Tensor dense_skip = laid_out_like(skip, y);
  scale_rows(dtype, y, dense, &dense_skip, factors);
  return y;
}

}  // namespace
}  // namespace archloom

STABLE_TORCH_LIBRARY_IMPL(archloom, CPU, m) {
  m.impl("drop_connect", TORCH_BOX(&archloom::drop_connect));
  m.impl("drop_connect_add", TORCH_BOX(&archloom::drop_connect_add));
}
