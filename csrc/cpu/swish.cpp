// swish on the CPU.
#include "host.h"

namespace archloom {
namespace {

Tensor swish(const Tensor& x) {
  const Dtype dtype = dtype_of(x, "swish");
  Tensor y = torch::stable::empty_like(x);
  const Tensor dense = laid_out_like(x, y);
  const void* in = dense.const_data_ptr();
  void* out = y.mutable_data_ptr();
  const bool stream = exceeds_caches(2, y.numel() * bytes_of(dtype));
  each_range(y.numel(), grain, [&](Index begin, Index end) {
    kernels().swish(dtype, at(out, begin, dtype), at(in, begin, dtype), end - begin, stream);
  });
  return y;
}

Tensor swish_backward(const Tensor& grad, const Tensor& x) {
  const Dtype dtype = dtype_of(x, "swish_backward");
  check_grad(grad, x, "swish_backward");
  Tensor dx = torch::stable::empty_like(x);
  const Tensor dense = laid_out_like(x, dx), dense_grad = laid_out_like(grad, dx);
  const void *in = dense.const_data_ptr(), *g = dense_grad.const_data_ptr();
  void* out = dx.mutable_data_ptr();
  const bool stream = exceeds_caches(3, dx.numel() * bytes_of(dtype));
  each_range(dx.numel(), grain, [&](Index begin, Index end) {
    kernels().swish_backward(
        dtype, at(out, begin, dtype), at(g, begin, dtype), at(in, begin, dtype), end - begin, stream);
  });
  return dx;
}

}  // namespace
}  // namespace archloom

STABLE_TORCH_LIBRARY_IMPL(archloom, CPU, m) {
  m.impl("swish", TORCH_BOX(&archloom::swish));
  m.impl("swish_backward", TORCH_BOX(&archloom::swish_backward));
}
