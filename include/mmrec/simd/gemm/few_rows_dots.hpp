// SPDX-License-Identifier: Apache-2.0
// Few rows against columns that are contiguous in k (y = x W^T, W as it lies): dot products.
//
// A register holds some steps of every row side by side: lanes / rows of them. One load of W that
// repeats so many of its elements meets it in one multiply-add, so W is read once, from front to
// back, and no lane is idle where the rows are a power of two. A register of x serves 8 columns, or
// fewer where the rows need several registers. What is stored narrow is widened by whole
// registers, each of which meets every row; bfloat16 by pairs, with x in the same order, and not
// at all where pairs are multiplied as they lie (words.hpp).
// Where a register is a line of the cache one row, and three or four with a W that is near, go by
// tiles: whole registers of each row meet neighbouring columns, and a sum is two chains. That takes
// fewer loads, but more adding up in the end, and so few columns are few streams, which begin anew
// with every tile. The hardware does not see ahead of them: from far away what the next tile reads
// is asked for, in the second level. (In the caches that costs more than it brings. With shorter
// registers tiles lose to eight columns everywhere but far away, where they are even.)
// Budget: an element of W takes rows / lanes multiply-adds (a pair as many) and, but for an eighth,
// as many loads.
// With AVX2 and float, up to two rows keep pace with the second-level cache (16 bytes of W to a
// load, 32 to a cycle), four rows read 16 and eight rows 8 bytes a cycle: what comes from memory.
#pragma once

#include <mmrec/simd/gemm/dot_shape.hpp>

namespace mmrec::simd {

/// Dot products of all rows of x, in units, with every apart-th column of b from `first` on, no
/// further than column `last`. Element (i, j) goes to to[i * row + j * apart].
template <class V, std::size_t Rows, dot_order Order, class B, class E>
void dot_products(const E* x, const B& b, index_t first, index_t apart, index_t last,
                  typename V::value_type* to, index_t row) {
  using Acc = typename V::value_type;
  using shape = dot_shape_of<V, Rows, Order, B, E>;
  constexpr std::size_t parts = shape::parts, at_once = shape::at_once, together = shape::together,
                        chains = shape::chains, halves = shape::halves, tile = at_once * together;
  using loaded = std::array<V, shape::halves>;
  constexpr auto w = static_cast<index_t>(shape::word * lanes<V>),
                 steps = static_cast<index_t>(shape::steps);
  const auto whole = [](const auto* p) MMREC_LAMBDA_INLINE {
    loaded y;
    if constexpr (shape::word == 2)
      y[0] = load_words<V>(p);
    else if constexpr (halves == 2)
      load_pairs(y[0], y[1], p);
    else if constexpr (shape::steps == lanes<V>)
      y[0] = load_lanes<V>(p);
    else
      y[0] = load_repeated<V, shape::steps>(p);
    return y;
  };
  const auto some = [&]<class T>(const T* p, index_t live) MMREC_LAMBDA_INLINE {
    if constexpr (shape::steps == lanes<V>)
      return loaded{load_lanes_n<V>(p, static_cast<std::size_t>(live))};
    T buffer[shape::steps];
    std::memset(static_cast<void*>(buffer), 0, sizeof buffer);
    std::memcpy(static_cast<void*>(buffer), p, static_cast<std::size_t>(live) * sizeof(T));
    return whole(buffer);
  };
  const index_t depth = b.extent(0);
  // A piece of x that several groups of columns meet stays in the first-level cache.
  constexpr index_t kept = kept_bytes / (shape::unit * static_cast<index_t>(sizeof(E))) * steps;
  const index_t piece = shape::columns > together ? kept : depth, stride = apart * b.stride(1);
  std::array<std::array<V, shape::columns>, parts> sums;
  for (auto& part : sums) part.fill(V(0));
  // Steps [begin, end) of the columns from `group` on with the parts from `part` on; what comes
  // next is so many elements ahead.
  const auto add = [&](std::size_t group, std::size_t part, index_t begin, index_t end,
                       index_t ahead) MMREC_LAMBDA_INLINE {
    std::array<decltype(b.at(0, 0)), together> from;
    for (std::size_t c = 0; c < together; ++c)
      from[c] = b.at(0, std::min(first + static_cast<index_t>(group + c) * apart, last));
    std::array<V, tile * chains> total;
    unroll<tile>([&](auto i) MMREC_LAMBDA_INLINE {
      total[i] = sums[part + i / together][group + i % together];
      if constexpr (chains == 2) total[tile + i] = V(0);
    });
    const E* now = x + begin / steps * shape::unit + static_cast<index_t>(part * halves) * w;
    const auto step = [&](index_t k, auto chain, const auto& load) MMREC_LAMBDA_INLINE {
      // In registers, as in the microkernel: of the rows and the columns those that are fewer.
      const auto row_part = [&](std::size_t p) MMREC_LAMBDA_INLINE {
        return rounded(load_words<V>(now + static_cast<index_t>(p) * w));
      };
      if constexpr (at_once <= together) {
        std::array<V, at_once * halves> xs;
        unroll<xs.size()>([&](auto p) MMREC_LAMBDA_INLINE { xs[p] = row_part(p()); });
        unroll<together>([&](auto c) MMREC_LAMBDA_INLINE {
          const auto y = load(from[c] + k);
          unroll<xs.size()>([&](auto i) MMREC_LAMBDA_INLINE {
            V& t = total[chain() * tile + i / halves * together + c];
            t = multiply_words<V, E>(xs[i], y[i % halves], t);
          });
        });
      } else {
        std::array<loaded, together> ys;
        unroll<together>([&](auto c) MMREC_LAMBDA_INLINE {
          ys[c] = load(from[c] + k);
          for (V& y : ys[c]) y = rounded(y);
        });
        unroll<at_once * halves>([&](auto i) MMREC_LAMBDA_INLINE {
          const V xp = row_part(i());
          unroll<together>([&](auto c) MMREC_LAMBDA_INLINE {
            V& t = total[chain() * tile + i / halves * together + c];
            t = multiply_words<V, E>(xp, ys[c][i % halves], t);
          });
        });
      }
      now += shape::unit;
    };
    constexpr auto turn = static_cast<index_t>(shape::unrolled) * steps,
                   line = 64 / static_cast<index_t>(sizeof(*from[0]));
    constexpr std::integral_constant<std::size_t, 0> first_chain;
    index_t k = begin;
    for (; k + turn <= end; k += turn) {
      // Too few streams to hide the memory. (Eight are best left to the hardware: there the same
      // costs a tenth.)
      if constexpr (Order == dot_order::far_tiles) {
        unroll<together* static_cast<std::size_t>(turn / line)>([&](auto i) MMREC_LAMBDA_INLINE {
          __builtin_prefetch(
              from[i % together] + k + ahead + static_cast<index_t>(i() / together) * line, 0, 2);
        });
      } else if constexpr (!shape::tiled && at_once > together) {
        unroll<together>([&](auto c)
                             MMREC_LAMBDA_INLINE { __builtin_prefetch(from[c] + k + ahead); });
      }
      unroll<shape::unrolled>([&](auto u) MMREC_LAMBDA_INLINE {
        constexpr std::integral_constant<std::size_t, u() % chains> chain;
        step(k + static_cast<index_t>(u()) * steps, chain, whole);
      });
    }
    for (; k + steps <= end; k += steps) step(k, first_chain, whole);
    if (k < end)
      step(k, first_chain, [&](const auto* p) MMREC_LAMBDA_INLINE { return some(p, end - k); });
    unroll<tile>([&](auto i) MMREC_LAMBDA_INLINE {
      V& sum = sums[part + i / together][group + i % together];
      if constexpr (chains == 2)
        sum = total[i] + total[tile + i];
      else
        sum = total[i];
    });
  };
  for (index_t k = 0; k < depth; k += piece)
    for (std::size_t group = 0; group < shape::columns; group += together) {
      index_t ahead = static_cast<index_t>(together) * stride;
      if (shape::tiled && group + together == shape::columns)  // the next piece, or next columns
        ahead = k + piece < depth ? piece - static_cast<index_t>(group) * stride : ahead - k;
      for (std::size_t part = 0; part < parts; part += at_once)
        add(group, part, k, std::min(depth, k + piece), ahead);
    }
  for (std::size_t p = 0; p < parts; ++p) {
    detail::sum_runs<shape::run, shape::columns>(sums[p].data());
    for (std::size_t c = 0; c < shape::columns; c += shape::run) {
      if constexpr (shape::tiled) {
        sums[p][c / shape::run].store_unaligned(to + static_cast<index_t>(p) * row +
                                                static_cast<index_t>(c));
        continue;
      }
      alignas(V) std::array<Acc, lanes<V>> result;
      sums[p][c / shape::run].store_aligned(result.data());
      for (std::size_t i = 0; i < lanes<V>; ++i) {
        const std::size_t r = p * lanes<V> / shape::run + i / shape::run, j = c + i % shape::run;
        to[static_cast<index_t>(r) * row + static_cast<index_t>(j) * apart] = result[i];
      }
    }
  }
}

/// So many bytes of W share the last-level cache with others, or do not fit: they come from far.
inline constexpr index_t far_bytes = index_t{1} << 24;

/// Up to Rows rows.
template <class V, std::size_t Rows, dot_order Order, class A, class B>
void multiply_by_dots(unsigned threads, std::pmr::memory_resource* memory, const A& a, const B& b,
                      const results<V>& finish) {
  using Acc = typename V::value_type;
  using E = factor_t<V, A, B>;
  using shape = dot_shape_of<V, Rows, Order, B, E>;
  constexpr auto w = static_cast<index_t>(lanes<V>), steps = static_cast<index_t>(shape::steps),
                 batch = static_cast<index_t>(shape::columns);
  const index_t rows = a.extent(0), depth = b.extent(0), columns = b.extent(1);
  const scratch<E> x(memory, static_cast<std::size_t>((depth + steps - 1) / steps * shape::unit));
  detail::pack_units<V, shape>(a, x.data());
  threads = depth * columns < serial_matrix ? 1 : thread_count(threads);
  // Several batches to a rectangle of results, if that leaves tasks for the threads. An odd number:
  // columns that are a multiple of a page apart share few places of the first-level cache.
  constexpr index_t most = 7, room = (most * batch + w - 1) / w * w;
  const index_t shares = threads == 1 ? 1 : 4 * index_t(threads),
                each = (std::clamp<index_t>(columns / (shares * batch), 1, most) | 1) * batch;
  parallel_for(threads, (columns + each - 1) / each, [&](index_t task) {
    const index_t first = task * each, live = std::min(each, columns - first);
    // The columns of a batch, but for tiles, are as far apart as they can be: with the next batch
    // each of these streams goes on where it was, and long streams are read faster.
    const index_t batches = (live + batch - 1) / batch, apart = shape::tiled ? 1 : batches;
    alignas(V) std::array<Acc, Rows* static_cast<std::size_t>(room)> rectangle;
    if constexpr (batch < w) rectangle.fill(Acc(0));  // `finish` reads whole registers
    for (index_t i = 0; i < batches; ++i) {
      const index_t j = shape::tiled ? i * batch : i;
      dot_products<V, Rows, Order>(x.data(), b, first + j, apart, first + live - 1,
                                   rectangle.data() + j, room);
    }
    finish({0, rows, first, live}, rectangle.data(), room);
  });
}

/// Up to few_rows rows.
template <class V, class A, class B>
void multiply_by_dots(unsigned threads, std::pmr::memory_resource* memory, const A& a, const B& b,
                      const results<V>& finish) {
  static_assert(few_rows == 8);
  constexpr bool narrow = !std::same_as<element_in<B>, typename V::value_type>,
                 lines = sizeof(V) == 64;
  const index_t rows = a.extent(0), depth = b.extent(0);
  const bool far = depth * b.extent(1) * static_cast<index_t>(sizeof(element_in<B>)) >= far_bytes;
  auto* multiply = &multiply_by_dots<V, 8, dot_order::steps, A, B>;
  if (rows == 1) {
    if constexpr (lines)
      multiply = far ? &multiply_by_dots<V, 1, dot_order::far_tiles, A, B>
                     : &multiply_by_dots<V, 1, dot_order::tiles, A, B>;
    else
      multiply = &multiply_by_dots<V, 1, dot_order::steps, A, B>;
  }
  if (rows == 2) multiply = &multiply_by_dots<V, 2, dot_order::steps, A, B>;
  if (rows == 3 || rows == 4) {
    multiply = &multiply_by_dots<V, 4, dot_order::steps, A, B>;
    if constexpr (lines && !narrow) {
      constexpr index_t enough = 12 * static_cast<index_t>(lanes<V>);  // to pay for the adding up
      if (depth >= enough && !far) multiply = &multiply_by_dots<V, 4, dot_order::tiles, A, B>;
    }
  }
  multiply(threads, memory, a, b, finish);
}

}  // namespace mmrec::simd
