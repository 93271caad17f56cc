// scale_gate on the CPU: x * sigmoid(s), s per sample and channel.
#include "host.h"

namespace archloom {
namespace {

// sigmoid(s) in double, [sample][channel]
std::vector<double> gates(Dtype dtype, const Tensor& x, const Tensor& s) {
  STD_TORCH_CHECK(
      x.dim() >= 2 && s.numel() == x.size(0) * x.size(1) && s.dim() >= 2 && s.size(0) == x.size(0),
      "archloom::scale_gate: s must have shape (N, C) or (N, C, 1, ...) for x of shape (N, C, ...)");
  const ScalarType wanted = compute_scalar(dtype);
  const Tensor typed = s.scalar_type() == wanted ? s : torch::stable::to(s, wanted);
  const Tensor narrow = typed.is_contiguous() ? typed : torch::stable::contiguous(typed);
  Tensor gate = torch::stable::empty_like(narrow);
  const Dtype type = dtype == Dtype::f64 ? Dtype::f64 : Dtype::f32;
  kernels().sigmoid(type, gate.mutable_data_ptr(), narrow.const_data_ptr(), gate.numel());
  return doubles(gate);
}

Tensor scale_gate(const Tensor& x, const Tensor& s) {
  const Dtype dtype = dtype_of(x, "scale_gate");
  const std::vector<double> f = gates(dtype, x, s);
  const Tensor dense = image_layout(x);
  Tensor y = torch::stable::empty_like(dense);
  if (y.numel() == 0) return y;
  const Extent e = extent_of(dense);
  const void* in = dense.const_data_ptr();
  void* out = y.mutable_data_ptr();
  const bool stream = exceeds_caches(2, y.numel() * bytes_of(dtype));
  if (e.inner > 1) {  // every plane has a factor of its own
    const Index planes = e.outer * e.channels;
    torch::stable::parallel_for(0, planes, std::max<Index>(1, grain / e.inner), [&](Index c0, Index c1) {
      for (Index c = c0; c < c1; ++c)
        kernels().scale_add(
            dtype, at(out, c * e.inner, dtype), at(in, c * e.inner, dtype), nullptr, f[c], e.inner, stream);
    });
    return y;
  }
  const Index batch = x.size(0), pixels = e.outer / batch;
  torch::stable::parallel_for(0, e.outer, std::max<Index>(1, grain / e.channels), [&](Index r0, Index r1) {
    for (Index r = r0; r < r1;) {
      const Index b = r / pixels, stop = std::min(r1, (b + 1) * pixels);
      kernels().affine_rows(
          dtype, out, &in, 1, e.channels, r, stop, f.data() + b * e.channels, nullptr, false, stream);
      r = stop;
    }
  });
  return y;
}

std::tuple<Tensor, Tensor> scale_gate_backward(const Tensor& grad, const Tensor& x, const Tensor& s) {
  const Dtype dtype = dtype_of(x, "scale_gate_backward");
  check_grad(grad, x, "scale_gate_backward");
  const std::vector<double> f = gates(dtype, x, s);
  const Tensor dense = image_layout(x);
  Tensor dx = torch::stable::empty_like(dense);
  const Tensor g = laid_out_like(grad, dx);
  std::vector<double> dots(f.size(), 0.0);
  if (dx.numel() > 0) {
    const Extent e = extent_of(dense);
    const void *in = dense.const_data_ptr(), *gp = g.const_data_ptr();
    void* out = dx.mutable_data_ptr();
    const bool stream = exceeds_caches(3, dx.numel() * bytes_of(dtype));
    if (e.inner > 1) {
      torch::stable::parallel_for(
          0, e.outer * e.channels, std::max<Index>(1, grain / e.inner), [&](Index c0, Index c1) {
            const Index first = c0 * e.inner;
            kernels().gate_backward_planes(
                dtype, at(out, first, dtype), at(gp, first, dtype), at(in, first, dtype), f.data() + c0, c1 - c0,
                e.inner, dots.data() + c0, stream);
          });
    } else {  // one task per image: its sums belong to it alone
      const Index batch = x.size(0), pixels = e.outer / batch;
      torch::stable::parallel_for(
          0, batch, std::max<Index>(1, grain / (e.channels * pixels)), [&](Index b0, Index b1) {
            for (Index b = b0; b < b1; ++b)
              kernels().gate_backward_rows(
                  dtype, out, gp, in, f.data() + b * e.channels, e.channels, b * pixels, (b + 1) * pixels,
                  dots.data() + b * e.channels, stream);
          });
    }
  }
  for (std::size_t i = 0; i < dots.size(); ++i) dots[i] *= f[i] * (1.0 - f[i]);
  std::vector<Index> shape;
  for (Index d = 0; d < s.dim(); ++d) shape.push_back(s.size(d));
  return {dx, from_doubles(s, shape, s.scalar_type(), dots)};
}

}  // namespace
}  // namespace archloom

STABLE_TORCH_LIBRARY_IMPL(archloom, CPU, m) {
  m.impl("scale_gate", TORCH_BOX(&archloom::scale_gate));
  m.impl("scale_gate_backward", TORCH_BOX(&archloom::scale_gate_backward));
}
