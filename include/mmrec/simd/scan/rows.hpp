// SPDX-License-Identifier: Apache-2.0
// Sweep of any layout: a row is one channel of one sequence, a lane is a row, and a group has eight
// rows, one register of them, or sixteen in two. A tile is a few steps, or a cache line of them:
// streams with unit stride on time, whose rows are the same distance apart, are read in tiles,
// transposed in registers, and written back. More rows at a time would hide more of the steps'
// latency but cost more than that in the caches: rows whose strides are a power of two share a set
// of them, and a line that is left half used is fetched twice. Any other stream is gathered.
// Registers have 256 bits at most where a step is cheap: a row's quads are put together and taken
// apart for less than in longer ones.
#pragma once

#include <mmrec/simd/scan/gathered_rows.hpp>
#include <mmrec/simd/scan/row_tiles.hpp>

namespace mmrec::simd::detail {

/// The batch of a row sweep.
template <class Op, class State, class Arch>
struct row_batch {
  using type = batch<State, Arch>;
};
template <class Op, class State, class Arch>
  requires(sizeof(batch<State, Arch>) == 64 && !scan_ops::costly<Op>)
struct row_batch<Op, State, Arch> {
  using type = batch<State, xsimd::fma3<xsimd::avx2>>;
};

/// What is done with a group: steps in tiles where its rows allow that, and others as they come.
template <class V, class Op, class T, class State, std::size_t NI, std::size_t NO, std::size_t NS,
          class Arch>
class row_group {
 public:
  using group = grouped_rows<V, Op, T, State, NI, NO, NS, Arch>;
  using arguments = typename group::arguments;
  static constexpr std::size_t w = group::w, at_once = scan_ops::costly<Op> ? 2 : 1;
  static constexpr auto few = group::few;
  static constexpr index_t turn = 16;  // steps until the next group's turn

  void begin(const Op& op, const arguments& args, index_t first, index_t live) {
    rows_.begin(op, args, first, live);
    gathered_.begin();
    walk_ = common_walk(args);
    // Do these rows' lines push one another out of the first level? Lines a way apart share a set.
    constexpr auto way = index_t{4096 / sizeof(T)};
    const index_t shared = (apart_ | way) & -(apart_ | way);
    const auto crowded = [&](index_t rows) {
      return static_cast<index_t>(NI + NO) * rows * shared > way * first_level_ways();
    };
    crowded_ = crowded(few), crowded_together_ = crowded(w);
  }

  /// Steps [t, t + n) in walking order.
  void advance(const Op& op, const arguments& args, index_t t, index_t n, const storing& how) {
    for (const index_t end = t + n; t < end;) {
      // The step, from here, that reads the shifted streams from states.
      const index_t edge = NS == 0 ? -1 : args.reverse ? rows_.length - 1 - t : -t;
      index_t steps = edge < 0 ? end - t : std::min(edge, end - t);
      if constexpr (!scan_ops::costly<Op>) {
        constexpr int direction = Op::backwards ? -1 : 1;
        constexpr std::size_t eight = group::eight, parts = group::parts;
        constexpr std::size_t line = group::line, held = group::held;
        const bool lines = how.stream || crowded_;
        const bool together = !lines && rows_.parts_in_use == parts &&
                              (parts == eight || !(crowded_together_ || how.late));
        steps &= -(lines ? index_t{line} : index_t{held});
        if (walk_ == direction && steps > 0) {
          if (together)
            sweep_tiles<direction, held, parts>(op, rows_, 0, apart_, t, steps, how);
          else
            for (std::size_t p = 0; p < rows_.parts_in_use; p += eight)
              lines ? sweep_tiles<direction, line, eight>(op, rows_, p, apart_, t, steps, how)
                    : sweep_tiles<direction, held, eight>(op, rows_, p, apart_, t, steps, how);
          t += steps;
          continue;
        }
      }
      steps = std::min(index_t{group::line}, end - t);
      gathered_.advance(op, args, rows_, edge, t, steps, how);
      t += steps;
    }
  }

  void end(const Op& op, const arguments& args) const { rows_.end(op, args); }

 private:
  /// See walk_; also finds how far apart the rows are.
  index_t common_walk(const arguments& args) {
    const auto& at = rows_.at;
    const index_t channels = args.channels();
    index_t walk = at.in_step[0] == 1 || at.in_step[0] == -1 ? at.in_step[0] : 0;
    for (std::size_t k = 0; k < NI; ++k) walk = at.in_step[k] == walk ? walk : 0;
    for (std::size_t k = 0; k < NO; ++k)
      if (at.out[k] && (at.out_step[k] != walk || at.accumulate[k])) walk = 0;
    // Is it as far from one sequence's last row to the next one's first?
    apart_ = args.in[0].stride(channels == 1 ? 0 : 2);
    const bool crosses = channels > 1 && rows_.first % channels + rows_.live > channels;
    const auto check = [&](const auto& v) {
      if (v.stride(channels == 1 ? 0 : 2) != apart_ ||
          (crosses && v.stride(0) != channels * apart_))
        walk = 0;
    };
    for (const auto& v : args.in) check(v);
    for (const auto& v : args.out)
      if (v.out) check(v.out);
    return walk;
  }

  group rows_;
  gathered_rows<V, Op, T, State, NI, NO, NS, Arch> gathered_;
  index_t apart_;  // the distance between rows, in elements
  bool crowded_, crowded_together_;
  /// The direction in which all streams are contiguous in time, where they are overwritten and rows
  /// lie the same distance apart; or 0.
  index_t walk_;
};

}  // namespace mmrec::simd::detail
