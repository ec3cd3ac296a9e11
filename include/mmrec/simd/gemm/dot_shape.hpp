// SPDX-License-Identifier: Apache-2.0
// How few rows lie in registers beside columns that are contiguous in k (few_rows_dots.hpp).
#pragma once

#include <mmrec/simd/gemm/few_rows.hpp>

namespace mmrec::simd {

/// What meets at a time: some steps of all rows and of columns far apart, or tiles; where W comes
/// from far away, tiles that ask for what comes next.
enum class dot_order { steps, tiles, far_tiles };

/// How Rows rows of E lie in registers beside columns of T: `steps` steps of every row, or, in
/// `parts` registers, of some rows each. E is the arithmetic type, or T where pairs are multiplied
/// as they lie.
template <class V, std::size_t Rows, dot_order Order, class T, class E>
struct dot_shape {
  static constexpr bool tiled = Order != dot_order::steps;
  static constexpr bool narrow = !std::same_as<T, typename V::value_type>;
  static constexpr auto word = static_cast<std::size_t>(steps_in_word<V, E>);
  /// Registers that a load of a column becomes: the even and the odd ones of pairs are two.
  static constexpr std::size_t halves = has_pairs<V, T> && word == 1 ? 2 : 1;
  static constexpr std::size_t steps =
      narrow || tiled ? halves * word * lanes<V> : std::max<std::size_t>(1, lanes<V> / Rows);
  static constexpr std::size_t run = steps / halves / word;  // lanes that are one sum
  static constexpr std::size_t parts = Rows * run / lanes<V>;
  /// Parts that meet a piece of a column before the others do: with more, each load of x would
  /// serve one column.
  static constexpr std::size_t at_once = std::min<std::size_t>(parts, 4);
  /// Columns side by side, and chains of a sum: two units that take four cycles want eight
  /// multiply-adds that do not wait for one another.
  static constexpr std::size_t together = tiled && at_once == 1 ? 4 : 8 / at_once;
  static constexpr std::size_t chains = tiled ? 2 : 1;
  /// Steps of a turn of the innermost loop: where tiles ask for lines, one of these or more.
  static constexpr std::size_t unrolled =
      tiled ? std::max(chains, 64 / (steps * sizeof(T))) : std::size_t{2};
  /// Columns whose results leave together: sums of runs want as many as a run has lanes.
  static constexpr std::size_t columns = std::max(together, run);
  /// Elements of x that meet the same elements of a column: row after row, `steps` of each, first
  /// the even ones where there are halves.
  static constexpr auto unit = static_cast<index_t>(Rows * steps);
};
/// The same for an operand B.
template <class V, std::size_t Rows, dot_order Order, class B, class E>
using dot_shape_of = dot_shape<V, Rows, Order, element_in<B>, E>;

namespace detail {

/// Sums of runs of Run lanes of N registers: lane j of register i becomes the sum of run j / Run of
/// register i Run + j % Run.
template <std::size_t Run, std::size_t N, class V>
MMREC_INLINE void sum_runs(V* r) {
  if constexpr (Run > 1) {
    constexpr std::size_t half = Run / 2;
    unroll<N / 2>([&](auto i) MMREC_LAMBDA_INLINE {
      constexpr std::size_t from = i() / half * Run + i() % half;
      raw_t<V> x = raw(r[from]), y = raw(r[from + half]);
      exchange<half>(x, y, std::make_index_sequence<V::size>{});
      r[i] = from_raw<V>(x) + from_raw<V>(y);
    });
    sum_runs<half, N / 2>(r);
  }
}

/// Units of A one after the other, with zeros for what does not exist.
template <class V, class Shape, class A, class E>
void pack_units(const A& a, E* to) {
  constexpr auto w = static_cast<index_t>(Shape::word * lanes<V>),
                 steps = static_cast<index_t>(Shape::steps), unit = Shape::unit;
  const index_t depth = a.extent(1), units = (depth + steps - 1) / steps;
  if (a.extent(0) * steps < unit || depth % steps != 0)
    std::memset(static_cast<void*>(to), 0, static_cast<std::size_t>(units * unit) * sizeof(E));
  for (index_t i = 0; i < a.extent(0); ++i, to += steps) {
    index_t k = 0;
    if (steps >= w && a.stride(1) == 1)
      for (; k + steps <= depth; k += steps) {
        std::array<V, Shape::halves> x;
        unroll<Shape::halves>([&](auto h) MMREC_LAMBDA_INLINE {
          x[h] = words_along<V, E>(a, i, k + static_cast<index_t>(h()) * w);
        });
        if constexpr (Shape::halves == 2) unzip(x[0], x[1]);
        unroll<Shape::halves>([&](auto h) MMREC_LAMBDA_INLINE {
          simd::store_words(to + k / steps * unit + static_cast<index_t>(h()) * w, x[h]);
        });
      }
    for (; k < depth; ++k) {
      const index_t s = k % steps, at = Shape::halves == 2 ? s / 2 + s % 2 * w : s;
      if constexpr (Shape::word == 1)
        to[k / steps * unit + at] = a.template get<E>(i, k);
      else
        to[k / steps * unit + at] = *a.at(i, k);
    }
  }
}

}  // namespace detail

}  // namespace mmrec::simd
