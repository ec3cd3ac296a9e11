// SPDX-License-Identifier: Apache-2.0
// Products of few rows with a packed matrix: its panels stream by once, and the sums of all columns
// under way are in registers. An element is one chain of multiply-adds in the order of k, as with
// many rows.
#pragma once

#include <mmrec/simd/gemm/few_rows.hpp>

namespace mmrec::simd {

/// Panels of a packed matrix to one pass of so many rows: two units that take four cycles want
/// eight multiply-adds that do not wait for one another, and the memory more streams than one.
template <std::size_t Rows>
inline constexpr std::size_t panels_at_once = Rows > 2 ? 1 : 4 / Rows;

/// Steps [k0, k1) of Rows rows of x with neighbouring panels, the first one of column `first`:
/// to[panel][row][column of the panel] = or +=. Panels that do not exist repeat the last one.
template <class V, std::size_t Rows, class A>
void panel_products(const dense_rows<V, A>& x, index_t row, const packed_matrix<V>& b,
                    index_t first, index_t k0, index_t k1, typename V::value_type* to) {
  using Acc = typename V::value_type;
  constexpr auto w = static_cast<index_t>(lanes<V>);
  constexpr index_t width = gemm_tuning<V>::columns,
                    ahead = 16384 / static_cast<index_t>(sizeof(Acc));
  constexpr std::size_t panels = panels_at_once<Rows>;
  const index_t last = (b.columns() - 1) / width * width;
  std::array<const Acc*, Rows> from;
  for (std::size_t r = 0; r < Rows; ++r) from[r] = x.row(row + static_cast<index_t>(r));
  std::array<const Acc*, panels> panel;
  for (std::size_t p = 0; p < panels; ++p)
    panel[p] =
        b.panels(std::min(first + static_cast<index_t>(p) * width, last), width, 0, 0, nullptr)
            .data;
  std::array<V, panels * Rows * 2> total;
  unroll<total.size()>([&](auto i) MMREC_LAMBDA_INLINE {
    total[i] = k0 > 0 ? V::load_unaligned(to + static_cast<index_t>(i()) * w) : V(Acc(0));
  });
  for (index_t k = k0; k < k1; ++k)
    unroll<panels>([&](auto p) MMREC_LAMBDA_INLINE {
      const Acc* at = panel[p] + k * width;
      __builtin_prefetch(at + ahead, 0, 2);  // to the second level
      const V b0 = rounded(V::load_unaligned(at)), b1 = rounded(V::load_unaligned(at + w));
      unroll<Rows>([&](auto r) MMREC_LAMBDA_INLINE {
        V* const t = &total[(p() * Rows + r()) * 2];
        const V xr(from[r][k]);
        t[0] = fma(xr, b0, t[0]);
        t[1] = fma(xr, b1, t[1]);
      });
    });
  unroll<total.size()>([&](auto i) MMREC_LAMBDA_INLINE {
    total[i].store_unaligned(to + static_cast<index_t>(i()) * w);
  });
}

/// Few rows against a packed B that has steps, Rows of them at a time.
template <class V, std::size_t Rows, class A>
void multiply_by_panels(unsigned threads, std::pmr::memory_resource* memory, const A& a,
                        const packed_matrix<V>& b, const results<V>& finish) {
  using Acc = typename V::value_type;
  constexpr auto height = static_cast<index_t>(Rows);
  constexpr auto width = gemm_tuning<V>::columns, group = width * index_t{panels_at_once<Rows>},
                 most = (few_rows + height - 1) / height * height;
  using rectangle = std::array<Acc, static_cast<std::size_t>(most * group)>;
  const index_t rows = a.extent(0), columns = b.columns(), depth = b.depth();
  // All rows meet a piece of the panels while it is in the first-level cache.
  const index_t piece =
      rows > height ? kept_bytes / (group * static_cast<index_t>(sizeof(Acc))) : depth;
  const dense_rows<V, A> x(memory, a, (rows + height - 1) / height * height);
  parallel_for(depth * columns < serial_matrix ? 1 : threads, (columns + group - 1) / group,
               [&](index_t task) {
                 const index_t first = task * group, end = std::min(columns, first + group);
                 alignas(V) rectangle c;
                 for (index_t k = 0; k < depth; k += piece)
                   for (index_t row = 0; row < rows; row += height)
                     panel_products<V, Rows>(x, row, b, first, k, std::min(depth, k + piece),
                                             c.data() + row * group);
                 for (index_t row = 0; row < rows; row += height)
                   for (index_t j = first; j < end; j += width)
                     finish({row, std::min(height, rows - row), j, std::min(width, end - j)},
                            c.data() + row * group + (j - first) * height, width);
               });
}

template <class V, class A>
void multiply_by_panels(unsigned threads, std::pmr::memory_resource* memory, const A& a,
                        const packed_matrix<V>& b, const results<V>& finish) {
  const index_t rows = a.extent(0);
  auto* multiply = &multiply_by_panels<V, 4, A>;
  if (rows == 1) multiply = &multiply_by_panels<V, 1, A>;
  if (rows == 2) multiply = &multiply_by_panels<V, 2, A>;
  if (rows == 5 || rows == 6) multiply = &multiply_by_panels<V, 6, A>;
  multiply(threads, memory, a, b, finish);
}

}  // namespace mmrec::simd
