// SPDX-License-Identifier: Apache-2.0
// Sweep of any layout: a row is one channel of one sequence, a lane is a row, and a group has eight
// rows, one register of them, or sixteen in two. A tile is a few steps, or a cache line of them:
// streams with unit stride on time, whose rows are the same distance apart, are read in tiles,
// transposed in registers, and written back. More rows at a time would hide more of the steps'
// latency but cost more than that in the caches: rows whose strides are a power of two share a set
// of them, and a line that is left half used is fetched twice. Any other stream is gathered.
// Registers have 256 bits at most where a step is cheap: a row's quads are put together and taken
// apart for less than in longer ones. Budget of sixteen rows in float: 46 cycles for 8 steps on Zen
// 4, where their products wait 24 and the shuffles take 28; a copy in the second level takes 33.
#pragma once

#include <mmrec/simd/scan/even_rows.hpp>
#include <mmrec/simd/scan/streams.hpp>

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

/// Some rows, one per lane of one or more registers, and where they are. Spare lanes repeat live
/// rows and so write what those write. Arch is the file's, so that files compiled for different
/// instructions have different functions even where V is the same.
template <class V, class Op, class T, class State, std::size_t NI, std::size_t NO, std::size_t NS,
          class Arch>
class row_group {
 public:
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
  static constexpr std::size_t at_once = scan_ops::costly<Op> ? 2 : 1;
  static constexpr index_t turn = 16;  // steps until the next group's turn
  /// Steps of a tile: a line of memory, which leaves the caches, or loses its place there, as a
  /// whole; or few that stay in registers, and of which the processor sees the next while the steps
  /// of these wait for one another.
  static constexpr std::size_t line = std::max<std::size_t>(lanes<V>, 64 / sizeof(T));
  static constexpr std::size_t held = eight > 1 ? line : lanes<V>;

  void begin(const Op& op, const arguments& args, index_t first, index_t live) {
    const index_t channels = args.channels();
    first_ = first, live_ = live;
    parts_ = live > few ? parts : eight;
    const index_t s = first / channels, channel = first % channels;
    length_ = args.sequence(s).length;
    at_ = position(args, args.sequence(s), channel);
    located_ = false;
    const auto state = states(args, args.carry_in, op.identity());
    for (std::size_t p = 0; p < parts; ++p) carry_[p] = op.load(state[p]);
    unroll<NS>([&](auto e) { edge_[e] = states(args, args.edge[e], args.edge_default[e]); });
    walk_ = contiguous(at_.in_step[0]) ? at_.in_step[0] : 0;
    for (std::size_t k = 0; k < NI; ++k) walk_ = at_.in_step[k] == walk_ ? walk_ : 0;
    for (std::size_t k = 0; k < NO; ++k)
      if (at_.out[k] && (at_.out_step[k] != walk_ || at_.accumulate[k])) walk_ = 0;
    // Is it as far from one sequence's last row to the next one's first?
    apart_ = args.in[0].stride(channels == 1 ? 0 : 2);
    const bool crosses = channels > 1 && channel + live > channels;
    const auto check = [&](const auto& v) {
      if (v.stride(channels == 1 ? 0 : 2) != apart_ ||
          (crosses && v.stride(0) != channels * apart_))
        walk_ = 0;
    };
    for (const auto& v : args.in) check(v);
    for (const auto& v : args.out)
      if (v.out) check(v.out);
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
      const index_t edge = NS == 0 ? -1 : args.reverse ? length_ - 1 - t : -t;
      index_t steps = edge < 0 ? end - t : std::min(edge, end - t);
      if constexpr (!scan_ops::costly<Op>) {
        constexpr int direction = Op::backwards ? -1 : 1;
        const bool lines = how.stream || crowded_;
        const bool together =
            !lines && parts_ == parts && (parts == eight || !(crowded_together_ || how.late));
        steps &= -(lines ? index_t{line} : index_t{held});
        if (walk_ == direction && steps > 0) {
          if (together)
            tiles<direction, held, parts>(op, 0, t, steps, how);
          else
            for (std::size_t p = 0; p < parts_; p += eight)
              lines ? tiles<direction, line, eight>(op, p, t, steps, how)
                    : tiles<direction, held, eight>(op, p, t, steps, how);
          t += steps;
          continue;
        }
      }
      steps = std::min(index_t{line}, end - t);
      if (!located_) locate(args);
      any_steps(op, args.reverse, edge, t, steps, how);
      t += steps;
    }
  }

  void end(const Op& op, const arguments& args) {
    if (args.carry_out.out) give_states(op, args);
  }

 private:
  using step = std::array<V, parts>;
  template <class P>
  using pointers = std::array<std::array<P, lanes<V>>, parts>;

  static bool contiguous(index_t stride) { return stride == 1 || stride == -1; }
  /// The step, in walking order, of the j-th of a register's steps in memory.
  static MMREC_INLINE std::size_t in_walk(index_t stride, std::size_t j) {
    return stride < 0 ? lanes<V> - 1 - j : j;
  }

  lane_rows<w> row() const { return {live_}; }
  std::size_t lanes_in_use() const { return parts_ * lanes<V>; }

  /// Where the rows are, wherever they are.
  __attribute__((noinline)) void locate(const arguments& args) {
    located_ = true;
    const index_t channels = args.channels(), first = first_ % channels;
    index_t offset[w];
    const auto from_first = [&](const auto& v) {
      index_t channel = first, at = 0;
      for (index_t i = 0; i < live_; ++i) {
        offset[i] = at;
        const bool last = ++channel == channels;
        at += last ? v.stride(0) - (channels - 1) * v.stride(2) : v.stride(2);
        if (last) channel = 0;
      }
    };
    const auto lanes_of = [&](auto& rows, auto* p) {
      for (std::size_t j = 0; j < lanes_in_use(); ++j)
        rows[j / lanes<V>][j % lanes<V>] = p ? p + offset[row()(j)] : nullptr;
    };
    for (std::size_t k = 0; k < NI; ++k) from_first(args.in[k]), lanes_of(in_[k], at_.in[k]);
    for (std::size_t k = 0; k < NO; ++k) from_first(args.out[k].out), lanes_of(out_[k], at_.out[k]);
  }

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
      buffer[j] = from((first_ + row()(j)) / channels, (first_ + row()(j)) % channels);
    for (std::size_t p = 0; p < parts; ++p) result[p] = V::load_unaligned(buffer + p * lanes<V>);
    return result;
  }

  __attribute__((noinline)) void give_states(const Op& op, const arguments& args) const {
    alignas(64) State state[w];
    for (std::size_t p = 0; p < parts; ++p)
      op.store(carry_[p]).store_unaligned(state + p * lanes<V>);
    State of_row[w];
    for (std::size_t j = 0; j < lanes_in_use(); ++j) of_row[row()(j)] = state[j];
    const index_t channels = args.channels();
    for (index_t i = 0; i < live_; ++i)
      write_state(of_row + i, args.carry_out, (first_ + i) / channels, (first_ + i) % channels, 1);
  }

  /// The rows of Parts parts from `part` on; the group's first one is at p.
  template <std::size_t Parts, class P>
  MMREC_INLINE std::array<even_rows<P, lanes<V>>, Parts> rows_from(P* p, std::size_t part) const {
    const lane_rows<w> lane = row();
    std::array<even_rows<P, lanes<V>>, Parts> rows;
    for (std::size_t i = 0; i < Parts; ++i) rows[i] = {p, apart_, lane, (part + i) * lanes<V>};
    return rows;
  }

  /// Tiles of Parts parts from `part` on, in registers: every stream walks in Direction and is
  /// overwritten, and rows are the same distance apart. Eight rows have the steps of a tile at
  /// once, which may be a whole line; sixteen have a quad at a time, and the next one is read
  /// before: the processor does not see far past operations that wait for one another.
  template <int Direction, std::size_t Held, std::size_t Parts>
  void tiles(const Op& op, std::size_t part, index_t t, index_t steps, const storing& how) {
    constexpr std::size_t block = Parts > eight && has_quads<V, T> ? quad<T> : Held;
    constexpr bool ahead = block < Held;
    // From the end of them in memory where Direction goes down.
    constexpr index_t back = Direction < 0 ? Held - 1 : 0,
                      block_back = Direction < 0 ? block - 1 : 0;
    std::array<std::array<V, Op::carries>, Parts> carry;
    for (std::size_t p = 0; p < Parts; ++p) carry[p] = carry_[part + p];
    std::array<std::array<even_rows<const T, lanes<V>>, Parts>, NI> in;
    std::array<std::array<even_rows<T, lanes<V>>, Parts>, NO> out{};
    for (std::size_t k = 0; k < NI; ++k)
      in[k] = rows_from<Parts>(at_.in[k] + Direction * t - block_back, part);
    for (std::size_t k = 0; k < NO; ++k)
      if (!Op::optional_outputs || at_.out[k])
        out[k] = rows_from<Parts>(at_.out[k] + Direction * t - back, part);
    const row_distances apart(row(), apart_ * index_t{sizeof(T)});
    // Unrolled, or the registers would be arrays in memory.
    using registers = std::array<std::array<std::array<V, block>, Parts>, NI>;
    const auto load = [&](registers& x) MMREC_LAMBDA_INLINE {
      unroll<NI * Parts>([&](auto i) MMREC_LAMBDA_INLINE {
        constexpr std::size_t k = i / Parts, p = i % Parts;
        load_transposed(x[k][p], in[k][p].at(apart), 0);
        // One stream after the other: lines of all of them would not find room in one set.
        if constexpr (!ahead) asm volatile("" ::: "memory");
      });
    };
    const auto move = [&](index_t by) MMREC_LAMBDA_INLINE {
      unroll<NI * Parts>([&](auto i) MMREC_LAMBDA_INLINE { in[i / Parts][i % Parts].move(by); });
    };
    registers x[2];
    if constexpr (ahead) load(x[0]);
    for (; steps > 0; steps -= Held) {
      std::array<V, Held> y[NO][Parts];
      unroll<Held / block>([&](auto b) MMREC_LAMBDA_INLINE {
        constexpr std::size_t first = b * block;
        if constexpr (!ahead) load(x[0]);
        // The first block of the next tile; after the last one, of this tile once more.
        const bool on = !ahead || first + block < Held || steps > index_t{Held};
        move(on ? Direction * index_t{block} : Direction * (index_t{block} - index_t{Held}));
        if constexpr (ahead) load(x[(b + 1) % 2]);
        // choose(the results of a step, the state before it)
        const auto walk = [&](const auto& choose) MMREC_LAMBDA_INLINE {
          unroll<block * Parts>([&](auto i) MMREC_LAMBDA_INLINE {
            constexpr std::size_t p = i % Parts, n = i / Parts;
            constexpr std::size_t at = Direction < 0 ? block - 1 - n : n;
            constexpr std::size_t to = Direction < 0 ? Held - 1 - first - n : first + n;
            std::array<V, NI> now;
            for (std::size_t k = 0; k < NI; ++k) now[k] = x[b % 2][k][p][at];
            const auto before = carry[p];
            const auto result = choose(op.step(carry[p], now), before);
            for (std::size_t k = 0; k < NO; ++k) y[k][p][to] = result[k];
          });
        };
        const auto in_time = [](const auto& result, const auto&)
                                 MMREC_LAMBDA_INLINE { return result; };
        if constexpr (has_late<Op> && Parts == eight) {
          const auto late = [&](const auto&, const auto& before)
                                MMREC_LAMBDA_INLINE { return op.value(before); };
          if (how.late) [[unlikely]]
            walk(late);
          else
            walk(in_time);
        } else {
          walk(in_time);
        }
      });
      unroll<NO * Parts>([&](auto i) MMREC_LAMBDA_INLINE {
        constexpr std::size_t k = i / Parts, p = i % Parts;
        if (Op::optional_outputs && !at_.out[k]) return;
        store_transposed(y[k][p], out[k][p].at(apart), 0, Held == line && how.stream);
        out[k][p].move(Direction * index_t{Held});
      });
    }
    for (std::size_t p = 0; p < Parts; ++p) carry_[part + p] = carry[p];
  }

  /// Any n steps, through a buffer in L1.
  __attribute__((noinline)) void any_steps(const Op& op, bool reverse, index_t edge, index_t t,
                                           index_t n, const storing& how) {
    std::array<std::array<step, line>, NI> x;
    for (std::size_t k = 0; k < NI; ++k) {
      const bool at_edge = k + NS >= NI && edge >= 0 && edge < n;
      // A shifted stream must not be read before its beginning: it is read unshifted, and moved.
      const index_t unshift = !at_edge ? 0 : reverse ? -at_.in_step[k] : at_.in_step[k];
      load(x[k], in_[k], t * at_.in_step[k] + unshift, at_.in_step[k], n);
      if constexpr (NS > 0) {
        if (!at_edge) continue;
        const auto first = x[k].begin(), last = first + n;
        if (reverse)
          std::move(first + 1, last, first);
        else
          std::move_backward(first, last - 1, last);
        x[k][static_cast<std::size_t>(edge)] = edge_[k + NS - NI];
      }
    }
    using begun = decltype(scan_ops::begin_step(op, carry_[0], std::array<V, NI>{}));
    constexpr index_t together = scan_ops::costly_value<Op> ? line : 1;
    std::array<std::array<begun, parts>, together> halves;
    std::array<std::array<step, line>, NO> y;
    for (index_t first = 0; first < n; first += together) {
      const auto from = static_cast<std::size_t>(first),
                 to = static_cast<std::size_t>(std::min(n, first + together));
      for (std::size_t i = from; i < to; ++i)
        for (std::size_t p = 0; p < parts_; ++p) {
          std::array<V, NI> now;
          for (std::size_t k = 0; k < NI; ++k) now[k] = x[k][i][p];
          [[maybe_unused]] const auto before = carry_[p];
          halves[i - from][p] = scan_ops::begin_step(op, carry_[p], now);
          if constexpr (has_late<Op>)
            if (how.late) halves[i - from][p] = scan_ops::begin_before(op, before);
        }
      for (std::size_t i = from; i < to; ++i)
        for (std::size_t p = 0; p < parts_; ++p) {
          const auto result = scan_ops::end_step(op, halves[i - from][p]);
          for (std::size_t k = 0; k < NO; ++k) y[k][i][p] = result[k];
        }
    }
    for (std::size_t k = 0; k < NO; ++k) {
      if (!at_.out[k]) continue;
      if constexpr (Op::optional_outputs) {
        if (at_.accumulate[k]) {
          pointers<const T*> from{};
          for (std::size_t p = 0; p < parts_; ++p)
            for (std::size_t j = 0; j < lanes<V>; ++j) from[p][j] = out_[k][p][j];
          load(x[0], from, t * at_.out_step[k], at_.out_step[k], n);
          for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i)
            for (std::size_t p = 0; p < parts_; ++p) y[k][i][p] = y[k][i][p] + x[0][i][p];
        }
      }
      store(y[k], k, t, n, how.stream);
    }
  }

  /// to[i] = step i of all rows, from offset `at` on.
  void load(std::array<step, line>& to, const pointers<const T*>& rows, index_t at, index_t stride,
            index_t n) const {
    constexpr auto whole = static_cast<index_t>(lanes<V>);
    index_t i = 0;
    for (; contiguous(stride) && i + whole <= n; i += whole)
      for (std::size_t p = 0; p < parts_; ++p) {
        std::array<V, lanes<V>> block;
        load_transposed(block, rows[p], at + i * stride - (stride < 0 ? whole - 1 : 0));
        for (std::size_t j = 0; j < lanes<V>; ++j)
          to[static_cast<std::size_t>(i) + in_walk(stride, j)][p] = block[j];
      }
    alignas(64) State buffer[lanes<V>];
    for (; i < n; ++i)
      for (std::size_t p = 0; p < parts_; ++p) {
        for (std::size_t j = 0; j < lanes<V>; ++j)
          buffer[j] = load_element<State>(rows[p][j] + at + i * stride);
        to[static_cast<std::size_t>(i)][p] = V::load_unaligned(buffer);
      }
  }

  void store(const std::array<step, line>& from, std::size_t k, index_t t, index_t n,
             bool stream) const {
    constexpr auto whole = static_cast<index_t>(lanes<V>);
    const index_t stride = at_.out_step[k], at = t * stride;
    index_t i = 0;
    for (; contiguous(stride) && i + whole <= n; i += whole)
      for (std::size_t p = 0; p < parts_; ++p) {
        std::array<V, lanes<V>> block;
        for (std::size_t j = 0; j < lanes<V>; ++j)
          block[j] = from[static_cast<std::size_t>(i) + in_walk(stride, j)][p];
        store_transposed(block, out_[k][p], at + i * stride - (stride < 0 ? whole - 1 : 0), stream);
      }
    alignas(64) State buffer[w];
    for (; i < n; ++i) {
      for (std::size_t p = 0; p < parts_; ++p)
        from[static_cast<std::size_t>(i)][p].store_unaligned(buffer + p * lanes<V>);
      for (std::size_t j = 0; j < lanes_in_use(); ++j)
        store_element(out_[k][j / lanes<V>][j % lanes<V>] + at + i * stride, buffer[j]);
    }
  }

  cursor<T, NI, NO> at_;  // of the first row
  std::array<pointers<const T*>, NI> in_;
  std::array<pointers<T*>, NO> out_;
  std::array<std::array<V, Op::carries>, parts> carry_;
  std::array<step, NS> edge_;
  index_t first_, live_, length_, apart_;
  std::size_t parts_;  // those in use
  bool crowded_, crowded_together_, located_;
  /// The direction in which all streams are contiguous in time, where they are overwritten and rows
  /// lie the same distance apart; or 0.
  index_t walk_;
};

}  // namespace mmrec::simd::detail
