// SPDX-License-Identifier: Apache-2.0
// Channel-last sweep: every stream has unit stride on channels, a register is a row's neighbouring
// channels. A task is one sequence and up to 1024 channels; it advances blocks of Wide batches,
// whose chains are independent and so cover the latency of one another. Where a task has several
// blocks, it walks time in tiles and parks the carries of the waiting blocks in an L1 buffer, so
// that memory is read in whole rows. Where one block has all channels, a task is several sequences:
// whatever is written between two of them waits in the store buffer behind the results.
#pragma once

#include <mmrec/simd/scan/streams.hpp>

namespace mmrec::simd::detail {

template <std::size_t Wide, class Carry, class F>
MMREC_INLINE void each_pair(Carry (&carry)[Wide], const F& f) {
  for (std::size_t v = 0; v + 1 < Wide; v += 2)
    for (std::size_t k = 0; k < carry[v].size(); ++k) f(carry[v][k], carry[v + 1][k]);
}

/// `steps` steps of Wide neighbouring batches, of one sequence of `run` after the other; the last
/// batch has `last` live lanes if Partial. The last Edges inputs are `edge`: states, which are not
/// rounded to T. Late: see storing.
template <bool Partial, bool Late, std::size_t Wide, std::size_t Edges, class V, class Op, class T,
          std::size_t NI, std::size_t NO>
void advance(const Op& op, std::array<V, Op::carries>* carry, cursor<T, NI, NO>& streams,
             const sequence_run<NI, NO>& run, index_t steps, std::size_t last, bool stream,
             const V* edge) {
  constexpr auto w = static_cast<index_t>(lanes<V>);
  // Local copies stay in registers.
  std::array<V, Op::carries> carries[Wide];
  auto in = streams.in;
  auto out = streams.out;
  const auto in_step = streams.in_step;
  const auto out_step = streams.out_step;
  [[maybe_unused]] const auto accumulate = streams.accumulate;
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
  decltype(scan_ops::begin_step(op, carries[0], std::array<V, NI>{})) halves[Wide];
  // A step of the batches from `first` on that are read at once.
  const auto begin = [&](std::size_t first) MMREC_LAMBDA_INLINE {
    registers x[NI];
    for (std::size_t k = 0; k < NI - Edges; ++k)
      x[k] = load(in[k] + static_cast<index_t>(first) * w);
    for (std::size_t k = NI - Edges; k < NI; ++k) x[k][0] = edge[k + Edges - NI];
    for (std::size_t r = 0; r < span; ++r) {
      std::array<V, NI> now;
      for (std::size_t k = 0; k < NI; ++k) now[k] = x[k][r];
      [[maybe_unused]] const auto before = carries[first + r];
      halves[first + r] = scan_ops::begin_step(op, carries[first + r], now);
      if constexpr (Late) halves[first + r] = scan_ops::begin_before(op, before);
    }
  };
  const auto end = [&](std::size_t first) MMREC_LAMBDA_INLINE {
    registers y[NO];
    for (std::size_t r = 0; r < span; ++r) {
      const auto result = scan_ops::end_step(op, halves[first + r]);
      for (std::size_t k = 0; k < NO; ++k) y[k][r] = result[k];
    }
    for (std::size_t k = 0; k < NO; ++k) {
      if (Op::optional_outputs && !out[k]) continue;
      T* const to = out[k] + static_cast<index_t>(first) * w;
      if constexpr (Op::optional_outputs) {
        if (accumulate[k]) {
          const registers old = load(to);
          for (std::size_t r = 0; r < span; ++r) y[k][r] = y[k][r] + old[r];
        }
      }
      store(to, y[k]);
    }
  };
  // Backwards also in the row: where rows go down and lines up nothing is fetched ahead, and scans
  // in the third level take twice the time.
  const auto nth = [](std::size_t v) MMREC_LAMBDA_INLINE {
    return (Op::backwards ? Wide / span - 1 - v : v) * span;
  };
  for (index_t sequences = run.count;; carry += Wide) {
    unroll<Wide>([&](std::size_t v) MMREC_LAMBDA_INLINE { carries[v] = carry[v]; });
    if constexpr (span == 2) each_pair(carries, [](V& a, V& b) { unzip(a, b); });
    for (index_t i = 0; i < steps; ++i) {
      if constexpr (scan_ops::costly_value<Op>) {
        unroll<Wide / span>([&](std::size_t v) MMREC_LAMBDA_INLINE { begin(nth(v)); });
        unroll<Wide / span>([&](std::size_t v) MMREC_LAMBDA_INLINE { end(nth(v)); });
      } else {
        unroll<Wide / span>([&](std::size_t v) MMREC_LAMBDA_INLINE {
          begin(nth(v));
          end(nth(v));
        });
      }
      for (std::size_t k = 0; k < NI; ++k) in[k] += in_step[k];
      for (std::size_t k = 0; k < NO; ++k)
        if (!Op::optional_outputs || out[k]) out[k] += out_step[k];
    }
    if constexpr (span == 2) each_pair(carries, [](V& a, V& b) { zip(a, b); });
    unroll<Wide>([&](std::size_t v) MMREC_LAMBDA_INLINE { carry[v] = carries[v]; });
    if (--sequences == 0) break;
    for (std::size_t k = 0; k < NI; ++k) in[k] += run.in[k] - steps * in_step[k];
    for (std::size_t k = 0; k < NO; ++k)
      if (!Op::optional_outputs || out[k]) out[k] += run.out[k] - steps * out_step[k];
  }
  streams.in = in;
  streams.out = out;
}

/// How blocks of some width advance.
template <class V, class Op, class T, std::size_t NI, std::size_t NO>
struct block_kind {
  index_t batches;
  void (*advance)(const Op& op, std::array<V, Op::carries>* carry, cursor<T, NI, NO>& streams,
                  const sequence_run<NI, NO>& run, index_t steps, std::size_t last, bool stream,
                  const V* edge);
};

/// The sequences of `run` from s on, channels [channel, channel + n); where there is more than one,
/// each is one block.
template <class V, class Op, class T, class State, std::size_t NI, std::size_t NO, std::size_t NS>
void sweep_channels(const Op& op, const sweep_args<T, State, NI, NO, NS>& args, index_t s,
                    const sequence_run<NI, NO>& run, index_t channel, index_t n,
                    const storing& how) {
  constexpr index_t w = static_cast<index_t>(lanes<V>);
  // As wide as the registers allow: a row read in two halves costs a fifth of a copy's speed.
  constexpr std::size_t widest = scan_ops::one_operation<Op> && std::same_as<T, State> ? 16 : 8;
  constexpr std::size_t wide = 8, narrow = 4;
  using carries = std::array<V, Op::carries>;
  const auto range = args.sequence(s);
  carries parked[scan_tuning::task_channels / w + 1];
  carries* next = parked;
  for (index_t i = s; i < s + run.count; ++i)
    for (index_t c = 0; c < n; c += w)
      *next++ =
          op.load(load_states<V>(args.carry_in, i, channel + c, std::min(w, n - c), op.identity()));

  // Steps [from, to) in walking order for the block at channel offset c.
  const auto block = [&](const block_kind<V, Op, T, NI, NO>& with, index_t c, index_t from,
                         index_t to) {
    carries* const carry = parked + c / w;
    auto at = position(args, range, channel + c);
    at.walk(from);
    const index_t live = std::min(with.batches * w, n - c);
    const auto last = static_cast<std::size_t>(live - (with.batches - 1) * w);
    // The first step of each sequence, which reads the shifted streams from states; batch by batch.
    const auto edge_step = [&] {
      if constexpr (NS > 0) {
        for (index_t i = 0; i < run.count; ++i) {
          for (index_t v = 0; v < with.batches; ++v) {
            auto here = at;
            for (std::size_t k = 0; k < NI; ++k) here.in[k] += v * w;
            for (std::size_t k = 0; k < NO; ++k)
              if (here.out[k]) here.out[k] += v * w;
            const index_t lanes_here = std::min(w, n - c - v * w);
            V edge[NS];
            for (std::size_t e = 0; e < NS; ++e)
              edge[e] = load_states<V>(args.edge[e], s + i, channel + c + v * w, lanes_here,
                                       args.edge_default[e]);
            advance<true, false, 1, NS>(op, carry + i * with.batches + v, here, {}, 1,
                                        static_cast<std::size_t>(lanes_here), false, edge);
          }
          run.walk(at, 1);
        }
        run.walk(at, -run.count);
        at.walk(1);
      }
    };
    const bool edge_first = NS > 0 && !args.reverse && from == 0;
    const bool edge_last = NS > 0 && args.reverse && to == range.length;
    if (edge_first) edge_step();
    const index_t steps = to - from - (edge_first || edge_last ? 1 : 0);
    with.advance(op, carry, at, run, steps, last, how.stream, nullptr);
    if (edge_last) {
      run.walk(at, 1 - run.count);
      edge_step();
    }
  };

  using kind = block_kind<V, Op, T, NI, NO>;
  static constexpr kind in_time[] = {{widest, &advance<false, false, widest, 0, V, Op, T, NI, NO>},
                                     {wide, &advance<false, false, wide, 0, V, Op, T, NI, NO>},
                                     {narrow, &advance<false, false, narrow, 0, V, Op, T, NI, NO>},
                                     {1, &advance<true, false, 1, 0, V, Op, T, NI, NO>}};
  const kind* kinds = in_time;
  if constexpr (has_late<Op>) {
    static constexpr kind late[] = {{wide, &advance<false, true, wide, 0, V, Op, T, NI, NO>},
                                    {narrow, &advance<false, true, narrow, 0, V, Op, T, NI, NO>},
                                    {1, &advance<true, true, 1, 0, V, Op, T, NI, NO>}};
    if (how.late) kinds = late;
  }
  const bool one_block = n <= static_cast<index_t>(wide) * w || n == kinds->batches * w;
  const index_t tile = one_block ? range.length : scan_tuning::tile_steps;
  for (index_t from = 0; from < range.length; from += tile) {
    const index_t to = std::min(range.length, from + tile);
    const kind* now = kinds;
    for (index_t c = 0; c < n; c += now->batches * w) {
      while (now->batches > 1 && c + now->batches * w > n) ++now;
      block(*now, c, from, to);
    }
  }

  if (!args.carry_out.out) return;
  next = parked;
  for (index_t i = s; i < s + run.count; ++i)
    for (index_t c = 0; c < n; c += w)
      store_states(op.store(*next++), args.carry_out, i, channel + c, std::min(w, n - c));
}

template <class V, class Op, class T, class State, std::size_t NI, std::size_t NO, std::size_t NS>
void share_channels(unsigned threads, const Op& op, const sweep_args<T, State, NI, NO, NS>& args,
                    bool late) {
  constexpr auto w = static_cast<index_t>(lanes<V>);
  const index_t sequences = args.sequences(), channels = args.channels();
  const storing how{worth_streaming<V>(threads, args, 2, lanes<V>), late};
  index_t per_task = std::min(scan_tuning::task_channels, (channels + w - 1) / w * w);
  while (per_task > 4 * w &&
         sequences * ((channels + per_task - 1) / per_task) < static_cast<index_t>(threads))
    per_task = (per_task / 2 + w - 1) / w * w;
  const index_t parts = (channels + per_task - 1) / per_task;
  // Sequences of one task: as many carries as there is place for; on several threads only short
  // ones, and so that each thread has two tasks.
  const bool one_block = channels == 4 * w || channels == 8 * w || channels <= w;
  const bool are_short =
      !scan_ops::costly<Op> && args.in[0].extent(1) * channels <= scan_tuning::short_sequence;
  const index_t each = threads == 1 ? sequences : are_short ? sequences / (2 * threads) : 1;
  const index_t together = one_block && args.offsets.empty()
                               ? std::clamp<index_t>(each, 1, scan_tuning::task_channels / (8 * w))
                               : 1;
  const index_t groups = (sequences + together - 1) / together;
  parallel_for(threads, groups * parts, [&](index_t task) {
    const index_t group = parts == 1 ? task : task / parts, s = group * together;
    const index_t channel = (task - group * parts) * per_task;
    sequence_run<NI, NO> run;
    if (together > 1) {
      run.count = std::min(together, sequences - s);
      for (std::size_t k = 0; k < NI; ++k) run.in[k] = args.in[k].stride(0);
      for (std::size_t k = 0; k < NO; ++k) run.out[k] = args.out[k].out.stride(0);
    }
    sweep_channels<V>(op, args, s, run, channel, std::min(per_task, channels - channel), how);
    if (how.stream) end_streaming();
  });
}

}  // namespace mmrec::simd::detail
