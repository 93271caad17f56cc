// bn_mixed_sum and bn_swish on CUDA: statistics, then the sum; reductions, then the gradient.
#include "batch_norm.cuh"

namespace archloom {
namespace {

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
  check_count(xs, op);
  check_device(op, xs[0], xs, gammas, betas);
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
  check_affine(call.count, e.channels, gammas, betas, eps, op);
  for (std::size_t k = 0; k < xs.size(); ++k) {
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

template <class S>
const S* read(const Tensor& x) {
  return static_cast<const S*>(x.const_data_ptr());
}

std::tuple<Tensor, Tensor, Tensor> forward(
    const Tensors& candidates, const Tensor* weights, const Tensors& gammas, const Tensors& betas,
    const std::vector<double>& eps, bool swish, const char* op) {
  check_device(op, candidates[0], candidates);
  const torch::stable::accelerator::DeviceGuard guard(candidates[0].get_device_index());
  const Tensors xs = image_layouts(candidates);
  Tensor y = torch::stable::empty_like(xs[0]);
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
        call.layout, call.count, call.parts, data<double>(partial), weights ? read<S>(w) : nullptr,
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
  check_device(op, candidates[0], candidates, grad, mean, var);
  check_grad(grad, candidates[0], op);
  const torch::stable::accelerator::DeviceGuard guard(candidates[0].get_device_index());
  const Tensors xs = image_layouts(candidates);
  Backward result;
  for (std::size_t k = 0; k < xs.size(); ++k) result.dxs.push_back(torch::stable::empty_like(xs[0]));
  const Tensor g = laid_out_like(grad, result.dxs[0]);
  const Call call = prepare(xs, gammas, betas, eps, op);
  const Index channels = call.layout.channels, all = call.count * channels;
  check_statistics(call.count, channels, mean, var, op);
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
    const T* gp = read<T>(g);
    const unsigned blocks = blocks_for(call.n, Pack<T>::size);
    const bool packed = call.packed && all_aligned(result.dxs) && is_aligned(gp);
    auto finish = [&] {
      STD_CUDA_KERNEL_LAUNCH_CHECK();
      finish_reduce<S><<<over(all), threads, 0, stream>>>(
          call.layout, call.count, call.parts, data<double>(partial), weights ? read<S>(w) : nullptr,
          inputs_of<S>(call.gammas, op), inputs_of<S>(call.betas, op), call.eps, read<S>(vars), data<S>(A), data<S>(B),
          data<S>(D), data<S>(result.dgamma), data<S>(result.dbeta), data<double>(each));
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    };
    if (swish) {
      affine_form<S><<<over(channels), threads, 0, stream>>>(
          channels, read<S>(call.gammas[0]), read<S>(call.betas[0]), read<S>(means), read<S>(vars), call.eps.at[0],
          data<S>(a), data<S>(b));
      reduce<T, true><<<call.grid, threads, 0, stream>>>(
          call.layout, gp, in, read<S>(means), data<S>(a), data<S>(b), data<double>(partial));
      finish();
      elementwise<T><<<blocks, threads, 0, stream>>>(
          call.n, packed,
          GradBody<T, true>{
              outputs_of<T>(result.dxs, op), gp, in, read<S>(means), data<S>(A), data<S>(B), data<S>(D), data<S>(a),
              data<S>(b), call.count, call.layout});
    } else {
      reduce<T, false><<<call.grid, threads, 0, stream>>>(
          call.layout, gp, in, read<S>(means), nullptr, nullptr, data<double>(partial));
      finish();
      elementwise<T><<<blocks, threads, 0, stream>>>(
          call.n, packed,
          GradBody<T, false>{
              outputs_of<T>(result.dxs, op), gp, in, read<S>(means), data<S>(A), data<S>(B), data<S>(D), nullptr,
              nullptr, call.count, call.layout});
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
  check_device("bn_mixed_sum", xs[0], weights);
  return forward(xs, &weights, gammas, betas, eps, false, "bn_mixed_sum");
}

std::tuple<Tensors, Tensor, Tensor, Tensor> bn_mixed_sum_backward(
    const Tensor& grad, Tensors xs, const Tensor& weights, Tensors gammas, Tensors betas, const Tensor& mean,
    const Tensor& var, std::vector<double> eps) {
  check_candidates(xs, weights, "bn_mixed_sum_backward");
  check_device("bn_mixed_sum_backward", xs[0], weights);
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
