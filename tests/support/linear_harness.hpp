// SPDX-License-Identifier: Apache-2.0
// What the tests of linear share: its activations in double with their error bounds, problems with
// random values, runs in any layout, and the bound of every element of every result.
#pragma once

#include <mmrec/linear.hpp>

#include <Eigen/Core>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string_view>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "numeric.hpp"
#include "on_both_backends.hpp"
#include "strided_buffer.hpp"

namespace mmrec::testing {

// ---- Activations, written again -----------------------------------------------------------------

template <class A>
constexpr std::string_view activation_name() {
  if constexpr (std::same_as<A, activation::identity>)
    return "identity";
  else if constexpr (std::same_as<A, activation::relu>)
    return "relu";
  else if constexpr (std::same_as<A, activation::gelu>)
    return "gelu";
  else if constexpr (std::same_as<A, activation::silu>)
    return "silu";
  else if constexpr (std::same_as<A, activation::sigmoid>)
    return "sigmoid";
  else
    return "tanh";
}

/// f.operator()<Activation>() for all six.
template <class F>
void for_each_activation(const F& f) {
  f.template operator()<activation::identity>();
  f.template operator()<activation::relu>();
  f.template operator()<activation::gelu>();
  f.template operator()<activation::silu>();
  f.template operator()<activation::sigmoid>();
  f.template operator()<activation::tanh>();
}

template <class A>
double exact_activation(double u) {
  if constexpr (std::same_as<A, activation::identity>)
    return u;
  else if constexpr (std::same_as<A, activation::relu>)
    return u <= 0 ? 0 : u;
  else if constexpr (std::same_as<A, activation::gelu>)
    return 0.5 * u * std::erfc(-u / std::sqrt(2.0));
  else if constexpr (std::same_as<A, activation::silu>)
    return u / (1 + std::exp(-u));
  else if constexpr (std::same_as<A, activation::sigmoid>)
    return 1 / (1 + std::exp(-u));
  else
    return std::tanh(u);
}

/// d act / du from what is saved: u itself or the output without dropout's scale.
template <class A>
double exact_derivative(double saved) {
  if constexpr (std::same_as<A, activation::identity>)
    return 1;
  else if constexpr (std::same_as<A, activation::relu>)
    return saved > 0 ? 1 : 0;
  else if constexpr (std::same_as<A, activation::gelu>)
    return 0.5 * std::erfc(-saved / std::sqrt(2.0)) +
           saved * std::exp(-0.5 * saved * saved) / std::sqrt(2 * 3.14159265358979323846);
  else if constexpr (std::same_as<A, activation::silu>) {
    const double s = 1 / (1 + std::exp(-saved));
    return s + saved * s * (1 - s);
  } else if constexpr (std::same_as<A, activation::sigmoid>)
    return saved * (1 - saved);
  else
    return 1 - saved * saved;
}

/// The largest slope, by which an error of u grows.
template <class A>
constexpr double steepest() {
  return std::same_as<A, activation::gelu> || std::same_as<A, activation::silu> ? 1.13 : 1;
}

/// How far act(u) computed in Acc may be off, in units of u (1 + |u|): erf, exp and tanh are within
/// 3 ulp, but for xsimd's erf in double, which is off by up to 68 u near 2.2.
template <class A, class Acc>
constexpr double activation_error() {
  return std::same_as<A, activation::gelu> && std::same_as<Acc, double> ? 40 : 8;
}

// ---- Arrays -------------------------------------------------------------------------------------

/// A matrix in one of strided_buffer's layouts; batch_last gives both axes a stride of their own.
template <class T>
class matrix {
 public:
  matrix(index_t rows, index_t columns, layout kind)
      : count_(static_cast<std::size_t>(rows * columns)),
        batches_(kind == layout::batch_last ? 2 : 1),
        buffer_({batches_, rows, columns}, kind) {}
  matrix(index_t rows, index_t columns, layout kind, const std::vector<double>& values)
      : matrix(rows, columns, kind) {
    assign(values);
  }

  mmrec::view<T, 2> view() { return buffer_.view().select(0, 0); }
  mmrec::view<const T, 2> view() const { return buffer_.view().select(0, 0); }
  void assign(const std::vector<double>& values) {
    auto all = buffer_.values();
    for (std::size_t i = 0; i < values.size(); ++i)
      all[i] = static_cast<T>(static_cast<accumulator_t<T>>(values[i]));
    buffer_.assign(all);
  }
  std::vector<double> values() const {
    const auto all = buffer_.values();
    std::vector<double> result(count_);
    for (std::size_t i = 0; i < count_; ++i) result[i] = static_cast<double>(all[i]);
    return result;
  }
  /// Nothing but its own elements was written.
  bool intact() const {
    const auto all = buffer_.values();
    for (std::size_t i = count_; i < all.size(); ++i)
      if (!std::isnan(static_cast<double>(all[i]))) return false;
    return buffer_.canaries_intact();
  }

 private:
  std::size_t count_;
  index_t batches_;
  strided_buffer<T> buffer_;
};

/// Random values that T holds exactly.
template <class T>
std::vector<double> storable(index_t size, std::uint64_t seed, double low = -1, double high = 1) {
  std::vector<double> result;
  for (const T v : random_vector<T>(size, seed, low, high))
    result.push_back(static_cast<double>(v));
  return result;
}

// ---- Problems and runs --------------------------------------------------------------------------

struct linear_shape {
  index_t rows, inputs, outputs;
};

struct linear_problem {
  linear_shape shape{};
  std::vector<double> x, w, bias, dy;  // bias may be absent
  struct dropout dropout{};
  double before = 0;  // what gradients are added to; 0: they are overwritten
};

template <class T>
linear_problem random_linear(const linear_shape& s, bool biased, double rate, double before,
                             std::uint64_t seed) {
  linear_problem p{s, {}, {}, {}, {}, {rate, seed, 3}, before};
  p.x = storable<T>(s.rows * s.inputs, 4 * seed);
  // Pre-activations of order 1 at any length, where activations bend.
  const double spread = 3 / std::sqrt(static_cast<double>(std::max<index_t>(1, s.inputs)));
  p.w = storable<T>(s.outputs * s.inputs, 4 * seed + 1, -spread, spread);
  if (biased) p.bias = storable<T>(s.outputs, 4 * seed + 2);
  p.dy = storable<T>(s.rows * s.outputs, 4 * seed + 3);
  return p;
}

struct linear_layouts {
  layout x = layout::channel_last, w = layout::channel_last, y = layout::channel_last,
         gradients = layout::channel_last;
};

struct linear_result {
  std::vector<double> y, u, dx, dw, dbias, saved;
  bool intact = true;
  bool operator==(const linear_result&) const = default;
};

/// Forward, then backward from what it saved.
template <class A, class T, class Backend>
linear_result run_linear(const Backend& backend, const linear_problem& p,
                         const linear_layouts& kinds = {}) {
  const auto [rows, inputs, outputs] = p.shape;
  const matrix<T> x(rows, inputs, kinds.x, p.x), w(outputs, inputs, kinds.w, p.w),
      dy(rows, outputs, kinds.y, p.dy);
  matrix<T> bias(1, outputs, kinds.gradients), y(rows, outputs, kinds.y),
      u(rows, outputs, kinds.gradients);
  matrix<T> dx(rows, inputs, kinds.gradients), dw(outputs, inputs, kinds.gradients),
      dbias(1, outputs, kinds.w);
  linear_options<T> options{.preactivation = u.view(), .dropout = p.dropout};
  if (!p.bias.empty()) {
    bias.assign(p.bias);
    options.bias = bias.view().select(0, 0);
  }
  linear<A>(backend, x.view(), w.view(), y.view(), options);

  const bool accumulate = p.before != 0;
  if (accumulate)
    for (auto* m : {&dx, &dw, &dbias}) m->assign(std::vector<double>(m->values().size(), p.before));
  linear_backward<A>(backend, dy.view(), x.view(), w.view(),
                     {.saved = A::saves_output ? y.view() : u.view(),
                      .dx = dx.view(),
                      .dw = dw.view(),
                      .dbias = dbias.view().select(0, 0),
                      .accumulate_dx = accumulate,
                      .accumulate_parameters = accumulate,
                      .dropout = p.dropout});
  linear_result r{y.values(), u.values(), dx.values(), dw.values(), dbias.values(), {}, true};
  r.saved = A::saves_output ? r.y : r.u;
  for (const auto* m : {&bias, &y, &u, &dx, &dw, &dbias}) r.intact = r.intact && m->intact();
  return r;
}

// ---- The judge ----------------------------------------------------------------------------------

/// The GPU's products sum in an order of their own, and those of 16-bit elements take du rounded to
/// the element's type.
template <class Backend>
inline constexpr bool sums_in_order = true;
template <class Backend>
inline constexpr bool rounds_du = false;
#if defined(__CUDACC__)
template <>
inline constexpr bool sums_in_order<device> = false;
template <>
inline constexpr bool rounds_du<device> = true;
#endif

/// Sums of products with the sums of what their errors multiply; see worst_linear_error.
struct sum_with_error {
  double value = 0, size = 0, error = 0;
  void add(double a, double a_error, double b) {
    value += a * b;
    size += std::abs(a * b);
    error += a_error * std::abs(b);
  }
};

/// Largest |result - exact| of all results, in units of what rounding explains: at most 1 is right.
///
/// A sum of n products is off by g(n + 2) sum|terms| (two more for bias, the value added to, a
/// reduction's last steps); act(u) by steepest times u's error and its own (activation_error), du
/// by twice that times |dy factor|; and one rounding to T is paid where T is narrower. At most
/// `most` elements of each result are looked at, evenly spread. With `rounded_du` the terms of dx
/// and dw carry one more rounding to T.
template <class A, class T>
double worst_linear_error(const linear_problem& p, const linear_result& r, std::size_t most = 20000,
                          bool rounded_du = false) {
  using Acc = accumulator_t<T>;
  constexpr bool narrow = sizeof(T) < sizeof(Acc);
  const double u = unit_roundoff<Acc>(), stored = narrow ? unit_roundoff<T>() : 0;
  const double floor = static_cast<double>(std::numeric_limits<T>::denorm_min());
  const auto [rows, inputs, outputs] = p.shape;
  double worst = 0;
  const auto judge = [&](double actual, double exact, double error) {
    const double d = distance(actual, exact);
    if (d != 0) worst = std::max(worst, d / (error + stored * (std::abs(exact) + error) + floor));
  };
  const auto sampled = [&](index_t first, index_t second, const auto& f) {
    const auto count = static_cast<std::size_t>(first * second);
    // An odd step visits every row and column modulo powers of two.
    const std::size_t step = count / most == 0 ? 1 : (count / most) | 1U;
    for (std::size_t i = 0; i < count; i += step)
      f(i, static_cast<index_t>(i) / second, static_cast<index_t>(i) % second);
    if (count != 0) f(count - 1, first - 1, second - 1);
  };
  const auto in = [&](index_t i, index_t k) {
    return p.x[static_cast<std::size_t>(i * inputs + k)];
  };
  const auto weight = [&](index_t o, index_t k) {
    return p.w[static_cast<std::size_t>(o * inputs + k)];
  };
  const auto factor = [&](std::size_t i) {
    return p.dropout.active() ? p.dropout.factor(static_cast<index_t>(i)) : 1.0;
  };

  sampled(rows, outputs, [&](std::size_t at, index_t i, index_t o) {
    sum_with_error s;
    for (index_t k = 0; k < inputs; ++k) s.add(in(i, k), 0, weight(o, k));
    if (!p.bias.empty()) s.add(p.bias[static_cast<std::size_t>(o)], 0, 1);
    const double error = rounding_growth(static_cast<double>(inputs) + 2, u) * s.size;
    judge(r.u[at], s.value, error);
    const double scale = factor(at);
    judge(
        r.y[at], scale == 0 ? 0 : scale * exact_activation<A>(s.value),
        scale * (steepest<A>() * error + activation_error<A, Acc>() * u * (1 + std::abs(s.value))));
  });

  const double keep = 1 - p.dropout.rate;
  struct value_error {
    double value, error;
  };
  std::vector<value_error> du(static_cast<std::size_t>(rows * outputs));
  for (std::size_t i = 0; i < du.size(); ++i) {
    const double saved = A::saves_output ? r.saved[i] * keep : r.saved[i], g = p.dy[i] * factor(i);
    du[i] = {g == 0 ? 0 : g * exact_derivative<A>(saved),
             2 * activation_error<A, Acc>() * u * std::abs(g) * (1 + std::abs(saved))};
  }
  const auto product_error = [&](const value_error& d) {
    const bool exact =
        !narrow || !rounded_du ||
        ((std::same_as<A, activation::identity> || std::same_as<A, activation::relu>) &&
         !p.dropout.active());
    return exact ? d.error : d.error + stored * (std::abs(d.value) + d.error) + floor;
  };
  const auto judge_sum = [&](double actual, const sum_with_error& s, index_t length) {
    const double growth = rounding_growth(static_cast<double>(length) + 2, u);
    judge(actual, p.before + s.value,
          growth * (s.size + std::abs(p.before)) + s.error * (1 + growth));
  };
  sampled(rows, inputs, [&](std::size_t at, index_t i, index_t k) {
    sum_with_error s;
    for (index_t o = 0; o < outputs; ++o) {
      const auto& d = du[static_cast<std::size_t>(i * outputs + o)];
      s.add(d.value, product_error(d), weight(o, k));
    }
    judge_sum(r.dx[at], s, outputs);
  });
  sampled(outputs, inputs, [&](std::size_t at, index_t o, index_t k) {
    sum_with_error s;
    for (index_t i = 0; i < rows; ++i) {
      const auto& d = du[static_cast<std::size_t>(i * outputs + o)];
      s.add(d.value, product_error(d), in(i, k));
    }
    judge_sum(r.dw[at], s, rows);
  });
  for (index_t o = 0; o < outputs; ++o) {
    sum_with_error s;
    for (index_t i = 0; i < rows; ++i) {
      const auto& d = du[static_cast<std::size_t>(i * outputs + o)];
      s.add(d.value, d.error, 1);
    }
    judge_sum(r.dbias[static_cast<std::size_t>(o)], s, rows);
  }
  return worst;
}

template <class A, class T, class Backend>
void check_linear(const char* name, const Backend& backend, const linear_problem& p,
                  const linear_layouts& kinds = {}, std::size_t most = 20000) {
  CAPTURE(name, activation_name<A>(), p.shape.rows, p.shape.inputs, p.shape.outputs, p.bias.empty(),
          p.dropout.rate, p.before, to_string(kinds.x), to_string(kinds.w), to_string(kinds.y),
          to_string(kinds.gradients));
  const auto r = run_linear<A, T>(backend, p, kinds);
  CHECK(r.intact);
  CHECK(worst_linear_error<A, T>(p, r, most, rounds_du<Backend>) <= 1);
}

}  // namespace mmrec::testing
