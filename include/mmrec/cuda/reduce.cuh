// SPDX-License-Identifier: Apache-2.0
// Rows worked on by teams of threads, and sums in a fixed order: no atomics, so the same bits in
// every run.
//
// A team is a part of a warp, or a warp (then several are in a block), or a whole block, as wide as
// a row needs. Each thread of it has every team-th pack of the row (rows.cuh), `Kept` of them at a
// time; those of a row that is not longer stay in its registers.
#pragma once

#include <mmrec/cuda/rows.cuh>

#include <algorithm>

namespace mmrec::cuda {

inline constexpr int max_team = 512, min_team = 4;  // threads
inline constexpr int team_block = 256;              // of several teams

/// Threads to a row of n elements, and how a grid of them is launched.
struct team_shape {
  int threads = 32;  // a power of two
  template <class T, int Kept>
  static team_shape of(index_t n) {
    team_shape s{min_team};
    while (s.threads < max_team && index_t{s.threads} * Kept * pack_size<T> < n) s.threads *= 2;
    return s;
  }
  int in_block() const { return threads <= 32 ? team_block / threads : 1; }
  unsigned block() const { return static_cast<unsigned>(threads * in_block()); }
  index_t blocks_for(index_t rows) const { return (rows + in_block() - 1) / in_block(); }
};

/// This thread's team.
struct team {
  int threads, rank, number;  // number: of the team in its block
  __device__ explicit team(const team_shape& s) : threads(s.threads) {
    rank = static_cast<int>(threadIdx.x) & (threads - 1);
    number = static_cast<int>(threadIdx.x) >> log();
  }
  __device__ int log() const { return 31 - __clz(threads); }
  __device__ int in_block() const { return static_cast<int>(blockDim.x) >> log(); }
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

/// The value of the lane whose number differs by the bit `distance`.
template <class V>
__device__ __forceinline__ V from_partner(const V& value, int distance) {
  static_assert(sizeof(V) % 4 == 0);
  struct words {
    unsigned of[sizeof(V) / 4];
  };
  auto w = std::bit_cast<words>(value);
#pragma unroll
  for (unsigned& v : w.of) v = __shfl_xor_sync(all_lanes, v, distance);
  return std::bit_cast<V>(w);
}

/// Combines the values over the team, by a tree; every thread receives the result. op has the same
/// bits in either order. All threads of the block take part.
template <class V, class Op>
__device__ __forceinline__ void all_reduce(const team& t, V& value, const Op& op) {
  const auto in_warp = [&](int lanes) {
    for (int distance = lanes / 2; distance > 0; distance /= 2)
      value = op(value, from_partner(value, distance));
  };
  if (t.threads <= 32) return in_warp(t.threads);
  in_warp(32);
  __shared__ V of_warp[max_team / 32];
  const int lane = t.rank % 32, warps = t.threads / 32;
  __syncthreads();  // the results of the call before have been read
  if (lane == 0) of_warp[t.rank / 32] = value;
  __syncthreads();
  value = of_warp[lane & (warps - 1)];
  in_warp(warps);
}
template <class Acc, int Count, class Op>
__device__ __forceinline__ void all_reduce(const team& t, Acc (&values)[Count], const Op& op) {
  struct together {
    Acc of[Count];
  };
  together all;
#pragma unroll
  for (int k = 0; k < Count; ++k) all.of[k] = values[k];
  all_reduce(t, all, [&](const together& a, const together& b) {
    together c;
#pragma unroll
    for (int k = 0; k < Count; ++k) c.of[k] = op(a.of[k], b.of[k]);
    return c;
  });
#pragma unroll
  for (int k = 0; k < Count; ++k) values[k] = all.of[k];
}

inline constexpr int sum_columns = 32, max_sum_groups = 32;  // of a block of sum_rows_kernel

/// to(j) (+)= the sum over `rows` of from[row * n + j], in a fixed order; j counts the n elements
/// of `to`. A block has `groups` threads to each of its columns.
template <class Acc, class T>
__global__ void __launch_bounds__(sum_columns* max_sum_groups)
    sum_rows_kernel(const Acc* from, index_t rows, view<T, 3> to, int groups, bool accumulate) {
  __shared__ Acc part[max_sum_groups][sum_columns];
  const int column = static_cast<int>(threadIdx.x) % sum_columns,
            group = static_cast<int>(threadIdx.x) / sum_columns;
  const index_t n = to.size(), j = static_cast<index_t>(blockIdx.x) * sum_columns + column;
  Acc total(0);
  if (j < n) {
#pragma unroll 8
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
