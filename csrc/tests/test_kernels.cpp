// The raw-pointer kernels on every instruction set of this machine, against loops in double. Buffers have
// exactly the size that is promised and some begin where no vector does, so that AddressSanitizer sees every step
// beyond; sizes around the vectors' lengths meet every kind of tail.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <memory>
#include <new>
#include <random>
#include <string>
#include <vector>

#include "../cpu/kernels.h"
#include "../norm.h"

namespace archloom {
namespace {

// `count` elements of T, filled from doubles and read as doubles. Heap memory of its own: its end is guarded.
template <class T>
struct Buffer {
  std::unique_ptr<T, decltype(&std::free)> storage;
  T* data;
  Index count;

  // aligned for every vector, and not a byte longer than asked: the sanitizer sees what goes beyond
  explicit Buffer(Index n, Index offset = 0)
      : storage(aligned(n + offset), &std::free), data(storage.get() + offset), count(n) {}

  static T* aligned(Index n) {
    void* p = nullptr;
    if (posix_memalign(&p, 64, std::size_t(n) * sizeof(T)) != 0) throw std::bad_alloc();
    return static_cast<T*>(p);
  }

  static Buffer random(Index n, unsigned seed, Index offset = 0) {
    Buffer made(n, offset);
    std::mt19937 engine(seed);
    std::normal_distribution<double> normal(0.5, 2.0);
    for (Index i = 0; i < n; ++i) made.data[i] = narrow<T>(compute_t<T>(normal(engine)));
    return made;
  }
  double operator[](Index i) const { return double(widen(data[i])); }
};

template <class T>
struct Traits;
template <>
struct Traits<float> {
  static constexpr Dtype dtype = Dtype::f32;
  static constexpr double tolerance = 4e-6;
};
template <>
struct Traits<double> {
  static constexpr Dtype dtype = Dtype::f64;
  static constexpr double tolerance = 1e-13;
};
template <>
struct Traits<bf16> {
  static constexpr Dtype dtype = Dtype::bf16;
  static constexpr double tolerance = 8e-3;
};
template <>
struct Traits<f16> {
  static constexpr Dtype dtype = Dtype::f16;
  static constexpr double tolerance = 1e-3;
};

double swish_of(double x) { return x / (1 + std::exp(-x)); }
double slope_of(double x) {
  const double s = 1 / (1 + std::exp(-x));
  return s * (1 + x * (1 - s));
}

template <class T>
void expect_near(const Buffer<T>& actual, const std::vector<double>& expected, const std::string& what) {
  for (std::size_t i = 0; i < expected.size(); ++i)
    ASSERT_NEAR(actual[Index(i)], expected[i], Traits<T>::tolerance * (1 + std::abs(expected[i]))) << what << " at " << i;
}

const std::vector<Index>& lengths() {
  static const std::vector<Index> all{0, 1, 3, 4, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 130, 1000, 4097};
  return all;
}

class Isa : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (archloom_isa_select(GetParam().c_str()) != 0) GTEST_SKIP() << GetParam() << " cannot run on this machine";
  }
  void TearDown() override { archloom_isa_select("auto"); }
};

template <class F>
void every_type(F f) {
  f(float{});
  f(double{});
  f(bf16{});
  f(f16{});
}

TEST_P(Isa, SwishAndItsGradient) {
  every_type([](auto zero) {
    using T = decltype(zero);
    for (const Index n : lengths())
      for (const bool stream : {false, true}) {
        const auto x = Buffer<T>::random(n, 1, n % 3), g = Buffer<T>::random(n, 2);
        Buffer<T> y(n), dx(n, n % 2);
        kernels().swish(Traits<T>::dtype, y.data, x.data, n, stream);
        kernels().swish_backward(Traits<T>::dtype, dx.data, g.data, x.data, n, stream);
        std::vector<double> expected, slope;
        for (Index i = 0; i < n; ++i) expected.push_back(swish_of(x[i])), slope.push_back(g[i] * slope_of(x[i]));
        expect_near(y, expected, "swish");
        expect_near(dx, slope, "swish_backward");
      }
  });
}

TEST_P(Isa, SwishInPlace) {
  auto x = Buffer<float>::random(1000, 1);
  std::vector<double> expected;
  for (Index i = 0; i < x.count; ++i) expected.push_back(swish_of(x[i]));
  kernels().swish(Dtype::f32, x.data, x.data, x.count, false);
  expect_near(x, expected, "swish in place");
}

TEST_P(Isa, ScaleAdd) {
  every_type([](auto zero) {
    using T = decltype(zero);
    for (const Index n : lengths()) {
      const auto x = Buffer<T>::random(n, 1, 1), skip = Buffer<T>::random(n, 2);
      Buffer<T> y(n), alone(n);
      kernels().scale_add(Traits<T>::dtype, y.data, x.data, skip.data, 1.25, n, n % 2 == 0);
      kernels().scale_add(Traits<T>::dtype, alone.data, x.data, nullptr, 1.25, n, false);
      std::vector<double> both, one;
      for (Index i = 0; i < n; ++i) both.push_back(1.25 * x[i] + skip[i]), one.push_back(1.25 * x[i]);
      expect_near(y, both, "with skip");
      expect_near(alone, one, "without");
    }
  });
}

TEST_P(Isa, MixedSumAndItsGradients) {
  every_type([](auto zero) {
    using T = decltype(zero);
    for (const Index n : lengths())
      for (const Index count : {1, 2, 9, 20})
        for (const bool stream : {false, true}) {
          std::vector<Buffer<T>> xs, dxs;
          std::vector<const void*> in;
          std::vector<void*> out;
          std::vector<double> w, dots(count), alone(count);
          for (Index k = 0; k < count; ++k) {
            xs.push_back(Buffer<T>::random(n, unsigned(k), k % 3));
            dxs.emplace_back(n, k % 2);
            w.push_back(0.25 * double(k % 5));
            in.push_back(xs.back().data);
            out.push_back(dxs.back().data);
          }
          const auto g = Buffer<T>::random(n, 77);
          Buffer<T> y(n);
          const Dtype dtype = Traits<T>::dtype;
          kernels().mixed_sum(dtype, y.data, in.data(), w.data(), count, 0, n, stream);
          kernels().mixed_sum_backward(dtype, out.data(), dots.data(), g.data, in.data(), w.data(), count, 0, n, stream);
          kernels().mixed_sum_backward(dtype, nullptr, alone.data(), g.data, in.data(), w.data(), count, 0, n, stream);
          std::vector<double> expected(n, 0.0);
          for (Index k = 0; k < count; ++k) {
            double dot = 0, size = 1;
            std::vector<double> dx;
            for (Index i = 0; i < n; ++i) {
              expected[i] += w[k] * xs[k][i];
              dx.push_back(w[k] * g[i]);
              dot += g[i] * xs[k][i];
              size += std::abs(g[i] * xs[k][i]);
            }
            expect_near(dxs[k], dx, "dx");
            ASSERT_NEAR(dots[k], dot, 1e-6 * size);
            ASSERT_EQ(dots[k], alone[k]);
          }
          for (Index i = 0; i < n; ++i)
            ASSERT_NEAR(y[i], expected[i], Traits<T>::tolerance * 40) << "candidates " << count << " at " << i;
        }
  });
}

// x[outer][channels][inner] as planes; with inner = 1 the same memory is rows.
TEST_P(Isa, BatchNormPassesOnPlanesAndRows) {
  every_type([](auto zero) {
    using T = decltype(zero);
    const Dtype dtype = Traits<T>::dtype;
    for (const bool stream : {false, true})
      for (const bool act : {false, true})
        for (const bool rows : {false, true})
          for (const Index size : {1, 5, 16, 49, 64, 133}) {
            const Index count = act ? 1 : 3, channels = rows ? size : 3, inner = rows ? 1 : size, outer = rows ? 37 : 4;
            const Planes p{outer, channels, inner};
            const Index n = outer * channels * inner, all = count * channels;
            const double M = double(outer * inner);
            std::vector<Buffer<T>> xs, dxs;
            std::vector<const void*> in;
            std::vector<void*> out;
            for (Index k = 0; k < count; ++k) {
              xs.push_back(Buffer<T>::random(n, unsigned(k)));
              dxs.emplace_back(n);
              in.push_back(xs.back().data);
              out.push_back(dxs.back().data);
            }
            const auto g = Buffer<T>::random(n, 5);
            std::vector<double> mean(all), m2(all), a(all), b(channels), totals(channels), dots(all), A(all), B(all), D(all);
            for (Index k = 0; k < count; ++k) {
              double *to_mean = mean.data() + k * channels, *to_m2 = m2.data() + k * channels;
              if (rows)
                kernels().moments_rows(dtype, in[k], channels, 0, outer, to_mean, to_m2);
              else
                kernels().moments_planes(dtype, in[k], p, 0, channels, to_mean, to_m2);
            }
            auto at = [&](Index c, Index m) { return ((m / inner) * channels + c) * inner + m % inner; };
            for (Index k = 0; k < count; ++k)
              for (Index c = 0; c < channels; ++c) {
                double sum = 0, squares = 0;
                for (Index m = 0; m < Index(M); ++m) sum += xs[k][at(c, m)];
                for (Index m = 0; m < Index(M); ++m) squares += std::pow(xs[k][at(c, m)] - sum / M, 2);
                const Index slot = k * channels + c;
                ASSERT_NEAR(mean[slot], sum / M, 1e-6);
                ASSERT_NEAR(m2[slot], squares, 1e-5 * (1 + squares));
                a[slot] = 0.5 + 0.1 * double(slot % 7), A[slot] = 0.3, B[slot] = -0.1 + 0.01 * double(k), D[slot] = 0.2;
                b[c] = 0.1 * double(c % 5);
              }
            Buffer<T> y(n);
            const NormCoefficients q{mean.data(), A.data(), B.data(), D.data()};
            if (rows) {
              kernels().affine_rows(dtype, y.data, in.data(), count, channels, 0, outer, a.data(), b.data(), act, stream);
              kernels().reduce_rows(
                  dtype, g.data, in.data(), count, channels, 0, outer, mean.data(), a.data(), b.data(), act, totals.data(),
                  dots.data());
              kernels().grad_rows(
                  dtype, out.data(), g.data, in.data(), count, channels, 0, outer, q, a.data(), b.data(), act, stream);
            } else {
              kernels().affine_planes(dtype, y.data, in.data(), count, p, 0, channels, a.data(), b.data(), act, stream);
              kernels().reduce_planes(
                  dtype, g.data, in.data(), count, p, 0, channels, mean.data(), a.data(), b.data(), act, totals.data(),
                  dots.data());
              kernels().grad_planes(dtype, out.data(), g.data, in.data(), count, p, 0, channels, q, a.data(), b.data(), act, stream);
            }
            for (Index c = 0; c < channels; ++c)
              for (Index k = 0; k < count; ++k) {
                const Index slot = k * channels + c;
                double total = 0, dot = 0;
                for (Index m = 0; m < Index(M); ++m) {
                  const Index i = at(c, m);
                  const double x = xs[k][i], dz = act ? g[i] * slope_of(a[slot] * x + b[c]) : g[i];
                  total += dz;
                  dot += dz * (x - mean[slot]);
                  const double dx = A[slot] * dz + B[slot] * (x - mean[slot]) + D[slot];
                  ASSERT_NEAR(dxs[k][i], dx, Traits<T>::tolerance * 8 * (1 + std::abs(dx)));
                  if (k == 0) {
                    double sum = b[c];
                    for (Index j = 0; j < count; ++j) sum += a[j * channels + c] * xs[j][i];
                    ASSERT_NEAR(y[i], act ? swish_of(sum) : sum, Traits<T>::tolerance * 10 * (1 + std::abs(sum)));
                  }
                }
                ASSERT_NEAR(dots[slot], dot, 1e-5 * M);
                if (k == 0) ASSERT_NEAR(totals[c], total, 1e-5 * M);
              }
          }
  });
}

TEST_P(Isa, GateBackward) {
  for (const Index size : {1, 5, 16, 49, 64, 133})
    for (const bool stream : {false, true})
      for (const bool rows : {false, true}) {
        const Index channels = rows ? size : 3, inner = rows ? 37 : size, n = channels * inner;
        const auto g = Buffer<float>::random(n, 1), x = Buffer<float>::random(n, 2);
        Buffer<float> dx(n);
        std::vector<double> f(channels, 0.75), dots(channels);
        if (rows)
          kernels().gate_backward_rows(Dtype::f32, dx.data, g.data, x.data, f.data(), channels, 0, inner, dots.data(), stream);
        else
          kernels().gate_backward_planes(Dtype::f32, dx.data, g.data, x.data, f.data(), channels, inner, dots.data(), stream);
        for (Index c = 0; c < channels; ++c) {
          double dot = 0;
          for (Index p = 0; p < inner; ++p) {
            const Index i = rows ? p * channels + c : c * inner + p;
            dot += g[i] * x[i];
            ASSERT_NEAR(dx[i], 0.75 * g[i], 1e-6 * (1 + std::abs(g[i])));
          }
          ASSERT_NEAR(dots[c], dot, 1e-4);
        }
      }
}

INSTANTIATE_TEST_SUITE_P(
    Every, Isa, testing::Values("baseline", "avx2", "avx512"), [](const auto& test) { return test.param; });

TEST(Types, EveryHalfSurvivesTheWayToFloatAndBack) {
  for (unsigned b = 0; b < 0x10000; ++b) {
    const f16 half{std::uint16_t(b)};
    const bf16 brain{std::uint16_t(b)};
    if (std::isnan(widen(half))) {
      EXPECT_TRUE(std::isnan(widen(narrow<f16>(widen(half)))));
    } else {
      ASSERT_EQ(narrow<f16>(widen(half)).bits, b);
    }
    if (std::isnan(widen(brain))) {
      EXPECT_TRUE(std::isnan(widen(narrow<bf16>(widen(brain)))));
    } else {
      ASSERT_EQ(narrow<bf16>(widen(brain)).bits, b);
    }
  }
}

TEST(Types, RoundingIsToTheNearestAndTiesToEven) {
  EXPECT_EQ(narrow<f16>(65519.0f).bits, 0x7bff);  // the largest; from 65520 on infinity
  EXPECT_EQ(narrow<f16>(65520.0f).bits, 0x7c00);
  EXPECT_EQ(narrow<f16>(1.0f + 1.0f / 2048).bits, 0x3c00);  // a tie: down to even
  EXPECT_EQ(narrow<f16>(1.0f + 3.0f / 2048).bits, 0x3c02);  // a tie: up to even
  EXPECT_EQ(narrow<f16>(std::ldexp(1.0f, -25)).bits, 0x0000);
  EXPECT_EQ(narrow<f16>(std::ldexp(1.5f, -25)).bits, 0x0001);
  EXPECT_EQ(narrow<bf16>(1.0f + 1.0f / 256).bits, 0x3f80);
  EXPECT_EQ(narrow<bf16>(1.0f + 3.0f / 256).bits, 0x3f82);
}

TEST(Choice, AnUnknownInstructionSetIsRefused) {
  EXPECT_EQ(archloom_isa_select("mmx"), 1);
  EXPECT_EQ(archloom_isa_select("auto"), 0);
  EXPECT_NE(std::string(archloom_isa_available()).find(archloom_isa_selected()), std::string::npos);
}

}  // namespace
}  // namespace archloom
