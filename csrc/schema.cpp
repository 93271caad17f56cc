// Every operator's schema, once. Autograd, fake kernels and vmap are registered beside the Python face.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(archloom, m) {
  m.def("swish(Tensor x) -> Tensor");
  m.def("swish_backward(Tensor grad, Tensor x) -> Tensor");

  m.def("drop_connect(Tensor x, Tensor scale) -> Tensor");
  m.def("drop_connect_add(Tensor x, Tensor skip, Tensor scale) -> Tensor");

  m.def("mixed_sum(Tensor[] xs, Tensor weights) -> Tensor");
  m.def(
      "mixed_sum_backward(Tensor grad, Tensor[] xs, Tensor weights, bool want_xs, bool want_weights)"
      " -> (Tensor[], Tensor)");

  m.def(
      "bn_mixed_sum(Tensor[] xs, Tensor weights, Tensor[] gammas, Tensor[] betas, float[] eps)"
      " -> (Tensor, Tensor, Tensor)");
  m.def(
      "bn_mixed_sum_backward(Tensor grad, Tensor[] xs, Tensor weights, Tensor[] gammas, Tensor[] betas,"
      " Tensor mean, Tensor var, float[] eps) -> (Tensor[], Tensor, Tensor, Tensor)");
  m.def("bn_swish(Tensor x, Tensor gamma, Tensor beta, float eps) -> (Tensor, Tensor, Tensor)");
  m.def(
      "bn_swish_backward(Tensor grad, Tensor x, Tensor gamma, Tensor beta, Tensor mean, Tensor var, float eps)"
      " -> (Tensor, Tensor, Tensor)");

  m.def("scale_gate(Tensor x, Tensor s) -> Tensor");
  m.def("scale_gate_backward(Tensor grad, Tensor x, Tensor s) -> (Tensor, Tensor)");
}
