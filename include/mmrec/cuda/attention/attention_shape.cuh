// SPDX-License-Identifier: Apache-2.0
// How attention is divided: a block to a piece of the time of one head, its warps to rows of it.
#pragma once

#include <mmrec/cuda/element.cuh>

#include <algorithm>

namespace mmrec::cuda::kernels {

inline constexpr int attention_warps = 4, attention_threads = attention_warps * warp,
                     attention_rows = 16 * attention_warps;  // of a block, at once

/// What a warp works on at once: up to `Slots` slots and some columns of a head.
template <class T, int Slots>
struct attention_tile {
  using Acc = accumulator_t<T>;
  static constexpr int slots = Slots, columns = 256 / static_cast<int>(sizeof(Acc)),
                       column_pack = pack_size<T>, slot_pack = std::min(pack_size<T>, Slots / 4),
                       slot_tiles = Slots / 8, column_tiles = columns / 8;
};
inline constexpr int few_slots = 16;
template <class Acc>
inline constexpr int many_slots = 256 / static_cast<int>(sizeof(Acc));

template <int Size>
__host__ __device__ constexpr int chunks_of(index_t n) {
  return static_cast<int>((n + Size - 1) / Size);
}

struct attention_shape {
  index_t batch, time, slots, heads, width;
  index_t piece = 1;      // rows of time
  int column_blocks = 1;  // of a head's columns, a block to each
  int slot_blocks = 1;    // of the slots, likewise
  bool all_held = false;  // in shared memory: K and V of a block
  __host__ __device__ index_t head_width() const { return width / heads; }
  __host__ __device__ index_t pieces() const { return (time + piece - 1) / piece; }
  __host__ __device__ index_t beside() const { return heads * column_blocks * slot_blocks; }
  index_t tasks() const { return batch * beside() * pieces(); }
  /// For about `most` tasks, of as many times a block's rows or more.
  void divide(index_t most, index_t least) {
    const index_t tiles = (time + attention_rows - 1) / attention_rows;
    most = std::max<index_t>(1, most / std::max<index_t>(1, batch * beside()));
    piece = std::max(least, (tiles + most - 1) / most) * attention_rows;
  }
};

/// Parts of a head and heads are nearest, then pieces of time: neighbours read the same rows.
struct attention_task {
  index_t batch, head, piece, first, last;
  int columns, slots;  // which of their blocks
  __device__ explicit attention_task(const attention_shape& s)
      : batch(blockIdx.x / s.beside() / s.pieces()),
        head(blockIdx.x / (s.column_blocks * s.slot_blocks) % s.heads),
        piece(blockIdx.x / s.beside() % s.pieces()),
        first(piece * s.piece),
        last(min(s.time, first + s.piece)),
        columns(static_cast<int>(blockIdx.x % s.column_blocks)),
        slots(static_cast<int>(blockIdx.x / s.column_blocks % s.slot_blocks)) {}
  /// From the first of the thread's warp on.
  __device__ index_t rows_of_warp() const {
    return last - first - static_cast<int>(threadIdx.x) / warp * 16;
  }
};

/// Rows of a view, which the kernel looks at itself: their first element differs by block.
template <class T>
__device__ __forceinline__ row_matrix<T> rows_from(T* data, index_t pitch) {
  return {data, pitch,
          reinterpret_cast<std::uintptr_t>(data) % 16 == 0 && pitch % pack_size<T> == 0};
}
/// A warp's rows of them. A column is a multiple of a pack.
template <class T>
class warp_rows {
 public:
  __device__ __forceinline__ warp_rows(T* data, index_t pitch) : rows_(rows_from(data, pitch)) {
    rows_.data += static_cast<int>(threadIdx.x) / warp * 16 * pitch;
  }
  __device__ __forceinline__ row_matrix<T> from(index_t column) const {
    return {rows_.data + column, rows_.pitch, rows_.aligned};
  }
  __device__ __forceinline__ void next() { rows_.data += attention_rows * rows_.pitch; }

 private:
  row_matrix<T> rows_;
};
/// How many of `size` there are, if `there` are from here on.
__device__ __forceinline__ int live_of(index_t there, int size) {
  return static_cast<int>(there < size ? there : index_t{size});
}

}  // namespace mmrec::cuda::kernels
