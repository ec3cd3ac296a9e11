// SPDX-License-Identifier: Apache-2.0
// K or V in shared memory, in chunks of slots and columns, as the fragments of the products that
// warps form with them: every lane reads its own in accesses of 16 bytes.
#pragma once

#include <mmrec/cuda/attention/attention_shape.cuh>
#include <mmrec/cuda/attention/warp_tile.cuh>

namespace mmrec::cuda::kernels {

/// Fragments of `Slots` slots; the slots are the depth of a product, or else its columns. Factor:
/// what the product takes. Split: numbers that take several are kept so, in twice the memory.
template <class T, class S, int Slots, bool SlotsAreDepth, class Factor, bool Split>
class memory_chunk {
  using tile = attention_tile<T, Slots>;
  static constexpr bool as_they_are = is_narrow<Factor>;
  static constexpr int length = SlotsAreDepth ? Slots : tile::columns,
                       pack_length = factor_pack<Factor, length>, depth = length / 4 / pack_length,
                       outer = (SlotsAreDepth ? tile::columns : Slots) / fragment_columns;
  using kept_pack = pack<Factor, pack_length>;
  using fragment = std::conditional_t<as_they_are, column_numbers<Factor, pack_length>,
                                      column_fragment<Factor, is_narrow<S>>>;
  using kept = std::conditional_t<Split, fragment, kept_pack>;
  using part = whole_pack<kept_pack>;
  static constexpr int parts = sizeof(kept) / sizeof(part);
  struct parts_of {
    part of[parts];
  };
  part data_[outer * depth][parts][warp];

 public:
  using factor = Factor;
  static constexpr int slots = Slots, columns = tile::columns, packs = depth;
  /// Pack g of the depth, tile j of the columns.
  __device__ __forceinline__ fragment operator()(int g, int j) const {
    parts_of bits;
#pragma unroll
    for (int p = 0; p < parts; ++p) bits.of[p] = data_[j * depth + g][p][threadIdx.x % warp];
    return fragment{std::bit_cast<kept>(bits)};
  }
  /// By all threads of a block. from: the chunk's first element, of so many that are there. A call,
  /// or it would take registers where it is hardly ever needed.
  __device__ __noinline__ void fill(const S* from, index_t pitch, int live_slots,
                                    int live_columns) {
    if constexpr (as_they_are) {
      const auto rows = rows_from(from, pitch);
      if (rows.aligned && live_slots >= slots && live_columns >= columns)
        fill_packs<true>(rows, slots, columns);
      else
        fill_packs<false>(rows, live_slots, live_columns);
    } else {
      fill_elements(from, pitch, live_slots, live_columns);
    }
  }

 private:
  __device__ __forceinline__ void keep(int g, int j, int lane, const kept& x) {
    const auto bits = std::bit_cast<parts_of>(x);
#pragma unroll
    for (int p = 0; p < parts; ++p) data_[j * depth + g][p][lane] = bits.of[p];
  }
  /// A lane's pack lies in memory as it is, or in several rows, of which a thread has whole packs
  /// and turns them round. Whole: all of them are there.
  template <bool Whole>
  __device__ __forceinline__ void fill_packs(const row_matrix<const S>& from, int live_slots,
                                             int live_columns) {
    constexpr int wide = SlotsAreDepth ? tile::column_pack : pack_length,
                  tall = SlotsAreDepth ? pack_length : 1, tasks = Slots * columns / wide / tall;
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x); i < tasks; i += attention_threads) {
      const int place = i % 4, g = i / 4 % depth, rest = i / 4 / depth, along = 4 * g + place,
                slot = SlotsAreDepth
                           ? along * tall
                           : position_on_axis<tile::slot_pack>(rest / 8, rest / 2 % 4, rest % 2),
                column = (SlotsAreDepth ? rest : along) * wide;
      pack<S, wide> x[tall];
#pragma unroll
      for (int e = 0; e < tall; ++e) {
        const S* const row = from.row(slot + e) + column;
        x[e] = Whole ? load_pack<const S, wide>(row, wide, true)
                     : load_pack<const S, wide>(
                           row, slot + e < live_slots ? live_columns - column : 0, from.aligned);
      }
      if constexpr (SlotsAreDepth) {
#pragma unroll
        for (int c = 0; c < wide; ++c) {
          kept_pack turned;
#pragma unroll
          for (int e = 0; e < tall; ++e) turned.element[e] = x[e].element[c];
          keep(g, rest / 4 * (wide / 2) + c / 2, rest % 4 * 8 + c % 2 * 4 + place, kept{turned});
        }
      } else {
        keep(g, rest / 8, rest % 8 * 4 + place, kept{x[0]});
      }
    }
  }
  __device__ __forceinline__ void fill_elements(const S* from, index_t pitch, int live_slots,
                                                int live_columns) {
    constexpr int depth_pack = SlotsAreDepth ? tile::slot_pack : tile::column_pack,
                  outer_pack = SlotsAreDepth ? tile::column_pack : tile::slot_pack;
    constexpr int along_depth = std::min(depth, attention_warps),
                  along_outer = attention_warps / along_depth;
    const int lane = static_cast<int>(threadIdx.x) % warp,
              mine = static_cast<int>(threadIdx.x) / warp;
#pragma unroll
    for (int g = mine % along_depth; g < depth; g += along_depth) {
      int along[pack_length];
#pragma unroll
      for (int e = 0; e < pack_length; ++e)
        along[e] = position_on_axis<depth_pack>(g * (pack_length / 2) + e / 2, lane % 4, e % 2);
#pragma unroll 4
      for (int j = mine / along_depth; j < outer; j += along_outer) {
        const int across = position_on_axis<outer_pack>(j, lane / 8, lane / 4 % 2);
        kept_pack x;
#pragma unroll
        for (int e = 0; e < pack_length; ++e) {
          const int slot = SlotsAreDepth ? along[e] : across,
                    column = SlotsAreDepth ? across : along[e];
          x.element[e] = slot < live_slots && column < live_columns
                             ? widen<Factor>(from[slot * pitch + column])
                             : Factor(0);
        }
        keep(g, j, lane, kept{x});
      }
    }
  }
};

/// The chunks of one head's K or V: all of them if the device's shared memory holds them (Held: it
/// is known to), or the one that is read now. All threads of a block ask for the same chunks.
template <class Chunk, class S, bool Held>
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
        all_(Held || all) {
    if (all_)
      for (int i = 0; i < chunks_of<Chunk::slots>(slots); ++i)
        for (int j = 0; j < across_; ++j) fill(i * across_ + j, i, j);
  }
  /// Chunk i of the slots and j of the columns.
  __device__ __forceinline__ const Chunk& operator()(int i, int j) {
    const int number = i * across_ + j;
    if (Held || all_) return chunks_[number];
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
template <summing How, class Acc, int Columns, class Rows, class Chunk>
__device__ __forceinline__ void multiply_chunk(warp_tile<Acc, Columns>& sum, const Rows& rows,
                                               const Chunk& chunk) {
  using factor = typename Chunk::factor;
  constexpr bool apart = How == summing::small_apart, by_pack = How == summing::by_pack;
  constexpr int together = std::min(Columns, How == summing::there ? 4 : 2);  // by registers
  warp_tile<Acc, apart ? Columns : 1> small;
#pragma unroll
  for (int g = 0; g < Chunk::packs; ++g) {
    const auto row = as_factor<Rows::narrow>(rows.template packs<factor>(g));
    const std::remove_cv_t<decltype(row)> a[1] = {row};
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
