// SPDX-License-Identifier: Apache-2.0
// K or V in shared memory, in chunks of slots and columns, as the fragments of the products that
// warps form with them: every lane reads its own in accesses of 16 bytes.
#pragma once

#include <mmrec/cuda/attention/attention_shape.cuh>
#include <mmrec/cuda/attention/warp_tile.cuh>

namespace mmrec::cuda::kernels {

/// Fragments of `Slots` slots; the slots are the depth of a product, or else its columns. Split:
/// they are kept as the tensor cores take them, in twice the memory.
template <class T, class S, int Slots, bool SlotsAreDepth, bool Split>
class memory_chunk {
  using tile = attention_tile<T, Slots>;
  using Acc = typename tile::Acc;
  static constexpr bool narrow = is_narrow<S>;
  using fragment = column_fragment<Acc, narrow>;
  using kept = std::conditional_t<Split, fragment, pack<Acc>>;
  static constexpr int depth = (SlotsAreDepth ? Slots : tile::columns) / fragment_depth<Acc>,
                       outer = (SlotsAreDepth ? tile::columns : Slots) / fragment_columns,
                       parts = sizeof(kept) / 16;
  struct parts_of {
    uint4 part[parts];
  };
  uint4 data_[outer * depth][parts][warp];

 public:
  static constexpr int slots = Slots, columns = tile::columns;
  /// Pack g of the depth, tile j of the columns.
  __device__ __forceinline__ fragment operator()(int g, int j) const {
    parts_of bits;
#pragma unroll
    for (int p = 0; p < parts; ++p) bits.part[p] = data_[j * depth + g][p][threadIdx.x % warp];
    return fragment{std::bit_cast<kept>(bits)};
  }
  /// By all threads of a block. from: the chunk's first element, of so many that are there.
  __device__ void fill(const S* from, index_t pitch, int live_slots, int live_columns) {
    constexpr int depth_pack = SlotsAreDepth ? tile::slot_pack : tile::column_pack,
                  outer_pack = SlotsAreDepth ? tile::column_pack : tile::slot_pack;
    constexpr int along_depth = std::min(depth, attention_warps),
                  along_outer = attention_warps / along_depth;
    const int lane = static_cast<int>(threadIdx.x) % warp,
              mine = static_cast<int>(threadIdx.x) / warp;
#pragma unroll
    for (int g = mine % along_depth; g < depth; g += along_depth) {
      int along[pack_size<Acc>];
#pragma unroll
      for (int e = 0; e < pack_size<Acc>; ++e)
        along[e] = position_on_axis<depth_pack>(g * (pack_size<Acc> / 2) + e / 2, lane % 4, e % 2);
#pragma unroll 4
      for (int j = mine / along_depth; j < outer; j += along_outer) {
        const int across = position_on_axis<outer_pack>(j, lane / 8, lane / 4 % 2);
        pack<Acc> x;
#pragma unroll
        for (int e = 0; e < pack_size<Acc>; ++e) {
          const int slot = SlotsAreDepth ? along[e] : across,
                    column = SlotsAreDepth ? across : along[e];
          x.element[e] = slot < live_slots && column < live_columns
                             ? widen<Acc>(from[slot * pitch + column])
                             : Acc(0);
        }
        const auto bits = std::bit_cast<parts_of>(kept{x});
#pragma unroll
        for (int p = 0; p < parts; ++p) data_[j * depth + g][p][lane] = bits.part[p];
      }
    }
  }
};

/// The chunks of one head's K or V: all of them if the device's shared memory holds them, or the one
/// that is read now. All threads of a block ask for the same chunks.
template <class Chunk, class S>
class memory_chunks {
 public:
  /// from: a matrix (slots, columns).
  __device__ memory_chunks(Chunk* chunks, const S* from, index_t pitch, index_t slots,
                           index_t columns, bool all)
      : chunks_(chunks),
        from_(from),
        pitch_(pitch),
        slots_(slots),
        columns_(columns),
        across_(chunks_of<Chunk::columns>(columns)),
        all_(all) {
    if (all_)
      for (int i = 0; i < chunks_of<Chunk::slots>(slots); ++i)
        for (int j = 0; j < across_; ++j) fill(i * across_ + j, i, j);
  }
  /// Chunk i of the slots and j of the columns.
  __device__ __forceinline__ const Chunk& operator()(int i, int j) {
    const int number = i * across_ + j;
    if (all_) return chunks_[number];
    if (number != held_) {
      __syncthreads();
      fill(0, i, j);
      __syncthreads();
      held_ = number;
    }
    return chunks_[0];
  }

 private:
  __device__ void fill(int to, int i, int j) {
    const index_t slot = i * Chunk::slots, column = j * Chunk::columns;
    chunks_[to].fill(from_ + slot * pitch_ + column, pitch_,
                     static_cast<int>(min(slots_ - slot, index_t{Chunk::slots})),
                     static_cast<int>(min(columns_ - column, index_t{Chunk::columns})));
  }
  Chunk* chunks_;
  const S* from_;
  index_t pitch_, slots_, columns_;
  int across_, held_ = -1;
  bool all_;
};

/// sum += rows times the chunk, whose columns are those of sum.
template <summing How, bool Narrow, class Acc, int Depth, int Columns, class Chunk>
__device__ __forceinline__ void multiply_chunk(warp_tile<Acc, Columns>& sum,
                                               const warp_tile<Acc, Depth>& rows,
                                               const Chunk& chunk) {
  constexpr bool apart = How == summing::small_apart, by_pack = How == summing::by_pack;
  constexpr int together = std::min(Columns, How == summing::there ? 4 : 2);  // by registers
  warp_tile<Acc, apart ? Columns : 1> small;
#pragma unroll
  for (int g = 0; g < warp_tile<Acc, Depth>::packs; ++g) {
    const row_fragment<Acc, Narrow> a[1] = {rows.template rows<Narrow>(g)};
#pragma unroll
    for (int j = 0; j < Columns; j += together) {
      decltype(chunk(0, 0)) b[together];
#pragma unroll
      for (int n = 0; n < together; ++n) b[n] = chunk(g, j + n);
      if constexpr (by_pack) {
        fragment_sum<Acc> part[together];
        const auto part_of = [&](int, int n) -> auto& { return part[n]; };
        multiply_tiles(part_of, part_of, a, b);
#pragma unroll
        for (int n = 0; n < together; ++n) sum.of[j + n] += part[n];
      } else {
        multiply_tiles([&](int, int n) -> auto& { return sum.of[j + n]; },
                       [&](int, int n) -> auto& {
                         if constexpr (apart)
                           return small.of[j + n];
                         else
                           return sum.of[j + n];
                       },
                       a, b);
      }
    }
  }
  if constexpr (apart) {
#pragma unroll
    for (int j = 0; j < Columns; ++j) sum.of[j] += small.of[j];
  }
}

}  // namespace mmrec::cuda::kernels
