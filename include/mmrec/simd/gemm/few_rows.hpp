// SPDX-License-Identifier: Apache-2.0
// Products with so few rows (or so few steps) that each element of the large matrix is used only a
// few times: it is read, or written, once and as it lies. Memory decides here, not arithmetic.
#pragma once

#include <mmrec/simd/gemm/packing.hpp>
#include <mmrec/simd/gemm/results.hpp>

namespace mmrec::simd {

/// Up to this many rows of A go to the kernels of this header.
inline constexpr index_t few_rows = 8;
/// Elements of the large matrix from which a second thread pays.
inline constexpr index_t serial_matrix = 65536;

namespace detail {

/// One stage of adding up lanes: of registers i and i + Half one remains.
template <std::size_t Half, class V>
MMREC_INLINE void fold(std::array<V, V::size>& r) {
  for (std::size_t i = 0; i < Half; ++i) {
    raw_t<V> x = raw(r[i]), y = raw(r[i + Half]);
    exchange<Half>(x, y, std::make_index_sequence<V::size>{});
    r[i] = from_raw<V>(x) + from_raw<V>(y);
  }
  if constexpr (Half > 1) fold<Half / 2>(r);
}

}  // namespace detail

/// Lane j of the result is the sum of the lanes of r[j].
template <class V>
MMREC_INLINE V sum_each(std::array<V, V::size>& r) {
  detail::fold<V::size / 2>(r);
  return r[0];
}

/// All of a small A, dense: rows of `stride` elements, those from A.extent(1) on zero.
template <class V, class A>
class dense_rows {
 public:
  using Acc = typename V::value_type;
  dense_rows(std::pmr::memory_resource* memory, const A& a, index_t rows)
      : stride_((a.extent(1) + w - 1) / w * w + w),  // off the powers of two
        data_(memory, static_cast<std::size_t>(rows * stride_)) {
    for (index_t i = 0; i < rows; ++i) {
      const index_t live = i < a.extent(0) ? a.extent(1) : 0;
      index_t k = 0;
      if (a.stride(1) == 1)
        for (; k + w <= live; k += w) a.template load_row<V>(i, k).store_unaligned(row(i) + k);
      for (; k < stride_; ++k) row(i)[k] = k < live ? a.template get<Acc>(i, k) : Acc(0);
    }
  }
  Acc* row(index_t i) const { return data_.data() + i * stride_; }

 private:
  static constexpr auto w = static_cast<index_t>(lanes<V>);
  index_t stride_;
  scratch<Acc> data_;
};

/// Bytes of the small factor, or of the result, that a kernel keeps in the first-level cache.
inline constexpr index_t kept_bytes = 16384;

/// Dot products of all rows of x with every apart-th column of b from `first` on, no further than
/// column `last`: one batch per row. Rows x Columns of them at a time, and all rows meet a piece of
/// k before the next one is read; x has a multiple of Rows rows.
/// A pair of columns is too few streams to hide the memory, so the next pair is asked for. (Eight
/// are best left to the hardware: there the same costs a tenth.)
template <class V, std::size_t Rows, std::size_t Columns, class A, class B>
void dot_products(const dense_rows<V, A>& x, index_t rows, const B& b, index_t first, index_t apart,
                  index_t last, V* result) {
  static_assert(lanes<V> % Columns == 0, "mmrec: a batch of results is made of whole groups");
  constexpr auto w = static_cast<index_t>(lanes<V>);
  constexpr index_t piece = kept_bytes / static_cast<index_t>(Rows * sizeof(V)) * w;
  // Two units that take four cycles want eight multiply-adds that do not wait for one another.
  constexpr std::size_t chains = Rows == 1 && Columns < 8 ? 2 : 1, all = Rows * Columns;
  const index_t depth = b.extent(0), ahead = static_cast<index_t>(Columns) * apart * b.stride(1);
  std::array<std::array<V, lanes<V>>, few_rows> sums;
  for (index_t k0 = 0; k0 < depth; k0 += piece)
    for (index_t row = 0; row < rows; row += static_cast<index_t>(Rows)) {
      auto* const parts = sums.data() + row;
      std::array<const typename V::value_type*, Rows> rows_of_x;
      for (std::size_t r = 0; r < Rows; ++r) rows_of_x[r] = x.row(row + static_cast<index_t>(r));
      for (std::size_t at = 0; at < lanes<V>; at += Columns) {
        std::array<V, all * chains> total;
        unroll<all>([&](auto i) MMREC_LAMBDA_INLINE {
          total[i] = k0 > 0 ? parts[i / Columns][at + i % Columns] : V(0);
        });
        if constexpr (chains == 2) std::fill(total.begin() + all, total.end(), V(0));
        std::array<decltype(b.at(0, 0)), Columns> from;
        for (std::size_t c = 0; c < Columns; ++c)
          from[c] = b.at(0, std::min(first + static_cast<index_t>(at + c) * apart, last));
        const auto step = [&](index_t k, auto chain, const auto& load) MMREC_LAMBDA_INLINE {
          std::array<V, Columns> y;
          unroll<Columns>([&](auto c) MMREC_LAMBDA_INLINE {
            y[c] = load(from[c] + k);
            if constexpr (Rows > 1) y[c] = rounded(y[c]);  // in a register, as in the microkernel
            if constexpr (Columns == 2) __builtin_prefetch(from[c] + k + ahead);
          });
          unroll<Rows>([&](auto r) MMREC_LAMBDA_INLINE {
            const V xr = V::load_unaligned(rows_of_x[r] + k);
            unroll<Columns>([&](auto c) MMREC_LAMBDA_INLINE {
              V& t = total[chain * all + r * Columns + c];
              t = fma(xr, y[c], t);
            });
          });
        };
        constexpr std::integral_constant<std::size_t, 0> one;
        constexpr std::integral_constant<std::size_t, chains - 1> other;
        const auto whole = [](const auto* p) MMREC_LAMBDA_INLINE { return load_lanes<V>(p); };
        const index_t end = std::min(depth, k0 + piece);
        index_t k = k0;
        for (; Rows == 1 && k + 2 * w <= end; k += 2 * w) {
          step(k, one, whole);
          step(k + w, other, whole);
        }
        for (; k + w <= end; k += w) step(k, one, whole);
        if (k < end)
          step(k, one, [&](const auto* p) MMREC_LAMBDA_INLINE {
            return load_lanes_n<V>(p, static_cast<std::size_t>(end - k));
          });
        unroll<all>([&](auto i) MMREC_LAMBDA_INLINE {
          parts[i / Columns][at + i % Columns] =
              chains == 2 ? total[i] + total[i + all * (chains - 1)] : total[i];
        });
      }
    }
  for (index_t row = 0; row < rows; ++row)
    result[row] = sum_each(sums[static_cast<std::size_t>(row)]);
}

/// Few rows against columns that are contiguous in k (y = x W^T): dot products.
template <class V, class A, class B>
void multiply_by_dots(unsigned threads, std::pmr::memory_resource* memory, const A& a, const B& b,
                      const results<V>& finish) {
  using Acc = typename V::value_type;
  constexpr auto w = static_cast<index_t>(lanes<V>);
  constexpr bool many = registers<V> == 32;
  constexpr std::size_t four = std::min<std::size_t>(4, lanes<V>);  // SSE2 has two doubles
  const index_t rows = a.extent(0), columns = b.extent(1);
  const index_t height = rows <= 2 ? rows : rows <= 4 || !many ? 4 : 8;
  const dense_rows<V, A> x(memory, a, (rows + height - 1) / height * height);
  auto* dots = &dot_products<V, 1, std::min<std::size_t>(8, lanes<V>), A, B>;
  if (height == 2) dots = &dot_products<V, 2, four, A, B>;
  if (height == 4) dots = &dot_products<V, 4, (many ? four : 2), A, B>;
  if constexpr (many)
    if (height == 8) dots = &dot_products<V, 8, 2, A, B>;
  threads = b.extent(0) * columns < serial_matrix ? 1 : thread_count(threads);
  // Several batches to a rectangle of results, if that leaves tasks for the threads.
  constexpr index_t most = 8 * w;
  const index_t each =
      threads == 1 ? most : std::clamp<index_t>(columns / (4 * index_t(threads) * w), 1, 8) * w;
  parallel_for(threads, (columns + each - 1) / each, [&](index_t task) {
    const index_t first = task * each, live = std::min(each, columns - first);
    // The columns of a batch are as far apart as they can be: with the next batch each of these
    // streams goes on where it was, and long streams are read faster.
    const index_t apart = (live + w - 1) / w;
    alignas(V) std::array<Acc, few_rows * most> rectangle;
    for (index_t j = 0; j < apart; ++j) {
      std::array<V, few_rows> result;
      dots(x, rows, b, first + j, apart, first + live - 1, result.data());
      for (index_t r = 0; r < rows; ++r) {
        alignas(V) std::array<Acc, lanes<V>> dots_of_row;
        result[static_cast<std::size_t>(r)].store_aligned(dots_of_row.data());
        Acc* at = rectangle.data() + r * most + j;
        for (const Acc& dot : dots_of_row) *at = dot, at += apart;
      }
    }
    finish({0, rows, first, live}, rectangle.data(), most);
  });
}

/// Few rows against a B whose rows are contiguous (dx = du W): C stays in cache while B streams by,
/// four of its rows to one pass over a piece of C.
template <class V, class A, class B>
void multiply_by_updates(unsigned threads, std::pmr::memory_resource* memory, const A& a,
                         const B& b, const results<V>& finish) {
  using Acc = typename V::value_type;
  constexpr auto w = static_cast<index_t>(lanes<V>);
  constexpr std::size_t together = 4;
  const index_t rows = a.extent(0), depth = b.extent(0), columns = b.extent(1),
                units = (columns + w - 1) / w;
  const dense_rows<V, A> x(memory, a, rows);
  scratch<Acc> c(memory, static_cast<std::size_t>(rows * units * w));
  std::fill_n(c.data(), c.size(), Acc(0));
  threads = depth * columns < serial_matrix ? 1 : thread_count(threads);
  const index_t each = std::min((units + index_t(threads) - 1) / index_t(threads),
                                kept_bytes / (rows * static_cast<index_t>(sizeof(V))));
  parallel_for(threads, (units + each - 1) / each, [&](index_t task) {
    const index_t begin = task * each * w, end = std::min(units, (task + 1) * each) * w;
    const auto pass = [&]<std::size_t N>(index_t k) {
      // Two batches side by side where there are two: each broadcast serves both.
      const auto unit = [&](index_t j, auto wide, const auto& load) MMREC_LAMBDA_INLINE {
        constexpr std::size_t count = decltype(wide)::value;
        std::array<V, N * count> y;
        unroll<N * count>([&](auto n) MMREC_LAMBDA_INLINE {
          y[n] = load(
              b.at(k + static_cast<index_t>(n / count), j + static_cast<index_t>(n % count) * w));
        });
        for (index_t i = 0; i < rows; ++i) {
          Acc* at = c.data() + i * units * w + j;
          std::array<V, count> total;
          unroll<count>([&](auto u) MMREC_LAMBDA_INLINE {
            total[u] = V::load_unaligned(at + static_cast<index_t>(u()) * w);
          });
          unroll<N>([&](auto n) MMREC_LAMBDA_INLINE {
            const V xi(x.row(i)[k + static_cast<index_t>(n())]);
            unroll<count>([&](auto u) MMREC_LAMBDA_INLINE {
              total[u] = fma(xi, y[n * count + u], total[u]);
            });
          });
          unroll<count>([&](auto u) MMREC_LAMBDA_INLINE {
            total[u].store_unaligned(at + static_cast<index_t>(u()) * w);
          });
        }
      };
      constexpr std::integral_constant<std::size_t, 1> one;
      const auto whole = [](const auto* p) MMREC_LAMBDA_INLINE { return load_lanes<V>(p); };
      const index_t last = std::min(end, columns);
      index_t j = begin;
      for (; j + 2 * w <= last; j += 2 * w)
        unit(j, std::integral_constant<std::size_t, 2>{}, whole);
      for (; j + w <= last; j += w) unit(j, one, whole);
      if (j < last)
        unit(j, one, [&](const auto* p) MMREC_LAMBDA_INLINE {
          return load_lanes_n<V>(p, static_cast<std::size_t>(columns - j));
        });
    };
    index_t k = 0;
    for (; k + static_cast<index_t>(together) <= depth; k += static_cast<index_t>(together))
      pass.template operator()<together>(k);
    for (; k < depth; ++k) pass.template operator()<1>(k);
    finish({0, rows, begin, std::min(end, columns) - begin}, c.data() + begin, units * w);
  });
}

/// A few outer products (dW of a few tokens): C is written once, nothing is packed.
template <class V, class A, class B>
void multiply_outer(unsigned threads, std::pmr::memory_resource* memory, const A& a, const B& b,
                    const results<V>& finish) {
  using Acc = typename V::value_type;
  constexpr auto w = static_cast<index_t>(lanes<V>);
  constexpr index_t rows_per_task = 16, piece = 32 * w;
  const index_t rows = a.extent(0), columns = b.extent(1);
  const auto depth = static_cast<std::size_t>(b.extent(0));
  const index_t padded = (columns + w - 1) / w * w;
  scratch<Acc> y(memory, depth * static_cast<std::size_t>(padded));
  for (index_t k = 0; k < b.extent(0); ++k)
    for (index_t j = 0; j < padded; ++j)
      y[static_cast<std::size_t>(k * padded + j)] =
          j < columns ? b.template get<Acc>(k, j) : Acc(0);
  parallel_for(rows * columns < serial_matrix ? 1 : threads,
               (rows + rows_per_task - 1) / rows_per_task, [&](index_t task) {
                 const index_t end = std::min(rows, (task + 1) * rows_per_task);
                 alignas(V) std::array<Acc, static_cast<std::size_t>(piece)> row;
                 for (index_t i = task * rows_per_task; i < end; ++i) {
                   std::array<Acc, few_rows> x{};
                   for (std::size_t k = 0; k < depth; ++k)
                     x[k] = a.template get<Acc>(i, static_cast<index_t>(k));
                   for (index_t j0 = 0; j0 < columns; j0 += piece) {
                     const index_t count = std::min(piece, columns - j0);
                     for (index_t j = 0; j < count; j += w) {
                       const Acc* from = y.data() + j0 + j;
                       V total(0);
                       for (std::size_t k = 0; k < depth; ++k, from += padded)
                         total = fma(V(x[k]), V::load_unaligned(from), total);
                       total.store_aligned(row.data() + j);
                     }
                     finish({i, 1, j0, count}, row.data(), w);
                   }
                 }
               });
}

}  // namespace mmrec::simd
