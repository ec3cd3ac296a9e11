// SPDX-License-Identifier: Apache-2.0
// Small matrix products on the tensor cores, in the accuracy of the arithmetic type.
//
// A warp multiplies a tile of 16 rows with 8 columns, `fragment_depth` deep: one pack of 16 bytes
// of every row and column to a lane. In float each factor is the sum of two TF32 numbers, and the
// product three TF32 products (Ootomo and Yokota, arXiv 2203.03341, the fourth is below the last
// bit); long sums are taken outside of the tensor core, which truncates. A factor that has 16 bits
// is one TF32 number, which saves one product. Double has an instruction of its own. Infinite
// factors give NaN.
#pragma once

#include <mmrec/cuda/element.cuh>

namespace mmrec::cuda::detail {

/// Depth of the product of two packs: 4 lanes share a row.
template <class Acc>
inline constexpr int fragment_depth = 4 * pack_size<Acc>;
inline constexpr int fragment_rows = 16, fragment_columns = 8;

/// Where a lane's share of a fragment lies: of the rows `row` and row + 8, or of column `row`, the
/// pack that is the depth's `place`-th.
struct fragment_lane {
  int row, place;
  __device__ fragment_lane()
      : row(static_cast<int>(threadIdx.x) % warp / 4),
        place(static_cast<int>(threadIdx.x) % warp % 4) {}
};
/// Of the tile of sums a lane has rows `row` and row + 8 of columns 2 place and 2 place + 1.
template <class Acc>
struct fragment_sum {
  Acc of[4] = {};  // (row, 0) (row, 1) (row + 8, 0) (row + 8, 1)
  __device__ __forceinline__ void operator+=(const fragment_sum& other) {
#pragma unroll
    for (int i = 0; i < 4; ++i) of[i] += other.of[i];
  }
};

/// x = high + low + less than the last bit of x. Integer instructions do what cvt.rna.tf32 does, at
/// a higher rate; a NaN is lost in high, but not in low.
__device__ __forceinline__ void split(float x, float& high, float& low) {
  high = std::bit_cast<float>((std::bit_cast<std::uint32_t>(x) + 0x1000u) & 0xffffe000u);
  low = std::bit_cast<float>(std::bit_cast<std::uint32_t>(x - high) & 0xffffe000u);
}
__device__ __forceinline__ void tensor_product(fragment_sum<float>& sum, const float* a,
                                               const float* b) {
  const auto bits = [](float x) { return std::bit_cast<std::uint32_t>(x); };
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sum.of[0]), "+f"(sum.of[1]), "+f"(sum.of[2]), "+f"(sum.of[3])
      : "r"(bits(a[0])), "r"(bits(a[1])), "r"(bits(a[2])), "r"(bits(a[3])), "r"(bits(b[0])),
        "r"(bits(b[1])));
}
/// Eight rows: sum[0] and sum[1] are columns 2 place and 2 place + 1 of the lane's row.
__device__ __forceinline__ void tensor_product(double* sum, double a, double b) {
  asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
      : "+d"(sum[0]), "+d"(sum[1])
      : "d"(a), "d"(b));
}

/// The rows of a tile as the tensor cores take them: split once for many products. Narrow: their
/// elements have 16 bits.
template <class Acc, bool Narrow>
struct row_fragment {
  pack<Acc> upper, lower;
};
template <class Acc, bool Narrow = false>
struct column_fragment {
  pack<Acc> values;
};
template <bool Narrow>
struct row_fragment<float, Narrow> {
  float high[8], low[Narrow ? 1 : 8];
  row_fragment() = default;
  __device__ __forceinline__ row_fragment(const pack<float>& upper, const pack<float>& lower) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float x = (i % 2 == 0 ? upper : lower).element[i / 2];
      if constexpr (Narrow)
        high[i] = x;  // a NaN stays, too
      else
        split(x, high[i], low[i]);
    }
  }
};
template <>
struct column_fragment<float, false> {
  float high[4], low[4];
  column_fragment() = default;
  __device__ __forceinline__ column_fragment(const pack<float>& values) {
#pragma unroll
    for (int i = 0; i < 4; ++i) split(values.element[i], high[i], low[i]);
  }
};
template <>
struct column_fragment<float, true> {
  float high[4];
  column_fragment() = default;
  __device__ __forceinline__ column_fragment(const pack<float>& values) {
#pragma unroll
    for (int i = 0; i < 4; ++i) high[i] = values.element[i];
  }
};

/// sum(k) + small(k) += rows(k) times columns(k) for k < N, side by side, because a sum waits for
/// its own last product. Small is what the low parts give; it may be the sum.
template <bool NarrowRows, bool NarrowColumns, int N, class Sum, class Small, class Rows,
          class Columns>
__device__ __forceinline__ void multiply_parts(const Sum& sum, const Small& small, const Rows& rows,
                                               const Columns& columns) {
#pragma unroll
  for (int s = 0; s < 2; ++s) {
    if constexpr (!NarrowRows) {
#pragma unroll
      for (int k = 0; k < N; ++k)
        tensor_product(small(k), rows(k).low + 4 * s, columns(k).high + 2 * s);
    }
    if constexpr (!NarrowColumns) {
#pragma unroll
      for (int k = 0; k < N; ++k)
        tensor_product(small(k), rows(k).high + 4 * s, columns(k).low + 2 * s);
    }
  }
#pragma unroll
  for (int s = 0; s < 2; ++s)
#pragma unroll
    for (int k = 0; k < N; ++k)
      tensor_product(sum(k), rows(k).high + 4 * s, columns(k).high + 2 * s);
}

/// sum += the tile of rows times the columns, for N packs.
inline constexpr int packs_together = 4;
template <bool Narrow, int N>
__device__ __forceinline__ void multiply_fragments(fragment_sum<float>& sum,
                                                   const row_fragment<float, Narrow>* a,
                                                   const column_fragment<float> (&b)[N]) {
  fragment_sum<float> part[N];
  const auto part_of = [&](int k) -> auto& { return part[k]; };
  multiply_parts<Narrow, false, N>(
      part_of, part_of, [&](int k) -> const auto& { return a[k]; },
      [&](int k) -> const auto& { return b[k]; });
#pragma unroll
  for (int k = 0; k < N; ++k) sum += part[k];
}
template <bool Narrow, int N>
__device__ __forceinline__ void multiply_fragments(fragment_sum<double>& sum,
                                                   const row_fragment<double, Narrow>* a,
                                                   const column_fragment<double> (&b)[N]) {
#pragma unroll
  for (int k = 0; k < N; ++k)
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      tensor_product(sum.of, a[k].upper.element[e], b[k].values.element[e]);
      tensor_product(sum.of + 2, a[k].lower.element[e], b[k].values.element[e]);
    }
}

/// sum(m, n) + small(m, n) += tile m of rows times tile n of columns, for one pack of each; in the
/// tensor core, so the sums should not be long.
template <bool NarrowRows, bool NarrowColumns, int M, int N, class Sum, class Small>
__device__ __forceinline__ void multiply_tiles(
    const Sum& sum, const Small& small, const row_fragment<float, NarrowRows> (&a)[M],
    const column_fragment<float, NarrowColumns> (&b)[N]) {
  multiply_parts<NarrowRows, NarrowColumns, M * N>(
      [&](int k) -> auto& { return sum(k / N, k % N); },
      [&](int k) -> auto& { return small(k / N, k % N); },
      [&](int k) -> const auto& { return a[k / N]; },
      [&](int k) -> const auto& { return b[k % N]; });
}
template <bool NarrowRows, bool NarrowColumns, int M, int N, class Sum, class Small>
__device__ __forceinline__ void multiply_tiles(
    const Sum& sum, const Small&, const row_fragment<double, NarrowRows> (&a)[M],
    const column_fragment<double, NarrowColumns> (&b)[N]) {
#pragma unroll
  for (int e = 0; e < 2; ++e)
#pragma unroll
    for (int k = 0; k < M * N; ++k) {
      double* const of = sum(k / N, k % N).of;
      tensor_product(of, a[k / N].upper.element[e], b[k % N].values.element[e]);
      tensor_product(of + 2, a[k / N].lower.element[e], b[k % N].values.element[e]);
    }
}

}  // namespace mmrec::cuda::detail
