// SPDX-License-Identifier: Apache-2.0
// Numbers of 16 bits on the tensor cores, which take them in half of the registers and half of the
// instructions that TF32 numbers (fragments.cuh) need. A float is the sum of some: its digits.
#pragma once

#include <mmrec/cuda/fragments.cuh>

namespace mmrec::cuda::detail {

using stored_half = stored16<format::binary16>;
using stored_bfloat16 = stored16<format::bfloat16>;

/// Two neighbours, rounded; what is left of them stays in a and b.
template <class S>
__device__ __forceinline__ std::uint32_t take_digit(float& a, float& b) {
  std::uint32_t both;
  if constexpr (std::same_as<S, stored_half>) {
    float x, y;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(b), "f"(a));
    asm("{\n.reg .f16 a, b;\nmov.b32 {a, b}, %2;\ncvt.f32.f16 %0, a;\ncvt.f32.f16 %1, b;\n}"
        : "=f"(x), "=f"(y)
        : "r"(both));
    a -= x, b -= y;
  } else {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(b), "f"(a));
    a -= std::bit_cast<float>(both << 16);
    b -= std::bit_cast<float>(both & 0xffff0000u);
  }
  return both;
}

/// sum += 16 rows times 8 columns, 16 deep: a lane's words are (row, 0) (row + 8, 0) (row, 1)
/// (row + 8, 1) and two of its column.
template <class S>
__device__ __forceinline__ void digit_product(fragment_sum<float>& sum, const std::uint32_t* a,
                                              const std::uint32_t* b) {
  if constexpr (std::same_as<S, stored_half>)
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum.of[0]), "+f"(sum.of[1]), "+f"(sum.of[2]), "+f"(sum.of[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum.of[0]), "+f"(sum.of[1]), "+f"(sum.of[2]), "+f"(sum.of[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/// `Depth` elements of a lane's two rows, or of its column, as the tensor cores take them.
template <class S, int Depth, int Digits>
struct row_numbers {
  std::uint32_t of[Digits][Depth / 4][4];
};
template <class S, int Depth>
struct column_numbers {
  std::uint32_t of[Depth / 4][2];
  column_numbers() = default;
  __device__ __forceinline__ explicit column_numbers(const pack<S, Depth>& values)
      : column_numbers(std::bit_cast<column_numbers>(values)) {}
};

/// Four matrices of 8 times 8 numbers in shared memory, turned round: of each a lane gets two
/// neighbours of a column. It says where row lane % 8 of matrix lane / 8 lies, 16 bytes.
__device__ __forceinline__ void load_turned(std::uint32_t (&to)[4], std::uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(row)
               : "memory");
}

/// Of fragments.cuh, where both factors have 16 bits, and the rows perhaps several digits.
template <int M, int N, class S, int Depth, int Digits, class Sum, class Small>
__device__ __forceinline__ void multiply_tiles(const Sum& sum, const Small& small,
                                               const row_numbers<S, Depth, Digits> (&a)[M],
                                               const column_numbers<S, Depth> (&b)[N]) {
#pragma unroll
  for (int digit = Digits - 1; digit >= 0; --digit)
#pragma unroll
    for (int step = 0; step < Depth / 4; ++step)
#pragma unroll
      for (int k = 0; k < M * N; ++k) {
        fragment_sum<float>& to = digit > 0 ? small(k / N, k % N) : sum(k / N, k % N);
        digit_product<S>(to, a[k / N].of[digit][step], b[k % N].of[step]);
      }
}

}  // namespace mmrec::cuda::detail
