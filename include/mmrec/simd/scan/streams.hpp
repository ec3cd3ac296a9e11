// SPDX-License-Identifier: Apache-2.0
// What the sweeps of the simd backend share: where a sequence's streams begin, states on their way
// to and from lanes, and whether results are worth storing past the caches.
#pragma once

#include <mmrec/scan_ops.hpp>
#include <mmrec/simd/caches.hpp>
#include <mmrec/simd/lanes.hpp>
#include <mmrec/simd/parallel.hpp>
#include <mmrec/simd/unroll.hpp>
#include <mmrec/sweep.hpp>

#include <algorithm>

namespace mmrec::simd {

struct scan_tuning {
  static constexpr index_t task_channels = 1024;  // channels of one task; carries of 4 KiB in float
  static constexpr index_t short_sequence = 4096;  // elements; a task has several
  static constexpr index_t tile_steps = 16;        // steps between two switches of block
  // Roughly what one thread takes with arrays in its caches, by their bytes; what an exponential
  // takes, in bytes for each of a state; and how many times longer where time is contiguous.
  static constexpr index_t bytes_per_nanosecond = 100, exponential_bytes = 6, time_last = 2;
  static constexpr index_t serial_work = 2500;  // nanoseconds; threads never gain below
  static constexpr std::size_t smallest_cache =
      8 << 20;  // no need to ask for the cache's size below this
};

namespace detail {

/// How results are stored.
struct storing {
  bool stream = false;  // past the caches
  bool late = false;    // the state before a step in place of the one after it
};

/// Can this operator's results be late? An exclusive scan is compiled together with the inclusive
/// one, of which only the innermost loops differ: most calls need but one of them.
template <class Op>
inline constexpr bool has_late = false;
template <class Op>
inline constexpr bool has_late<scan_ops::forward<Op, false>> = true;

/// The streams of one sequence, positioned at its first step in walking order.
template <class T, std::size_t NI, std::size_t NO>
struct cursor {
  std::array<const T*, NI> in;
  std::array<index_t, NI> in_step;
  std::array<T*, NO> out;
  std::array<index_t, NO> out_step;
  std::array<bool, NO> accumulate;

  MMREC_INLINE void walk(index_t steps) {
    for (std::size_t k = 0; k < NI; ++k) in[k] += steps * in_step[k];
    for (std::size_t k = 0; k < NO; ++k)
      if (out[k]) out[k] += steps * out_step[k];
  }
};

/// How many sequences are walked one after the other; from one to the next in each stream.
template <std::size_t NI, std::size_t NO>
struct sequence_run {
  index_t count = 1;
  std::array<index_t, NI> in{};
  std::array<index_t, NO> out{};

  template <class T>
  MMREC_INLINE void walk(cursor<T, NI, NO>& c, index_t sequences) const {
    for (std::size_t k = 0; k < NI; ++k) c.in[k] += sequences * in[k];
    for (std::size_t k = 0; k < NO; ++k)
      if (c.out[k]) c.out[k] += sequences * out[k];
  }
};

template <class T, class State, std::size_t NI, std::size_t NO, std::size_t NS>
MMREC_INLINE cursor<T, NI, NO> position(const sweep_args<T, State, NI, NO, NS>& args,
                                        const typename sweep_args<T, State, NI, NO, NS>::range& r,
                                        index_t channel) {
  cursor<T, NI, NO> c;
  const index_t first = args.reverse ? r.begin + r.length - 1 : r.begin;
  for (std::size_t k = 0; k < NI; ++k) {
    const auto& v = args.in[k];
    const index_t step = first - (k + NS < NI ? 0 : 1);  // shifted streams read the step before
    c.in[k] = v.data_handle() + r.batch * v.stride(0) + step * v.stride(1) + channel * v.stride(2);
    c.in_step[k] = args.reverse ? -v.stride(1) : v.stride(1);
  }
  for (std::size_t k = 0; k < NO; ++k) {
    const auto& v = args.out[k].out;
    c.out[k] =
        v ? v.data_handle() + r.batch * v.stride(0) + first * v.stride(1) + channel * v.stride(2)
          : nullptr;
    c.out_step[k] = args.reverse ? -v.stride(1) : v.stride(1);
    c.accumulate[k] = args.out[k].accumulate;
  }
  return c;
}

/// Do results pass the caches by? When the arrays do not fit there, a store that first reads its
/// line costs a third access; it needs whole aligned registers of `width` elements along
/// `unit`, the axis of unit stride. Such stores are no faster from two threads than from one (28
/// GB/s, measured on Zen 4), and the reads of one input do not hide that: then as much as fits
/// stays in the cache. V tells files compiled for different instructions apart.
template <class V, class T, class State, std::size_t NI, std::size_t NO, std::size_t NS>
bool worth_streaming(unsigned threads, const sweep_args<T, State, NI, NO, NS>& args,
                     std::size_t unit, std::size_t width) {
  const auto w = static_cast<index_t>(width);
  const auto bytes = static_cast<std::size_t>(args.in[0].size()) * sizeof(T) * (NI + NO - NS);
  if (!std::same_as<T, State>) return false;
  const std::size_t eighths = NI == 1 && threads > 1 ? 9 : 6;  // of the cache
  if (bytes < scan_tuning::smallest_cache || bytes < last_level_cache() / 8 * eighths ||
      !args.offsets.empty())
    return false;
  for (const auto& [out, accumulate] : args.out) {
    if (!out) continue;
    bool aligned = !accumulate && out.stride(unit) == 1 && out.extent(unit) % w == 0 &&
                   reinterpret_cast<std::uintptr_t>(out.data_handle()) % (width * sizeof(T)) == 0;
    for (std::size_t axis = 0; axis < 3; ++axis)
      aligned &= axis == unit || out.stride(axis) % w == 0;
    if (!aligned) return false;
  }
  return true;
}

/// States of n neighbouring channels, one per lane; the other lanes, and an absent view, are
/// `otherwise`.
template <class V, class State>
V load_states(const view<const State, 2>& from, index_t s, index_t channel, index_t n,
              double otherwise) {
  const V constant(static_cast<State>(otherwise));
  if (!from) return constant;
  alignas(64) State buffer[lanes<V>];
  constant.store_unaligned(buffer);
  for (index_t i = 0; i < n; ++i) buffer[i] = from(s, channel + i);
  return V::load_unaligned(buffer);
}

template <class State>
MMREC_INLINE void write_state(const State* from, const sink<State, 2>& to, index_t s,
                              index_t channel, index_t n) {
  for (index_t i = 0; i < n; ++i) {
    State& p = to.out(s, channel + i);
    p = to.accumulate ? p + from[i] : from[i];
  }
}

template <class V, class State>
void store_states(const V& v, const sink<State, 2>& to, index_t s, index_t channel, index_t n) {
  alignas(64) State buffer[lanes<V>];
  v.store_unaligned(buffer);
  write_state(buffer, to, s, channel, n);
}

/// Shares out rows, `per_sequence` of each sequence; a task has as many as fit Group::at_once
/// registers. Groups take turns tile by tile, so that their chains cover the latency of one
/// another.
template <class Group, class Op>
void share_groups(unsigned threads, const Op& op, const typename Group::arguments& args,
                  index_t per_sequence, const storing& how) {
  constexpr auto w = static_cast<index_t>(Group::w);
  constexpr index_t most = w * static_cast<index_t>(Group::at_once);
  // A group across sequences needs sequences of one length.
  const bool one_length = args.offsets.empty();
  const index_t rows = one_length ? args.sequences() * per_sequence : per_sequence;
  // The last rows are shared out in smaller tasks, and all of them where threads would have none.
  index_t few = most;
  if constexpr (requires { Group::few; }) few = Group::few;
  const index_t whole = rows < most * static_cast<index_t>(threads) ? 0 : rows / most;
  const index_t parts = whole + (rows - whole * most + few - 1) / few;
  parallel_for(threads, one_length ? parts : parts * args.sequences(), [&](index_t task) {
    const index_t s = one_length ? 0 : task / parts, part = task - s * parts;
    const index_t row_in = part < whole ? part * most : whole * most + (part - whole) * few;
    const index_t first = s * per_sequence + row_in;
    const index_t end = s * per_sequence + std::min(rows, row_in + (part < whole ? most : few));
    if constexpr (has_late<Op> && requires { Group::all_at_once(op, args, first); })
      if (!how.late && end - first == most && Group::all_at_once(op, args, first)) return;
    const index_t length = args.sequence(s).length;
    Group groups[Group::at_once];
    index_t count = 0, row = first;
    do groups[count++].begin(op, args, row, std::min(w, end - row));
    while ((row += w) < end);
    const index_t turn = count > 1 ? Group::turn : length;
    for (index_t t = 0; t < length; t += turn)
      for (index_t g = 0; g < count; ++g)
        groups[g].advance(op, args, t, std::min(turn, length - t), how);
    for (index_t g = 0; g < count; ++g) groups[g].end(op, args);
    if (how.stream) end_streaming();
  });
}

}  // namespace detail
}  // namespace mmrec::simd
