// SPDX-License-Identifier: Apache-2.0
// Products with weights that a warp keeps in registers (walk_kernel.cuh).
//
// In float every factor is the sum of two numbers of 16 bits (binary16), and the product three
// products of theirs: the digits of two TF32 numbers (fragments.cuh) in half of the registers and
// half of the instructions. Their range is short, so each row of the weights and each column is
// scaled by a power of two to its own largest element; one that is 2^17 times smaller than that
// begins to lose digits, none loses more than 2^-39 of the largest. A factor that has 16 bits is one
// number. Double is taken as it is. Infinite factors give NaN.
#pragma once

#include <mmrec/cuda/fragments.cuh>

namespace mmrec::cuda::detail {

/// Brings the largest of some numbers into [2^14, 2^15), and back.
struct binary_scale {
  std::uint32_t exponent;
  __device__ __forceinline__ explicit binary_scale(float largest) {
    exponent = std::bit_cast<std::uint32_t>(largest) >> 23;
    exponent = exponent < 15 ? 15 : exponent > 254 ? 254 : exponent;
  }
  __device__ __forceinline__ float up() const {
    return std::bit_cast<float>((268 - exponent) << 23);
  }
  __device__ __forceinline__ float down() const {
    return std::bit_cast<float>((exponent - 14) << 23);
  }
};
__device__ __forceinline__ float largest_of(const pack<float>& p, float so_far) {
  const auto larger = [&](int e) { return fmaxf(fabsf(p.element[e]), fabsf(p.element[e + 1])); };
  return fmaxf(so_far, fmaxf(larger(0), larger(2)));  // no NaN
}
/// Of the four lanes that share a row.
__device__ __forceinline__ float largest_of_row(float v) {
  v = fmaxf(v, __shfl_xor_sync(all_lanes, v, 1));
  return fmaxf(v, __shfl_xor_sync(all_lanes, v, 2));
}

/// Two neighbours as the tensor cores take them, and what is left of them.
__device__ __forceinline__ std::uint32_t halves(float a, float b) {
  std::uint32_t both;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(b), "f"(a));
  return both;
}
__device__ __forceinline__ std::uint32_t split_halves(float a, float b, std::uint32_t& low) {
  const std::uint32_t high = halves(a, b);
  float x, y;
  asm("{\n.reg .f16 a, b;\nmov.b32 {a, b}, %2;\ncvt.f32.f16 %0, a;\ncvt.f32.f16 %1, b;\n}"
      : "=f"(x), "=f"(y)
      : "r"(high));
  low = halves(a - x, b - y);
  return high;
}
__device__ __forceinline__ void half_product(fragment_sum<float>& sum, const std::uint32_t* a,
                                             const std::uint32_t* b) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sum.of[0]), "+f"(sum.of[1]), "+f"(sum.of[2]), "+f"(sum.of[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/// The rows of a tile: upper(k) and lower(k) are a lane's packs.
template <class Acc, bool Narrow, int Packs, bool Halves>
struct kept_rows {
  row_fragment<Acc, Narrow> of[Packs];
  template <class Upper, class Lower>
  __device__ __forceinline__ void keep(const Upper& upper, const Lower& lower) {
#pragma unroll
    for (int k = 0; k < Packs; ++k) of[k] = {upper(k), lower(k)};
  }
};
template <bool Narrow, int Packs>
struct kept_rows<float, Narrow, Packs, true> {
  std::uint32_t high[Packs][4], low[Narrow ? 1 : Packs][4];
  float down[2];
  template <class Upper, class Lower>
  __device__ __forceinline__ void keep(const Upper& upper, const Lower& lower) {
    float largest[2] = {0, 0}, up[2];
#pragma unroll
    for (int k = 0; k < Packs; ++k) {
      largest[0] = largest_of(upper(k), largest[0]);
      largest[1] = largest_of(lower(k), largest[1]);
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const binary_scale scale(largest_of_row(largest[h]));
      up[h] = scale.up(), down[h] = scale.down();
    }
#pragma unroll
    for (int k = 0; k < Packs; ++k) {
      const pack<float> rows[2] = {upper(k), lower(k)};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int h = i % 2;
        const float *const x = rows[h].element + i / 2 * 2, a = x[0] * up[h], b = x[1] * up[h];
        if constexpr (Narrow)
          high[k][i] = halves(a, b);
        else
          high[k][i] = split_halves(a, b, low[k][i]);
      }
    }
  }
};

/// How the columns of `Count` packs are scaled.
template <class Acc, bool Halves>
struct column_scale {
  template <int Count>
  __device__ explicit column_scale(const pack<Acc> (&)[Count]) {}
  template <class Rows>
  __device__ void take_back(const Rows&, fragment_sum<Acc>&) const {}
};
template <>
struct column_scale<float, true> {
  float up, down[2];  // of the lane's column, and of those of its sums
  template <int Count>
  __device__ __forceinline__ explicit column_scale(const pack<float> (&packs)[Count]) {
    float largest = 0;
#pragma unroll
    for (int k = 0; k < Count; ++k) largest = largest_of(packs[k], largest);
    const binary_scale scale(largest_of_row(largest));
    up = scale.up();
    const int place = fragment_lane().place;
    down[0] = __shfl_sync(all_lanes, scale.down(), 8 * place);
    down[1] = __shfl_sync(all_lanes, scale.down(), 8 * place + 4);
  }
  template <class Rows>
  __device__ __forceinline__ void take_back(const Rows& rows, fragment_sum<float>& sum) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) sum.of[i] *= rows.down[i / 2] * down[i % 2];
  }
};
template <class Acc, bool Halves>
struct kept_columns : column_fragment<Acc> {
  kept_columns() = default;
  __device__ __forceinline__ kept_columns(const pack<Acc>& v, const column_scale<Acc, Halves>&)
      : column_fragment<Acc>{v} {}
};
template <>
struct kept_columns<float, true> {
  std::uint32_t high[2], low[2];
  kept_columns() = default;
  __device__ __forceinline__ kept_columns(const pack<float>& v,
                                          const column_scale<float, true>& scale) {
#pragma unroll
    for (int i = 0; i < 2; ++i)
      high[i] = split_halves(v.element[2 * i] * scale.up, v.element[2 * i + 1] * scale.up, low[i]);
  }
};

/// sum += the rows' packs from `first` on times N packs of columns.
template <bool Narrow, int Packs, int N>
__device__ __forceinline__ void multiply_kept(fragment_sum<float>& sum,
                                              const kept_rows<float, Narrow, Packs, true>& a,
                                              int first, const kept_columns<float, true> (&b)[N]) {
  fragment_sum<float> part[N];
  if constexpr (!Narrow) {
#pragma unroll
    for (int k = 0; k < N; ++k) half_product(part[k], a.low[first + k], b[k].high);
  }
#pragma unroll
  for (int k = 0; k < N; ++k) half_product(part[k], a.high[first + k], b[k].low);
#pragma unroll
  for (int k = 0; k < N; ++k) half_product(part[k], a.high[first + k], b[k].high);
#pragma unroll
  for (int k = 0; k < N; ++k)
#pragma unroll
    for (int i = 0; i < 4; ++i) sum.of[i] += part[k].of[i];
}
template <class Acc, bool Narrow, int Packs, int N>
__device__ __forceinline__ void multiply_kept(fragment_sum<Acc>& sum,
                                              const kept_rows<Acc, Narrow, Packs, false>& a,
                                              int first, const kept_columns<Acc, false> (&b)[N]) {
  column_fragment<Acc> columns[N];
#pragma unroll
  for (int k = 0; k < N; ++k) columns[k] = b[k];
  multiply_fragments(sum, a.of + first, columns);
}

}  // namespace mmrec::cuda::detail
