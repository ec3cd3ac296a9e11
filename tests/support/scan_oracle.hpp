// SPDX-License-Identifier: Apache-2.0
// The scans once more, from their formulas, in long double on dense arrays: what the library's
// results are compared with. Nothing here shares code with the library.
//
// Beside each value stands what rounding may have cost it, in units of u, found by running error
// analysis (Higham, Accuracy and Stability of Numerical Algorithms, section 3.3): a rounded result
// v adds |v|, a factor that is off by r u adds r |v|, and errors so far pass through the
// derivatives of the step. exp and log are taken to be within 2 ulp (4 u). This is the order in
// which the library's kernels compute; it does not count on fused multiply-adds.
//
// Kernels that cut time into pieces add the same terms in another order, and what cancels on the
// way may cancel elsewhere: for them the same analysis is done with the sizes that values have when
// all terms are of one sign (`any_order`).
#pragma once

#include <mmrec/scan.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string_view>
#include <vector>

#include "numeric.hpp"

namespace mmrec::testing {

enum class scan_op {
  cumsum,
  cumprod,
  log_cumprod,
  logcumsumexp,
  linear_scan,
  linear_scan_logs,
  log_linear_scan
};

inline constexpr std::array all_scan_ops{
    scan_op::cumsum,      scan_op::cumprod,          scan_op::log_cumprod,    scan_op::logcumsumexp,
    scan_op::linear_scan, scan_op::linear_scan_logs, scan_op::log_linear_scan};

inline std::string_view to_string(scan_op op) {
  constexpr std::array<std::string_view, all_scan_ops.size()> names{
      "cumsum",      "cumprod",          "log_cumprod",    "logcumsumexp",
      "linear_scan", "linear_scan_logs", "log_linear_scan"};
  return names[static_cast<std::size_t>(op)];
}

inline bool has_two_inputs(scan_op op) { return op >= scan_op::linear_scan; }
inline bool is_logspace(scan_op op) {
  return op == scan_op::logcumsumexp || op == scan_op::log_linear_scan;
}
inline double scan_identity(scan_op op) {
  if (is_logspace(op)) return -std::numeric_limits<double>::infinity();
  return op == scan_op::cumprod ? 1 : 0;
}

using real = long double;

inline real exact_logaddexp(real x, real y) {
  const real larger = std::max(x, y), smaller = std::min(x, y);
  if (std::isnan(x) || std::isnan(y)) return std::numeric_limits<real>::quiet_NaN();
  return std::isinf(larger) ? larger : larger + std::log1p(std::exp(smaller - larger));
}

inline real exact_log(real x, const log_domain& domain) {
  const real l = std::log(x + static_cast<real>(domain.epsilon));
  return std::isnan(l) ? l : std::clamp<real>(l, domain.lower, domain.upper);
}

// The state after one step.
inline real exact_step(scan_op op, real state, real a, real b, const log_domain& domain) {
  switch (op) {
    case scan_op::cumsum:
      return state + a;
    case scan_op::cumprod:
      return state * a;
    case scan_op::log_cumprod:
      return state + exact_log(a, domain);
    case scan_op::logcumsumexp:
      return exact_logaddexp(state, a);
    case scan_op::linear_scan:
      return a * state + b;
    case scan_op::linear_scan_logs:
      return std::exp(a) * state + b;
    case scan_op::log_linear_scan:
      return exact_logaddexp(a + state, b);
  }
  return 0;
}

// Inputs and options of one scan; arrays are row-major (batch, time, channel) and (sequence,
// channel).
struct scan_problem {
  scan_op op = scan_op::cumsum;
  std::int64_t batch = 1, time = 1, channels = 1;
  bool exclusive = false;
  std::vector<double> a, b;     // b for the operators of two inputs
  std::vector<double> initial;  // empty: absent
  std::vector<index_t> offsets;
  log_domain domain{};
  std::int64_t chunk = 0;  // not 0: time is cut into calls of so many steps, which hand on a state

  std::array<index_t, 3> shape() const { return {batch, time, channels}; }
  std::int64_t sequences() const {
    return offsets.empty() ? batch : static_cast<std::int64_t>(offsets.size()) - 1;
  }
  std::size_t at(std::int64_t n, std::int64_t t, std::int64_t c) const {
    return static_cast<std::size_t>((n * time + t) * channels + c);
  }
  double first_state(std::int64_t sequence, std::int64_t c) const {
    return initial.empty() ? scan_identity(op)
                           : initial[static_cast<std::size_t>(sequence * channels + c)];
  }
  // Calls f(sequence, batch entry, first step, one past the last step, channel).
  template <class F>
  void for_each_sequence(const F& f) const {
    for (std::int64_t s = 0; s < sequences(); ++s)
      for (std::int64_t c = 0; c < channels; ++c) {
        if (offsets.empty())
          f(s, s, std::int64_t{0}, time, c);
        else
          f(s, std::int64_t{0}, offsets[std::size_t(s)], offsets[std::size_t(s) + 1], c);
      }
  }
};

struct scan_values {
  std::vector<double> value, error;  // error in units of the arithmetic type's u
  std::vector<double> loose;         // the same in any order of the steps
  explicit scan_values(std::int64_t n = 0)
      : value(std::size_t(n)), error(std::size_t(n)), loose(std::size_t(n)) {}
  void set(std::size_t i, real v, real e) { set(i, v, e, e); }
  void set(std::size_t i, real v, real e, real any) {
    value[i] = static_cast<double>(v);
    error[i] = static_cast<double>(e);
    loose[i] = static_cast<double>(std::max(e, any));
  }
  scan_values any_order() const {
    scan_values v = *this;
    v.error = loose;
    return v;
  }
};

struct scan_solution {
  scan_values y, final;
};

inline real finite_part(real v) { return std::isfinite(v) ? std::abs(v) : real{0}; }

// Log-space scans carry y = m + log S, 1 <= S <= t + 1 once a finite value was met. A step
// multiplies S by an exp (4 u, and the error of its argument, at most exp(-d) d u < u) and adds (2
// u): 7 u of S, and of y. Reading y costs the logarithm and the sum.
inline real reading_error(real y, std::int64_t steps) {
  return 4 * std::log(static_cast<real>(steps + 2)) + 2 * finite_part(y);
}

// On its way into a piece of time a state, or the sum of the pieces before it, is rounded once per
// piece passed (a piece has eight steps or more: part of the second rounding of every step below),
// in a tree of up to 5 levels, once or twice where a warp begins and for up to 8 warps before it.
constexpr real entering_roundings = 16;

// What a step adds to the error so far: `before` and `after` are the sizes of the state. Summaries
// of pieces take each log-space step twice, and add them in a tree of few levels.
inline real step_error(scan_op op, real error, real a, real exact_a, real before, real after,
                       std::int64_t steps, bool any_order) {
  if (any_order) after *= 2;  // where a piece ends, its state is rounded once more
  switch (op) {
    case scan_op::cumsum:
      return error + after;
    case scan_op::cumprod:
      return std::abs(a) * error + after;
    // x + epsilon is off by u of itself and of epsilon, which is 2 u of its logarithm.
    case scan_op::log_cumprod:
      return error + 2 + 5 * exact_a + after;
    case scan_op::linear_scan:
      return std::abs(a) * (error + before) + after;
    case scan_op::linear_scan_logs:
      return std::exp(a) * (error + 5 * before) + after;
    case scan_op::logcumsumexp:
      return error + (any_order ? 14 : 7);
    case scan_op::log_linear_scan:
      return error + (any_order ? 14 : 7) + before + std::log(static_cast<real>(steps + 2));
  }
  return error;
}

inline scan_solution solve(const scan_problem& p) {
  scan_solution result{scan_values(p.batch * p.time * p.channels),
                       scan_values(p.sequences() * p.channels)};
  p.for_each_sequence([&](auto s, auto n, auto from, auto to, auto c) {
    real state = p.first_state(s, c), error = 0, loose = 0, size = finite_part(state);
    const auto read = [&](real so_far, std::int64_t steps, bool any_order = false) {
      if (is_logspace(p.op)) return so_far + reading_error(state, steps) + (any_order ? 60 : 0);
      return so_far + (any_order ? entering_roundings * size : 0);
    };
    for (std::int64_t t = from; t < to; ++t) {
      const std::size_t i = p.at(n, t, c);
      const real a = p.a[i], b = has_two_inputs(p.op) ? p.b[i] : 0;
      const real next = exact_step(p.op, state, a, b, p.domain);
      const real exact_a =
          p.op == scan_op::log_cumprod ? finite_part(exact_log(a, p.domain)) : finite_part(a);
      if (p.exclusive) result.y.set(i, state, read(error, t - from), read(loose, t - from, true));
      if (p.chunk > 0 && t % p.chunk == 0) {
        error = read(error, t - from);
        loose = read(loose, t - from, true);
      }
      // In any order: sums of sizes.
      real size_before = size;
      if (p.op == scan_op::cumprod)
        size = std::abs(a) * size;
      else if (p.op == scan_op::linear_scan)
        size = std::abs(a) * size + std::abs(b);
      else if (p.op == scan_op::linear_scan_logs)
        size = std::exp(a) * size + std::abs(b);
      else
        size += exact_a;
      if (p.op == scan_op::log_linear_scan) size_before = 2 * size + finite_part(b);
      const real carried =
          p.op == scan_op::log_linear_scan ? finite_part(a + state) : std::abs(state);
      error = step_error(p.op, error, a, exact_a, carried, finite_part(next), t - from, false);
      loose = step_error(p.op, loose, a, exact_a, finite_part(size_before), finite_part(size),
                         t - from, true);
      state = next;
      if (!p.exclusive)
        result.y.set(i, state, read(error, t - from + 1), read(loose, t - from + 1, true));
    }
    result.final.set(static_cast<std::size_t>(s * p.channels + c), state, read(error, to - from),
                     read(loose, to - from, true));
  });
  return result;
}

// The gradients of a scan from what its backward is given: y may be rounded, and is taken as it is;
// dfinal may have errors of its own, in units of u.
struct scan_gradients {
  scan_values da, db, dinitial;
};

inline scan_gradients solve_backward(const scan_problem& p, const std::vector<double>& y,
                                     const std::vector<double>& dy,
                                     const std::vector<double>& dfinal,
                                     const std::vector<double>& dfinal_error = {}) {
  const auto total = p.batch * p.time * p.channels;
  scan_gradients result{scan_values(total), scan_values(total),
                        scan_values(p.sequences() * p.channels)};
  const auto ratio = [](real x, real y_) {
    return y_ == -std::numeric_limits<real>::infinity() ? 0 : std::exp(x - y_);
  };
  p.for_each_sequence([&](auto s, auto n, auto from, auto to, auto c) {
    // later: dL/d(state after step t), all of it that comes from steps behind t.
    const auto k = static_cast<std::size_t>(s * p.channels + c);
    real later = dfinal.empty() ? 0 : dfinal[k], error = dfinal_error.empty() ? 0 : dfinal_error[k];
    real loose = error, later_size = std::abs(later);
    for (std::int64_t t = to - 1; t >= from; --t) {
      const std::size_t i = p.at(n, t, c);
      const real a = p.a[i], b = has_two_inputs(p.op) ? p.b[i] : 0, g = dy[i];
      const real previous = p.exclusive ? y[i]
                            : t > from  ? y[p.at(n, t - 1, c)]
                                        : p.first_state(s, c);
      const real current =
          p.exclusive ? exact_step(p.op, previous, a, b, p.domain) : static_cast<real>(y[i]);
      // d state / d previous state, / d a, / d b, and how many u each is off. A factor exp(x - y)
      // is off by its argument's error; where y is computed again (exclusive) it is off by 8 and
      // its own size.
      real decay = 1, wa = 1, wb = 1, decay_error = 0, wa_error = 0, wb_error = 0;
      const real again = p.exclusive ? 8 + finite_part(current) : 0;
      const auto ratio_error = [&](real x) { return 4 + finite_part(x - current) + again; };
      switch (p.op) {
        case scan_op::cumsum:
          break;
        case scan_op::cumprod:
          decay = a, wa = previous;
          break;
        case scan_op::log_cumprod: {
          const real shifted = a + static_cast<real>(p.domain.epsilon), l = std::log(shifted);
          wa = l < p.domain.lower || l > p.domain.upper ? 0 : 1 / shifted;
          wa_error = 3;
          break;
        }
        case scan_op::logcumsumexp:
          decay = ratio(previous, current), decay_error = ratio_error(previous);
          wa = ratio(a, current), wa_error = ratio_error(a);
          break;
        case scan_op::linear_scan:
          decay = a, wa = previous;
          break;
        case scan_op::linear_scan_logs:
          decay = std::exp(a), decay_error = 4;
          wa = decay * previous, wa_error = 5;
          break;
        case scan_op::log_linear_scan:
          decay = wa = ratio(a + previous, current);
          decay_error = wa_error = ratio_error(a + previous) + finite_part(a + previous);
          wb = ratio(b, current), wb_error = ratio_error(b);
          break;
      }
      const real adjoint = p.exclusive ? later : g + later;
      const real size = p.exclusive ? later_size : std::abs(g) + later_size;
      if (!p.exclusive) {
        error += std::abs(adjoint);
        loose += size;
      }
      const auto output_error = [](real w, real w_error, real so_far, real adjoint_size) {
        return std::abs(w) * (so_far + adjoint_size * (w_error + 1));
      };
      const auto set = [&](scan_values& to_set, real w, real w_error) {
        to_set.set(i, w * adjoint, output_error(w, w_error, error, std::abs(adjoint)),
                   output_error(w, w_error, loose + entering_roundings * size, size));
      };
      set(result.da, wa, wa_error);
      set(result.db, wb, wb_error);
      later = decay * adjoint + (p.exclusive ? g : 0);
      later_size = std::abs(decay) * size + (p.exclusive ? std::abs(g) : 0);
      error = output_error(decay, decay_error, error, std::abs(adjoint)) +
              (p.exclusive ? std::abs(later) : 0);
      loose = output_error(decay, decay_error, loose, size) + (p.exclusive ? 2 : 1) * later_size;
    }
    result.dinitial.set(k, later, error, loose + entering_roundings * later_size);
  });
  return result;
}

// Results that were added to what was there.
inline scan_values added_to(double before, scan_values v) {
  for (std::size_t i = 0; i < v.value.size(); ++i) {
    const double sum = before + v.value[i];
    const double added = 2 * std::abs(sum) + std::abs(v.value[i]);
    v.set(i, sum, v.error[i] + added, v.loose[i] + added);
  }
  return v;
}

// max over the elements of |actual - expected| in units of what rounding explains: at most 1 is
// right. Second-order terms are within 5 % for all lengths tested. Below the smallest normal number
// an error is absolute: a step of T for the store, and one of the arithmetic type for every
// rounding.
template <class T, class Acc = accumulator_t<T>, class Actual>
double worst_excess(const std::vector<Actual>& actual, const scan_values& expected,
                    int stores = 1) {
  detail::require_equal_sizes(std::span<const Actual>(actual),
                              std::span<const double>(expected.value));
  const bool narrows = std::numeric_limits<T>::digits < std::numeric_limits<Acc>::digits;
  // The expected values are doubles themselves.
  const double u = unit_roundoff<Acc>(), given = unit_roundoff<double>();
  const double stored = narrows ? stores * unit_roundoff<T>() : 0;
  double worst = 0;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const double v = expected.value[i], d = distance(static_cast<double>(actual[i]), v);
    if (d == 0) continue;
    const double size = std::isfinite(v) ? std::abs(v) : 0, error = expected.error[i];
    const double floor = static_cast<double>(std::numeric_limits<T>::denorm_min()) +
                         100 * static_cast<double>(std::numeric_limits<Acc>::denorm_min());
    worst = std::max(worst, d / (1.05 * (u * error + (stored + given) * size) + floor));
  }
  return worst;
}

}  // namespace mmrec::testing
