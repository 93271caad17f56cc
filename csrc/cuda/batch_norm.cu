// bn_mixed_sum and bn_swish on CUDA: statistics, then the sum; reductions, then the gradient.
//
// Reductions: a block takes one channel (contiguous images) or 32 neighbouring channels (channels_last), one
// candidate and one part of the positions; parts are joined in order by a second kernel. No atomics.
#include "../norm.h"
#include "common.cuh"

namespace archloom {
namespace {

struct Layout {
  Index outer, channels, inner;  // inner = 1: rows of channels
  __host__ __device__ Index population() const { return outer * inner; }
  // the element of channel c at position m
  __device__ Index at(Index c, Index m) const {
    return inner == 1 ? m * channels + c : ((m / inner) * channels + c) * inner + m % inner;
  }
  __device__ Index channel(Index i) const {
    if ((i >> 32) == 0) return (unsigned(i) / unsigned(inner)) % unsigned(channels);
    return (i / inner) % channels;
  }
};

struct Eps {
  double at[most_candidates];
};

// This thread's channel and positions within a block of the reductions.
struct Share {
  Index c, first, last, step;
  int lowest;  // the last stride of the block's tree: threads of one channel lie a multiple of it apart
};

__device__ Share share_of(Layout layout) {
  const Index part = blockIdx.z, parts = gridDim.z, population = layout.population();
  const Index begin = population * part / parts, end = population * (part + 1) / parts;
  if (layout.inner > 1) return {Index(blockIdx.x), begin + threadIdx.x, end, threads, 1};
  return {Index(blockIdx.x) * 32 + threadIdx.x % 32, begin + threadIdx.x / 32, end, threads / 32, 32};
}

// partial[part][candidate][channel] = (n, mean, m2)
template <class T>
__global__ void __launch_bounds__(threads)
    moments(Layout layout, Pointers<const T> xs, double* partial) {
  __shared__ double ns[threads], means[threads], m2s[threads];
  const Share s = share_of(layout);
  const T* x = xs.at[blockIdx.y];
  double n = 0, mean = 0, m2 = 0;
  if (s.c < layout.channels)
    for (Index m = s.first; m < s.last; m += s.step) join_moments(n, mean, m2, 1.0, double(widen(x[layout.at(s.c, m)])), 0.0);
  const int t = int(threadIdx.x);
  ns[t] = n, means[t] = mean, m2s[t] = m2;
  __syncthreads();
  for (int half = threads / 2; half >= s.lowest; half /= 2) {
    if (t < half) join_moments(ns[t], means[t], m2s[t], ns[t + half], means[t + half], m2s[t + half]);
    __syncthreads();
  }
  if (t < s.lowest && s.c < layout.channels) {
    double* to = partial + ((Index(blockIdx.z) * gridDim.y + blockIdx.y) * layout.channels + s.c) * 3;
    to[0] = ns[t], to[1] = means[t], to[2] = m2s[t];
  }
}

// mean, var [candidate][channel] from the parts, and the affine form: y = sum_k a[k][c] x_k + b[c].
template <class S>
__global__ void finish_moments(
    Layout layout, int count, int parts, const double* partial, const S* weights, Pointers<const S> gammas,
    Pointers<const S> betas, Eps eps, S* mean_out, S* var_out, S* a, S* b) {
  const Index c = Index(blockIdx.x) * blockDim.x + threadIdx.x;
  if (c >= layout.channels) return;
  double shift = 0;
  for (int k = 0; k < count; ++k) {
    double n = 0, mean = 0, m2 = 0;
    for (int part = 0; part < parts; ++part) {
      const double* from = partial + ((Index(part) * count + k) * layout.channels + c) * 3;
      join_moments(n, mean, m2, from[0], from[1], from[2]);
    }
    const double var = m2 / double(layout.population());
    const double w = weights ? double(weights[k]) : 1.0, scale = double(gammas.at[k][c]) / sqrt(var + eps.at[k]);
    const Index slot = k * layout.channels + c;
    mean_out[slot] = S(mean);
    var_out[slot] = S(var);
    a[slot] = S(w * scale);
    shift += w * (double(betas.at[k][c]) - mean * scale);
  }
  b[c] = S(shift);
}

template <class T, bool Swish>
struct AffineBody {
  T* y;
  Pointers<const T> xs;
  const compute_t<T>*a, *b;
  int count;
  Layout layout;
  template <int W>
  __device__ void run(Index i) const {
    compute_t<T> sum[W], v[W];
    Index c[W];
#pragma unroll
    for (int j = 0; j < W; ++j) {
      c[j] = layout.channel(i + j);
      sum[j] = b[c[j]];
    }
    for (int k = 0; k < count; ++k) {
      load<W>(xs.at[k] + i, v);
#pragma unroll
      for (int j = 0; j < W; ++j) sum[j] = scalar::affine(v[j], a[k * layout.channels + c[j]], sum[j]);
    }
    if constexpr (Swish) {
#pragma unroll
      for (int j = 0; j < W; ++j) sum[j] = scalar::swish(sum[j]);
    }
    store<W>(y + i, sum);
  }
};

template <class T, class Body>
__global__ void __launch_bounds__(threads) elementwise(Index n, bool packed, Body body) {
  grid_stride<T>(n, packed, body);
}

template <bool Swish, class S>
__device__ S through(S g, S x, S a, S b) {
  if constexpr (Swish) return g * scalar::swish_slope(scalar::affine(x, a, b));
  return g;
}

// partial[part][candidate][channel] = (sum dz, sum dz (x - mean))
template <class T, bool Swish>
__global__ void __launch_bounds__(threads) reduce(
    Layout layout, const T* g, Pointers<const T> xs, const compute_t<T>* mean, const compute_t<T>* a,
    const compute_t<T>* b, double* partial) {
  using S = compute_t<T>;
  __shared__ double totals[threads], dots[threads];
  const Share s = share_of(layout);
  const T* x = xs.at[blockIdx.y];
  double total = 0, dot = 0;
  if (s.c < layout.channels) {
    const Index slot = Index(blockIdx.y) * layout.channels + s.c;
    const S centre = mean[slot], slope = Swish ? a[slot] : S(0), shift = Swish ? b[s.c] : S(0);
    for (Index m = s.first; m < s.last; m += s.step) {
      const Index i = layout.at(s.c, m);
      const S v = widen(x[i]), dz = through<Swish, S>(widen(g[i]), v, slope, shift);
      total += double(dz);
      dot += double(dz * (v - centre));
    }
  }
  const int t = int(threadIdx.x);
  totals[t] = total, dots[t] = dot;
  __syncthreads();
  for (int half = threads / 2; half >= s.lowest; half /= 2) {
    if (t < half) totals[t] += totals[t + half], dots[t] += dots[t + half];
    __syncthreads();
  }
  if (t < s.lowest && s.c < layout.channels) {
    double* to = partial + ((Index(blockIdx.z) * gridDim.y + blockIdx.y) * layout.channels + s.c) * 2;
    to[0] = totals[t], to[1] = dots[t];
  }
}

// The coefficients of the gradient and the parameters' gradients, [candidate][channel].
template <class S>
__global__ void finish_reduce(
    Layout layout, int count, int parts, const double* partial, const S* weights, Pointers<const S> gammas,
    Pointers<const S> betas, Eps eps, const S* var, S* A, S* B, S* D, S* dgamma, S* dbeta, double* dweight) {
  const Index slot = Index(blockIdx.x) * blockDim.x + threadIdx.x;
  if (slot >= count * layout.channels) return;
  const Index k = slot / layout.channels, c = slot % layout.channels;
  double total = 0, dot = 0;
  for (int part = 0; part < parts; ++part) {
    const double* from = partial + (Index(part) * count * layout.channels + slot) * 2;
    total += from[0], dot += from[1];
  }
  const NormGrad q = norm_grad_coefficients(
      weights ? double(weights[k]) : 1.0, double(gammas.at[k][c]), double(betas.at[k][c]), double(var[slot]), eps.at[k],
      double(layout.population()), total, dot);
  A[slot] = S(q.A), B[slot] = S(q.B), D[slot] = S(q.D);
  dgamma[slot] = S(q.dgamma), dbeta[slot] = S(q.dbeta);
  dweight[slot] = q.dweight;
}

template <class T, bool Swish>
struct GradBody {
  Pointers<T> dxs;
  const T* g;
  Pointers<const T> xs;
  const compute_t<T>*mean, *A, *B, *D, *a, *b;
  int count;
  Layout layout;
  template <int W>
  __device__ void run(Index i) const {
    compute_t<T> grad[W], v[W];
    Index c[W];
    load<W>(g + i, grad);
#pragma unroll
    for (int j = 0; j < W; ++j) c[j] = layout.channel(i + j);
    for (int k = 0; k < count; ++k) {
      load<W>(xs.at[k] + i, v);
#pragma unroll
      for (int j = 0; j < W; ++j) {
        const Index slot = k * layout.channels + c[j];
        const auto dz = through<Swish>(grad[j], v[j], Swish ? a[slot] : grad[j], Swish ? b[c[j]] : grad[j]);
        v[j] = scalar::norm_grad(dz, v[j], mean[slot], A[slot], B[slot], D[slot]);
      }
      store<W>(dxs.at[k] + i, v);
    }
  }
};

// a and b of the affine form again, from the saved statistics (bn_swish's backward).
template <class S>
__global__ void affine_form(
    Index channels, const S* gamma, const S* beta, const S* mean, const S* var, double eps, S* a, S* b) {
  const Index c = Index(blockIdx.x) * blockDim.x + threadIdx.x;
  if (c >= channels) return;
  const double scale = double(gamma[c]) / sqrt(double(var[c]) + eps);
  a[c] = S(scale);
  b[c] = S(double(beta[c]) - double(mean[c]) * scale);
}

struct Call {
  Dtype dtype;
  Layout layout;
  Index n;
  int count, parts;
  bool packed;
  Tensors gammas, betas;
  Eps eps;
  dim3 grid;  // of the reductions
};

Call prepare(
    const Tensors& xs, const Tensors& gammas, const Tensors& betas, const std::vector<double>& eps, const char* op) {
  STD_TORCH_CHECK(xs[0].dim() >= 2, "archloom::", op, " takes tensors of shape (N, C, ...)");
  STD_TORCH_CHECK(xs.size() <= most_candidates, "archloom::", op, " takes at most 64 candidates on CUDA");
  const Extent e = extent_of(xs[0]);
  Call call{};
  call.dtype = dtype_of(xs[0], op);
  call.layout = {e.outer, e.channels, e.inner};
  call.n = xs[0].numel();
  call.count = int(xs.size());
  call.packed = all_aligned(xs);
  STD_TORCH_CHECK(
      call.layout.population() > 1 && call.n > 0, "archloom::", op,
      " needs more than one value per channel to normalize over");
  STD_TORCH_CHECK(
      gammas.size() == xs.size() && betas.size() == xs.size() && eps.size() == xs.size(), "archloom::", op,
      ": every candidate needs one gamma, one beta and one eps");
  for (std::size_t k = 0; k < xs.size(); ++k) {
    STD_TORCH_CHECK(
        gammas[k].numel() == e.channels && betas[k].numel() == e.channels, "archloom::", op,
        ": gamma and beta must have shape (", e.channels, ",)");
    call.gammas.push_back(coefficients(gammas[k], call.dtype));
    call.betas.push_back(coefficients(betas[k], call.dtype));
    call.eps.at[k] = eps[k];
  }
  // parts of a channel: enough blocks to fill a device, at least 1024 positions in each; fixed by the shape
  const Index blocks = (e.inner > 1 ? e.channels : (e.channels + 31) / 32) * call.count;
  const Index wish = std::min<Index>((1024 + blocks - 1) / blocks, call.layout.population() / 1024);
  call.parts = int(std::clamp<Index>(wish, 1, 64));
  call.grid = dim3(unsigned(blocks / call.count), unsigned(call.count), unsigned(call.parts));
  return call;
}

unsigned over(Index n) { return unsigned((n + threads - 1) / threads); }

template <class S>
S* data(const Tensor& x) {
  return static_cast<S*>(x.mutable_data_ptr());
}

std::tuple<Tensor, Tensor, Tensor> forward(
    const Tensors& candidates, const Tensor* weights, const Tensors& gammas, const Tensors& betas,
    const std::vector<double>& eps, bool swish, const char* op) {
  const torch::stable::accelerator::DeviceGuard guard(candidates[0].get_device_index());
  const Tensor first = image_layout(candidates[0]);
  Tensor y = torch::stable::empty_like(first);
  const Tensors xs = laid_out_like(candidates, y);
  const Call call = prepare(xs, gammas, betas, eps, op);
  const Index channels = call.layout.channels;
  const ScalarType type = compute_scalar(call.dtype);
  const std::vector<Index> shape{call.count, channels};
  Tensor mean = torch::stable::new_empty(y, shape, type), var = torch::stable::new_empty(y, shape, type);
  Tensor a = torch::stable::new_empty(y, shape, type), b = torch::stable::new_empty(y, {channels}, type);
  Tensor partial = torch::stable::new_empty(y, {call.parts, call.count, channels, 3}, ScalarType::Double);
  const Tensor w = weights ? coefficients(*weights, call.dtype) : b;
  const cudaStream_t stream = stream_of(y);
  typed(call.dtype, [&](auto* null) {
    using T = std::remove_pointer_t<decltype(null)>;
    using S = compute_t<T>;
    const Pointers<const T> in = inputs_of<T>(xs, op);
    moments<T><<<call.grid, threads, 0, stream>>>(call.layout, in, data<double>(partial));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    finish_moments<S><<<over(channels), threads, 0, stream>>>(
        call.layout, call.count, call.parts, data<double>(partial), weights ? data<S>(w) : nullptr,
        inputs_of<S>(call.gammas, op), inputs_of<S>(call.betas, op), call.eps, data<S>(mean), data<S>(var), data<S>(a),
        data<S>(b));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    const unsigned blocks = blocks_for(call.n, Pack<T>::size);
    const bool packed = call.packed && is_aligned(y.const_data_ptr());
    if (swish)
      elementwise<T><<<blocks, threads, 0, stream>>>(
          call.n, packed, AffineBody<T, true>{data<T>(y), in, data<S>(a), data<S>(b), call.count, call.layout});
    else
      elementwise<T><<<blocks, threads, 0, stream>>>(
          call.n, packed, AffineBody<T, false>{data<T>(y), in, data<S>(a), data<S>(b), call.count, call.layout});
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {y, mean, var};
}

struct Backward {
  Tensors dxs;
  Tensor dweights, dgamma, dbeta;
};

Backward backward(
    const Tensor& grad, const Tensors& candidates, const Tensor* weights, const Tensors& gammas, const Tensors& betas,
    const Tensor& mean, const Tensor& var, const std::vector<double>& eps, bool swish, const char* op) {
  const torch::stable::accelerator::DeviceGuard guard(candidates[0].get_device_index());
  const Tensor first = image_layout(candidates[0]);
  STD_TORCH_CHECK(same_shape(grad, first), "archloom::", op, ": grad and x differ in shape");
  Backward result;
  for (std::size_t k = 0; k < candidates.size(); ++k) result.dxs.push_back(torch::stable::empty_like(first));
  const Tensors xs = laid_out_like(candidates, result.dxs[0]);
  const Tensor g = laid_out_like(grad, result.dxs[0]);
  const Call call = prepare(xs, gammas, betas, eps, op);
  const Index channels = call.layout.channels, all = call.count * channels;
  const ScalarType type = compute_scalar(call.dtype);
  const std::vector<Index> shape{call.count, channels};
  auto fresh = [&] { return torch::stable::new_empty(g, shape, type); };
  Tensor A = fresh(), B = fresh(), D = fresh(), a = fresh(), b = fresh();
  result.dgamma = fresh();
  result.dbeta = fresh();
  result.dweights = torch::stable::new_empty(g, {call.count}, type);
  Tensor each = torch::stable::new_empty(g, shape, ScalarType::Double);
  Tensor partial = torch::stable::new_empty(g, {call.parts, call.count, channels, 2}, ScalarType::Double);
  const Tensor w = weights ? coefficients(*weights, call.dtype) : A;
  const Tensor means = coefficients(mean, call.dtype), vars = coefficients(var, call.dtype);
  const cudaStream_t stream = stream_of(g);
  typed(call.dtype, [&](auto* null) {
    using T = std::remove_pointer_t<decltype(null)>;
    using S = compute_t<T>;
    const Pointers<const T> in = inputs_of<T>(xs, op);
    const T* gp = data<T>(g);
    const unsigned blocks = blocks_for(call.n, Pack<T>::size);
    const bool packed = call.packed && all_aligned(result.dxs) && is_aligned(gp);
    auto finish = [&] {
      STD_CUDA_KERNEL_LAUNCH_CHECK();
      finish_reduce<S><<<over(all), threads, 0, stream>>>(
          call.layout, call.count, call.parts, data<double>(partial), weights ? data<S>(w) : nullptr,
          inputs_of<S>(call.gammas, op), inputs_of<S>(call.betas, op), call.eps, data<S>(vars), data<S>(A), data<S>(B),
          data<S>(D), data<S>(result.dgamma), data<S>(result.dbeta), data<double>(each));
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    };
    if (swish) {
      affine_form<S><<<over(channels), threads, 0, stream>>>(
          channels, data<S>(call.gammas[0]), data<S>(call.betas[0]), data<S>(means), data<S>(vars), call.eps.at[0],
          data<S>(a), data<S>(b));
      reduce<T, true><<<call.grid, threads, 0, stream>>>(
          call.layout, gp, in, data<S>(means), data<S>(a), data<S>(b), data<double>(partial));
      finish();
      elementwise<T><<<blocks, threads, 0, stream>>>(
          call.n, packed,
          GradBody<T, true>{
              outputs_of<T>(result.dxs), gp, in, data<S>(means), data<S>(A), data<S>(B), data<S>(D), data<S>(a),
              data<S>(b), call.count, call.layout});
    } else {
      reduce<T, false><<<call.grid, threads, 0, stream>>>(
          call.layout, gp, in, data<S>(means), nullptr, nullptr, data<double>(partial));
      finish();
      elementwise<T><<<blocks, threads, 0, stream>>>(
          call.n, packed,
          GradBody<T, false>{
              outputs_of<T>(result.dxs), gp, in, data<S>(means), data<S>(A), data<S>(B), data<S>(D), nullptr, nullptr,
              call.count, call.layout});
      STD_CUDA_KERNEL_LAUNCH_CHECK();
      sum_partials<S><<<unsigned(call.count), threads, 0, stream>>>(
          data<double>(each), channels, channels, 1, data<S>(result.dweights));
    }
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return result;
}

std::tuple<Tensor, Tensor, Tensor> bn_mixed_sum(
    Tensors xs, const Tensor& weights, Tensors gammas, Tensors betas, std::vector<double> eps) {
  check_candidates(xs, weights, "bn_mixed_sum");
  return forward(xs, &weights, gammas, betas, eps, false, "bn_mixed_sum");
}

std::tuple<Tensors, Tensor, Tensor, Tensor> bn_mixed_sum_backward(
    const Tensor& grad, Tensors xs, const Tensor& weights, Tensors gammas, Tensors betas, const Tensor& mean,
    const Tensor& var, std::vector<double> eps) {
  check_candidates(xs, weights, "bn_mixed_sum_backward");
  Backward r =
      backward(grad, xs, &weights, gammas, betas, mean, var, eps, false, "bn_mixed_sum_backward");
  return {r.dxs, torch::stable::to(r.dweights, weights.scalar_type()), r.dgamma, r.dbeta};
}

std::tuple<Tensor, Tensor, Tensor> bn_swish(const Tensor& x, const Tensor& gamma, const Tensor& beta, double eps) {
  return forward({x}, nullptr, {gamma}, {beta}, {eps}, true, "bn_swish");
}

std::tuple<Tensor, Tensor, Tensor> bn_swish_backward(
    const Tensor& grad, const Tensor& x, const Tensor& gamma, const Tensor& beta, const Tensor& mean,
    const Tensor& var, double eps) {
  Backward r = backward(grad, {x}, nullptr, {gamma}, {beta}, mean, var, {eps}, true, "bn_swish_backward");
  const std::vector<Index> shape{x.size(1)};
  return {
      r.dxs[0], torch::stable::to(torch::stable::view(r.dgamma, shape), gamma.scalar_type()),
      torch::stable::to(torch::stable::view(r.dbeta, shape), beta.scalar_type())};
}

}  // namespace
}  // namespace archloom

STABLE_TORCH_LIBRARY_IMPL(archloom, CUDA, m) {
  m.impl("bn_mixed_sum", TORCH_BOX(&archloom::bn_mixed_sum));
  m.impl("bn_mixed_sum_backward", TORCH_BOX(&archloom::bn_mixed_sum_backward));
  m.impl("bn_swish", TORCH_BOX(&archloom::bn_swish));
  m.impl("bn_swish_backward", TORCH_BOX(&archloom::bn_swish_backward));
}
