// SPDX-License-Identifier: Apache-2.0
// Linear once more in double, with the bound of every element of every result: problems, their
// activations with error bounds, and what the library's results are judged by.
#pragma once

#include <mmrec/linear.hpp>

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <limits>
#include <string_view>
#include <vector>

#include "numeric.hpp"

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

// ---- Problems and results -----------------------------------------------------------------------

struct linear_shape {
  index_t rows, inputs, outputs;
};

struct linear_problem {
  linear_shape shape{};
  std::vector<double> x, w, bias, dy;  // bias may be absent
  struct dropout dropout{};
  double before = 0;  // what gradients are added to; 0: they are overwritten
};

/// Which results are asked for.
struct linear_request {
  bool u = true, dx = true, dw = true, dbias = true;
  bool operator==(const linear_request&) const = default;
};

struct linear_result {
  std::vector<double> y, u, dx, dw, dbias, saved;
  linear_request asked{};
  bool intact = true;  // all that was not asked for, too
  bool operator==(const linear_result&) const = default;
};

// ---- The judge ----------------------------------------------------------------------------------

/// Sums of products with the sums of what their errors multiply; see worst_linear_error.
struct sum_with_error {
  double value = 0, size = 0, error = 0;
  void add(double a, double a_error, double b) {
    value += a * b;
    size += std::abs(a * b);
    error += a_error * std::abs(b);
  }
};

/// What the judge has to know of an activation and an element type.
struct linear_bounds {
  double (*activation)(double);
  double (*derivative)(double);
  bool saves_output, exact_du;  // du is dy or 0
  double steepest, activation_error;
  double u, stored, floor;  // unit roundoffs of sums and of storage, 0 where it rounds no more
};
template <class A, class T>
linear_bounds bounds_of() {
  using Acc = accumulator_t<T>;
  constexpr bool zero_or_one =
      std::same_as<A, activation::identity> || std::same_as<A, activation::relu>;
  return {exact_activation<A>,
          exact_derivative<A>,
          A::saves_output,
          zero_or_one,
          steepest<A>(),
          activation_error<A, Acc>(),
          unit_roundoff<Acc>(),
          sizeof(T) < sizeof(Acc) ? unit_roundoff<T>() : 0,
          static_cast<double>(std::numeric_limits<T>::denorm_min())};
}

/// Largest |result - exact| of all results asked for, in units of what rounding explains: at most 1
/// is right.
///
/// A sum of n products is off by g(n + 2) sum|terms| (two more for bias, the value added to, a
/// reduction's last steps); act(u) by steepest times u's error and its own (activation_error), du
/// by twice that times |dy factor|; and one rounding to T is paid where T is narrower. At most
/// `most` elements of each result are looked at, evenly spread. With `rounded_du` the terms of dx
/// and dw carry one more rounding to T.
inline double worst_linear_error(const linear_bounds& is, const linear_problem& p,
                                 const linear_result& r, std::size_t most = 20000,
                                 bool rounded_du = false) {
  const double u = is.u, stored = is.stored, floor = is.floor;
  const auto [rows, inputs, outputs] = p.shape;
  double worst = 0;
  const auto judge = [&](double actual, double exact, double error) {
    const double d = distance(actual, exact);
    if (d != 0) worst = std::max(worst, d / (error + stored * (std::abs(exact) + error) + floor));
  };
  const auto sampled = [&](bool asked, index_t first, index_t second, const auto& f) {
    if (!asked) return;
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

  sampled(true, rows, outputs, [&](std::size_t at, index_t i, index_t o) {
    sum_with_error s;
    for (index_t k = 0; k < inputs; ++k) s.add(in(i, k), 0, weight(o, k));
    if (!p.bias.empty()) s.add(p.bias[static_cast<std::size_t>(o)], 0, 1);
    const double error = rounding_growth(static_cast<double>(inputs) + 2, u) * s.size;
    if (r.asked.u) judge(r.u[at], s.value, error);
    const double scale = factor(at);
    judge(r.y[at], scale == 0 ? 0 : scale * is.activation(s.value),
          scale * (is.steepest * error + is.activation_error * u * (1 + std::abs(s.value))));
  });

  if (!r.asked.dx && !r.asked.dw && !r.asked.dbias) return worst;
  const double keep = 1 - p.dropout.rate;
  struct value_error {
    double value, error;
  };
  std::vector<value_error> du(static_cast<std::size_t>(rows * outputs));
  for (std::size_t i = 0; i < du.size(); ++i) {
    const double saved = is.saves_output ? r.saved[i] * keep : r.saved[i], g = p.dy[i] * factor(i);
    du[i] = {g == 0 ? 0 : g * is.derivative(saved),
             2 * is.activation_error * u * std::abs(g) * (1 + std::abs(saved))};
  }
  const auto product_error = [&](const value_error& d) {
    const bool exact = !rounded_du || stored == 0 || (is.exact_du && !p.dropout.active());
    return exact ? d.error : d.error + stored * (std::abs(d.value) + d.error) + floor;
  };
  const auto judge_sum = [&](double actual, const sum_with_error& s, index_t length) {
    const double growth = rounding_growth(static_cast<double>(length) + 2, u);
    judge(actual, p.before + s.value,
          growth * (s.size + std::abs(p.before)) + s.error * (1 + growth));
  };
  sampled(r.asked.dx, rows, inputs, [&](std::size_t at, index_t i, index_t k) {
    sum_with_error s;
    for (index_t o = 0; o < outputs; ++o) {
      const auto& d = du[static_cast<std::size_t>(i * outputs + o)];
      s.add(d.value, product_error(d), weight(o, k));
    }
    judge_sum(r.dx[at], s, outputs);
  });
  sampled(r.asked.dw, outputs, inputs, [&](std::size_t at, index_t o, index_t k) {
    sum_with_error s;
    for (index_t i = 0; i < rows; ++i) {
      const auto& d = du[static_cast<std::size_t>(i * outputs + o)];
      s.add(d.value, product_error(d), in(i, k));
    }
    judge_sum(r.dw[at], s, rows);
  });
  for (index_t o = 0; r.asked.dbias && o < outputs; ++o) {
    sum_with_error s;
    for (index_t i = 0; i < rows; ++i) {
      const auto& d = du[static_cast<std::size_t>(i * outputs + o)];
      s.add(d.value, d.error, 1);
    }
    judge_sum(r.dbias[static_cast<std::size_t>(o)], s, rows);
  }
  return worst;
}

template <class A, class T>
double worst_linear_error(const linear_problem& p, const linear_result& r, std::size_t most = 20000,
                          bool rounded_du = false) {
  return worst_linear_error(bounds_of<A, T>(), p, r, most, rounded_du);
}

}  // namespace mmrec::testing
