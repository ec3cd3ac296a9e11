// SPDX-License-Identifier: Apache-2.0
// Products with so few rows (or so few steps) that each element of the large matrix is used only a
// few times: it is read, or written, once and as it lies. Memory decides here, not arithmetic.
#pragma once

#include <mmrec/simd/gemm/packing.hpp>
#include <mmrec/simd/gemm/results.hpp>

namespace mmrec::simd {

/// Up to this many rows of A go to the kernels of few_rows*.hpp.
inline constexpr index_t few_rows = 8;
/// Elements of the large matrix from which a second thread pays.
inline constexpr index_t serial_matrix = 65536;

/// All of a small A, dense, as elements of E: rows of `stride` of them, those from A.extent(1) on
/// zero; `room` of them there are at least.
template <class V, class A, class E = typename V::value_type>
class dense_rows {
 public:
  dense_rows(std::pmr::memory_resource* memory, const A& a, index_t rows, index_t room = w)
      : stride_((a.extent(1) + w - 1) / w * w + room),  // off the powers of two
        data_(memory, static_cast<std::size_t>(rows * stride_)) {
    const flipped<A> steps{a};
    for (index_t i = 0; i < rows; ++i) {
      const index_t live = i < a.extent(0) ? a.extent(1) : 0;
      index_t k = 0;
      if (a.stride(1) == 1)
        for (; k + w <= live; k += w) store_words(row(i) + k, words_along<V, E>(a, i, k));
      for (; k < live; k += word) put_word<V>(row(i) + k, steps, k, i);
      std::memset(static_cast<void*>(row(i) + k), 0,
                  static_cast<std::size_t>(stride_ - k) * sizeof(E));
    }
  }
  E* row(index_t i) const { return data_.data() + i * stride_; }

 private:
  static constexpr index_t word = steps_in_word<V, E>, w = word * static_cast<index_t>(lanes<V>);
  index_t stride_;
  scratch<E> data_;
};

/// Bytes of the small factor, or of the result, that a kernel keeps in the first-level cache.
inline constexpr index_t kept_bytes = 16384;

/// Few rows against a B whose rows are contiguous (dx = du W): C stays in cache while B streams by,
/// four of its rows, or eight where C has one, to one pass over a piece of C.
template <class V, class A, class B>
void multiply_by_updates(unsigned threads, std::pmr::memory_resource* memory, const A& a,
                         const B& b, const results<V>& finish) {
  using Acc = typename V::value_type;
  constexpr auto w = static_cast<index_t>(lanes<V>);
  constexpr std::size_t together = 4, most = 8;
  const index_t rows = a.extent(0), depth = b.extent(0), columns = b.extent(1),
                units = (columns + w - 1) / w, row = (units + 1) * w;  // off the powers of two
  const dense_rows<V, A> x(memory, a, rows);
  scratch<Acc> c(memory, static_cast<std::size_t>(rows * row));
  std::fill_n(c.data(), c.size(), Acc(0));
  threads = depth * columns < serial_matrix ? 1 : thread_count(threads);
  const index_t each = std::min((units + index_t(threads) - 1) / index_t(threads),
                                kept_bytes / (rows * static_cast<index_t>(sizeof(V))));
  // Rows of a piece are short: the next ones are asked for. (Eight, for one row of C, are faster
  // without.)
  const index_t ahead = static_cast<index_t>(together) * b.stride(0);
  parallel_for(threads, (units + each - 1) / each, [&](index_t task) {
    const index_t begin = task * each * w, end = std::min(units, (task + 1) * each) * w;
    const auto pass = [&]<std::size_t N>(index_t k) {
      // Two batches side by side where there are two: each broadcast serves both.
      const auto unit = [&](index_t j, auto wide, const auto& load) MMREC_LAMBDA_INLINE {
        constexpr std::size_t count = decltype(wide)::value;
        std::array<V, N * count> y;
        unroll<N * count>([&](auto n) MMREC_LAMBDA_INLINE {
          const auto* at =
              b.at(k + static_cast<index_t>(n / count), j + static_cast<index_t>(n % count) * w);
          y[n] = load(at);
          if constexpr (N < most) __builtin_prefetch(at + ahead);
        });
        for (index_t i = 0; i < rows; ++i) {
          Acc* at = c.data() + i * row + j;
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
    const auto passes = [&]<std::size_t N>(std::integral_constant<std::size_t, N>) {
      for (; k + static_cast<index_t>(N) <= depth; k += static_cast<index_t>(N))
        pass.template operator()<N>(k);
    };
    if (rows == 1) passes(std::integral_constant<std::size_t, most>{});
    passes(std::integral_constant<std::size_t, together>{});
    passes(std::integral_constant<std::size_t, 1>{});
    finish({0, rows, begin, std::min(end, columns) - begin}, c.data() + begin, row);
  });
}

/// A few outer products (dW of a few tokens): C is written once, by tiles of four rows and two
/// batches of columns, which a step of K enters with two loads.
template <class V, class A, class B>
void multiply_outer(unsigned threads, std::pmr::memory_resource* memory, const A& a, const B& b,
                    const results<V>& finish) {
  using Acc = typename V::value_type;
  constexpr auto w = static_cast<index_t>(lanes<V>);
  constexpr std::size_t together = 4;
  constexpr index_t tile = static_cast<index_t>(together), rows_per_task = 4 * tile, piece = 8 * w;
  const index_t rows = a.extent(0), columns = b.extent(1), depth = b.extent(0);
  const dense_rows<V, B> y(memory, b, depth, 2 * w);
  const plain_store<Acc> store = finish.template plain<Acc>();
  parallel_for(
      rows * columns < serial_matrix ? 1 : threads, (rows + rows_per_task - 1) / rows_per_task,
      [&](index_t task) {
        const index_t end = std::min(rows, (task + 1) * rows_per_task);
        alignas(V) std::array<Acc, static_cast<std::size_t>(tile * piece)> c;
        for (index_t i = task * rows_per_task; i < end; i += tile) {
          const index_t live = std::min(tile, end - i);
          std::array<std::array<Acc, together>, few_rows> x{};
          for (index_t k = 0; k < depth; ++k)
            for (index_t r = 0; r < live; ++r)
              x[static_cast<std::size_t>(k)][static_cast<std::size_t>(r)] =
                  a.template get<Acc>(i + r, k);
          const auto sums = [&](index_t j) MMREC_LAMBDA_INLINE {
            std::array<V, 2 * together> total;
            total.fill(V(0));
            for (index_t k = 0; k < depth; ++k) {
              const Acc* from = y.row(k) + j;
              const V y0 = V::load_unaligned(from), y1 = V::load_unaligned(from + w);
              unroll<together>([&](auto r) MMREC_LAMBDA_INLINE {
                const V xr(x[static_cast<std::size_t>(k)][r]);
                total[2 * r] = fma(xr, y0, total[2 * r]);
                total[2 * r + 1] = fma(xr, y1, total[2 * r + 1]);
              });
            }
            return total;
          };
          index_t j0 = 0;
          if (store.data && live == tile)  // from the registers to its place
            for (; j0 + 2 * w <= columns; j0 += 2 * w) {
              const auto total = sums(j0);
              unroll<2 * together>([&](auto t) MMREC_LAMBDA_INLINE {
                Acc* const to = store.data + (i + static_cast<index_t>(t() / 2)) * store.row + j0 +
                                static_cast<index_t>(t() % 2) * w;
                (store.add ? total[t] + V::load_unaligned(to) : total[t]).store_unaligned(to);
              });
            }
          for (; j0 < columns; j0 += piece) {
            const index_t count = std::min(piece, columns - j0);
            for (index_t j = 0; j < count; j += 2 * w) {
              const auto total = sums(j0 + j);
              unroll<2 * together>([&](auto t) MMREC_LAMBDA_INLINE {
                total[t].store_aligned(c.data() + static_cast<index_t>(t() / 2) * piece + j +
                                       static_cast<index_t>(t() % 2) * w);
              });
            }
            finish({i, live, j0, count}, c.data(), piece);
          }
        }
      });
}

}  // namespace mmrec::simd
