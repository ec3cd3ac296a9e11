// SPDX-License-Identifier: Apache-2.0
// How a product is cut into tasks: whatever the sizes, threads and costs, the tasks cover C exactly
// once, in whole tiles that the workspace of a thread holds, and a thread's part has its own rows.
#include <mmrec/simd/gemm/block_grid.hpp>

#include <algorithm>
#include <vector>

#include "support/architectures.hpp"
#include "support/catch.hpp"

using namespace mmrec;
using namespace mmrec::testing;

namespace {

/// Of `n` elements from `from` on each once more; false where there are none or not so many.
bool count(std::vector<int>& times, index_t from, index_t n) {
  if (from < 0 || n <= 0 || from + n > static_cast<index_t>(times.size())) return false;
  std::for_each_n(times.begin() + from, n, [](int& t) { ++t; });
  return true;
}

template <class V>
void check_grid(index_t rows, index_t columns, unsigned threads, const simd::lead_time& before) {
  using tuning = simd::gemm_tuning<V>;
  CAPTURE(sizeof(V), sizeof(typename V::value_type), rows, columns, threads, before.panel,
          before.tile);
  const simd::block_grid<V> grid(rows, columns, threads, before);
  REQUIRE(grid.tasks() == grid.row_blocks * grid.column_blocks);
  REQUIRE((grid.parts == 1 || grid.parts == static_cast<index_t>(threads)));
  REQUIRE(grid.tasks() % grid.parts == 0);

  // A task is some rows times some columns, so C is covered once where each row is met by tasks
  // that have all columns once.
  struct block_of_rows {
    index_t rows = 0, part = 0;  // 0 rows: not met yet
    std::vector<int> columns;
  };
  std::vector<block_of_rows> starts(static_cast<std::size_t>(rows));  // by their first row
  const index_t tasks_of_part = grid.tasks() / grid.parts;
  bool in_range = true, whole = true, fits = true, own_rows = true, same_rows = true;
  for (index_t task = 0; task < grid.tasks(); ++task) {
    const simd::gemm_range r = grid[task];
    whole = whole && r.row % tuning::rows == 0 && r.column % tuning::columns == 0;
    fits = fits && r.rows <= tuning::block_rows && r.columns <= tuning::block_columns;
    in_range = in_range && r.row >= 0 && r.rows > 0 && r.row + r.rows <= rows;
    if (!in_range) break;
    block_of_rows& block = starts[static_cast<std::size_t>(r.row)];
    if (block.rows == 0) {
      block = {r.rows, task / tasks_of_part,
               std::vector<int>(static_cast<std::size_t>(columns), 0)};
    }
    same_rows = same_rows && block.rows == r.rows;
    own_rows = own_rows && block.part == task / tasks_of_part;
    in_range = in_range && count(block.columns, r.column, r.columns);
  }
  CHECK(in_range);
  CHECK(whole);
  CHECK(fits);
  CHECK(same_rows);
  CHECK(own_rows);
  if (!in_range) return;
  std::vector<int> covered(static_cast<std::size_t>(rows), 0);
  bool once = true;
  for (index_t row = 0; row < rows; ++row) {
    const block_of_rows& block = starts[static_cast<std::size_t>(row)];
    if (block.rows == 0) continue;
    once = once && count(covered, row, block.rows) &&
           std::ranges::all_of(block.columns, [](int times) { return times == 1; });
  }
  CHECK(once);
  CHECK(std::ranges::all_of(covered, [](int times) { return times == 1; }));
}

template <class V>
void check_grids() {
  using tuning = simd::gemm_tuning<V>;
  // Around one tile, one block and several; primes; and what a model has.
  std::vector<index_t> rows{1, 1009, 4096}, columns{1, 1009, 8191};
  for (const index_t blocks : {1, 3}) {
    for (const index_t off : {-1, 0, 1}) {
      rows.insert(rows.end(), {tuning::rows * blocks + off, tuning::block_rows * blocks + off});
      columns.insert(columns.end(),
                     {tuning::columns * blocks + off, tuning::block_columns * blocks + off});
    }
  }
  for (const index_t m : rows)
    for (const index_t n : columns)
      for (const unsigned threads : {1u, 2u, 3u, 4u, 7u, 16u, 64u})
        for (const auto& before :
             {simd::lead_time{}, simd::lead_time{0.2, 0.1}, simd::lead_time{0.7, 0.5}})
          check_grid<V>(m, n, threads, before);
}

}  // namespace

TEST_CASE("gemm blocks: tasks cover the result exactly once", "[components]") {
  check_grids<simd::batch<float, default_simd_arch>>();
  check_grids<simd::batch<double, default_simd_arch>>();
}

// Other heights and widths of tiles.
TEMPLATE_LIST_TEST_CASE("gemm blocks: on this architecture", "[components]", all_architectures) {
  check_grids<simd::batch<float, TestType>>();
}
