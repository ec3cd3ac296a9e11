// SPDX-License-Identifier: Apache-2.0
// Rows worked on by teams of threads, and sums in a fixed order: no atomics, so the same bits in
// every run.
//
// A team is a warp (then several are in a block) or a whole block, as wide as a row needs. Each
// thread of it has every team-th pack of the row; the first `Kept` of them stay in its registers
// between passes, packs of longer rows are read again.
#pragma once

#include <mmrec/cuda/element.cuh>

#include <algorithm>

namespace mmrec::cuda {

inline constexpr int max_team = 512;  // threads; leaves each 128 registers
inline constexpr int warp_teams = 8;  // to a block

/// Threads to a row of n elements, and how a grid of them is launched.
struct team_shape {
  int threads = 32;
  template <class T, int Kept>
  static team_shape of(index_t n) {
    team_shape s;
    while (s.threads < max_team && index_t{s.threads} * Kept * pack_size<T> < n) s.threads *= 2;
    return s;
  }
  int in_block() const { return threads == 32 ? warp_teams : 1; }
  unsigned block() const { return static_cast<unsigned>(threads * in_block()); }
  index_t blocks_for(index_t rows) const { return (rows + in_block() - 1) / in_block(); }
};

/// This thread's team.
struct team {
  int threads, rank, number;  // number: of the team in its block
  __device__ explicit team(const team_shape& s)
      : threads(s.threads),
        rank(static_cast<int>(threadIdx.x) % s.threads),
        number(static_cast<int>(threadIdx.x) / s.threads) {}
  /// The row of a grid that has a team for each.
  __device__ index_t row() const {
    return static_cast<index_t>(blockIdx.x) * (blockDim.x / static_cast<unsigned>(threads)) +
           number;
  }
};

/// f(k, j, live) for this thread's packs of a row of n elements: elements [j, j + live). k counts
/// the packs that are kept; it is `Kept` for all others.
template <class T, int Kept, class F>
__device__ __forceinline__ void for_packs(const team& t, index_t n, const F& f) {
  constexpr int size = pack_size<T>;
  const index_t step = index_t{t.threads} * size;
  index_t j = index_t{t.rank} * size;
#pragma unroll
  for (int k = 0; k < Kept; ++k, j += step)
    if (j < n) f(k, j, n - j);
  for (; j < n; j += step) f(Kept, j, n - j);
}

/// The packs of a row that stay. All are asked for before any is used, so that they come together;
/// one more place is for a pack that does not stay.
template <class T, int Kept>
struct kept_row {
  pack<T> packs[Kept + 1];
  __device__ __forceinline__ kept_row(const team& t, index_t n, const T* row, bool aligned) {
    index_t j = index_t{t.rank} * pack_size<T>;
#pragma unroll
    for (int k = 0; k < Kept; ++k, j += index_t{t.threads} * pack_size<T>)
      packs[k] = load_pack(row + j, n - j, aligned);
  }
};

struct plus {
  template <class V>
  __device__ V operator()(const V& a, const V& b) const {
    return a + b;
  }
};
/// The larger; a NaN does not win.
struct larger {
  template <class V>
  __device__ V operator()(const V& a, const V& b) const {
    if constexpr (std::is_same_v<V, float>)
      return fmaxf(a, b);  // one instruction
    else
      return b > a || a != a ? b : a;
  }
};

/// Combines each of the values over the team, by a tree; every thread receives the results. All
/// threads of the team take part.
template <class Op, class Acc, int Count>
__device__ __forceinline__ void all_reduce(const team& t, Acc (&values)[Count], const Op& op) {
  const auto in_warp = [&](int lanes) {
    for (int distance = lanes / 2; distance > 0; distance /= 2)
#pragma unroll
      for (int c = 0; c < Count; ++c)
        values[c] = op(values[c], __shfl_xor_sync(0xffffffffu, values[c], distance));
  };
  in_warp(32);
  if (t.threads == 32) return;
  __shared__ Acc of_warp[max_team / 32][Count];
  const int lane = t.rank % 32, warps = t.threads / 32;
  __syncthreads();  // the results of the call before have been read
  if (lane == 0)
    for (int c = 0; c < Count; ++c) of_warp[t.rank / 32][c] = values[c];
  __syncthreads();
#pragma unroll
  for (int c = 0; c < Count; ++c) values[c] = of_warp[lane % warps][c];
  in_warp(warps);
}

inline constexpr int sum_columns = 32, max_sum_groups = 32;  // of a block of sum_rows_kernel

/// to(j) (+)= the sum over `rows` of from[row * n + j], in a fixed order; j counts the n elements of
/// `to`. A block has `groups` threads to each of its columns.
template <class Acc, class T>
__global__ void __launch_bounds__(sum_columns* max_sum_groups)
    sum_rows_kernel(const Acc* from, index_t rows, view<T, 3> to, int groups, bool accumulate) {
  __shared__ Acc part[max_sum_groups][sum_columns];
  const int column = static_cast<int>(threadIdx.x) % sum_columns,
            group = static_cast<int>(threadIdx.x) / sum_columns;
  const index_t n = to.size(), j = static_cast<index_t>(blockIdx.x) * sum_columns + column;
  Acc total(0);
  if (j < n) {
#pragma unroll 4
    for (index_t i = group; i < rows; i += groups) total += from[i * n + j];
  }
  part[group][column] = total;
  __syncthreads();
  if (group > 0 || j >= n) return;
  for (int g = 1; g < groups; ++g) total += part[g][column];
  const index_t inner = to.extent(2), middle = j / inner;
  T& result = to(middle / to.extent(1), middle % to.extent(1), j % inner);
  result = narrow<T>(accumulate ? widen<Acc>(result) + total : total);
}

template <class Acc, class E>
void sum_rows(const backend::cuda& b, const char* function, const Acc* from, index_t rows,
              const view<E, 3>& to, bool accumulate) {
  if (to.empty()) return;
  int groups = 1;  // of a few rows each
  while (groups < max_sum_groups && groups * 4 < rows) groups *= 2;
  launch(
      b, function,
      {(to.size() + sum_columns - 1) / sum_columns, static_cast<unsigned>(sum_columns * groups), 0},
      sum_rows_kernel<Acc, stored<E>>, from, rows, stored_view(to), groups, accumulate);
}

}  // namespace mmrec::cuda
