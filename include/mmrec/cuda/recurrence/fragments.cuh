// SPDX-License-Identifier: Apache-2.0
// Small matrix products on the tensor cores, in the accuracy of the arithmetic type, and words that
// blocks hand to one another while a kernel runs.
//
// A warp multiplies a tile of 16 rows with 8 columns, `fragment_depth` deep: one pack of 16 bytes of
// every row and column to a lane. In float each factor is the sum of two TF32 numbers, and the
// product three TF32 products (Ootomo and Yokota, arXiv 2203.03341, the fourth is below the last
// bit); sums over more than one pack are taken outside of the tensor core, which truncates. A
// factor that has 16 bits is one TF32 number, which saves one product. Double has an instruction of
// its own. Infinite factors give NaN.
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
};

__device__ __forceinline__ float to_tf32(float x) {
  std::uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return std::bit_cast<float>(bits);
}
__device__ __forceinline__ void tensor_product(fragment_sum<float>& sum, const float (&a)[4],
                                               const float (&b)[2]) {
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

/// sum += the tile of (upper, lower) times b. Narrow: the rows' elements have 16 bits.
template <bool Narrow>
__device__ __forceinline__ void multiply_fragments(fragment_sum<float>& sum,
                                                   const pack<float>& upper,
                                                   const pack<float>& lower, const pack<float>& b) {
  fragment_sum<float> part;
  float a_high[2][4], b_high[2][2], a_low[2][4], b_low[2][2];
  const auto split = [](float x, float& high, float& low) {
    high = to_tf32(x);
    low = to_tf32(x - high);
  };
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    split(upper.element[e], a_high[e / 2][e % 2 * 2], a_low[e / 2][e % 2 * 2]);
    split(lower.element[e], a_high[e / 2][e % 2 * 2 + 1], a_low[e / 2][e % 2 * 2 + 1]);
    split(b.element[e], b_high[e / 2][e % 2], b_low[e / 2][e % 2]);
  }
#pragma unroll
  for (int s = 0; s < 2; ++s) {
    if constexpr (!Narrow) tensor_product(part, a_low[s], b_high[s]);
    tensor_product(part, a_high[s], b_low[s]);
  }
#pragma unroll
  for (int s = 0; s < 2; ++s) tensor_product(part, a_high[s], b_high[s]);
#pragma unroll
  for (int i = 0; i < 4; ++i) sum.of[i] += part.of[i];
}
template <bool Narrow>
__device__ __forceinline__ void multiply_fragments(fragment_sum<double>& sum,
                                                   const pack<double>& upper,
                                                   const pack<double>& lower,
                                                   const pack<double>& b) {
#pragma unroll
  for (int e = 0; e < 2; ++e) {
    tensor_product(sum.of, upper.element[e], b.element[e]);
    tensor_product(sum.of + 2, lower.element[e], b.element[e]);
  }
}

/// A word that says that nobody has written here yet: a NaN that no arithmetic gives.
template <class Acc>
using exchange_bits = std::conditional_t<sizeof(Acc) == 8, std::uint64_t, std::uint32_t>;
template <class Acc>
inline constexpr exchange_bits<Acc> not_written = ~exchange_bits<Acc>{0};

template <class Acc>
__device__ __forceinline__ bool written(const Acc& v) {
  return std::bit_cast<exchange_bits<Acc>>(v) != not_written<Acc>;
}
template <class Acc>
__device__ __forceinline__ bool written(const pack<Acc>& p) {
  bool all = true;
#pragma unroll
  for (int e = 0; e < pack_size<Acc>; ++e) all = all && written(p.element[e]);
  return all;
}
/// The same value, but never the word above.
template <class Acc>
__device__ __forceinline__ Acc sendable(const Acc& v) {
  return written(v) ? v : std::numeric_limits<Acc>::quiet_NaN();
}

// The words are messages themselves, so no order between them and other memory is needed: relaxed.
__device__ __forceinline__ pack<float> receive(const float* p) {
  pack<float> v;
  asm volatile("ld.relaxed.gpu.global.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.element[0]), "=f"(v.element[1]), "=f"(v.element[2]), "=f"(v.element[3])
               : "l"(p)
               : "memory");
  return v;
}
__device__ __forceinline__ pack<double> receive(const double* p) {
  pack<double> v;
  asm volatile("ld.relaxed.gpu.global.v2.f64 {%0, %1}, [%2];"
               : "=d"(v.element[0]), "=d"(v.element[1])
               : "l"(p)
               : "memory");
  return v;
}
__device__ __forceinline__ void send(float* p, float v) {
  asm volatile("st.relaxed.gpu.global.f32 [%0], %1;" : : "l"(p), "f"(sendable(v)) : "memory");
}
__device__ __forceinline__ void send(double* p, double v) {
  asm volatile("st.relaxed.gpu.global.f64 [%0], %1;" : : "l"(p), "d"(sendable(v)) : "memory");
}

}  // namespace mmrec::cuda::detail
