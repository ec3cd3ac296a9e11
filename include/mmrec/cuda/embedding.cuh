// SPDX-License-Identifier: Apache-2.0
// Embedding on the GPU. Forward: a few threads to a row, four rows at a time.
//
// Backward, whatever the size of the vocabulary and however often an id occurs:
//   1. Rows are sorted by id (CUB's stable radix sort of id and row, over the ids' bits only), so
//      that the rows of an id lie together, in their order.
//   2. Each id's rows are cut into pieces of `piece_rows`. Blocks look for beginnings of pieces, 32
//      places of the sorted list each; the threads of one sum its rows, a pack of columns each. An
//      id of one piece is added to the table right away.
//   3. The pieces of other ids wait in scratch and are added in order.
// Bytes per element: dy once, the rows of the table that occur twice; the sort moves some 50 bytes
// per row.
#pragma once

#include <mmrec/cuda/ids.cuh>
#include <mmrec/cuda/rows.cuh>
#include <mmrec/embedding.hpp>

#include <cub/device/device_radix_sort.cuh>

#include <algorithm>
#include <bit>
#include <string>

namespace mmrec {
namespace cuda::kernels {

inline constexpr int row_block = 256;
inline constexpr int gathered = 4;      // rows at a time in the forward
inline constexpr int piece_rows = 512;  // of one id, added one after the other
inline constexpr int places = 32;       // of the sorted list to a block
inline constexpr int rows_at_once = 8;  // of a piece, on their way together

/// A power of two of a block's threads, to a row of n elements.
template <class T>
int threads_to_row(index_t n) {
  int threads = 1;
  while (threads < row_block && index_t{threads} * pack_size<T> < n) threads *= 2;
  return threads;
}

/// Packs from element j on of several rows of n elements, those that are not null; `whole`: all
/// packs of all rows are whole and aligned. All are asked for before any is used.
template <int Count, class T>
__device__ __forceinline__ void load_rows(packed<T> (&to)[Count], const T* const (&from)[Count],
                                          index_t n, index_t j, bool whole) {
  if (whole) {
#pragma unroll
    for (int k = 0; k < Count; ++k)
      if (from[k]) to[k] = load_aligned(from[k] + j);
    return;
  }
#pragma unroll
  for (int k = 0; k < Count; ++k)
    if (from[k]) to[k] = load_edge(span_of_row(from[k], n), static_cast<int>(j), packed<T>{});
}

template <class T, class Id>
__global__ void __launch_bounds__(row_block, 4)
    embedding_kernel(id_list<Id> ids, row_matrix<const T> table, row_matrix<T> y, index_t rows,
                     index_t vocabulary, index_t n, int threads, bool whole) {
  const int in_block = row_block / threads, rank = static_cast<int>(threadIdx.x) % threads;
  const index_t first =
      static_cast<index_t>(blockIdx.x) * in_block * gathered + threadIdx.x / threads;
  const T* from[gathered];
#pragma unroll
  for (int k = 0; k < gathered; ++k) {
    const index_t i = first + k * in_block;
    const Id id = i < rows ? ids(i) : Id(0);
    from[k] = i < rows && in_range(id, vocabulary) ? table.row(static_cast<index_t>(id)) : nullptr;
  }
  const auto unknown =
      packed<T>::all(narrow<T>(std::numeric_limits<accumulator_t<T>>::quiet_NaN()));
  for (index_t j = index_t{rank} * pack_size<T>; j < n; j += index_t{threads} * pack_size<T>) {
    packed<T> x[gathered];
#pragma unroll
    for (auto& pack : x) pack = unknown;
    load_rows(x, from, n, j, whole);
#pragma unroll
    for (int k = 0; k < gathered; ++k)
      if (const index_t i = first + k * in_block; i < rows)
        store_pack(span_of_row(y.row(i), n), static_cast<int>(j), x[k]);
  }
}

/// Ids out of range become `vocabulary`, behind all others.
template <class Id>
__global__ void __launch_bounds__(row_block)
    list_ids_kernel(id_list<Id> ids, index_t rows, index_t vocabulary, std::uint32_t* id,
                    std::uint32_t* row) {
  const index_t i = static_cast<index_t>(blockIdx.x) * row_block + threadIdx.x;
  if (i >= rows) return;
  const Id v = ids(i);
  id[i] =
      static_cast<std::uint32_t>(in_range(v, vocabulary) ? static_cast<index_t>(v) : vocabulary);
  row[i] = static_cast<std::uint32_t>(i);
}

/// Rows sorted by id; pieces begin at multiples of piece_rows behind an id's first place.
struct sorted_rows {
  const std::uint32_t *id, *row;
  index_t size;

  /// The first place in [from, to) whose id is not below `value`.
  __device__ index_t lower_bound(index_t from, index_t to, std::uint32_t value) const {
    while (from < to) {
      const index_t middle = from + (to - from) / 2;
      if (id[middle] < value)
        from = middle + 1;
      else
        to = middle;
    }
    return from;
  }
  __device__ index_t piece_end(index_t begin) const {
    return lower_bound(begin, min(size, begin + piece_rows), id[begin] + 1);
  }
  /// Where the sum of a piece waits. Of ids with several pieces, at most one first piece and one
  /// later piece begin in each window of piece_rows places.
  __device__ static index_t waiting_place(index_t begin, bool first) {
    return begin / piece_rows * 2 + (first ? 1 : 0);
  }
};

/// One piece of an id's rows.
struct row_piece {
  index_t begin, end;
  std::uint32_t id;
  bool first, alone;  // of the id's pieces
};

/// waiting: a row of n sums for each waiting_place; heads: for each window of piece_rows places,
/// the first place of an id with several pieces, if one begins there.
template <class T>
__global__ void __launch_bounds__(row_block, 3)
    add_pieces_kernel(sorted_rows list, row_matrix<const T> dy, row_matrix<T> dtable,
                      index_t vocabulary, index_t n, int threads, bool whole,
                      accumulator_t<T>* waiting, index_t* heads) {
  using Acc = accumulator_t<T>;
  constexpr int size = packed<T>::size;
  __shared__ row_piece pieces[places];
  __shared__ int count;
  if (threadIdx.x < places) {
    const index_t p = static_cast<index_t>(blockIdx.x) * places + threadIdx.x;
    bool begins = false, first = true;
    if (p < list.size && list.id[p] < vocabulary) {
      const std::uint32_t id = list.id[p];
      first = p == 0 || list.id[p - 1] != id;
      begins = first || (p >= piece_rows && list.id[p - piece_rows] == id &&
                         (p - list.lower_bound(0, p, id)) % piece_rows == 0);
    }
    const unsigned all = __ballot_sync(0xffffffffu, begins);
    if (threadIdx.x == 0) count = __popc(all);
    if (begins) {
      const index_t end = list.piece_end(p);
      const bool last = end == list.size || list.id[end] != list.id[p];
      pieces[__popc(all & ((1u << threadIdx.x) - 1))] = {p, end, list.id[p], first, first && last};
      if (first && !last) heads[p / piece_rows] = p;
    }
  }
  __syncthreads();
  const int rank = static_cast<int>(threadIdx.x) % threads;
  for (int k = static_cast<int>(threadIdx.x) / threads; k < count;
       k += static_cast<int>(blockDim.x) / threads) {
    const row_piece piece = pieces[k];
    const auto to = span_of_row(dtable.row(piece.id), n);
    for (index_t j = index_t{rank} * size; j < n; j += index_t{threads} * size) {
      const T* const place[1] = {piece.alone ? to.data : nullptr};
      packed<T> before[1];
      load_rows<1, T>(before, place, n, j, whole);
      Acc total[size];
      for (index_t q = piece.begin; q < piece.end; q += rows_at_once) {
        const T* from[rows_at_once];
        packed<T> x[rows_at_once];
#pragma unroll
        for (int r = 0; r < rows_at_once; ++r)
          from[r] = q + r < piece.end ? dy.row(list.row[q + r]) : nullptr;
        load_rows(x, from, n, j, whole);
        if (q == piece.begin) {
#pragma unroll
          for (int e = 0; e < size; ++e) total[e] = piece.alone ? widen<Acc>(before[0][e]) : Acc(0);
        }
#pragma unroll
        for (int r = 0; r < rows_at_once; ++r) {
          if (q + r >= piece.end) break;
          Acc v[size];
          x[r].widen_to(v);
#pragma unroll
          for (int e = 0; e < size; ++e) total[e] += v[e];
        }
      }
      if (piece.alone) {
        store_pack(to, static_cast<int>(j), packed<T>::narrowed(total));
      } else {
        Acc* const sum = waiting + sorted_rows::waiting_place(piece.begin, piece.first) * n + j;
#pragma unroll
        for (int e = 0; e < size; ++e)
          if (e < n - j) sum[e] = total[e];
      }
    }
  }
}

/// A block to each window of piece_rows places.
template <class T>
__global__ void __launch_bounds__(row_block)
    add_waiting_kernel(sorted_rows list, row_matrix<T> dtable, index_t n,
                       const accumulator_t<T>* waiting, const index_t* heads) {
  using Acc = accumulator_t<T>;
  const index_t head = heads[blockIdx.x];
  if (head < 0) return;
  const std::uint32_t id = list.id[head];
  const index_t end = list.lower_bound(head, list.size, id + 1);
  T* const to = dtable.row(id);
  for (index_t j = threadIdx.x; j < n; j += row_block) {
    Acc total = widen<Acc>(to[j]);
#pragma unroll 8
    for (index_t p = head; p < end; p += piece_rows)
      total += waiting[sorted_rows::waiting_place(p, p == head) * n + j];
    to[j] = narrow<T>(total);
  }
}

}  // namespace cuda::kernels

template <element T, std::integral Id>
void embedding_rows(const backend::cuda& backend, const view<const Id, 1>& ids,
                    const view<const T, 2>& table, const view<T, 2>& y) {
  namespace k = cuda::kernels;
  using S = cuda::stored<T>;
  if (y.empty()) return;
  const index_t rows = y.extent(0), n = y.extent(1);
  const int threads = k::threads_to_row<S>(n);
  const index_t in_block = index_t{k::row_block / threads} * k::gathered;
  cuda::launch(backend, "embedding", {(rows + in_block - 1) / in_block, k::row_block, 0},
               k::embedding_kernel<S, Id>, cuda::ids_of(ids), cuda::rows_of(table),
               cuda::rows_of(y), rows, table.extent(0), n, threads, cuda::whole_rows(table, y));
}

template <element T, std::integral Id>
void embedding_backward_rows(const backend::cuda& backend, const view<const T, 2>& dy,
                             const view<const Id, 1>& ids, const view<T, 2>& dtable) {
  namespace k = cuda::kernels;
  using S = cuda::stored<T>;
  using Acc = accumulator_t<T>;
  const char* function = "embedding_backward";
  const index_t rows = dy.extent(0), n = dy.extent(1), vocabulary = dtable.extent(0);
  constexpr index_t limit = (index_t{1} << 31) - 1;
  if (rows > limit || vocabulary > limit)
    throw error(function, rows > limit ? "dy" : "dtable", "fewer than 2^31 rows on the GPU",
                std::to_string(std::max(rows, vocabulary)));
  if (dy.empty() || dtable.empty()) return;
  const auto count = static_cast<std::size_t>(rows);
  // Heads and sums, then the lists, then what the sort asks for.
  const auto windows = (count + k::piece_rows - 1) / k::piece_rows;
  const std::size_t head_bytes = windows * sizeof(index_t);
  const std::size_t sum_bytes = 2 * windows * static_cast<std::size_t>(n) * sizeof(Acc);
  const cuda::stream_scratch memory(backend, function,
                                    head_bytes + sum_bytes + 4 * count * sizeof(std::uint32_t));
  auto* const heads = reinterpret_cast<index_t*>(memory.data());
  auto* const sums = reinterpret_cast<Acc*>(memory.data() + head_bytes);
  auto* const id = reinterpret_cast<std::uint32_t*>(memory.data() + head_bytes + sum_bytes);
  auto *const sorted_id = id + count, *const row = id + 2 * count,
              *const sorted_row = id + 3 * count;
  std::size_t sort_bytes = 0;
  const auto sort = [&](void* scratch) {
    cuda::check(
        function, "cub::DeviceRadixSort::SortPairs",
        cub::DeviceRadixSort::SortPairs(
            scratch, sort_bytes, id, sorted_id, row, sorted_row, static_cast<int>(rows), 0,
            std::bit_width(static_cast<std::uint32_t>(vocabulary)), cuda::stream_of(backend)));
  };
  sort(nullptr);  // asks for sort_bytes
  const cuda::stream_scratch sort_memory(backend, function, sort_bytes);

  cuda::launch(backend, function, {(rows + k::row_block - 1) / k::row_block, k::row_block, 0},
               k::list_ids_kernel<Id>, cuda::ids_of(ids), rows, vocabulary, id, row);
  sort(sort_memory.data());
  const k::sorted_rows list{sorted_id, sorted_row, rows};
  cuda::check(function, "cudaMemsetAsync",
              cudaMemsetAsync(heads, 0xff, head_bytes, cuda::stream_of(backend)));
  // Few threads to a block, as not many of its places are beginnings where rows are many to an id.
  const int threads = k::threads_to_row<S>(n);
  cuda::launch(backend, function,
               {(rows + k::places - 1) / k::places, static_cast<unsigned>(std::max(64, threads))},
               k::add_pieces_kernel<S>, list, cuda::rows_of(dy), cuda::rows_of(dtable), vocabulary,
               n, threads, cuda::whole_rows(dy, dtable), sums, heads);
  if (rows > k::piece_rows)
    cuda::launch(backend, function, {static_cast<index_t>(windows), k::row_block, 0},
                 k::add_waiting_kernel<S>, list, cuda::rows_of(dtable), n, sums, heads);
}

}  // namespace mmrec
