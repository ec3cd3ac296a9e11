// SPDX-License-Identifier: Apache-2.0
// Products of few rows with a packed matrix: its panels stream by once, and the sums of all columns
// under way are in registers.
//
// Up to two rows read several panels side by side, as streams that the hardware fetches. From three
// rows on there is so much arithmetic to an element that the processor no longer sees far enough
// ahead: one panel at a time, and what comes later, by as many steps as fill kept_bytes in the
// arithmetic type, is asked for.
// Budget of a step with AVX2 and four rows: 8 multiply-adds (4 cycles), 6 loads and a prefetch, so
// that a line of float is read in 4 cycles, and with eight rows in 8.
#pragma once

#include <mmrec/simd/gemm/few_rows.hpp>
#include <mmrec/simd/gemm/packed_matrix.hpp>

namespace mmrec::simd {

/// Panels of a packed matrix to one pass of so many rows: two units that take four cycles want
/// eight multiply-adds that do not wait for one another.
template <std::size_t Rows>
inline constexpr std::size_t panels_at_once = Rows > 2 ? 1 : 4 / Rows;

/// Steps [k0, k1) of Rows rows of x with neighbouring panels, the first one of column `first`:
/// to[panel][row][column of the panel] = or +=. Panels that do not exist repeat the last one. As
/// one of `passes` it asks, from `soon` on, for as many bytes as it reads / passes.
template <class V, std::size_t Rows, class A, class E, class T>
void panel_products(const dense_rows<V, A, E>& x, index_t row, const packed_matrix<V, T>& b,
                    index_t first, index_t k0, index_t k1, typename V::value_type* to,
                    const T* soon, index_t passes) {
  using Acc = typename V::value_type;
  constexpr auto w = static_cast<index_t>(lanes<V>);
  constexpr index_t width = gemm_tuning<V>::columns, line = 64 / static_cast<index_t>(sizeof(T)),
                    word = steps_in_word<V, E>, read = width * word;
  constexpr std::size_t panels = panels_at_once<Rows>,
                        lines = std::max<std::size_t>(1, static_cast<std::size_t>(read / line));
  const index_t last = (b.columns() - 1) / width * width, asked = read / passes;
  std::array<const E*, Rows> from;
  for (std::size_t r = 0; r < Rows; ++r) from[r] = x.row(row + static_cast<index_t>(r));
  std::array<const T*, panels> panel;
  for (std::size_t p = 0; p < panels; ++p)
    panel[p] = b.panel(std::min(first + static_cast<index_t>(p) * width, last));
  std::array<V, panels * Rows * 2> total;
  unroll<total.size()>([&](auto i) MMREC_LAMBDA_INLINE {
    total[i] = k0 > 0 ? V::load_unaligned(to + static_cast<index_t>(i()) * w) : V(Acc(0));
  });
  for (index_t k = k0; k < k1; k += word) {
    if constexpr (panels == 1) {
      unroll<lines>([&](auto i) MMREC_LAMBDA_INLINE {
        __builtin_prefetch(soon + static_cast<index_t>(i()) * line, 0, 2);  // the second level
      });
      soon += asked;
    }
    std::array<V, Rows> xs;
    if constexpr (panels > 1)
      unroll<Rows>([&](auto r) MMREC_LAMBDA_INLINE { xs[r] = repeat_word<V>(from[r] + k); });
    unroll<panels>([&](auto p) MMREC_LAMBDA_INLINE {
      V b0, b1;
      const T* const step = panel[p] + k * width;
      if constexpr (word > 1)
        b0 = load_words<V>(step), b1 = load_words<V>(step + word * w);
      else
        load_step(b0, b1, step);
      if constexpr (Rows > 1) b0 = rounded(b0), b1 = rounded(b1);
      unroll<Rows>([&](auto r) MMREC_LAMBDA_INLINE {
        V* const t = &total[(p() * Rows + r()) * 2];
        const V xr = panels > 1 ? xs[r] : repeat_word<V>(from[r] + k);
        t[0] = multiply_words<V, E>(xr, b0, t[0]);
        t[1] = multiply_words<V, E>(xr, b1, t[1]);
      });
    });
  }
  unroll<total.size()>([&](auto i) MMREC_LAMBDA_INLINE {
    total[i].store_unaligned(to + static_cast<index_t>(i()) * w);
  });
}

/// Few rows against a packed B that has steps, Rows of them at a time.
template <class V, std::size_t Rows, class A, class T>
void multiply_by_panels(unsigned threads, std::pmr::memory_resource* memory, const A& a,
                        const packed_matrix<V, T>& b, const results<V>& finish) {
  using Acc = typename V::value_type;
  constexpr auto height = static_cast<index_t>(Rows);
  constexpr auto width = gemm_tuning<V>::columns, group = width * index_t{panels_at_once<Rows>},
                 most = (few_rows + height - 1) / height * height,
                 kept_steps = kept_bytes / (width * static_cast<index_t>(sizeof(Acc)));
  using rectangle = std::array<Acc, static_cast<std::size_t>(most * group)>;
  const index_t rows = a.extent(0), columns = b.columns(), depth = b.depth(),
                passes = (rows + height - 1) / height;
  // All rows meet a piece of a panel while it is in the first-level cache.
  const index_t piece = passes > 1 ? kept_steps : depth;
  const dense_rows<V, A, typename packed_matrix<V, T>::factor> x(memory, a, passes * height);
  parallel_for(depth * columns < serial_matrix ? 1 : threads, (columns + group - 1) / group,
               [&](index_t task) {
                 const index_t first = task * group, end = std::min(columns, first + group);
                 alignas(V) rectangle c;
                 for (index_t k = 0; k < depth; k += piece)
                   for (index_t pass = 0; pass < passes; ++pass)
                     panel_products<V, Rows>(
                         x, pass * height, b, first, k, std::min(depth, k + piece),
                         c.data() + pass * height * group,
                         b.panel(first) + (k + kept_steps + pass * kept_steps / passes) * width,
                         passes);
                 for (index_t row = 0; row < rows; row += height)
                   for (index_t j = first; j < end; j += width)
                     finish({row, std::min(height, rows - row), j, std::min(width, end - j)},
                            c.data() + row * group + (j - first) * height, width);
               });
}

template <class V, class A, class T>
void multiply_by_panels(unsigned threads, std::pmr::memory_resource* memory, const A& a,
                        const packed_matrix<V, T>& b, const results<V>& finish) {
  const index_t rows = a.extent(0);
  auto* multiply = &multiply_by_panels<V, 4, A, T>;
  if (rows == 1) multiply = &multiply_by_panels<V, 1, A, T>;
  if (rows == 2) multiply = &multiply_by_panels<V, 2, A, T>;
  if (rows == 5 || rows == 6) multiply = &multiply_by_panels<V, 6, A, T>;
  multiply(threads, memory, a, b, finish);
}

}  // namespace mmrec::simd
