// SPDX-License-Identifier: Apache-2.0
// A group of rows, one per lane of one or more registers: how many there are and where, their
// carries, and states on their way to and from lanes.
#pragma once

#include <mmrec/simd/scan/even_rows.hpp>
#include <mmrec/simd/scan/streams.hpp>

#include <algorithm>
#include <array>

namespace mmrec::simd::detail {

/// Spare lanes repeat live rows and so write what those write. Arch is the file's, so that files
/// compiled for different instructions have different functions even where V is the same.
template <class V, class Op, class T, class State, std::size_t NI, std::size_t NO, std::size_t NS,
          class Arch>
struct grouped_rows {
  using arguments = sweep_args<T, State, NI, NO, NS>;
  /// Registers of eight rows: their chains cover the latency of one another. (SSE, with its 16
  /// short registers, has none to spare.)
  static constexpr std::size_t eight = sizeof(V) == 32 && lanes<V> < 8 ? 8 / lanes<V> : 1;
  /// And of a step: eight rows in one register wait for one another, so two go together where there
  /// are 32 registers and few streams.
  static constexpr bool pairs =
      !scan_ops::costly<Op> && lanes<V> == 8 && NI + NO <= 3 && registers<batch<State, Arch>> == 32;
  static constexpr std::size_t parts = pairs ? 2 : eight;
  static constexpr std::size_t w = parts * lanes<V>;
  /// A group has w rows, or up to these.
  static constexpr auto few = static_cast<index_t>(eight * lanes<V>);
  /// Steps of a tile: a line of memory, which leaves the caches, or loses its place there, as a
  /// whole; or few that stay in registers, and of which the processor sees the next while the steps
  /// of these wait for one another.
  static constexpr std::size_t line = std::max<std::size_t>(lanes<V>, 64 / sizeof(T));
  static constexpr std::size_t held = eight > 1 ? line : lanes<V>;
  using step = std::array<V, parts>;

  lane_rows<w> row() const { return {live}; }
  std::size_t lanes_in_use() const { return parts_in_use * lanes<V>; }

  void begin(const Op& op, const arguments& args, index_t first_row, index_t live_rows) {
    const index_t channels = args.channels();
    first = first_row, live = live_rows;
    parts_in_use = live > few ? parts : eight;
    const index_t s = first / channels, channel = first % channels;
    length = args.sequence(s).length;
    at = position(args, args.sequence(s), channel);
    const auto state = states(args, args.carry_in, op.identity());
    for (std::size_t p = 0; p < parts; ++p) carry[p] = op.load(state[p]);
    unroll<NS>([&](auto e) { edge[e] = states(args, args.edge[e], args.edge_default[e]); });
  }

  void end(const Op& op, const arguments& args) const {
    if (args.carry_out.out) give_states(op, args);
  }

  cursor<T, NI, NO> at;  // of the first row
  std::array<std::array<V, Op::carries>, parts> carry;
  std::array<step, NS> edge;
  index_t first, live, length;
  std::size_t parts_in_use;

 private:
  step states(const arguments& args, const view<const State, 2>& from, double otherwise) const {
    if (from) return given_states(args, from);
    step result;
    result.fill(V(static_cast<State>(otherwise)));
    return result;
  }
  __attribute__((noinline)) step given_states(const arguments& args,
                                              const view<const State, 2>& from) const {
    step result;
    alignas(64) State buffer[w];
    const index_t channels = args.channels();
    for (std::size_t j = 0; j < w; ++j)
      buffer[j] = from((first + row()(j)) / channels, (first + row()(j)) % channels);
    for (std::size_t p = 0; p < parts; ++p) result[p] = V::load_unaligned(buffer + p * lanes<V>);
    return result;
  }

  __attribute__((noinline)) void give_states(const Op& op, const arguments& args) const {
    alignas(64) State state[w];
    for (std::size_t p = 0; p < parts; ++p)
      op.store(carry[p]).store_unaligned(state + p * lanes<V>);
    State of_row[w];
    for (std::size_t j = 0; j < lanes_in_use(); ++j) of_row[row()(j)] = state[j];
    const index_t channels = args.channels();
    for (index_t i = 0; i < live; ++i)
      write_state(of_row + i, args.carry_out, (first + i) / channels, (first + i) % channels, 1);
  }
};

}  // namespace mmrec::simd::detail
