// SPDX-License-Identifier: Apache-2.0
// C = A B with an epilogue, the one matrix product of the simd backend (after Goto and van de
// Geijn, 2008): blocking, threading and the choice of kernel. The tile is in gemm/microkernel.hpp,
// copies in gemm/packing.hpp, products that only stream a matrix in gemm/few_rows*.hpp.
//
// A task is a block of C (gemm/block_grid.hpp): up to 144 rows and 2048 columns. It runs
// through K in passes of up to 256 steps (4 KiB with registers of 512 bits); in a pass each panel
// of B meets every tile of A's rows.
// A finished tile of C goes batch by batch to `epilogue(row, column, lanes, live)`, which owns the
// store (gemm/results.hpp), or from the registers to its place where that is all there is to do.
//
// Only B has to be contiguous along columns, and where it is not, packing transposes it. For
// y = x W^T either factor could be that one: C^T = B^T A^T is the same product with the roles
// exchanged, and a tile of C is cheap to transpose. The cheaper way is chosen from the shapes.
//
// An element is one chain of multiply-adds in the order of k (of pairs, words.hpp, the odd step
// comes first): the bits do not depend on blocks or on threads. With up to 8 rows lanes may share a
// chain: how many depends on the shapes and on how B lies.
#pragma once

#include <mmrec/simd/gemm/block_grid.hpp>
#include <mmrec/simd/gemm/few_rows_dots.hpp>
#include <mmrec/simd/gemm/few_rows_packed.hpp>

namespace mmrec::simd {

/// Rows of C that are transposed at a time: whole tiles and whole batches.
template <class V>
inline constexpr index_t turned_rows = 4 * gemm_tuning<V>::rows;

/// Elements of workspace one task needs. Tiles have room for what padding and turning touch.
template <class V>
constexpr index_t block_workspace() {
  using tuning = gemm_tuning<V>;
  constexpr index_t tile_rows = tuning::block_rows + tuning::rows;
  return left_space<V> + tile_rows * tuning::block_columns +
         (turned_rows<V> + tuning::panels * tuning::depth) * tuning::columns;
}

/// turned_rows rows of a panel of so many columns, transposed.
template <class V>
const typename V::value_type* turn(const typename V::value_type* panel, index_t columns,
                                   typename V::value_type* to) {
  using Acc = typename V::value_type;
  constexpr index_t width = gemm_tuning<V>::columns;
  constexpr auto w = static_cast<index_t>(lanes<V>);
  for (index_t r = 0; r < turned_rows<V>; r += w)
    for (index_t q = 0; q < columns; q += w) {
      std::array<const Acc*, lanes<V>> rows;
      std::array<V, lanes<V>> x;
      for (index_t i = 0; i < w; ++i)
        rows[static_cast<std::size_t>(i)] = panel + (r + i) * width + q;
      load_transposed(x, rows, 0);
      for (index_t i = 0; i < w; ++i)
        x[static_cast<std::size_t>(i)].store_unaligned(to + (q + i) * turned_rows<V> + r);
    }
  return to;
}

/// Asks for `n` elements, which need not exist, in the second-level cache.
template <class Acc>
MMREC_INLINE void ask_for_lines(const Acc* p, index_t n) {
  constexpr index_t line = 64 / static_cast<index_t>(sizeof(Acc));
  index_t i = 0;
  for (; i + 4 * line <= n; i += 4 * line)
    unroll<4>([&](auto l) MMREC_LAMBDA_INLINE {
      __builtin_prefetch(p + i + static_cast<index_t>(l()) * line, 0, 2);
    });
  for (; i < n; i += line) __builtin_prefetch(p + i, 0, 2);
}

/// One block of A B on the calling thread. With `flip` the factors are those of C^T, and results
/// are handed over for C.
template <class V, class A, class B>
void gemm_block(const A& a, const B& b, const gemm_range& at, bool flip,
                typename V::value_type* work, const results<V>& finish) {
  using tuning = gemm_tuning<V>;
  using Acc = typename V::value_type;
  using E = typename B::factor;
  constexpr index_t width = tuning::columns, pass_steps = tuning::depth * steps_in_word<V, E>;
  constexpr auto w = static_cast<index_t>(lanes<V>);
  const index_t depth = b.depth();
  const plain_store<E> store = finish.template plain<E>();
  Acc* turned = work + left_space<V>;
  Acc* panel_space = turned + turned_rows<V> * width;
  Acc* tiles = panel_space + tuning::panels * tuning::depth * width;  // panel after panel

  const index_t passes = std::max<index_t>(1, pieces(depth, pass_steps)),
                each = pieces(pieces(depth, passes), w) * w;
  for (index_t pass = 0; pass < passes; ++pass) {
    const index_t k = pass * each, steps = std::min(each, depth - k);
    const left_block<V, A, E> left(a, at.row, at.rows, at.columns, k, steps, work);
    for (index_t j = 0; j < at.columns;) {
      const index_t group = b.together(at.columns - j);
      const auto panels = b.panels(at.column + j, group, k, steps, panel_space);
      for (index_t i = 0; i < group; i += width) {
        // Only what later passes add to is kept, a dense tile of rows x width after the other.
        Acc* c = tiles + (passes > 1 ? (j + i) * (tuning::block_rows + tuning::rows) : 0);
        const index_t column = at.column + j + i, columns = std::min(width, group - i);
        // A rectangle of the tile's columns and of rows [first, end) of the block, for the caller.
        const auto results_of = [&](index_t first, index_t end) -> gemm_range {
          if (flip) return {column, columns, at.row + first, end - first};
          return {at.row + first, end - first, column, columns};
        };
        const bool last = pass + 1 == passes;
        // All tiles but the first, which waits for its own, ask for a piece of the next panel: the
        // hardware would come to it only when it is read, page after page.
        right_panel<E> panel = panels[i / width];
        const E* next = panels.after(i / width);
        const E* const next_end = next ? next + padded_steps<V, E>(steps) * width : nullptr;
        index_t done = 0;
        for (index_t r = 0; r < at.rows;) {
          const index_t height = tile_height<V>(at.rows - r), end = std::min(at.rows, r + height);
          // Where sums go is asked for while there is arithmetic to do.
          if (!last || pass > 0) ask_for_lines(c + (r + height) * width, height * width);
          if (last && done == r)
            finish.expect(results_of(r, flip ? std::min(at.rows, r + turned_rows<V>) : end));
          const tile_sums<Acc> sums{pass > 0 ? c + r * width : nullptr, c + r * width, width};
          const bool stored = last && !flip && store.data && (columns == width || columns == w) &&
                              end - r == height;
          if (stored)
            multiply_tile<V>(
                height, columns, left.tile(r, height), panel, steps,
                tile_sums<Acc, E>{sums.from, store.data + (at.row + r) * store.row + column,
                                  store.row, store.add});
          else
            multiply_tile<V>(height, columns, left.tile(r, height), panel, steps, sums);
          r = end;
          panel.soon = next < next_end ? next : nullptr;
          if (panel.soon) next += elements_asked_for<V, E>(steps);
          if (stored) done = r;
          // Finished rows leave at once, so that their stores drain behind the next tile.
          if (!last || done == r) continue;
          if (flip && r < at.rows && r - done + tuning::rows <= turned_rows<V>) continue;
          const Acc* from = c + done * width;
          if (flip)
            finish(results_of(done, r), turn<V>(from, columns, turned), turned_rows<V>);
          else
            finish(results_of(done, r), from, width);
          done = r;
        }
      }
      j += group;
    }
  }
}

namespace detail {

/// Cycles a product takes on a core with two multiply-adds a cycle, up to a factor: what padding,
/// packing and turning cost decides between the two ways.
template <class V, class A, class B>
double gemm_cost(const A& a, const B& b, bool flip) {
  const index_t rows = a.extent(0), depth = b.extent(0), columns = b.extent(1);
  const auto tile_rows = static_cast<double>(padded_rows<V>(rows));
  constexpr auto w = static_cast<index_t>(lanes<V>);
  const auto padded_columns = static_cast<double>(pieces(columns, w) * w);
  const double transposing = 0.5, copying = 0.15, turning = flip ? 0.4 : 0.1;  // per element
  const auto steps = static_cast<double>(depth) / steps_in_word<V, factor_t<V, A, B>>;
  return tile_rows * padded_columns * steps / (2.0 * static_cast<double>(lanes<V>)) +
         steps * padded_columns * (b.stride(1) == 1 ? copying : transposing) +
         (a.stride(1) == 1 ? 0.0 : steps * tile_rows * copying) +
         tile_rows * padded_columns * turning;
}

/// All of A B by blocks, for packed or unpacked B.
template <class V, class A, class B>
void gemm_blocks(unsigned threads, std::pmr::memory_resource* memory, const A& a, const B& b,
                 bool flip, results<V> finish, const lead_time& before) {
  constexpr double serial_multiplies = 1e5;  // below this one thread does it all
  const index_t rows = a.extent(0), columns = b.columns();
  finish.expect_all(rows * columns);
  threads =
      static_cast<double>(rows) * static_cast<double>(columns) * static_cast<double>(b.depth()) <
              serial_multiplies
          ? 1
          : thread_count(threads);
  const block_grid<V> blocks(rows, columns, threads, before);
  const index_t tasks = blocks.tasks();
  // One workspace per thread, not per task: a task may run on any thread.
  const index_t workers = std::min<index_t>(threads, tasks);
  const index_t space = block_workspace<V>();
  scratch<typename V::value_type> work(memory, static_cast<std::size_t>(workers * space));
  parallel_for(static_cast<unsigned>(workers), tasks, [&](index_t task, index_t thread) {
    gemm_block<V>(a, b, blocks[task], flip, work.data() + thread * space, finish);
  });
}

/// Packs B where several blocks of rows use it.
template <class V, class A, class B>
void gemm_packing(unsigned threads, std::pmr::memory_resource* memory, const A& a, const B& b,
                  bool flip, const results<V>& finish) {
  using E = factor_t<V, A, B>;
  // Pairs are brought together first. A panel of elements is only read, or turned.
  constexpr bool pairs = steps_in_word<V, E> > 1;
  const lead_time before{pairs || b.stride(1) != 1 ? 0.7 : 0.2,
                         pairs && a.stride(1) != 1 ? 0.5 : 0.1};
  // Or where the second level keeps all of it as it lies.
  const unpacked_matrix<V, B, E> unpacked(b, a.extent(0));
  if (a.extent(0) <= gemm_tuning<V>::block_rows || unpacked.close())
    return gemm_blocks<V>(threads, memory, a, unpacked, flip, finish, before);
  packed_matrix<V, E> packed(memory, b.extent(0), b.extent(1));
  packed.pack(b, thread_count(threads));
  gemm_blocks<V>(threads, memory, a, packed, flip, finish, {0, before.tile});
}

}  // namespace detail

/// All of A B for packed B.
template <class V, class A, class T, class Epilogue>
void gemm(unsigned threads, std::pmr::memory_resource* memory, const A& a,
          const packed_matrix<V, T>& b, const Epilogue& epilogue) {
  if (a.extent(0) == 0 || b.columns() == 0) return;
  if (a.extent(0) <= few_rows && b.depth() > 0)
    return multiply_by_panels<V>(threads, memory, a, b, results<V>(epilogue));
  detail::gemm_blocks<V>(threads, memory, a, b, false, results<V>(epilogue), {});
}

/// All of A B.
template <class V, class A, class B, class Epilogue>
void gemm(unsigned threads, std::pmr::memory_resource* memory, const A& a, const B& b,
          const Epilogue& epilogue) {
  const index_t rows = a.extent(0), depth = b.extent(0), columns = b.extent(1);
  constexpr index_t few_steps = few_rows;
  if (rows == 0 || columns == 0) return;
  const results<V> finish(epilogue);
  if constexpr (requires { b.at(0, 0); }) {
    if (rows <= few_rows && depth > 0 && b.stride(0) == 1)
      return multiply_by_dots<V>(threads, memory, a, b, finish);
    if (rows <= few_rows && depth > 0 && b.stride(1) == 1)
      return multiply_by_updates<V>(threads, memory, a, b, finish);
  }
  if (depth > 0 && depth <= few_steps) return multiply_outer<V>(threads, memory, a, b, finish);
  const flipped<B> left{b};
  const flipped<A> right{a};
  if (detail::gemm_cost<V>(left, right, true) < detail::gemm_cost<V>(a, b, false))
    return detail::gemm_packing<V>(threads, memory, left, right, true, finish);
  detail::gemm_packing<V>(threads, memory, a, b, false, finish);
}

}  // namespace mmrec::simd
