// SPDX-License-Identifier: Apache-2.0
// Steps of rows of any layout, gathered through a buffer in the first level: a pointer for each
// row.
#pragma once

#include <mmrec/simd/scan/grouped_rows.hpp>

#include <algorithm>
#include <array>

namespace mmrec::simd::detail {

template <class V, class Op, class T, class State, std::size_t NI, std::size_t NO, std::size_t NS,
          class Arch>
class gathered_rows {
 public:
  using group = grouped_rows<V, Op, T, State, NI, NO, NS, Arch>;
  using arguments = typename group::arguments;

  /// For other rows than before, which are located when steps first need it.
  void begin() { located_ = false; }

  /// n steps, a line at most, from the t-th on. Step t + edge, if it is one of them, reads the
  /// shifted streams from states.
  __attribute__((noinline)) void advance(const Op& op, const arguments& args, group& rows,
                                         index_t edge, index_t t, index_t n, const storing& how) {
    if (!located_) locate(args, rows);
    const bool reverse = args.reverse;
    std::array<std::array<step, line>, NI> x;
    for (std::size_t k = 0; k < NI; ++k) {
      const bool at_edge = k + NS >= NI && edge >= 0 && edge < n;
      // A shifted stream must not be read before its beginning: it is read unshifted, and moved.
      const index_t unshift = !at_edge ? 0 : reverse ? -rows.at.in_step[k] : rows.at.in_step[k];
      load(x[k], rows, in_[k], t * rows.at.in_step[k] + unshift, rows.at.in_step[k], n);
      if constexpr (NS > 0) {
        if (!at_edge) continue;
        const auto first = x[k].begin(), last = first + n;
        if (reverse)
          std::move(first + 1, last, first);
        else
          std::move_backward(first, last - 1, last);
        x[k][static_cast<std::size_t>(edge)] = rows.edge[k + NS - NI];
      }
    }
    using begun = decltype(scan_ops::begin_step(op, rows.carry[0], std::array<V, NI>{}));
    constexpr index_t together = scan_ops::costly_value<Op> ? line : 1;
    std::array<std::array<begun, parts>, together> halves;
    std::array<std::array<step, line>, NO> y;
    for (index_t first = 0; first < n; first += together) {
      const auto from = static_cast<std::size_t>(first),
                 to = static_cast<std::size_t>(std::min(n, first + together));
      for (std::size_t i = from; i < to; ++i)
        for (std::size_t p = 0; p < rows.parts_in_use; ++p) {
          std::array<V, NI> now;
          for (std::size_t k = 0; k < NI; ++k) now[k] = x[k][i][p];
          [[maybe_unused]] const auto before = rows.carry[p];
          halves[i - from][p] = scan_ops::begin_step(op, rows.carry[p], now);
          if constexpr (has_late<Op>)
            if (how.late) halves[i - from][p] = scan_ops::begin_before(op, before);
        }
      for (std::size_t i = from; i < to; ++i)
        for (std::size_t p = 0; p < rows.parts_in_use; ++p) {
          const auto result = scan_ops::end_step(op, halves[i - from][p]);
          for (std::size_t k = 0; k < NO; ++k) y[k][i][p] = result[k];
        }
    }
    for (std::size_t k = 0; k < NO; ++k) {
      if (!rows.at.out[k]) continue;
      if constexpr (Op::optional_outputs) {
        if (rows.at.accumulate[k]) {
          pointers<const T*> from{};
          for (std::size_t p = 0; p < rows.parts_in_use; ++p)
            for (std::size_t j = 0; j < lanes<V>; ++j) from[p][j] = out_[k][p][j];
          load(x[0], rows, from, t * rows.at.out_step[k], rows.at.out_step[k], n);
          for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i)
            for (std::size_t p = 0; p < rows.parts_in_use; ++p)
              y[k][i][p] = y[k][i][p] + x[0][i][p];
        }
      }
      store(y[k], rows, k, t, n, how.stream);
    }
  }

 private:
  static constexpr std::size_t parts = group::parts, w = group::w, line = group::line;
  using step = typename group::step;
  template <class P>
  using pointers = std::array<std::array<P, lanes<V>>, parts>;

  static bool contiguous(index_t stride) { return stride == 1 || stride == -1; }
  /// The step, in walking order, of the j-th of a register's steps in memory.
  static MMREC_INLINE std::size_t in_walk(index_t stride, std::size_t j) {
    return stride < 0 ? lanes<V> - 1 - j : j;
  }

  /// Where the rows are, wherever they are.
  __attribute__((noinline)) void locate(const arguments& args, const group& rows) {
    located_ = true;
    const index_t channels = args.channels(), first = rows.first % channels;
    index_t offset[w];
    const auto from_first = [&](const auto& v) {
      index_t channel = first, at = 0;
      for (index_t i = 0; i < rows.live; ++i) {
        offset[i] = at;
        const bool last = ++channel == channels;
        at += last ? v.stride(0) - (channels - 1) * v.stride(2) : v.stride(2);
        if (last) channel = 0;
      }
    };
    const auto lanes_of = [&](auto& to, auto* p) {
      for (std::size_t j = 0; j < rows.lanes_in_use(); ++j)
        to[j / lanes<V>][j % lanes<V>] = p ? p + offset[rows.row()(j)] : nullptr;
    };
    for (std::size_t k = 0; k < NI; ++k) from_first(args.in[k]), lanes_of(in_[k], rows.at.in[k]);
    for (std::size_t k = 0; k < NO; ++k)
      from_first(args.out[k].out), lanes_of(out_[k], rows.at.out[k]);
  }

  /// to[i] = step i of all rows, from offset `at` on.
  static void load(std::array<step, line>& to, const group& rows, const pointers<const T*>& from,
                   index_t at, index_t stride, index_t n) {
    constexpr auto whole = static_cast<index_t>(lanes<V>);
    index_t i = 0;
    for (; contiguous(stride) && i + whole <= n; i += whole)
      for (std::size_t p = 0; p < rows.parts_in_use; ++p) {
        std::array<V, lanes<V>> block;
        load_transposed<false>(block, from[p], at + i * stride - (stride < 0 ? whole - 1 : 0));
        for (std::size_t j = 0; j < lanes<V>; ++j)
          to[static_cast<std::size_t>(i) + in_walk(stride, j)][p] = block[j];
      }
    alignas(64) State buffer[lanes<V>];
    for (; i < n; ++i)
      for (std::size_t p = 0; p < rows.parts_in_use; ++p) {
        for (std::size_t j = 0; j < lanes<V>; ++j)
          buffer[j] = load_element<State>(from[p][j] + at + i * stride);
        to[static_cast<std::size_t>(i)][p] = V::load_unaligned(buffer);
      }
  }

  void store(const std::array<step, line>& from, const group& rows, std::size_t k, index_t t,
             index_t n, bool stream) const {
    constexpr auto whole = static_cast<index_t>(lanes<V>);
    const index_t stride = rows.at.out_step[k], at = t * stride;
    index_t i = 0;
    for (; contiguous(stride) && i + whole <= n; i += whole)
      for (std::size_t p = 0; p < rows.parts_in_use; ++p) {
        std::array<V, lanes<V>> block;
        for (std::size_t j = 0; j < lanes<V>; ++j)
          block[j] = from[static_cast<std::size_t>(i) + in_walk(stride, j)][p];
        store_transposed(block, out_[k][p], at + i * stride - (stride < 0 ? whole - 1 : 0), stream);
      }
    alignas(64) State buffer[w];
    for (; i < n; ++i) {
      for (std::size_t p = 0; p < rows.parts_in_use; ++p)
        from[static_cast<std::size_t>(i)][p].store_unaligned(buffer + p * lanes<V>);
      for (std::size_t j = 0; j < rows.lanes_in_use(); ++j)
        store_element(out_[k][j / lanes<V>][j % lanes<V>] + at + i * stride, buffer[j]);
    }
  }

  std::array<pointers<const T*>, NI> in_;
  std::array<pointers<T*>, NO> out_;
  bool located_;
};

}  // namespace mmrec::simd::detail
