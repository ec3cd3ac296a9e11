// SPDX-License-Identifier: Apache-2.0
// Scans along time: cumsum, cumprod, log_cumprod, logcumsumexp, linear_scan, log_linear_scan, and
// inclusive_scan with your own operator. Each has its exact gradient in scan_backward.hpp, which
// this header includes.
//
//   y_t = op(y_{t-1}, x_t),   t = 0 .. time-1,   y_{-1} = initial state
//
// Arrays are (batch, time, channel) views of any strides; unit stride on channels ("channel-last")
// and unit stride on time ("time-last") are the fast layouts, and a reversed view (`x.reversed(1)`)
// scans backwards. `along(x, axis)` folds any N-dimensional array to this shape. Elements are
// float, double, or 16-bit storage with float arithmetic; the optional first template argument asks
// for a wider carry: `cumprod<double>(...)` on float arrays.
//
//   std::vector<float> gamma(8 * 1024 * 64, 0.99f), y(gamma.size());
//   mmrec::view<const float, 3> in{gamma.data(), {8, 1024, 64}};   // (batch, time, channel)
//   mmrec::view<float, 3> out{y.data(), {8, 1024, 64}};
//   mmrec::cumprod(mmrec::backend::simd{}, in, out);
//
// One pass over memory, no allocation, no division, no difference of prefix sums. NaN and
// infinities travel along time as IEEE arithmetic carries them (do not compile with -ffast-math),
// never across channels or batches. Results have the same bits for every thread count. The output
// may be the input view itself (in place); any other overlap is an error. Errors: mmrec::error for
// shapes that disagree, null data, overlap, offsets that are not a non-decreasing partition of
// time, or a domain whose lower limit is above the upper one. Arrays with an extent of 0 are valid.
#pragma once

#include <mmrec/scan_backward.hpp>
#include <mmrec/scan_double_backward.hpp>
#include <mmrec/scan_ops.hpp>
#include <mmrec/sweep.hpp>

#include <array>
#include <cstdint>
#include <utility>

namespace mmrec {

/// Options of every forward scan. State is the carry's type: accumulator_t of the element type.
template <class State>
struct scan_options {
  view<const State, 2> initial{};  ///< (sequence, channel); absent: the operator's identity
  view<State, 2> final{};          ///< (sequence, channel); the state after the last step
  bool exclusive = false;          ///< y_t is the state before step t rather than after it
  std::span<const index_t>
      offsets{};  ///< segment k is steps offsets[k] .. offsets[k+1]-1; batch must be 1
};

using scan_ops::log_domain;

/// scan_options' fields and the domain of the logarithm.
template <class State>
struct log_cumprod_options {
  view<const State, 2> initial{};
  view<State, 2> final{};
  bool exclusive = false;
  std::span<const index_t> offsets{};
  log_domain
      domain{};  ///< default: none, log 0 = -inf; log_domain::mm_rec() for the documents' own

  scan_options<State> common() const { return {initial, final, exclusive, offsets}; }
};

/// scan_options' fields and the form of the gates.
template <class State>
struct linear_scan_options {
  view<const State, 2> initial{};
  view<State, 2> final{};
  bool exclusive = false;
  std::span<const index_t> offsets{};
  enum gates gates = gates::values;  ///< logs: the decay is exp(a)

  scan_options<State> common() const { return {initial, final, exclusive, offsets}; }
};

namespace detail {

/// Is this argument left out altogether?
template <class T>
bool absent(const view<T, 2>& v) {
  return !v && v.extent(0) == 0 && v.extent(1) == 0;
}

/// The arguments of a forward scan, each put where it belongs by one copy, states only where there
/// are any: the processor waits for what is read in other pieces than it was just written.
template <class State, class Y, class... In>
sweep_args<element_of<Y>, State, sizeof...(In), 1, 0> scan_args(const char* function, const Y& y,
                                                                const scan_options<State>& options,
                                                                const In&... in) {
  sweep_args<element_of<Y>, State, sizeof...(In), 1, 0> args{.in = {read(in)...},
                                                             .out = {{{as_view(y)}}},
                                                             .offsets = options.offsets,
                                                             .function = function};
  if (!absent(options.initial)) args.carry_in = options.initial;
  if (!absent(options.final)) args.carry_out.out = options.final;
  return args;
}

/// Sees in a few comparisons that no check can fail: dense arrays of one layout, in place or apart,
/// and no states or segments. Short scans would spend most of their time on the checks.
template <class State, class Y, class... In>
bool surely_valid(const Y& y, const scan_options<State>& options, const In&... in) {
  const auto extent = [](const auto& v, std::size_t i) {
    return static_cast<index_t>(v.extent(i));
  };
  const auto stride = [](const auto& v, std::size_t i) {
    return static_cast<index_t>(v.stride(i));
  };
  const index_t batch = extent(y, 0), time = extent(y, 1), channels = extent(y, 2);
  const bool time_last = stride(y, 2) != 1;
  const index_t step = time_last ? 1 : channels, channel = time_last ? time : 1;
  const auto dense = [&](const auto& v) {
    return v.data_handle() && extent(v, 0) == batch && extent(v, 1) == time &&
           extent(v, 2) == channels && stride(v, 2) == channel && stride(v, 1) == step &&
           stride(v, 0) == time * channels;
  };
  const auto bytes = static_cast<std::uintptr_t>(batch * time * channels) * sizeof(element_of<Y>);
  const auto apart = [&](const auto& x) {
    const auto distance = reinterpret_cast<std::uintptr_t>(x.data_handle()) -
                          reinterpret_cast<std::uintptr_t>(y.data_handle());
    return distance == 0 || (distance >= bytes && distance <= -bytes);
  };
  return dense(y) && batch > 0 && time > 0 && channels > 0 && options.offsets.empty() &&
         absent(options.initial) && absent(options.final) && ((dense(in) && apart(in)) && ...);
}

/// All checks, compiled once for scans of any types and numbers of inputs.
MMREC_COLD inline void check_scan(const char* function, std::size_t inputs,
                                  const char* const* names, const any_view* in, const char* y_name,
                                  const any_view& y, const any_view& initial, const any_view& final,
                                  std::span<const index_t> offsets) {
  const numbers extents = in[0].extents();
  for (std::size_t k = 0; k < inputs; ++k) check_extents(function, names[k], in[k], extents);
  check_extents(function, y_name, y, extents);
  check_offsets(function, offsets, extents[0], extents[1]);
  const index_t sequences = offsets.empty() ? extents[0] : static_cast<index_t>(offsets.size()) - 1;
  const std::array<index_t, 2> state{sequences, extents[2]};
  check_optional_extents(function, "initial", initial, state);
  check_optional_extents(function, "final", final, state);
  check_distinct(function, y_name, y);
  check_distinct(function, "final", final);
  for (std::size_t k = 0; k < inputs; ++k) {
    check_disjoint_or_same(function, y_name, y, names[k], in[k]);
    check_disjoint(function, "final", final, names[k], in[k]);
  }
  check_disjoint(function, y_name, y, "initial", initial);
  check_disjoint(function, "final", final, y_name, y);
  check_disjoint_or_same(function, "final", final, "initial", initial);
}

template <class T, class State, std::size_t NI>
MMREC_COLD void check_scan(const std::array<const char*, NI>& names, const char* y_name,
                           const sweep_args<T, State, NI, 1, 0>& args) {
  [&]<std::size_t... K>(std::index_sequence<K...>) {
    const any_view in[] = {args.in[K]...};
    check_scan(args.function, NI, names.data(), in, y_name, args.out[0].out, args.carry_in,
               args.carry_out.out, args.offsets);
  }(std::make_index_sequence<NI>{});
}

template <class B, class Op, class State, class Y, class... In>
void run_scan(const B& backend, const Op& op, const char* function,
              const std::array<const char*, sizeof...(In)>& names, const char* y_name, const Y& y,
              const scan_options<State>& options, const In&... in) {
  require_built<B>();
  const bool valid = surely_valid(y, options, in...);
  const auto args = scan_args(function, y, options, in...);
  if (!valid) check_scan(names, y_name, args);
  if (options.exclusive)
    sweep(backend, scan_ops::forward<Op, true>{op}, args);
  else
    sweep(backend, scan_ops::forward<Op, false>{op}, args);
}

}  // namespace detail

/// y_t = x_t + y_{t-1}; the identity is 0.
template <class Acc = void, backend_tag B, readable_array<3> X, writable_array<3> Y>
void cumsum(const B& backend, const X& x, const Y& y,
            const scan_options<detail::state_t<Acc, element_of<Y>>>& options = {}) {
  detail::require_one_type<element_of<X>, element_of<Y>>();
  detail::run_scan(backend, scan_ops::cumsum{}, "cumsum", {"x"}, "y", y, options, x);
}

/// y_t = x_t y_{t-1}; the identity is 1. Never through logarithms: zeros and signs are exact.
template <class Acc = void, backend_tag B, readable_array<3> X, writable_array<3> Y>
void cumprod(const B& backend, const X& x, const Y& y,
             const scan_options<detail::state_t<Acc, element_of<Y>>>& options = {}) {
  detail::require_one_type<element_of<X>, element_of<Y>>();
  detail::run_scan(backend, scan_ops::cumprod{}, "cumprod", {"x"}, "y", y, options, x);
}

/// L_t = clamp(log(x_t + epsilon), lower, upper) + L_{t-1}: the cumulative product as logarithms.
/// States are logarithms; the identity is 0. log 0 = -inf and stays; log of a negative number is
/// NaN.
template <class Acc = void, backend_tag B, readable_array<3> X, writable_array<3> Y>
void log_cumprod(const B& backend, const X& x, const Y& y,
                 const log_cumprod_options<detail::state_t<Acc, element_of<Y>>>& options = {}) {
  detail::require_one_type<element_of<X>, element_of<Y>>();
  detail::check_domain("log_cumprod", options.domain);
  detail::run_scan(backend, scan_ops::log_cumprod{{}, options.domain}, "log_cumprod", {"x"}, "y", y,
                   options.common(), x);
}

/// y_t = log(exp(x_t) + exp(y_{t-1})); the identity is -inf. Computed as a scaled pair (m, S),
/// y = m + log S: one exp per step. Cutting time into chunks changes the result by rounding only.
template <class Acc = void, backend_tag B, readable_array<3> X, writable_array<3> Y>
void logcumsumexp(const B& backend, const X& x, const Y& y,
                  const scan_options<detail::state_t<Acc, element_of<Y>>>& options = {}) {
  detail::require_one_type<element_of<X>, element_of<Y>>();
  detail::run_scan(backend, scan_ops::logcumsumexp{}, "logcumsumexp", {"x"}, "y", y, options, x);
}

/// h_t = a_t h_{t-1} + b_t, the diagonal linear recurrence; the default initial state is 0.
/// With gates::logs the decay is exp(a_t).
///
///   linear_scan(backend::simd{}, a, b, h, {.initial = h0, .final = hT});
template <class Acc = void, backend_tag B, readable_array<3> A, readable_array<3> In,
          writable_array<3> H>
void linear_scan(const B& backend, const A& a, const In& b, const H& h,
                 const linear_scan_options<detail::state_t<Acc, element_of<H>>>& options = {}) {
  detail::require_one_type<element_of<A>, element_of<In>, element_of<H>>();
  const auto run = [&]<bool LogGates>() {
    detail::run_scan(backend, scan_ops::linear<LogGates>{}, "linear_scan", {"a", "b"}, "h", h,
                     options.common(), a, b);
  };
  options.gates == gates::logs ? run.template operator()<true>() : run.template operator()<false>();
}

/// L_t = log(exp(al_t + L_{t-1}) + exp(be_t)): the linear recurrence of positive numbers in
/// logarithms; the default initial state is -inf (h = 0). Scans the pair operator: never cumsum and
/// difference.
template <class Acc = void, backend_tag B, readable_array<3> A, readable_array<3> In,
          writable_array<3> L>
void log_linear_scan(const B& backend, const A& al, const In& be, const L& l,
                     const scan_options<detail::state_t<Acc, element_of<L>>>& options = {}) {
  detail::require_one_type<element_of<A>, element_of<In>, element_of<L>>();
  detail::run_scan(backend, scan_ops::log_linear{}, "log_linear_scan", {"al", "be"}, "l", l,
                   options, al, be);
}

/// y_t = op(y_{t-1}, x_t) with your own associative operator and its identity element. `op` is
/// called with scalars and with batches of lanes, so write it generically; it need not commute.
///
///   inclusive_scan(backend::simd{}, x, y,
///                  [](auto a, auto b) { return mmrec::math::maximum(a, b); },
///                  -std::numeric_limits<double>::infinity());
template <class Acc = void, backend_tag B, readable_array<3> X, writable_array<3> Y, class Op>
void inclusive_scan(const B& backend, const X& x, const Y& y, const Op& op, double identity,
                    const scan_options<detail::state_t<Acc, element_of<Y>>>& options = {}) {
  detail::require_one_type<element_of<X>, element_of<Y>>();
  detail::run_scan(backend, scan_ops::user<Op>{op, identity}, "inclusive_scan", {"x"}, "y", y,
                   options, x);
}

}  // namespace mmrec

#include <mmrec/reference/scan.hpp>
#if defined(__CUDACC__)
#include <mmrec/cuda/scan.cuh>
#endif
#if !defined(__CUDACC__) && __has_include(<xsimd/xsimd.hpp>)
#include <mmrec/simd/scan.hpp>
#endif
