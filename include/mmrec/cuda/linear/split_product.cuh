// SPDX-License-Identifier: Apache-2.0
// D = A B in float on the tensor cores: each factor is the sum of two TF32 numbers, and the product
// three products of theirs, smallest first (Ootomo and Yokota, arXiv 2203.03341). cuBLASLt's product
// of floats uses no tensor core: it takes twice as long where matrices are large.
//
// The tensor cores cut off what their sums cannot hold: a sum of n terms has a relative error near
// n / 8 units of the last place, not near the root of n. An infinite factor gives NaN.
#pragma once

#include <mmrec/cuda/linear/product.cuh>

#include <algorithm>
#include <array>

namespace mmrec::cuda::detail {

/// high + low = x, and high is a TF32 number; of what is infinite all is high.
struct split_value {
  __device__ std::array<float, 2> operator()(float x) const {
    const float high =
        std::bit_cast<float>((std::bit_cast<std::uint32_t>(x) + 0x1000u) & 0xffffe000u);
    return {high, high == x ? 0.0f : x - high};
  }
};

/// Both parts of a matrix.
struct split_matrix {
  stream_scratch memory;
  view<float, 2> high, low;
  split_matrix(const backend::cuda& on, const char* function, index_t rows, index_t columns)
      : memory(on, function, static_cast<std::size_t>(2 * rows * columns) * sizeof(float)),
        high(reinterpret_cast<float*>(memory.data()), {rows, columns}),
        low(high.data_handle() + rows * columns, {rows, columns}) {}
  void set(const backend::cuda& on, const char* function, const view<const float, 2>& from) {
    enqueue_transform(on, function, split_value{},
                      std::tuple{high.slice(0, 0, from.extent(0)), low.slice(0, 0, from.extent(0))},
                      std::tuple{from});
  }
};

/// Rows of A that are split together, which bounds the scratch, and products that are worth it.
inline constexpr index_t split_rows = 16384;
inline constexpr double split_flops = 4e9;

/// D (m, n) = A (m, k) B (k, n).
template <class S, class D>
void multiply_split(const backend::cuda& on, const char* function, const view<const S, 2>& a,
                    const view<const S, 2>& b, const view<D, 2>& d) {
  if constexpr (std::same_as<S, float>) {
    const index_t m = a.extent(0), k = a.extent(1), n = b.extent(1);
    if (!on.tf32 && !tuning_of_linear().plain_products &&
        2.0 * static_cast<double>(m) * static_cast<double>(k) * static_cast<double>(n) >=
            split_flops) {
      backend::cuda tensor = on;
      tensor.tf32 = true;
      // B as it lies in memory: its transpose by rows, if that is where its columns go on.
      const bool turned = b.stride(0) == 1;
      split_matrix right(on, function, turned ? n : k, turned ? k : n),
          left(on, function, std::min(m, split_rows), k);
      right.set(on, function, turned ? view<const S, 2>(b.permuted({1, 0})) : b);
      const auto of_b = [&](const view<float, 2>& part) {
        const view<const float, 2> v = part;
        return turned ? view<const float, 2>(v.permuted({1, 0})) : v;
      };
      for (index_t i = 0; i < m; i += split_rows) {
        const index_t rows = std::min(split_rows, m - i);
        const view<D, 2> to = d.slice(0, i, rows);
        const view<const float, 2> high = left.high.slice(0, 0, rows),
                                   low = left.low.slice(0, 0, rows);
        left.set(on, function, a.slice(0, i, rows));
        multiply(tensor, function, low, of_b(right.high), to, false);
        multiply(tensor, function, high, of_b(right.low), to, true);
        multiply(tensor, function, high, of_b(right.high), to, true);
      }
      return;
    }
  }
  multiply(on, function, a, b, d, false);
}

}  // namespace mmrec::cuda::detail
