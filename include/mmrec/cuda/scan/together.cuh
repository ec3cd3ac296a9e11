// SPDX-License-Identifier: Apache-2.0
// A few steps of a log-space scan at once. One after another, each waits for a comparison and an
// exponential of the one before; beside one common exponent m the exponentials are independent, and
// a step is one addition behind the step before it:
//
//   term_i = what step i adds, less the shifts of the exponent up to it     (logcumsumexp: x_i)
//   S_i    = S_(i-1) + exp(term_i - m),    y_i = m + shift_i + log(S_i)
//
// For steps that are taken, m is the exponent that enters; for a summary, the largest term, or the
// first where its exponentials are kept for the steps (kept_terms). From a step on whose term is so
// far above m that digits would be lost, or with which shifts become so large, or with anything
// infinite or NaN, steps are taken one by one: what came before has the bits that it has in any
// case. A summary is then not made here.
#pragma once

#include <mmrec/scan_summaries.hpp>

namespace mmrec::cuda::detail {

template <class Op>
inline constexpr bool goes_together = false;
template <class Own, bool Exclusive>
inline constexpr bool goes_together<scan_ops::forward<Own, Exclusive>> =
    std::is_base_of_v<scan_ops::scaled_pair, Own>;

template <class V, int N>
struct log_terms {
  /// In logarithms: what is within it of m has an error of a few units in the last place of 1.
  static constexpr V near = V(8);

  V term[N], shift[N], largest;
  V moved = V(0);  // by all shifts

  template <class Own>
  __device__ __forceinline__ log_terms(const Own& op, const std::array<V, Own::inputs> (&in)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      shift[i] = op.shift(i > 0 ? shift[i > 0 ? i - 1 : 0] : V(0), in[i]);
      term[i] = in[i][Own::inputs - 1];
      if constexpr (Own::inputs > 1) {
        moved = moved + math::abs(in[i][0]);
        term[i] = term[i] - shift[i];
      }
      largest = i > 0 ? math::maximum(largest, term[i]) : term[0];
    }
  }
};

/// Outputs of N steps from a carry, which moves on.
template <class Own, bool Exclusive, class V, std::size_t Inputs, int N>
__device__ __forceinline__ void take_together(const scan_ops::forward<Own, Exclusive>& op,
                                              std::array<V, 2>& c,
                                              const std::array<V, Inputs> (&in)[N], V (&y)[N]) {
  const log_terms<V, N> all(op.op, in);
  const V m = c[0], rise = all.largest - m;
  const auto take = [&](int i) {
    if (Exclusive) y[i] = op.store(c);
    c = {m + all.shift[i], c[1] + math::exp_minus(m - all.term[i])};
    if (!Exclusive) y[i] = op.store(c);
  };
  if (rise <= all.near && all.moved <= all.near) {
#pragma unroll
    for (int i = 0; i < N; ++i) take(i);
    c = {math::maximum(m, all.largest) + all.shift[N - 1],
         math::fused<V>::product(c[1], math::exp_minus(math::maximum(rise, V(0))))};
    return;
  }
  bool together = true;
  V moved = V(0);
#pragma unroll
  for (int i = 0; i < N; ++i) {
    if (Inputs > 1) moved = moved + math::abs(in[i][0]);
    together = together && all.term[i] - m <= all.near && moved <= all.near;
    if (together)
      take(i);
    else
      y[i] = op.step(c, in[i])[0];
  }
}

/// The same steps as a summary.
template <class Own, bool Exclusive, class V, std::size_t Inputs, int N>
__device__ __forceinline__ bool sum_together(const scan_ops::forward<Own, Exclusive>& op,
                                             const std::array<V, Inputs> (&in)[N],
                                             scan_ops::scaled<V>& s) {
  const log_terms<V, N> all(op.op, in);
  if (!(all.moved <= all.near)) return false;
  const V m = math::maximum(all.largest, std::numeric_limits<V>::lowest());  // all may be -inf
  V sum = V(0);
#pragma unroll
  for (int i = 0; i < N; ++i) sum = sum + math::exp_minus(m - all.term[i]);
  s = {all.shift[N - 1], all.largest + all.shift[N - 1], sum};
  return true;
}

/// What the summary of N steps leaves for whoever takes them: their exponentials beside the first
/// term. (Not beside the largest, which may come later: no output is to depend on that.)
template <bool Together, class V, int N>
struct kept_terms {};
template <class V, int N>
struct kept_terms<true, V, N> {
  V e[N], first, largest;
  bool close;  // no term is far above the first, and shifts are small
};

template <class Own, bool Exclusive, class V, std::size_t Inputs, int N>
__device__ __forceinline__ bool sum_and_keep(const scan_ops::forward<Own, Exclusive>& op,
                                             const std::array<V, Inputs> (&in)[N],
                                             scan_ops::scaled<V>& s, kept_terms<true, V, N>& kept) {
  const log_terms<V, N> all(op.op, in);
  kept.first = all.term[0], kept.largest = all.largest;
  const V rise = kept.largest - kept.first;
  kept.close = rise <= all.near && all.moved <= all.near;
  if (!kept.close) return sum_together(op, in, s);
  V sum = V(0);
#pragma unroll
  for (int i = 0; i < N; ++i) {
    kept.e[i] = math::exp_minus(kept.first - all.term[i]);
    sum = sum + kept.e[i];
  }
  s = {all.shift[N - 1], all.largest + all.shift[N - 1],
       math::fused<V>::product(sum, math::exp_minus(rise))};
  return true;
}

/// take_together with them: an exponential for all steps.
template <class Own, bool Exclusive, class V, std::size_t Inputs, int N>
__device__ __forceinline__ void take_kept(const scan_ops::forward<Own, Exclusive>& op,
                                          std::array<V, 2>& c, const std::array<V, Inputs> (&in)[N],
                                          const kept_terms<true, V, N>& kept, V (&y)[N]) {
  constexpr V near = log_terms<V, N>::near;
  const V m = c[0], rise = kept.largest - m, first = math::exp_minus(m - kept.first);
  const auto take = [&](int i, const V& shift, const V& sum) {
    if (Exclusive) y[i] = op.store(c);
    c = {m + shift, sum};
    if (!Exclusive) y[i] = op.store(c);
  };
  if (kept.close && rise <= near) {
    V shift = V(0);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      shift = op.op.shift(shift, in[i]);
      take(i, shift, math::fused<V>::multiply_add(kept.e[i], first, c[1]));
    }
    c = {math::maximum(m, kept.largest) + shift,
         math::fused<V>::product(c[1], math::exp_minus(math::maximum(rise, V(0))))};
    return;
  }
  const log_terms<V, N> all(op.op, in);
  bool together = true, close = true;
  V moved = V(0);
#pragma unroll
  for (int i = 0; i < N; ++i) {
    if (Inputs > 1) moved = moved + math::abs(in[i][0]);
    together = together && all.term[i] - m <= near && moved <= near;
    close = close && all.term[i] - all.term[0] <= near;
    if (together && close)
      take(i, all.shift[i],
           math::fused<V>::multiply_add(math::exp_minus(all.term[0] - all.term[i]), first, c[1]));
    else if (together)
      take(i, all.shift[i], c[1] + math::exp_minus(m - all.term[i]));
    else
      y[i] = op.step(c, in[i])[0];
  }
}

}  // namespace mmrec::cuda::detail
