// mixed_sum on the CPU.
#include "host.h"

namespace archloom {
namespace {

Tensor mixed_sum(Tensors xs, const Tensor& weights) {
  check_candidates(xs, weights, "mixed_sum");
  const Dtype dtype = dtype_of(xs[0], "mixed_sum");
  const Index count = Index(xs.size());
  Tensor y = torch::stable::empty_like(xs[0]);
  const Tensors dense = laid_out_like(xs, y);
  const std::vector<const void*> in = inputs(dense);
  const std::vector<double> w = doubles(weights);
  void* out = y.mutable_data_ptr();
  const bool stream = exceeds_caches(count + 1, y.numel() * bytes_of(dtype));
  each_range(y.numel(), std::max<Index>(grain / count, 4096), [&](Index begin, Index end) {
    kernels().mixed_sum(dtype, out, in.data(), w.data(), count, begin, end, stream);
  });
  return y;
}

// The chunks are fixed, their dot products summed in order: the result does not depend on the threads.
std::tuple<Tensors, Tensor> mixed_sum_backward(
    const Tensor& grad, Tensors xs, const Tensor& weights, bool want_xs, bool want_weights) {
  check_candidates(xs, weights, "mixed_sum_backward");
  const Dtype dtype = dtype_of(xs[0], "mixed_sum_backward");
  check_grad(grad, xs[0], "mixed_sum_backward");
  const Index count = Index(xs.size()), n = grad.numel();

  const Tensor model = torch::stable::empty_like(xs[0]);  // the layout that y had
  const Tensor g = laid_out_like(grad, model);
  Tensors dxs;
  if (want_xs) {
    dxs.push_back(model);
    for (Index k = 1; k < count; ++k) dxs.push_back(torch::stable::empty_like(model));
  }
  const Tensors dense = want_weights ? laid_out_like(xs, model) : Tensors();
  const std::vector<const void*> in = inputs(dense);
  const std::vector<void*> out = outputs(dxs);
  const std::vector<double> w = doubles(weights);

  constexpr Index chunk = 16384;
  const Index chunks = (n + chunk - 1) / chunk;
  std::vector<double> partial(want_weights ? chunks * count : 0);
  const void* gp = g.const_data_ptr();
  const bool stream = want_xs && exceeds_caches(2 * count + 1, n * bytes_of(dtype));
  torch::stable::parallel_for(0, chunks, 2, [&](Index first, Index last) {
    for (Index c = first; c < last; ++c)
      kernels().mixed_sum_backward(
          dtype, want_xs ? out.data() : nullptr, want_weights ? partial.data() + c * count : nullptr, gp, in.data(),
          w.data(), count, c * chunk, std::min(n, (c + 1) * chunk), stream);
  });

  std::vector<double> dots(count, 0.0);
  for (Index c = 0; want_weights && c < chunks; ++c)
    for (Index k = 0; k < count; ++k) dots[k] += partial[c * count + k];
  return {dxs, from_doubles(weights, {count}, weights.scalar_type(), dots)};
}

}  // namespace
}  // namespace archloom

STABLE_TORCH_LIBRARY_IMPL(archloom, CPU, m) {
  m.impl("mixed_sum", TORCH_BOX(&archloom::mixed_sum));
  m.impl("mixed_sum_backward", TORCH_BOX(&archloom::mixed_sum_backward));
}
