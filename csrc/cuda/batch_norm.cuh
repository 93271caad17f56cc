// The kernels of bn_mixed_sum and bn_swish: statistics and the affine form, reductions and the gradient.
//
// Reductions: a block takes one channel (contiguous images) or 32 neighbouring channels (channels_last), one
// candidate and one part of the positions; parts are joined in order by a second kernel. No atomics.
#pragma once

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
    if (((i | inner | channels) >> 32) == 0) return (unsigned(i) / unsigned(inner)) % unsigned(channels);
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

}  // namespace
}  // namespace archloom
