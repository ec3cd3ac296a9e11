// SPDX-License-Identifier: Apache-2.0
// Products with weights that a warp keeps in registers, or half of them in shared memory
// (walk_kernel.cuh).
//
// The tensor cores take numbers of 16 bits in half of the registers and half of the instructions
// that TF32 numbers (fragments.cuh) need.
//
//   float      two digits in binary16, three products. Their range is short, so each row of the
//              weights and each column is scaled by a power of two to its own largest element; one
//              that is 2^17 times smaller than that begins to lose digits, none loses more than
//              2^-39 of the largest
//   binary16   the same, but the weights are one digit: two products
//   bfloat16   the weights are one digit, columns three, exactly and in the range of float: three
//              products, and no wait for the largest
//   double     as it is
//
// Infinite factors give NaN.
#pragma once

#include <mmrec/cuda/digits.cuh>

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

/// Two digits of two neighbours.
__device__ __forceinline__ std::uint32_t split_halves(float a, float b, std::uint32_t& low) {
  const std::uint32_t high = take_digit<stored_half>(a, b);
  low = take_digit<stored_half>(a, b);
  return high;
}
/// The leading eight bits of both; what is left stays in a and b.
__device__ __forceinline__ std::uint32_t split_bfloat16(float& a, float& b) {
  const auto bits_a = std::bit_cast<std::uint32_t>(a), bits_b = std::bit_cast<std::uint32_t>(b);
  a -= std::bit_cast<float>(bits_a & 0xffff0000u);
  b -= std::bit_cast<float>(bits_b & 0xffff0000u);
  return __byte_perm(bits_a, bits_b, 0x7632);
}

/// What a lane has of a tile's pack.
struct row_digits {
  std::uint32_t of[4];
};

/// The rows of a tile whose elements are S: upper(k) and lower(k) are a lane's packs. Apart: their
/// low digits lie in shared memory, where the lane's pack of four is `warp` packs from the next.
template <class S, int Packs, bool Apart>
struct kept_rows {
  static constexpr bool narrow = sizeof(S) == 2;
  std::uint32_t high[Packs][4], low[narrow || Apart ? 1 : Packs][4];
  float down[2];
  uint4* apart;

  __device__ __forceinline__ row_digits low_of(int k) const {
    if constexpr (Apart)
      return std::bit_cast<row_digits>(apart[k * warp]);
    else
      return {low[k][0], low[k][1], low[k][2], low[k][3]};
  }
  template <class Upper, class Lower>
  __device__ __forceinline__ void keep(const Upper& upper, const Lower& lower, uint4* at) {
    apart = at;
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
      row_digits rest;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int h = i % 2;
        const float* const x = rows[h].element + i / 2 * 2;
        float a = x[0] * up[h], b = x[1] * up[h];
        if constexpr (narrow)
          high[k][i] = take_digit<stored_half>(a, b);
        else
          high[k][i] = split_halves(a, b, rest.of[i]);
      }
      if constexpr (!narrow && Apart) at[k * warp] = std::bit_cast<uint4>(rest);
      if constexpr (!narrow && !Apart) {
#pragma unroll
        for (int i = 0; i < 4; ++i) low[k][i] = rest.of[i];
      }
    }
  }
};

template <int Packs, bool Apart>
struct kept_rows<stored_bfloat16, Packs, Apart> {
  std::uint32_t of[Packs][4];
  template <class Upper, class Lower>
  __device__ __forceinline__ void keep(const Upper& upper, const Lower& lower, uint4*) {
#pragma unroll
    for (int k = 0; k < Packs; ++k) {
      pack<float> rows[2] = {upper(k), lower(k)};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float* const x = rows[i % 2].element + i / 2 * 2;
        of[k][i] = split_bfloat16(x[0], x[1]);
      }
    }
  }
};
template <int Packs, bool Apart>
struct kept_rows<double, Packs, Apart> {
  row_fragment<double, false> of[Packs];
  template <class Upper, class Lower>
  __device__ __forceinline__ void keep(const Upper& upper, const Lower& lower, uint4*) {
#pragma unroll
    for (int k = 0; k < Packs; ++k) of[k] = {upper(k), lower(k)};
  }
};

/// How the columns of `Count` packs are scaled.
template <class S>
struct column_scale {
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
/// Not at all.
template <class Acc>
struct unscaled {
  template <int Count>
  __device__ explicit unscaled(const pack<Acc> (&)[Count]) {}
  template <class Rows>
  __device__ void take_back(const Rows&, fragment_sum<Acc>&) const {}
};
template <>
struct column_scale<stored_bfloat16> : unscaled<float> {
  using unscaled<float>::unscaled;
};
template <>
struct column_scale<double> : unscaled<double> {
  using unscaled<double>::unscaled;
};

template <class S>
struct kept_columns {
  std::uint32_t high[2], low[2];
  kept_columns() = default;
  __device__ __forceinline__ kept_columns(const pack<float>& v, const column_scale<S>& scale) {
#pragma unroll
    for (int i = 0; i < 2; ++i)
      high[i] = split_halves(v.element[2 * i] * scale.up, v.element[2 * i + 1] * scale.up, low[i]);
  }
};
template <>
struct kept_columns<stored_bfloat16> {
  std::uint32_t of[3][2];  // exact
  kept_columns() = default;
  __device__ __forceinline__ kept_columns(pack<float> v, const column_scale<stored_bfloat16>&) {
#pragma unroll
    for (int digit = 0; digit < 3; ++digit)
#pragma unroll
      for (int i = 0; i < 2; ++i)
        of[digit][i] = split_bfloat16(v.element[2 * i], v.element[2 * i + 1]);
  }
};
template <>
struct kept_columns<double> : column_fragment<double> {
  kept_columns() = default;
  __device__ __forceinline__ kept_columns(const pack<double>& v, const column_scale<double>&)
      : column_fragment<double>{v} {}
};

/// sum += the rows' packs from `first` on times N packs of columns.
template <class S, int Packs, bool Apart, int N>
__device__ __forceinline__ void multiply_kept(fragment_sum<float>& sum,
                                              const kept_rows<S, Packs, Apart>& a, int first,
                                              const kept_columns<S> (&b)[N]) {
  fragment_sum<float> part[N];
  if constexpr (std::same_as<S, stored_bfloat16>) {
#pragma unroll
    for (int digit = 2; digit >= 0; --digit)
#pragma unroll
      for (int k = 0; k < N; ++k)
        digit_product<stored_bfloat16>(part[k], a.of[first + k], b[k].of[digit]);
  } else {
    if constexpr (!kept_rows<S, Packs, Apart>::narrow) {
#pragma unroll
      for (int k = 0; k < N; ++k)
        digit_product<stored_half>(part[k], a.low_of(first + k).of, b[k].high);
    }
#pragma unroll
    for (int k = 0; k < N; ++k) digit_product<stored_half>(part[k], a.high[first + k], b[k].low);
#pragma unroll
    for (int k = 0; k < N; ++k) digit_product<stored_half>(part[k], a.high[first + k], b[k].high);
  }
#pragma unroll
  for (int k = 0; k < N; ++k) sum += part[k];
}
template <int Packs, bool Apart, int N>
__device__ __forceinline__ void multiply_kept(fragment_sum<double>& sum,
                                              const kept_rows<double, Packs, Apart>& a, int first,
                                              const kept_columns<double> (&b)[N]) {
  column_fragment<double> columns[N];
#pragma unroll
  for (int k = 0; k < N; ++k) columns[k] = b[k];
  multiply_fragments(sum, a.of + first, columns);
}

}  // namespace mmrec::cuda::detail
