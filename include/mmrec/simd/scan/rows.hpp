// SPDX-License-Identifier: Apache-2.0
// Sweep of any layout: a row is one channel of one sequence, a lane is a row, and a group has eight
// rows or one register of them. A tile is a cache line of steps: streams with unit stride on time,
// whose rows are the same distance apart, are read in lines, transposed in registers, and written
// back in lines. More rows at a time would hide more of the steps' latency but cost more than that
// in the caches: rows whose strides are a power of two share a set of them, and a line that is left
// half used is fetched twice. Any other stream is gathered. Registers have 256 bits at most where a
// step is cheap: a row's quads are put together and taken apart for less than in longer ones.
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
  /// Registers of a step: their chains cover the latency of one another. (SSE, with its 16 short
  /// registers, has none to spare.)
  static constexpr std::size_t parts = sizeof(V) == 32 && lanes<V> < 8 ? 8 / lanes<V> : 1;
  static constexpr std::size_t w = parts * lanes<V>;
  static constexpr std::size_t at_once = scan_ops::costly<Op> ? 2 : 1;
  static constexpr index_t turn = 16;  // steps until the next group's turn
  /// Steps of a tile: a line of memory, which leaves the caches, or loses its place there, as a
  /// whole; or few that stay in registers, and of which the processor sees the next while the steps
  /// of these wait for one another.
  static constexpr std::size_t line = std::max<std::size_t>(lanes<V>, 64 / sizeof(T));
  static constexpr std::size_t held = parts > 1 ? line : lanes<V>;

  void begin(const Op& op, const arguments& args, index_t first, index_t live) {
    const index_t channels = args.channels();
    first_ = first, live_ = live;
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
    crowded_ = static_cast<index_t>((NI + NO) * w) * shared > way * first_level_ways();
  }

  /// Steps [t, t + n) in walking order.
  void advance(const Op& op, const arguments& args, index_t t, index_t n, const storing& how) {
    for (const index_t end = t + n; t < end;) {
      // The step, from here, that reads the shifted streams from states.
      const index_t edge = NS == 0 ? -1 : args.reverse ? length_ - 1 - t : -t;
      index_t steps = edge < 0 ? end - t : std::min(edge, end - t);
      if constexpr (!scan_ops::costly<Op>) {
        constexpr int direction = Op::backwards ? -1 : 1;
        const bool whole_lines = how.stream || crowded_;
        steps &= -(whole_lines ? index_t{line} : index_t{held});
        if (walk_ == direction && steps > 0) {
          if constexpr (held == line)
            tiles<direction, line>(op, t, steps, how);
          else
            whole_lines ? tiles<direction, line>(op, t, steps, how)
                        : tiles<direction, held>(op, t, steps, how);
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

  /// Where the rows are, wherever they are.
  __attribute__((noinline)) void locate(const arguments& args) {
    located_ = true;
    const index_t channels = args.channels(), first = first_ % channels;
    for (std::size_t j = 0; j < w; ++j) {
      index_t s = 0, channel = first + row()(j);
      for (; channel >= channels; channel -= channels) ++s;
      const auto from_first = [&](const auto& v) {
        return s * v.stride(0) + (channel - first) * v.stride(2);
      };
      for (std::size_t k = 0; k < NI; ++k)
        in_[k][j / lanes<V>][j % lanes<V>] = at_.in[k] + from_first(args.in[k]);
      for (std::size_t k = 0; k < NO; ++k)
        out_[k][j / lanes<V>][j % lanes<V>] =
            at_.out[k] ? at_.out[k] + from_first(args.out[k].out) : nullptr;
    }
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
    for (std::size_t j = 0; j < w; ++j) of_row[row()(j)] = state[j];
    const index_t channels = args.channels();
    for (index_t i = 0; i < live_; ++i)
      write_state(of_row + i, args.carry_out, (first_ + i) / channels, (first_ + i) % channels, 1);
  }

  /// The rows of all parts; the first one is at p.
  template <class P>
  MMREC_INLINE std::array<even_rows<P, lanes<V>>, parts> rows_from(P* p) const {
    const lane_rows<w> lane = row();
    std::array<even_rows<P, lanes<V>>, parts> rows;
    for (std::size_t i = 0; i < parts; ++i) rows[i] = {p, apart_, lane, i * lanes<V>};
    return rows;
  }

  /// Tiles in registers: every stream walks in Direction and is overwritten, and rows are the same
  /// distance apart.
  template <int Direction, std::size_t Held>
  void tiles(const Op& op, index_t t, index_t steps, const storing& how) {
    constexpr index_t back = Direction < 0 ? Held - 1 : 0;
    auto carry = carry_;
    std::array<std::array<even_rows<const T, lanes<V>>, parts>, NI> in;
    std::array<std::array<even_rows<T, lanes<V>>, parts>, NO> out{};
    for (std::size_t k = 0; k < NI; ++k) in[k] = rows_from(at_.in[k] + Direction * t - back);
    for (std::size_t k = 0; k < NO; ++k)
      if (!Op::optional_outputs || at_.out[k])
        out[k] = rows_from(at_.out[k] + Direction * t - back);
    // Unrolled, or the registers would be arrays in memory.
    for (; steps > 0; steps -= Held) {
      std::array<V, Held> x[NI][parts], y[NO][parts];
      unroll<NI * parts>([&](auto i) MMREC_LAMBDA_INLINE {
        constexpr std::size_t k = i / parts, p = i % parts;
        load_transposed(x[k][p], in[k][p], 0);
        in[k][p].template move<Direction* static_cast<index_t>(Held)>();
      });
      // choose(the results of a step, the state before it)
      const auto walk = [&](const auto& choose) MMREC_LAMBDA_INLINE {
        unroll<Held * parts>([&](auto i) MMREC_LAMBDA_INLINE {
          constexpr std::size_t p = i % parts;
          constexpr std::size_t at = Direction < 0 ? Held - 1 - i / parts : i / parts;
          std::array<V, NI> now;
          for (std::size_t k = 0; k < NI; ++k) now[k] = x[k][p][at];
          const auto before = carry[p];
          const auto result = choose(op.step(carry[p], now), before);
          for (std::size_t k = 0; k < NO; ++k) y[k][p][at] = result[k];
        });
      };
      const auto in_time = [](const auto& result, const auto&)
                               MMREC_LAMBDA_INLINE { return result; };
      if constexpr (has_late<Op>) {
        const auto late = [&](const auto&, const auto& before)
                              MMREC_LAMBDA_INLINE { return op.value(before); };
        if (how.late) [[unlikely]]
          walk(late);
        else
          walk(in_time);
      } else {
        walk(in_time);
      }
      unroll<NO * parts>([&](auto i) MMREC_LAMBDA_INLINE {
        constexpr std::size_t k = i / parts, p = i % parts;
        if (Op::optional_outputs && !at_.out[k]) return;
        store_transposed(y[k][p], out[k][p], 0, Held == line && how.stream);
        out[k][p].template move<Direction* static_cast<index_t>(Held)>();
      });
    }
    carry_ = carry;
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
        for (std::size_t p = 0; p < parts; ++p) {
          std::array<V, NI> now;
          for (std::size_t k = 0; k < NI; ++k) now[k] = x[k][i][p];
          [[maybe_unused]] const auto before = carry_[p];
          halves[i - from][p] = scan_ops::begin_step(op, carry_[p], now);
          if constexpr (has_late<Op>)
            if (how.late) halves[i - from][p] = scan_ops::begin_before(op, before);
        }
      for (std::size_t i = from; i < to; ++i)
        for (std::size_t p = 0; p < parts; ++p) {
          const auto result = scan_ops::end_step(op, halves[i - from][p]);
          for (std::size_t k = 0; k < NO; ++k) y[k][i][p] = result[k];
        }
    }
    for (std::size_t k = 0; k < NO; ++k) {
      if (!at_.out[k]) continue;
      if constexpr (Op::optional_outputs) {
        if (at_.accumulate[k]) {
          pointers<const T*> from;
          for (std::size_t p = 0; p < parts; ++p)
            for (std::size_t j = 0; j < lanes<V>; ++j) from[p][j] = out_[k][p][j];
          load(x[0], from, t * at_.out_step[k], at_.out_step[k], n);
          for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i)
            for (std::size_t p = 0; p < parts; ++p) y[k][i][p] = y[k][i][p] + x[0][i][p];
        }
      }
      store(y[k], k, t, n, how.stream);
    }
  }

  /// to[i] = step i of all rows, from offset `at` on.
  static void load(std::array<step, line>& to, const pointers<const T*>& rows, index_t at,
                   index_t stride, index_t n) {
    constexpr auto whole = static_cast<index_t>(lanes<V>);
    index_t i = 0;
    for (; contiguous(stride) && i + whole <= n; i += whole)
      for (std::size_t p = 0; p < parts; ++p) {
        std::array<V, lanes<V>> block;
        load_transposed(block, rows[p], at + i * stride - (stride < 0 ? whole - 1 : 0));
        for (std::size_t j = 0; j < lanes<V>; ++j)
          to[static_cast<std::size_t>(i) + in_walk(stride, j)][p] = block[j];
      }
    alignas(64) State buffer[lanes<V>];
    for (; i < n; ++i)
      for (std::size_t p = 0; p < parts; ++p) {
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
      for (std::size_t p = 0; p < parts; ++p) {
        std::array<V, lanes<V>> block;
        for (std::size_t j = 0; j < lanes<V>; ++j)
          block[j] = from[static_cast<std::size_t>(i) + in_walk(stride, j)][p];
        store_transposed(block, out_[k][p], at + i * stride - (stride < 0 ? whole - 1 : 0), stream);
      }
    alignas(64) State buffer[w];
    for (; i < n; ++i) {
      for (std::size_t p = 0; p < parts; ++p)
        from[static_cast<std::size_t>(i)][p].store_unaligned(buffer + p * lanes<V>);
      for (std::size_t j = 0; j < w; ++j)
        store_element(out_[k][j / lanes<V>][j % lanes<V>] + at + i * stride, buffer[j]);
    }
  }

  cursor<T, NI, NO> at_;  // of the first row
  std::array<pointers<const T*>, NI> in_;
  std::array<pointers<T*>, NO> out_;
  std::array<std::array<V, Op::carries>, parts> carry_;
  std::array<step, NS> edge_;
  index_t first_, live_, length_, apart_;
  bool crowded_, located_;
  /// The direction in which all streams are contiguous in time, where they are overwritten and rows
  /// lie the same distance apart; or 0.
  index_t walk_;
};

}  // namespace mmrec::simd::detail
