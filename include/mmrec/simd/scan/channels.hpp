// SPDX-License-Identifier: Apache-2.0
// Channel-last sweep: every stream has unit stride on channels, a register is a row's neighbouring
// channels. A task is one sequence and up to 1024 channels; it advances blocks of Wide batches,
// whose chains are independent and so cover the latency of one another. Where a task has several
// blocks, it walks time in tiles and parks the carries of the waiting blocks in an L1 buffer, so
// that memory is read in whole rows.
#pragma once

#include <mmrec/simd/scan/streams.hpp>

namespace mmrec::simd::detail {

template <class V, std::size_t Carries, std::size_t Wide, class F>
MMREC_INLINE void each_pair(std::array<std::array<V, Carries>, Wide>& carry, const F& f) {
  for (std::size_t v = 0; v + 1 < Wide; v += 2)
    for (std::size_t k = 0; k < Carries; ++k) f(carry[v][k], carry[v + 1][k]);
}

/// `steps` steps of Wide neighbouring batches; the last batch has `last` live lanes if Partial. The
/// last Edges inputs are `edge`: states, which are not rounded to T.
template <bool Partial, std::size_t Wide, class V, class Op, class T, std::size_t NI,
          std::size_t NO, std::size_t Edges = 0>
MMREC_INLINE void advance(const Op& op, std::array<std::array<V, Op::carries>, Wide>& carry,
                          cursor<T, NI, NO>& streams, index_t steps, std::size_t last, bool stream,
                          const std::array<V, Edges>& edge = {}) {
  constexpr auto w = static_cast<index_t>(lanes<V>);
  auto carries = carry;  // local copies stay in registers
  auto at = streams;
  // What is read at once: a register, or the even and the odd elements of two.
  constexpr std::size_t span = !Partial && Wide > 1 && has_pairs<V, T> ? 2 : 1;
  using registers = std::array<V, span>;
  const auto load = [&](const T* p) MMREC_LAMBDA_INLINE {
    registers r;
    if constexpr (span == 2)
      load_pairs(r[0], r[1], p);
    else
      r[0] = Partial ? load_lanes_n<V>(p, last) : load_lanes<V>(p);
    return r;
  };
  const auto store = [&](T* p, const registers& r) MMREC_LAMBDA_INLINE {
    // A branch would keep a long step's chains from being interleaved; they hide the memory anyway.
    if constexpr (std::same_as<T, typename V::value_type> && !Partial && !scan_ops::costly<Op>)
      if (stream) return stream_lanes(p, r[0]);
    if constexpr (Partial)
      store_lanes_n(p, r[0], last);
    else if constexpr (span == 2)
      store_pairs(p, r[0], r[1]);
    else
      store_lanes(p, r[0]);
  };
  if constexpr (span == 2) each_pair(carries, [](V& a, V& b) { unzip(a, b); });
  using begun = decltype(scan_ops::begin_step(op, carries[0], std::array<V, NI>{}));
  constexpr std::size_t together = scan_ops::costly_value<Op> ? Wide : span;
  for (index_t i = 0; i < steps; ++i) {
    unroll<Wide / together>([&](auto block) MMREC_LAMBDA_INLINE {
      std::array<begun, together> halves;
      unroll<together / span>([&](auto v) MMREC_LAMBDA_INLINE {
        constexpr std::size_t half = v() * span, first = block() * together + half;
        constexpr auto offset = static_cast<index_t>(first) * w;
        std::array<registers, NI> x;
        for (std::size_t k = 0; k < NI - Edges; ++k) x[k] = load(at.in[k] + offset);
        for (std::size_t k = NI - Edges; k < NI; ++k) x[k][0] = edge[k + Edges - NI];
        for (std::size_t r = 0; r < span; ++r) {
          std::array<V, NI> now;
          for (std::size_t k = 0; k < NI; ++k) now[k] = x[k][r];
          halves[half + r] = scan_ops::begin_step(op, carries[first + r], now);
        }
      });
      unroll<together / span>([&](auto v) MMREC_LAMBDA_INLINE {
        constexpr std::size_t half = v() * span, first = block() * together + half;
        constexpr auto offset = static_cast<index_t>(first) * w;
        std::array<registers, NO> y;
        for (std::size_t r = 0; r < span; ++r) {
          const auto result = scan_ops::end_step(op, halves[half + r]);
          for (std::size_t k = 0; k < NO; ++k) y[k][r] = result[k];
        }
        for (std::size_t k = 0; k < NO; ++k) {
          if (Op::optional_outputs && !at.out[k]) continue;
          T* const to = at.out[k] + offset;
          if constexpr (Op::optional_outputs) {
            if (at.accumulate[k]) {
              const registers old = load(to);
              for (std::size_t r = 0; r < span; ++r) y[k][r] = y[k][r] + old[r];
            }
          }
          store(to, y[k]);
        }
      });
    });
    for (std::size_t k = 0; k < NI; ++k) at.in[k] += at.in_step[k];
    for (std::size_t k = 0; k < NO; ++k)
      if (!Op::optional_outputs || at.out[k]) at.out[k] += at.out_step[k];
  }
  if constexpr (span == 2) each_pair(carries, [](V& a, V& b) { zip(a, b); });
  carry = carries;
  streams = at;
}

/// One sequence, channels [channel, channel + n).
template <class V, class Op, class T, class State, std::size_t NI, std::size_t NO, std::size_t NS>
void sweep_channels(const Op& op, const sweep_args<T, State, NI, NO, NS>& args, index_t s,
                    index_t channel, index_t n, bool stream) {
  constexpr index_t w = static_cast<index_t>(lanes<V>);
  // As wide as the registers allow: a row read in two halves costs a fifth of a copy's speed.
  constexpr std::size_t widest = scan_ops::one_operation<Op> && std::same_as<T, State> ? 16 : 8;
  constexpr std::size_t wide = 8, narrow = 4;
  using carries = std::array<V, Op::carries>;
  const auto range = args.sequence(s);
  carries parked[scan_tuning::task_channels / w + 1];
  for (index_t c = 0; c < n; c += w)
    parked[c / w] =
        op.load(load_states<V>(args.carry_in, s, channel + c, std::min(w, n - c), op.identity()));

  // Steps [from, to) in walking order for the block of Wide batches at channel offset c.
  const auto block = [&]<bool Partial, std::size_t Wide>(index_t c, index_t from, index_t to) {
    std::array<carries, Wide> carry;
    std::copy_n(parked + c / w, Wide, carry.begin());
    auto at = position(args, range, channel + c);
    at.walk(from);
    const auto last = static_cast<std::size_t>(std::min(w, n - c));
    // The sequence's first step, which reads the shifted streams from states; batch by batch.
    const auto edge_step = [&] {
      if constexpr (NS > 0) {
        for (std::size_t v = 0; v < Wide; ++v) {
          const auto offset = static_cast<index_t>(v) * w;
          auto here = at;
          for (std::size_t k = 0; k < NI; ++k) here.in[k] += offset;
          for (std::size_t k = 0; k < NO; ++k)
            if (here.out[k]) here.out[k] += offset;
          const index_t live = Partial ? static_cast<index_t>(last) : w;
          std::array<V, NS> edge;
          for (std::size_t e = 0; e < NS; ++e)
            edge[e] =
                load_states<V>(args.edge[e], s, channel + c + offset, live, args.edge_default[e]);
          std::array<carries, 1> one{carry[v]};
          advance<true, 1, V>(op, one, here, 1, static_cast<std::size_t>(live), false, edge);
          carry[v] = one[0];
        }
        at.walk(1);
      }
    };
    const bool edge_first = NS > 0 && !args.reverse && from == 0;
    const bool edge_last = NS > 0 && args.reverse && to == range.length;
    if (edge_first) edge_step();
    const index_t steps = to - from - (edge_first || edge_last ? 1 : 0);
    advance<Partial, Wide, V>(op, carry, at, steps, last, stream);
    if (edge_last) edge_step();
    std::copy_n(carry.begin(), Wide, parked + c / w);
  };

  const bool one_block =
      n <= static_cast<index_t>(wide) * w || n == static_cast<index_t>(widest) * w;
  const index_t tile = one_block ? range.length : scan_tuning::tile_steps;
  for (index_t from = 0; from < range.length; from += tile) {
    const index_t to = std::min(range.length, from + tile);
    index_t c = 0;
    if constexpr (widest > wide)
      for (; c + static_cast<index_t>(widest) * w <= n; c += static_cast<index_t>(widest) * w)
        block.template operator()<false, widest>(c, from, to);
    for (; c + static_cast<index_t>(wide) * w <= n; c += static_cast<index_t>(wide) * w)
      block.template operator()<false, wide>(c, from, to);
    for (; c + static_cast<index_t>(narrow) * w <= n; c += static_cast<index_t>(narrow) * w)
      block.template operator()<false, narrow>(c, from, to);
    for (; c < n; c += w) block.template operator()<true, 1>(c, from, to);
  }

  if (!args.carry_out.out) return;
  for (index_t c = 0; c < n; c += w)
    store_states(op.store(parked[c / w]), args.carry_out, s, channel + c, std::min(w, n - c));
}

template <class V, class Op, class T, class State, std::size_t NI, std::size_t NO, std::size_t NS>
void share_channels(unsigned threads, const Op& op, const sweep_args<T, State, NI, NO, NS>& args) {
  constexpr auto w = static_cast<index_t>(lanes<V>);
  const index_t sequences = args.sequences(), channels = args.channels();
  const bool stream = worth_streaming<V>(args, 2);
  index_t per_task = std::min(scan_tuning::task_channels, (channels + w - 1) / w * w);
  while (per_task > 4 * w &&
         sequences * ((channels + per_task - 1) / per_task) < static_cast<index_t>(threads))
    per_task = (per_task / 2 + w - 1) / w * w;
  const index_t parts = (channels + per_task - 1) / per_task;
  parallel_for(threads, sequences * parts, [&](index_t task) {
    const index_t s = parts == 1 ? task : task / parts, channel = (task - s * parts) * per_task;
    sweep_channels<V>(op, args, s, channel, std::min(per_task, channels - channel), stream);
    if (stream) end_streaming();
  });
}

}  // namespace mmrec::simd::detail
