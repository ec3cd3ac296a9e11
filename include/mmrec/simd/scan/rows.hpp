// SPDX-License-Identifier: Apache-2.0
// Sweep of any layout: a row is one channel of one sequence, a lane is a row, and a group has eight
// rows or one register of them. A tile is a cache line of steps: a stream with unit stride on time
// is read in lines, transposed in registers, and written back in lines. More rows at a time would
// hide more of the steps' latency but cost more than that in the caches: rows whose strides are a
// power of two share a set of them, and a line that is left half used is fetched twice. Any other
// stream is gathered. Registers have 256 bits at most where a step is cheap: their shuffles have
// two ports, and a half of one is stored without any.
#pragma once

#include <mmrec/simd/scan/streams.hpp>

#include <numeric>

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

/// Some rows, one per lane of one or more registers, and where they are. Spare lanes repeat the
/// last live row and so write what it writes.
template <class V, class Op, class T, class State, std::size_t NI, std::size_t NO, std::size_t NS>
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
    index_t s = first / channels, channel = first % channels;
    length_ = args.sequence(s).length;
    at_ = position(args, args.sequence(s), channel);
    auto at = at_;
    for (std::size_t j = 0; j < w; ++j) {
      for (std::size_t k = 0; k < NI; ++k) in_[k][j / lanes<V>][j % lanes<V>] = at.in[k];
      for (std::size_t k = 0; k < NO; ++k) out_[k][j / lanes<V>][j % lanes<V>] = at.out[k];
      if (static_cast<index_t>(j) + 1 >= live) continue;
      if (++channel == channels) {
        channel = 0;
        at = position(args, args.sequence(++s), 0);
      } else {
        for (std::size_t k = 0; k < NI; ++k) at.in[k] += at.in_channel[k];
        for (std::size_t k = 0; k < NO; ++k)
          if (at.out[k]) at.out[k] += at.out_channel[k];
      }
    }
    const auto state = states(args, args.carry_in, op.identity());
    for (std::size_t p = 0; p < parts; ++p) carry_[p] = op.load(state[p]);
    unroll<NS>([&](auto e) { edge_[e] = states(args, args.edge[e], args.edge_default[e]); });
    walk_ = contiguous(at_.in_step[0]) ? at_.in_step[0] : 0;
    for (std::size_t k = 0; k < NI; ++k) walk_ = at_.in_step[k] == walk_ ? walk_ : 0;
    for (std::size_t k = 0; k < NO; ++k)
      if (at_.out[k] && (at_.out_step[k] != walk_ || at_.accumulate[k])) walk_ = 0;
    // Do these rows' lines push one another out of the first level? Lines a way apart share a set.
    constexpr auto way = index_t{4096 / sizeof(T)};
    const index_t apart = std::gcd(at_.in_channel[0], way);
    crowded_ = static_cast<index_t>((NI + NO) * w) * apart > way * first_level_ways();
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
        steps -= steps % (whole_lines ? index_t{line} : index_t{held});
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
      any_steps(op, args.reverse, edge, t, steps, how);
      t += steps;
    }
  }

  void end(const Op& op, const arguments& args) {
    if (!args.carry_out.out) return;
    alignas(64) State state[w];
    for (std::size_t p = 0; p < parts; ++p)
      op.store(carry_[p]).store_unaligned(state + p * lanes<V>);
    const index_t channels = args.channels();
    for (index_t j = 0; j < live_; ++j)
      write_state(state + j, args.carry_out, (first_ + j) / channels, (first_ + j) % channels, 1);
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

  step states(const arguments& args, const view<const State, 2>& from, double otherwise) const {
    step result;
    result.fill(V(static_cast<State>(otherwise)));
    if (!from) return result;
    alignas(64) State buffer[w];
    const index_t channels = args.channels();
    for (std::size_t j = 0; j < w; ++j) {
      const index_t row = first_ + std::min(static_cast<index_t>(j), live_ - 1);
      buffer[j] = from(row / channels, row % channels);
    }
    for (std::size_t p = 0; p < parts; ++p) result[p] = V::load_unaligned(buffer + p * lanes<V>);
    return result;
  }

  /// Tiles in registers: every stream walks in Direction and is overwritten.
  template <int Direction, std::size_t Held>
  void tiles(const Op& op, index_t t, index_t steps, const storing& how) {
    constexpr index_t back = Direction < 0 ? Held - 1 : 0;
    auto carry = carry_;
    for (const index_t end = t + steps; t < end; t += Held) {
      const index_t at = Direction * t - back;
      std::array<V, Held> x[NI][parts];
      for (std::size_t k = 0; k < NI; ++k)
        for (std::size_t p = 0; p < parts; ++p) load_transposed(x[k][p], in_[k][p], at);
      std::array<V, Held> y[NO][parts];
      // choose(the results of a step, the state before it)
      const auto walk = [&](const auto& choose) MMREC_LAMBDA_INLINE {
        unroll<Held>([&](std::size_t number) MMREC_LAMBDA_INLINE {
          const std::size_t i = Direction < 0 ? Held - 1 - number : number;
          for (std::size_t p = 0; p < parts; ++p) {
            std::array<V, NI> now;
            for (std::size_t k = 0; k < NI; ++k) now[k] = x[k][p][i];
            const auto before = carry[p];
            const auto result = choose(op.step(carry[p], now), before);
            for (std::size_t k = 0; k < NO; ++k) y[k][p][i] = result[k];
          }
        });
      };
      const auto in_time = [](const auto& result, const auto&)
                               MMREC_LAMBDA_INLINE { return result; };
      if constexpr (has_late<Op>) {
        const auto late = [&](const auto&, const auto& before)
                              MMREC_LAMBDA_INLINE { return op.value(before); };
        how.late ? walk(late) : walk(in_time);
      } else {
        walk(in_time);
      }
      for (std::size_t k = 0; k < NO; ++k) {
        if (Op::optional_outputs && !at_.out[k]) continue;
        for (std::size_t p = 0; p < parts; ++p) {
          if (Held == line && how.stream)
            stream_transposed(y[k][p], out_[k][p], at);
          else
            store_transposed(y[k][p], out_[k][p], at);
        }
      }
    }
    carry_ = carry;
  }

  /// Any n steps, through a buffer in L1.
  void any_steps(const Op& op, bool reverse, index_t edge, index_t t, index_t n,
                 const storing& how) {
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
        const index_t to = at + i * stride - (stride < 0 ? whole - 1 : 0);
        if (stream)
          stream_transposed(block, out_[k][p], to);
        else
          store_transposed(block, out_[k][p], to);
      }
    alignas(64) State buffer[w];
    for (; i < n; ++i) {
      for (std::size_t p = 0; p < parts; ++p)
        from[static_cast<std::size_t>(i)][p].store_unaligned(buffer + p * lanes<V>);
      for (std::size_t j = 0; j < static_cast<std::size_t>(live_); ++j)
        store_element(out_[k][j / lanes<V>][j % lanes<V>] + at + i * stride, buffer[j]);
    }
  }

  cursor<T, NI, NO> at_;  // of the first row
  std::array<pointers<const T*>, NI> in_;
  std::array<pointers<T*>, NO> out_;
  std::array<std::array<V, Op::carries>, parts> carry_;
  std::array<step, NS> edge_;
  index_t first_, live_, length_;
  bool crowded_;
  index_t walk_;  // the direction of all streams that are contiguous in time and overwritten, or 0
};

}  // namespace mmrec::simd::detail
