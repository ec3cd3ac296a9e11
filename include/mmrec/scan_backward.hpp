// SPDX-License-Identifier: Apache-2.0
// Gradients of the scans: one reverse linear scan each (scan_partials.hpp has the recurrence),
// exact with zeros and negative factors, with -inf in log space, at the first step and for the
// initial state.
//
//   dy (batch, time, channel)   gradient of the output
//   .initial, .offsets, .exclusive, .gates, .domain   as they were given to the forward call
//   .dfinal                     gradient of the final state, if it was used
//   .dinitial                   receives the gradient of the initial state
//   .accumulate                 adds to the gradient arrays instead of overwriting them
//
// Gradients that are functions of several inputs are all optional: leave the view out. A gradient
// array may be dy itself; any other overlap is an error. Shapes, types and errors as in scan.hpp.
//
//   cumprod_backward(backend::simd{}, dy, x, y, dx);
//   linear_scan_backward(backend::simd{}, dh, a, h,
//                        {.da = da, .db = db, .initial = h0, .dinitial = dh0});
#pragma once

#include <mmrec/backend.hpp>
#include <mmrec/scan_partials.hpp>
#include <mmrec/sweep.hpp>

namespace mmrec {

using scan_ops::log_domain;

template <class State>
struct scan_backward_options {
  view<const State, 2> initial{};
  view<const State, 2> dfinal{};
  view<State, 2> dinitial{};
  bool exclusive = false;
  bool accumulate = false;
  std::span<const index_t> offsets{};
};

template <class State>
struct log_cumprod_backward_options {
  view<const State, 2> initial{};
  view<const State, 2> dfinal{};
  view<State, 2> dinitial{};
  bool exclusive = false;
  bool accumulate = false;
  std::span<const index_t> offsets{};
  log_domain domain{};

  scan_backward_options<State> common() const {
    return {initial, dfinal, dinitial, exclusive, accumulate, offsets};
  }
};

/// Outputs first, then scan_backward_options' fields.
template <element T, class State>
struct linear_scan_gradients {
  view<T, 3> da{};
  view<T, 3> db{};
  view<const State, 2> initial{};
  view<const State, 2> dfinal{};
  view<State, 2> dinitial{};
  bool exclusive = false;
  bool accumulate = false;
  std::span<const index_t> offsets{};
  enum gates gates = gates::values;

  scan_backward_options<State> common() const {
    return {initial, dfinal, dinitial, exclusive, accumulate, offsets};
  }
};

namespace detail {

inline void check_domain(const char* function, const log_domain& domain) {
  if (!(domain.lower <= domain.upper))  // NaN is no limit either
    throw error(function, "domain", "a lower limit that is not above the upper one",
                std::to_string(domain.lower) + " and " + std::to_string(domain.upper));
}

/// Runs one adjoint sweep. `in` is {g, saved..., state stream}; the last is the saved output.
template <class State, class Step, class B, element T, std::size_t NI, std::size_t NO>
void run_adjoint(const char* function, const B& backend, const Step& step,
                 const std::array<const char*, NI>& names,
                 const std::array<view<const T, 3>, NI>& in,
                 const std::array<const char*, NO>& out_names,
                 const std::array<view<T, 3>, NO>& out, double identity,
                 const scan_backward_options<State>& options) {
  require_built<B>();
  const auto& extents = in[0].extents();
  for (std::size_t k = 0; k < NI; ++k) check_view(function, names[k], in[k], extents);
  check_offsets(function, options.offsets, extents[0], extents[1]);
  const index_t sequences =
      options.offsets.empty() ? extents[0] : static_cast<index_t>(options.offsets.size()) - 1;
  const std::array<index_t, 2> state{sequences, extents[2]};
  check_optional(function, "initial", options.initial, state);
  check_optional(function, "dfinal", options.dfinal, state);
  check_optional(function, "dinitial", options.dinitial, state);
  check_distinct(function, "dinitial", options.dinitial);
  for (std::size_t k = 0; k < NO; ++k) {
    check_optional(function, out_names[k], out[k], extents);
    check_distinct(function, out_names[k], out[k]);
    check_disjoint_or_same(function, out_names[k], out[k], names[0], in[0]);
    for (std::size_t i = 1; i < NI; ++i)
      check_disjoint(function, out_names[k], out[k], names[i], in[i]);
    for (std::size_t i = 0; i < k; ++i)
      check_disjoint(function, out_names[k], out[k], out_names[i], out[i]);
    check_disjoint(function, out_names[k], out[k], "initial", options.initial);
    check_disjoint(function, out_names[k], out[k], "dfinal", options.dfinal);
    check_disjoint(function, out_names[k], out[k], "dinitial", options.dinitial);
  }
  for (std::size_t k = 0; k < NI; ++k)
    check_disjoint(function, "dinitial", options.dinitial, names[k], in[k]);
  check_disjoint(function, "dinitial", options.dinitial, "initial", options.initial);
  check_disjoint_or_same(function, "dinitial", options.dinitial, "dfinal", options.dfinal);

  sweep_args<T, State, NI, NO, Step::shifted> args;
  args.in = in;
  for (std::size_t k = 0; k < NO; ++k) args.out[k] = {out[k], options.accumulate};
  args.carry_in = options.dfinal;
  args.carry_out = {options.dinitial, options.accumulate};
  if constexpr (Step::shifted > 0) {
    args.edge[0] = options.initial;
    args.edge_default[0] = identity;
  }
  args.offsets = options.offsets;
  args.reverse = true;
  args.function = function;
  sweep(backend, step, args);
}

}  // namespace detail

/// dx_t = sum of dy from t on (exclusive: from t + 1 on).
template <class Acc = void, backend_tag B, readable_array<3> G, writable_array<3> D>
void cumsum_backward(
    const B& backend, const G& dy, const D& dx,
    const scan_backward_options<detail::state_t<Acc, element_of<D>>>& options = {}) {
  detail::require_one_type<element_of<G>, element_of<D>>();
  const auto run = [&]<bool Exclusive>() {
    detail::run_adjoint("cumsum_backward", backend,
                        scan_ops::adjoint<scan_ops::cumsum_partials, Exclusive>{}, {"dy"},
                        std::array{detail::read(dy)}, {"dx"}, std::array{as_view(dx)}, 0, options);
  };
  options.exclusive ? run.template operator()<true>() : run.template operator()<false>();
}

/// dx_t = y_{t-1} s_t, s_t = dy_t + x_{t+1} s_{t+1}: exact with any number of zeros, for the y that
/// is stored, which in 16 bits is rounded.
template <class Acc = void, backend_tag B, readable_array<3> G, readable_array<3> X,
          readable_array<3> Y, writable_array<3> D>
void cumprod_backward(
    const B& backend, const G& dy, const X& x, const Y& y, const D& dx,
    const scan_backward_options<detail::state_t<Acc, element_of<D>>>& options = {}) {
  detail::require_one_type<element_of<G>, element_of<X>, element_of<Y>, element_of<D>>();
  const auto run = [&]<bool Exclusive>() {
    detail::run_adjoint(
        "cumprod_backward", backend, scan_ops::adjoint<scan_ops::cumprod_partials, Exclusive>{},
        {"dy", "x", "y"}, std::array{detail::read(dy), detail::read(x), detail::read(y)}, {"dx"},
        std::array{as_view(dx)}, 1, options);
  };
  options.exclusive ? run.template operator()<true>() : run.template operator()<false>();
}

/// dx_t = (sum of dy from t on) / (x_t + epsilon), and 0 where the domain clamped the logarithm.
template <class Acc = void, backend_tag B, readable_array<3> G, readable_array<3> X,
          writable_array<3> D>
void log_cumprod_backward(
    const B& backend, const G& dy, const X& x, const D& dx,
    const log_cumprod_backward_options<detail::state_t<Acc, element_of<D>>>& options = {}) {
  detail::require_one_type<element_of<G>, element_of<X>, element_of<D>>();
  detail::check_domain("log_cumprod_backward", options.domain);
  const auto run = [&]<bool Exclusive>() {
    detail::run_adjoint(
        "log_cumprod_backward", backend,
        scan_ops::adjoint<scan_ops::log_cumprod_partials, Exclusive>{{options.domain}}, {"dy", "x"},
        std::array{detail::read(dy), detail::read(x)}, {"dx"}, std::array{as_view(dx)}, 0,
        options.common());
  };
  options.exclusive ? run.template operator()<true>() : run.template operator()<false>();
}

/// dx_t = exp(x_t - y_t) r_t, r_t = dy_t + exp(y_t - y_{t+1}) r_{t+1}; both factors are in [0, 1],
/// and 0 where y = -inf.
template <class Acc = void, backend_tag B, readable_array<3> G, readable_array<3> X,
          readable_array<3> Y, writable_array<3> D>
void logcumsumexp_backward(
    const B& backend, const G& dy, const X& x, const Y& y, const D& dx,
    const scan_backward_options<detail::state_t<Acc, element_of<D>>>& options = {}) {
  detail::require_one_type<element_of<G>, element_of<X>, element_of<Y>, element_of<D>>();
  const double none = -std::numeric_limits<double>::infinity();
  const auto g = detail::read(dy), in = detail::read(x), out = detail::read(y);
  const auto d = as_view(dx);
  if (options.exclusive)
    detail::run_adjoint("logcumsumexp_backward", backend,
                        scan_ops::adjoint<scan_ops::logcumsumexp_partials<true>, true>{},
                        {"dy", "x", "y"}, std::array{g, in, out}, {"dx"}, std::array{d}, none,
                        options);
  else
    detail::run_adjoint("logcumsumexp_backward", backend,
                        scan_ops::adjoint<scan_ops::logcumsumexp_partials<false>, false>{},
                        {"dy", "x", "y", "y"}, std::array{g, in, out, out}, {"dx"}, std::array{d},
                        none, options);
}

/// s_t = dh_t + a_{t+1} s_{t+1} (s_T includes dfinal); db = s; da_t = s_t h_{t-1} (logs: s_t a_t
/// h_{t-1}); dinitial = a_0 s_0.
template <class Acc = void, backend_tag B, readable_array<3> G, readable_array<3> A,
          readable_array<3> H>
void linear_scan_backward(
    const B& backend, const G& dh, const A& a, const H& h,
    const linear_scan_gradients<element_of<G>, detail::state_t<Acc, element_of<G>>>& gradients) {
  detail::require_one_type<element_of<G>, element_of<A>, element_of<H>>();
  const auto run = [&]<bool Exclusive, bool LogGates>() {
    detail::run_adjoint(
        "linear_scan_backward", backend,
        scan_ops::adjoint<scan_ops::linear_partials<LogGates>, Exclusive>{}, {"dh", "a", "h"},
        std::array{detail::read(dh), detail::read(a), detail::read(h)}, {"da", "db"},
        std::array{gradients.da, gradients.db}, 0, gradients.common());
  };
  const bool logs = gradients.gates == gates::logs;
  if (gradients.exclusive)
    logs ? run.template operator()<true, true>() : run.template operator()<true, false>();
  else
    logs ? run.template operator()<false, true>() : run.template operator()<false, false>();
}

/// pi_t = exp(al_t + L_{t-1} - L_t); r_t = dl_t + pi_{t+1} r_{t+1}; dal = pi r, dbe = exp(be - L)
/// r. In `gradients`, da is the gradient of al and db that of be; `gates` is not used.
template <class Acc = void, backend_tag B, readable_array<3> G, readable_array<3> A,
          readable_array<3> In, readable_array<3> L>
void log_linear_scan_backward(
    const B& backend, const G& dl, const A& al, const In& be, const L& l,
    const linear_scan_gradients<element_of<G>, detail::state_t<Acc, element_of<G>>>& gradients) {
  detail::require_one_type<element_of<G>, element_of<A>, element_of<In>, element_of<L>>();
  const double none = -std::numeric_limits<double>::infinity();
  const auto g = detail::read(dl), a = detail::read(al), b = detail::read(be),
             out = detail::read(l);
  const std::array d{gradients.da, gradients.db};
  if (gradients.exclusive)
    detail::run_adjoint("log_linear_scan_backward", backend,
                        scan_ops::adjoint<scan_ops::log_linear_partials<true>, true>{},
                        {"dl", "al", "be", "l"}, std::array{g, a, b, out}, {"da", "db"}, d, none,
                        gradients.common());
  else
    detail::run_adjoint("log_linear_scan_backward", backend,
                        scan_ops::adjoint<scan_ops::log_linear_partials<false>, false>{},
                        {"dl", "al", "be", "l", "l"}, std::array{g, a, b, out, out}, {"da", "db"},
                        d, none, gradients.common());
}

/// Gradient of inclusive_scan: partials(previous, x) returns {d op / d previous, d op / d x} as a
/// pair or array of its arguments' type.
template <class Acc = void, backend_tag B, readable_array<3> G, readable_array<3> X,
          readable_array<3> Y, writable_array<3> D, class Partials>
void inclusive_scan_backward(
    const B& backend, const G& dy, const X& x, const Y& y, const D& dx, const Partials& partials,
    double identity,
    const scan_backward_options<detail::state_t<Acc, element_of<D>>>& options = {}) {
  detail::require_one_type<element_of<G>, element_of<X>, element_of<Y>, element_of<D>>();
  const auto run = [&]<bool Exclusive>() {
    detail::run_adjoint("inclusive_scan_backward", backend,
                        scan_ops::adjoint<scan_ops::user_partials<Partials>, Exclusive>{{partials}},
                        {"dy", "x", "y"},
                        std::array{detail::read(dy), detail::read(x), detail::read(y)}, {"dx"},
                        std::array{as_view(dx)}, identity, options);
  };
  options.exclusive ? run.template operator()<true>() : run.template operator()<false>();
}

}  // namespace mmrec

#include <mmrec/reference/scan.hpp>
#if defined(__CUDACC__)
#include <mmrec/cuda/scan.cuh>
#endif
#if !defined(__CUDACC__) && __has_include(<xsimd/xsimd.hpp>)
#include <mmrec/simd/scan.hpp>
#endif
