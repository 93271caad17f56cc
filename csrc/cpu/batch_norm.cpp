// bn_mixed_sum and bn_swish on the CPU: BatchNorm in training mode, its output never materialized.
//
// Contiguous images: one task is a few channels, whose planes of all candidates stay in cache between the
// statistics and the sum, and between the backward's reductions and its gradient. channels_last: two passes
// over rows, the sums of fixed blocks of rows joined in order. Either way no result depends on the threads.
#include <cmath>

#include "../norm.h"
#include "host.h"

namespace archloom {
namespace {

// One candidate count, one layout: what every pass needs to know.
struct Problem {
  Dtype dtype;
  Index count;       // candidates
  Extent extent;     // of one candidate
  bool swish;        // applied to the (single) normalized candidate
  double population; // values per channel
  std::vector<const void*> xs;

  Index bytes() const { return extent.outer * extent.channels * extent.inner * bytes_of(dtype); }
  bool stream_forward() const { return exceeds_caches(count + 1, bytes()); }
  bool stream_backward() const { return exceeds_caches(2 * count + 1, bytes()); }
};

// Per candidate and channel, [candidate][channel].
struct Parameters {
  std::vector<double> weights, gamma, beta, eps;
};

// The channels of one planes task: short planes are taken several at a time.
Index channels_per_task(const Problem& p) {
  const Index bytes = p.extent.inner * bytes_of(p.dtype);
  return std::clamp<Index>(8192 / bytes, 1, 16);
}

// f(first channel, last channel) in parallel.
template <class F>
void each_channels(const Problem& p, F f) {
  const Index width = channels_per_task(p), tasks = (p.extent.channels + width - 1) / width;
  torch::stable::parallel_for(0, tasks, 1, [&](Index t0, Index t1) {
    for (Index t = t0; t < t1; ++t) f(t * width, std::min(p.extent.channels, (t + 1) * width));
  });
}

// channels_last rows for the vectors: where channels do not fill them, several rows are taken as one.
struct Rows {
  Index fold, channels, rows, block;  // `block` rows form one task
  Rows(const Problem& p) : fold(1), channels(p.extent.channels), rows(p.extent.outer) {
    while (fold < 16 && rows % (fold * 2) == 0 && (channels % 32 != 0 || channels < 64)) {
      fold *= 2;
      channels = p.extent.channels * fold;
    }
    rows /= fold;
    const Index work = rows * channels * p.count;
    Index tasks = 2;  // a power of two, which divides evenly among most numbers of threads
    while (tasks < 64 && work / tasks > (1 << 18)) tasks *= 2;
    block = std::max<Index>(32, (rows + tasks - 1) / tasks);
    block = (block + 31) / 32 * 32;
  }
  Index tasks() const { return (rows + block - 1) / block; }
};

// `values` [count][channels] repeated to [count][fold * channels].
std::vector<double> folded(const std::vector<double>& values, Index count, const Rows& rows) {
  if (rows.fold == 1 || values.empty()) return values;
  const Index channels = rows.channels / rows.fold;
  std::vector<double> wide;
  wide.reserve(values.size() * rows.fold);
  for (Index k = 0; k < count; ++k)
    for (Index f = 0; f < rows.fold; ++f)
      wide.insert(wide.end(), values.begin() + k * channels, values.begin() + (k + 1) * channels);
  return wide;
}

// The affine form of candidate k's channel c: z = a x + b, its weight included.
void affine_form(
    const Problem& p, const Parameters& q, Index k, Index c, double mean, double var, double& a, double& b) {
  const Index slot = k * p.extent.channels + c;
  const double scale = q.gamma[slot] / std::sqrt(var + q.eps[k]);
  a = q.weights[k] * scale;
  b = q.weights[k] * (q.beta[slot] - mean * scale);
}

void forward_planes(const Problem& p, const Parameters& q, void* y, double* mean, double* var) {
  const Planes planes{p.extent.outer, p.extent.channels, p.extent.inner};
  each_channels(p, [&](Index c0, Index c1) {
    const Index width = c1 - c0;
    std::vector<double> m(width), m2(width), a(p.count * width), b(width, 0.0);
    for (Index k = 0; k < p.count; ++k) {
      kernels().moments_planes(p.dtype, p.xs[k], planes, c0, c1, m.data(), m2.data());
      for (Index c = c0; c < c1; ++c) {
        const Index slot = k * planes.channels + c;
        mean[slot] = m[c - c0];
        var[slot] = m2[c - c0] / p.population;
        double shift;
        affine_form(p, q, k, c, mean[slot], var[slot], a[k * width + c - c0], shift);
        b[c - c0] += shift;
      }
    }
    kernels().affine_planes(p.dtype, y, p.xs.data(), p.count, planes, c0, c1, a.data(), b.data(), p.swish,
        p.stream_forward());
  });
}

void forward_rows(const Problem& p, const Parameters& q, void* y, double* mean, double* var) {
  const Rows rows(p);
  const Index tasks = rows.tasks(), stride = p.count * rows.channels, channels = p.extent.channels;
  std::vector<double> means(tasks * stride), m2s(tasks * stride);
  torch::stable::parallel_for(0, tasks, 1, [&](Index t0, Index t1) {
    for (Index t = t0; t < t1; ++t)
      for (Index k = 0; k < p.count; ++k)
        kernels().moments_rows(
            p.dtype, p.xs[k], rows.channels, t * rows.block, std::min(rows.rows, (t + 1) * rows.block),
            means.data() + t * stride + k * rows.channels, m2s.data() + t * stride + k * rows.channels);
  });
  std::vector<double> a(p.count * channels), b(channels, 0.0);
  torch::stable::parallel_for(0, p.count * channels, 256, [&](Index s0, Index s1) {
    for (Index slot = s0; slot < s1; ++slot) {
      const Index k = slot / channels, c = slot % channels;
      double n = 0, m = 0, m2 = 0;
      for (Index t = 0; t < tasks; ++t) {
        const double here = double(std::min(rows.rows, (t + 1) * rows.block) - t * rows.block);
        for (Index f = 0; f < rows.fold; ++f) {
          const Index from = t * stride + k * rows.channels + f * channels + c;
          join_moments(n, m, m2, here, means[from], m2s[from]);
        }
      }
      mean[slot] = m;
      var[slot] = m2 / p.population;
    }
  });
  for (Index k = 0; k < p.count; ++k)
    for (Index c = 0; c < channels; ++c) {
      double shift;
      affine_form(p, q, k, c, mean[k * channels + c], var[k * channels + c], a[k * channels + c], shift);
      b[c] += shift;
    }
  const std::vector<double> wide_a = folded(a, p.count, rows), wide_b = folded(b, 1, rows);
  torch::stable::parallel_for(0, tasks, 1, [&](Index t0, Index t1) {
    kernels().affine_rows(
        p.dtype, y, p.xs.data(), p.count, rows.channels, t0 * rows.block, std::min(rows.rows, t1 * rows.block),
        wide_a.data(), wide_b.data(), p.swish, p.stream_forward());
  });
}

// What the backward leaves: gradients per candidate and channel, and each channel's part of the weights'.
struct Grads {
  std::vector<double> gamma, beta, weight;
};

// The coefficients of the gradient, [candidate][channel], for channels [c0, c1) of a range `width` wide.
struct Coefficients {
  std::vector<double> mean, A, B, D, a, b;
  explicit Coefficients(Index n) : mean(n), A(n), B(n), D(n), a(n), b(n) {}
  NormCoefficients pointers() const { return {mean.data(), A.data(), B.data(), D.data()}; }
};

void coefficients(
    const Problem& p, const Parameters& q, const double* var, Index c0, Index c1, const double* totals,
    const double* dots, Coefficients& into, Grads& grads) {
  const Index width = c1 - c0;
  for (Index k = 0; k < p.count; ++k)
    for (Index c = c0; c < c1; ++c) {
      const Index slot = k * p.extent.channels + c, here = k * width + c - c0;
      const NormGrad g = norm_grad_coefficients(
          q.weights[k], q.gamma[slot], q.beta[slot], var[slot], q.eps[k], p.population, totals[c - c0], dots[here]);
      into.A[here] = g.A;
      into.B[here] = g.B;
      into.D[here] = g.D;
      grads.gamma[slot] = g.dgamma;
      grads.beta[slot] = g.dbeta;
      grads.weight[slot] = g.dweight;
    }
}

void backward_planes(
    const Problem& p, const Parameters& q, const void* g, const double* mean, const double* var, void* const* dxs,
    Grads& grads) {
  const Planes planes{p.extent.outer, p.extent.channels, p.extent.inner};
  each_channels(p, [&](Index c0, Index c1) {
    const Index width = c1 - c0;
    Coefficients k(p.count * width);
    for (Index i = 0; i < p.count; ++i)
      for (Index c = c0; c < c1; ++c) {
        const Index slot = i * planes.channels + c, here = i * width + c - c0;
        k.mean[here] = mean[slot];
        affine_form(p, q, i, c, mean[slot], var[slot], k.a[here], k.b[here]);
      }
    std::vector<double> totals(width), dots(p.count * width);
    kernels().reduce_planes(
        p.dtype, g, p.xs.data(), p.count, planes, c0, c1, k.mean.data(), k.a.data(), k.b.data(), p.swish,
        totals.data(), dots.data());
    coefficients(p, q, var, c0, c1, totals.data(), dots.data(), k, grads);
    kernels().grad_planes(
        p.dtype, dxs, g, p.xs.data(), p.count, planes, c0, c1, k.pointers(), k.a.data(), k.b.data(), p.swish,
        p.stream_backward());
  });
}

void backward_rows(
    const Problem& p, const Parameters& q, const void* g, const double* mean, const double* var, void* const* dxs,
    Grads& grads) {
  const Rows rows(p);
  const Index tasks = rows.tasks(), channels = p.extent.channels, all = p.count * channels;
  Coefficients k(all);
  for (Index slot = 0; slot < all; ++slot) {
    k.mean[slot] = mean[slot];
    affine_form(p, q, slot / channels, slot % channels, mean[slot], var[slot], k.a[slot], k.b[slot]);
  }
  Coefficients wide(0);
  wide.mean = folded(k.mean, p.count, rows);
  wide.a = folded(k.a, p.count, rows);
  wide.b = folded(k.b, p.count, rows);

  const Index stride = p.count * rows.channels;
  std::vector<double> totals(tasks * rows.channels), dots(tasks * stride);
  torch::stable::parallel_for(0, tasks, 1, [&](Index t0, Index t1) {
    for (Index t = t0; t < t1; ++t)
      kernels().reduce_rows(
          p.dtype, g, p.xs.data(), p.count, rows.channels, t * rows.block,
          std::min(rows.rows, (t + 1) * rows.block), wide.mean.data(), wide.a.data(), wide.b.data(), p.swish,
          totals.data() + t * rows.channels, dots.data() + t * stride);
  });
  std::vector<double> total(channels, 0.0), dot(all, 0.0);
  for (Index t = 0; t < tasks; ++t)
    for (Index f = 0; f < rows.fold; ++f) {
      for (Index c = 0; c < channels; ++c) total[c] += totals[t * rows.channels + f * channels + c];
      for (Index i = 0; i < p.count; ++i)
        for (Index c = 0; c < channels; ++c)
          dot[i * channels + c] += dots[t * stride + i * rows.channels + f * channels + c];
    }
  coefficients(p, q, var, 0, channels, total.data(), dot.data(), k, grads);
  wide.A = folded(k.A, p.count, rows);
  wide.B = folded(k.B, p.count, rows);
  wide.D = folded(k.D, p.count, rows);
  torch::stable::parallel_for(0, tasks, 1, [&](Index t0, Index t1) {
    kernels().grad_rows(
        p.dtype, dxs, g, p.xs.data(), p.count, rows.channels, t0 * rows.block, std::min(rows.rows, t1 * rows.block),
        wide.pointers(), wide.a.data(), wide.b.data(), p.swish, p.stream_backward());
  });
}

Problem problem(const Tensors& xs, bool swish, const char* op) {
  const Tensor& x = xs[0];
  STD_TORCH_CHECK(x.dim() >= 2, "archloom::", op, " takes tensors of shape (N, C, ...)");
  const Extent e = extent_of(x);
  const double population = double(x.numel()) / double(std::max<Index>(e.channels, 1));
  STD_TORCH_CHECK(population > 1, "archloom::", op, " needs more than one value per channel to normalize over");
  return {dtype_of(x, op), Index(xs.size()), e, swish, population, inputs(xs)};
}

Parameters parameters(
    const Problem& p, std::vector<double> weights, const Tensors& gammas, const Tensors& betas,
    const std::vector<double>& eps, const char* op) {
  check_affine(p.count, p.extent.channels, gammas, betas, eps, op);
  return {std::move(weights), doubles(gammas), doubles(betas), eps};
}

std::tuple<Tensor, Tensor, Tensor> forward(
    const Tensors& candidates, std::vector<double> weights, const Tensors& gammas, const Tensors& betas,
    const std::vector<double>& eps, bool swish, const char* op) {
  const Tensors xs = image_layouts(candidates);
  Tensor y = torch::stable::empty_like(xs[0]);
  const Problem p = problem(xs, swish, op);
  const Parameters q = parameters(p, std::move(weights), gammas, betas, eps, op);
  const Index channels = p.extent.channels;
  std::vector<double> mean(p.count * channels), var(p.count * channels);
  (p.extent.inner > 1 ? forward_planes : forward_rows)(p, q, y.mutable_data_ptr(), mean.data(), var.data());
  const ScalarType type = compute_scalar(p.dtype);
  return {y, from_doubles(y, {p.count, channels}, type, mean), from_doubles(y, {p.count, channels}, type, var)};
}

struct Backward {
  Tensors dxs;
  Grads grads;
  Index count, channels;
};

Backward backward(
    const Tensor& grad, const Tensors& candidates, std::vector<double> weights, const Tensors& gammas,
    const Tensors& betas, const Tensor& mean, const Tensor& var, const std::vector<double>& eps, bool swish,
    const char* op) {
  check_grad(grad, candidates[0], op);
  const Tensors xs = image_layouts(candidates);
  Backward result;
  for (std::size_t k = 0; k < xs.size(); ++k) result.dxs.push_back(torch::stable::empty_like(xs[0]));
  const Tensor g = laid_out_like(grad, result.dxs[0]);
  const Problem p = problem(xs, swish, op);
  const Parameters q = parameters(p, std::move(weights), gammas, betas, eps, op);
  check_statistics(p.count, p.extent.channels, mean, var, op);
  const std::vector<double> means = doubles(mean), vars = doubles(var);
  result.count = p.count;
  result.channels = p.extent.channels;
  const std::size_t all = std::size_t(p.count * p.extent.channels);
  result.grads = {std::vector<double>(all), std::vector<double>(all), std::vector<double>(all)};
  (p.extent.inner > 1 ? backward_planes : backward_rows)(
      p, q, g.const_data_ptr(), means.data(), vars.data(), outputs(result.dxs).data(), result.grads);
  return result;
}

std::tuple<Tensor, Tensor, Tensor> bn_mixed_sum(
    Tensors xs, const Tensor& weights, Tensors gammas, Tensors betas, std::vector<double> eps) {
  check_candidates(xs, weights, "bn_mixed_sum");
  return forward(xs, doubles(weights), gammas, betas, eps, false, "bn_mixed_sum");
}

std::tuple<Tensors, Tensor, Tensor, Tensor> bn_mixed_sum_backward(
    const Tensor& grad, Tensors xs, const Tensor& weights, Tensors gammas, Tensors betas, const Tensor& mean,
    const Tensor& var, std::vector<double> eps) {
  check_candidates(xs, weights, "bn_mixed_sum_backward");
  Backward r = backward(
      grad, xs, doubles(weights), gammas, betas, mean, var, eps, false, "bn_mixed_sum_backward");
  std::vector<double> dweights(r.count, 0.0);
  for (Index k = 0; k < r.count; ++k)
    for (Index c = 0; c < r.channels; ++c) dweights[k] += r.grads.weight[k * r.channels + c];
  const std::vector<Index> shape{r.count, r.channels};
  const ScalarType type = mean.scalar_type();
  return {
      r.dxs, from_doubles(weights, {r.count}, weights.scalar_type(), dweights),
      from_doubles(mean, shape, type, r.grads.gamma), from_doubles(mean, shape, type, r.grads.beta)};
}

std::tuple<Tensor, Tensor, Tensor> bn_swish(const Tensor& x, const Tensor& gamma, const Tensor& beta, double eps) {
  return forward({x}, {1.0}, {gamma}, {beta}, {eps}, true, "bn_swish");
}

std::tuple<Tensor, Tensor, Tensor> bn_swish_backward(
    const Tensor& grad, const Tensor& x, const Tensor& gamma, const Tensor& beta, const Tensor& mean,
    const Tensor& var, double eps) {
  Backward r = backward(grad, {x}, {1.0}, {gamma}, {beta}, mean, var, {eps}, true, "bn_swish_backward");
  return {
      r.dxs[0], from_doubles(gamma, {r.channels}, gamma.scalar_type(), r.grads.gamma),
      from_doubles(beta, {r.channels}, beta.scalar_type(), r.grads.beta)};
}

}  // namespace
}  // namespace archloom

STABLE_TORCH_LIBRARY_IMPL(archloom, CPU, m) {
  m.impl("bn_mixed_sum", TORCH_BOX(&archloom::bn_mixed_sum));
  m.impl("bn_mixed_sum_backward", TORCH_BOX(&archloom::bn_mixed_sum_backward));
  m.impl("bn_swish", TORCH_BOX(&archloom::bn_swish));
  m.impl("bn_swish_backward", TORCH_BOX(&archloom::bn_swish_backward));
}
