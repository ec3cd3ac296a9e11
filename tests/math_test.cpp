// SPDX-License-Identifier: Apache-2.0
// The functions that elementwise mathematics is written of, for scalars and for the batches of
// every vector architecture this file is compiled for: limits, signed zeros, NaN. How exact they
// are: math_accuracy_test.cpp.
#include <mmrec/math.hpp>

#include <bit>

#include "support/catch.hpp"
#include "support/elementary.hpp"
#include "support/numeric.hpp"

using namespace mmrec;
using namespace mmrec::testing;

// Whatever xsimd calls the widest architecture.
#if defined(__AVX2__) && defined(__FMA__)
static_assert(simd::fuses<default_simd_arch>);
#endif

namespace {

template <class T>
struct special {
  static constexpr T inf = std::numeric_limits<T>::infinity(),
                     nan = std::numeric_limits<T>::quiet_NaN();
};

}  // namespace

TEMPLATE_LIST_TEST_CASE("math: exp", "[components][math]", all_values) {
  using V = TestType;
  using T = math::scalar_t<V>;
  constexpr T inf = special<T>::inf, nan = special<T>::nan;
  const auto f = [](const V& v) { return math::exp(v); };
  const auto y =
      apply<V>(f, std::vector<T>{0, T(-0.0), inf, -inf, nan, 1, -1, 10000, -10000,
                                 std::numeric_limits<T>::max(), std::numeric_limits<T>::lowest(),
                                 std::numeric_limits<T>::denorm_min()});
  CHECK(y[0] == 1);
  CHECK(y[1] == 1);
  CHECK(y[2] == inf);
  CHECK(y[3] == 0);
  CHECK_FALSE(std::signbit(y[3]));
  CHECK(std::isnan(y[4]));
  CHECK(y[7] == inf);
  CHECK(y[8] == 0);
  CHECK(y[9] == inf);
  CHECK(y[10] == 0);
  CHECK(y[11] == 1);
}

TEMPLATE_LIST_TEST_CASE("math: log", "[components][math]", all_values) {
  using V = TestType;
  using T = math::scalar_t<V>;
  constexpr T inf = special<T>::inf, nan = special<T>::nan;
  const auto f = [](const V& v) { return math::log(v); };
  const auto y = apply<V>(
      f, std::vector<T>{1, 0, T(-0.0), inf, -inf, -1, nan, std::numeric_limits<T>::denorm_min()});
  CHECK(y[0] == 0);
  CHECK(y[1] == -inf);
  CHECK(y[2] == -inf);
  CHECK(y[3] == inf);
  CHECK(std::isnan(y[4]));
  CHECK(std::isnan(y[5]));
  CHECK(std::isnan(y[6]));
  CHECK(ulps(y[7], std::log(static_cast<long double>(std::numeric_limits<T>::denorm_min()))) <= 1);
}

TEMPLATE_LIST_TEST_CASE("math: log1p, tanh, erf and normal", "[components][math]", all_values) {
  using V = TestType;
  using T = math::scalar_t<V>;
  constexpr T inf = special<T>::inf, nan = special<T>::nan;
  const std::vector<T> x{0, T(-0.0), inf, -inf, nan, -1, std::numeric_limits<T>::max(), -2};
  const auto log1p = apply<V>([](const V& v) { return math::log1p(v); }, x);
  CHECK(log1p[0] == 0);
  CHECK(log1p[1] == 0);
  CHECK(std::signbit(log1p[1]));
  CHECK(log1p[2] == inf);
  CHECK(std::isnan(log1p[3]));
  CHECK(std::isnan(log1p[4]));
  CHECK(log1p[5] == -inf);
  CHECK(log1p[6] == static_cast<T>(std::log(static_cast<long double>(x[6]))));
  CHECK(std::isnan(log1p[7]));
  // Odd functions: also -0 stays.
  const auto odd = [&](const std::vector<T>& y) {
    CHECK(y[0] == 0);
    CHECK_FALSE(std::signbit(y[0]));
    CHECK(y[1] == 0);
    CHECK(std::signbit(y[1]));
    CHECK(y[2] == 1);
    CHECK(y[3] == -1);
    CHECK(std::isnan(y[4]));
    CHECK(y[6] == 1);
  };
  odd(apply<V>([](const V& v) { return math::tanh(v); }, x));
  odd(apply<V>([](const V& v) { return math::erf(v); }, x));
  const auto phi = apply<V>([](const V& v) { return math::normal(v).value; }, x),
             density = apply<V>([](const V& v) { return math::normal(v).slope; }, x);
  const std::vector<T> limits{T(0.5), T(0.5), 1, 0};
  for (std::size_t i = 0; i < limits.size(); ++i) CHECK(phi[i] == limits[i]);
  CHECK(std::isnan(phi[4]));
  CHECK(phi[6] == 1);
  CHECK(density[0] == T(0.39894228040143267794));
  CHECK(density[2] == 0);
  CHECK(density[3] == 0);
  CHECK(std::isnan(density[4]));
}

TEMPLATE_LIST_TEST_CASE("math: sigmoid", "[components][math]", all_values) {
  using V = TestType;
  using T = math::scalar_t<V>;
  constexpr T inf = special<T>::inf, nan = special<T>::nan;
  const auto f = [](const V& v) { return math::sigmoid(v); };
  const auto y = apply<V>(f, std::vector<T>{0, T(-0.0), inf, -inf, nan, 1000, -1000});
  CHECK(y[0] == T(0.5));
  CHECK(y[1] == T(0.5));
  CHECK(y[2] == 1);
  CHECK(y[3] == 0);
  CHECK(std::isnan(y[4]));
  CHECK(y[5] == 1);
  CHECK(y[6] == 0);
  const auto slope = apply<V>([](const V& v) { return math::sigmoid_and_slope(v).slope; },
                              std::vector<T>{0, inf, -inf, nan, 1000, -1000});
  CHECK(slope[0] == T(0.25));
  for (const std::size_t i : {1u, 2u, 4u, 5u}) CHECK(slope[i] == 0);
  CHECK(std::isnan(slope[3]));
}

TEMPLATE_LIST_TEST_CASE("math: logaddexp", "[components][math]", all_values) {
  using V = TestType;
  using T = math::scalar_t<V>;
  constexpr T inf = special<T>::inf, nan = special<T>::nan;
  const auto f = [](const V& a, const V& b) { return math::logaddexp(a, b); };
  const std::vector<T> x{-inf, -inf, 3,   inf, inf,  -inf,  inf,   nan,
                         1,    nan,  inf, nan, -inf, 10000, -10000};
  const std::vector<T> z{-inf, 3,   -inf, 3,   -inf, inf,   inf,  1,
                         nan,  nan, nan,  inf, nan,  10000, 10000};
  const auto y = apply<V>(f, x, z);
  CHECK(y[0] == -inf);
  CHECK(y[1] == 3);
  CHECK(y[2] == 3);
  for (std::size_t i = 3; i < 7; ++i) CHECK(y[i] == inf);
  for (std::size_t i = 7; i < 13; ++i) CHECK(std::isnan(y[i]));
  CHECK(ulps(y[13], 10000 + std::log(2.0L)) <= 1);
  CHECK(y[14] == 10000);
  const auto a = testing::random_vector<T>(5000, 349, -20, 20),
             b = testing::random_vector<T>(5000, 353, -20, 20);
  const auto r = apply<V>(f, a, b);
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const long double p = a[i], q = b[i];
    const long double exact = std::max(p, q) + std::log1p(std::exp(-std::abs(p - q)));
    // Absolute: 4 u of log1p(exp(gap)) <= log 2, and u of the result and of its larger argument.
    const double bound =
        testing::unit_roundoff<T>() * (4 + 2 * static_cast<double>(std::abs(exact)));
    worst = std::max(worst,
                     static_cast<double>(std::abs(static_cast<long double>(r[i]) - exact)) / bound);
  }
  CHECK(worst <= 1);
}

TEMPLATE_LIST_TEST_CASE("math: exp_difference, the factor of a log-space gradient",
                        "[components][math]", all_values) {
  using V = TestType;
  using T = math::scalar_t<V>;
  constexpr T inf = special<T>::inf, nan = special<T>::nan;
  const auto f = [](const V& a, const V& b) { return math::exp_difference(a, b); };
  const auto y = apply<V>(f, std::vector<T>{-inf, -inf, 2, 1, -inf, nan, 1, inf, 3},
                          std::vector<T>{-inf, 5, 2, inf, inf, 1, nan, inf, -inf});
  CHECK(y[0] == 0);
  CHECK(y[1] == 0);
  CHECK(y[2] == 1);
  CHECK(y[3] == 0);
  CHECK(y[4] == 0);
  CHECK(std::isnan(y[5]));
  CHECK(std::isnan(y[6]));
  CHECK(std::isnan(y[7]));  // inf - inf, as IEEE arithmetic has it
  CHECK(y[8] == 0);
}

TEMPLATE_LIST_TEST_CASE("math: maximum", "[components][math]", all_values) {
  using V = TestType;
  using T = math::scalar_t<V>;
  constexpr T inf = special<T>::inf, nan = special<T>::nan;
  const auto f = [](const V& a, const V& b) { return math::maximum(a, b); };
  const auto y = apply<V>(f, std::vector<T>{1, 2, -inf, inf, -inf, nan, 1, nan, 0, inf, -inf},
                          std::vector<T>{2, 1, -inf, -inf, 3, 1, nan, nan, T(-0.0), nan, nan});
  CHECK(y[0] == 2);
  CHECK(y[1] == 2);
  CHECK(y[2] == -inf);
  CHECK(y[3] == inf);
  CHECK(y[4] == 3);
  for (const std::size_t i : {5u, 6u, 7u, 9u, 10u}) CHECK(std::isnan(y[i]));
  CHECK(y[8] == 0);
}

TEMPLATE_LIST_TEST_CASE("math: select, constants and multiply_add", "[components][math]",
                        all_values) {
  using V = TestType;
  using T = math::scalar_t<V>;
  const auto y = apply<V>([](const V& a, const V& b) { return math::select(a < b, a, b); },
                          std::vector<T>{1, 5, 3}, std::vector<T>{2, 4, 3});
  CHECK(y == std::vector<T>{1, 4, 3});
  const auto c = apply<V>(
      [](const V& a) {
        return math::multiply_add(a, math::constant<V>(3), math::constant<V>(0.5));
      },
      std::vector<T>{2, -1, 0});
  CHECK(c == std::vector<T>{T(6.5), T(-2.5), T(0.5)});
  CHECK(apply<V>([](const V& a) { return a + math::infinity<V>(); }, std::vector<T>{1})[0] ==
        special<T>::inf);
  CHECK(apply<V>([](const V& a) { return math::abs(a); }, std::vector<T>{-2, T(-0.0), 3}) ==
        std::vector<T>{2, 0, 3});
  CHECK(apply<V>([](const V& a) { return math::sqrt(a); }, std::vector<T>{4, 0, T(0.25)}) ==
        std::vector<T>{2, 0, T(0.5)});
}
