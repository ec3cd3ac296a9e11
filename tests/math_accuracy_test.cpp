// SPDX-License-Identifier: Apache-2.0
// Elementary functions and activations against long double over their whole range: all exponents,
// both signs, denormal arguments and results, infinities, NaN, and densely around every place where
// a kernel changes its way. The bounds are those that simd/exp.hpp, log.hpp and normal.hpp state.
#include <mmrec/activation.hpp>

#include <bit>
#include <cstdint>
#include <initializer_list>

#include "support/catch.hpp"
#include "support/elementary.hpp"

using namespace mmrec;
using namespace mmrec::testing;

namespace {

template <class T>
using bits_of = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;

/// Bit patterns all over T in equal steps, where functions change, and 40 numbers on either side of
/// each place (and of its negative) where a kernel does.
template <class T>
std::vector<T> whole_range() {
  using U = bits_of<T>;
  std::vector<T> x;
  constexpr int patterns = 1 << 15;
  for (U i = 0; i < patterns; ++i) x.push_back(std::bit_cast<T>(i * (U(-1) / patterns | 1)));
  for (const double end : {0.01, 1.0, 4.0, 20.0, sizeof(T) == 4 ? 110.0 : 750.0})
    for (int i = -3000; i <= 3000; ++i) x.push_back(static_cast<T>(end * i / 3000.3));
  std::vector<double> places{
      0, static_cast<double>(std::numeric_limits<T>::min()),
      // log: where the exponent changes; log1p: also below -1/4 and at -1
      0.25, 0.41421356237309505, 0.5, 0.70710678118654752, 0.75, 1, 1.4142135623730950, 1.5, 2, 3,
      // erf, tanh, the tail
      0.9, 10, 20, 14.5, 39, 5.9, 8.3,
      // exp and sigmoid: overflow, denormal results, zero
      87, 87.336544750553109, 88.722839052068353, 89, 103.97207708399179, 105, 708,
      708.39641853226411, 709.78271289338400, 710, 745.13321910194122, 746};
  for (int k = 1; k < 8; ++k) places.push_back((k - 0.5) * 0.69314718055994531);  // n of exp
  for (const double place : places)
    for (const T sign : {T(1), T(-1)}) {
      const auto at = std::bit_cast<U>(static_cast<T>(place) * sign);
      for (U i = 0; i <= 80; ++i) x.push_back(std::bit_cast<T>(at + i - 40));
    }
  constexpr T inf = std::numeric_limits<T>::infinity();
  x.insert(x.end(), {inf, -inf, std::numeric_limits<T>::quiet_NaN(), T(-0.0)});
  return x;
}

/// |f - exact| may be `ulps` units in the last place of the exact result.
struct bound {
  double fused, unfused;   // where a multiply-add rounds once and where it does not
  double of_argument = 0;  // more, times the argument's square: what the standard's erfc allows us
  /// Absolute error, times the argument's size, in the smallest denormal number: products with a
  /// factor that is denormal earlier than they are.
  double denormals = 0;
};

template <class V>
bool multiply_add_fuses() {
  using T = math::scalar_t<V>;
  constexpr T e = std::numeric_limits<T>::epsilon();
  const auto rest =
      apply<V>([](const V& v) { return math::multiply_add(v, v, -v - v + math::constant<V>(1)); },
               std::vector<T>{1 + e});
  return rest[0] == e * e;
}

/// The largest error in units of what is allowed.
template <class V, class F, class Exact>
double worst(const F& f, const Exact& exact, const bound& allowed,
             const std::vector<math::scalar_t<V>>& x = whole_range<math::scalar_t<V>>()) {
  using T = math::scalar_t<V>;
  const auto y = apply<V>(f, x);
  const double units = multiply_add_fuses<V>() ? allowed.fused : allowed.unfused;
  double largest = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const auto v = static_cast<long double>(x[i]);
    const long double expected = exact(v),
                      error = std::abs(static_cast<long double>(y[i]) - expected);
    const long double slack = allowed.denormals * std::abs(v) *
                              static_cast<long double>(std::numeric_limits<T>::denorm_min());
    if (error <= slack) continue;
    const double square = allowed.of_argument * static_cast<double>(x[i] * x[i]);
    const double beyond = slack > 0 ? static_cast<double>((error - slack) / error) : 1;
    largest = std::max(largest, beyond * ulps(y[i], expected) / (units + square));
  }
  return largest;
}

/// Scalars are the standard library's: its erfc is taken of an argument that was rounded twice, and
/// magnifies that by its square.
template <class V>
constexpr double standard = std::is_floating_point_v<V> ? 2 : 0;

// The argument's rounding enters erfc and exp with its square: corrected, or the "exact" values of
// doubles would be half an ulp off themselves.
long double exact_normal(long double x) {
  const long double high = std::sqrt(0.5L), low = std::fma(-high, high, 0.5L) / (2 * high);
  const long double t = -x * high, rest = std::fma(-x, high, -t) - x * low;
  const long double slope = -2 / std::sqrt(std::acos(-1.0L)) * std::exp(-t * t);
  return (std::erfc(t) + (std::isfinite(t) && slope != 0 ? slope * rest : 0)) / 2;
}
long double exact_density(long double x) {
  const long double square = x * x, rest = std::isfinite(square) ? std::fma(x, x, -square) : 0;
  return std::exp(-square / 2) * (1 - rest / 2) / std::sqrt(2 * std::acos(-1.0L));
}
long double exact_sigmoid(long double x) { return 1 / (1 + std::exp(-x)); }
long double exact_sigmoid_slope(long double x) {
  const long double e = std::exp(-std::abs(x));
  return e / ((1 + e) * (1 + e));
}

/// The largest error of a derivative a + u b, in units of epsilon (|a| + |u b|): it has zeros.
template <class V, class Activation, class A, class B>
double worst_derivative(const A& a, const B& b) {
  using T = math::scalar_t<V>;
  auto x = whole_range<T>();
  std::erase_if(x, [](T v) { return !(std::abs(v) < std::sqrt(std::numeric_limits<T>::max())); });
  const auto y = apply<V>([](const V& u) { return Activation::derivative(u); }, x);
  double largest = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const auto u = static_cast<long double>(x[i]);
    const long double first = a(u), second = u * b(u);
    const long double unit =
        std::numeric_limits<T>::epsilon() * (std::abs(first) + std::abs(second)) +
        (1 + std::abs(u)) * static_cast<long double>(std::numeric_limits<T>::denorm_min());
    const long double error = std::abs(static_cast<long double>(y[i]) - (first + second));
    const auto square = standard<V> * static_cast<double>(u * u);
    largest = std::max(largest, static_cast<double>(error / unit) / (1 + square / 8));
    if (std::isnan(y[i])) return 1e300;
  }
  return largest;
}

}  // namespace

TEMPLATE_LIST_TEST_CASE("math accuracy: exp and exp_minus", "[components][math]", all_values) {
  using V = TestType;
  using T = math::scalar_t<V>;
  CHECK(worst<V>([](const V& v) { return math::exp(v); }, [](long double v) { return std::exp(v); },
                 {1, 1.25}) <= 1);
  auto x = whole_range<T>();
  const T normal = sizeof(T) == 4 ? T(87) : T(708);
  std::erase_if(x, [&](T v) { return !(v >= 0 && v <= normal); });
  CHECK(worst<V>([](const V& v) { return math::exp_minus(v); },
                 [](long double v) { return std::exp(-v); }, {1, 1.25}, x) <= 1);
}

TEMPLATE_LIST_TEST_CASE("math accuracy: log, log_from_one and log1p", "[components][math]",
                        all_values) {
  using V = TestType;
  CHECK(worst<V>([](const V& v) { return math::log(v); }, [](long double v) { return std::log(v); },
                 {1.05, 1.25}) <= 1);
  auto x = whole_range<math::scalar_t<V>>();
  std::erase_if(x, [](auto v) { return v < 1 || std::isinf(v); });  // NaN stays
  CHECK(worst<V>([](const V& v) { return math::log_from_one(v); },
                 [](long double v) { return std::log(v); }, {1.05, 1.25}, x) <= 1);
  CHECK(worst<V>([](const V& v) { return math::log1p(v); },
                 [](long double v) { return std::log1p(v); }, {1.6, 1.6}) <= 1);
}

TEMPLATE_LIST_TEST_CASE("math accuracy: tanh and erf", "[components][math]", all_values) {
  using V = TestType;
  CHECK(worst<V>([](const V& v) { return math::tanh(v); },
                 [](long double v) { return std::tanh(v); }, {5.2, 5.8}) <= 1);
  CHECK(worst<V>([](const V& v) { return math::erf(v); }, [](long double v) { return std::erf(v); },
                 {1.7, 1.8}) <= 1);
}

TEMPLATE_LIST_TEST_CASE("math accuracy: sigmoid, silu and their slopes", "[components][math]",
                        all_values) {
  using V = TestType;
  CHECK(worst<V>([](const V& v) { return math::sigmoid(v); }, exact_sigmoid, {2.6, 2.8}) <= 1);
  CHECK(worst<V>([](const V& v) { return math::sigmoid_and_slope(v).slope; }, exact_sigmoid_slope,
                 {5, 5.2}) <= 1);
  CHECK(worst<V>([](const V& v) { return activation::silu::forward(v); },
                 [](long double v) { return v * exact_sigmoid(v); }, {3.4, 3.6, 0, 1}) <= 1);
  CHECK(worst_derivative<V, activation::silu>(exact_sigmoid, exact_sigmoid_slope) <= 4);
}

TEMPLATE_LIST_TEST_CASE("math accuracy: the normal distribution, gelu and their slopes",
                        "[components][math]", all_values) {
  using V = TestType;
  CHECK(worst<V>([](const V& v) { return math::normal(v).value; }, exact_normal,
                 {6, 6.5, standard<V>}) <= 1);
  CHECK(worst<V>([](const V& v) { return math::normal(v).slope; }, exact_density,
                 {2.6, 2.8, standard<V>}) <= 1);
  CHECK(worst<V>([](const V& v) { return activation::gelu::forward(v); },
                 [](long double v) { return v * exact_normal(v); }, {6.5, 7, standard<V>, 1}) <= 1);
  CHECK(worst_derivative<V, activation::gelu>(exact_normal, exact_density) <= 5);
}
