// SPDX-License-Identifier: Apache-2.0
// D = A B in float on the tensor cores: each factor is the sum of two TF32 numbers, and the product
// three products of theirs, smallest first (Ootomo and Yokota, arXiv 2203.03341). cuBLASLt's
// product of floats uses no tensor core: where matrices are large it takes 1.5 to 1.8 times as
// long.
//
// The tensor cores cut off what their sums cannot hold: a sum of n terms has a relative error near
// n / 8 units of the last place, not near the root of n. So sums of more than summed_depth terms
// are added up in float. An infinite factor gives NaN.
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

struct put_split {
  float *low, *high;
  index_t pitch;
  __device__ void operator()(index_t i, index_t j, float value) const {
    const auto [h, l] = split_value{}(value);
    high[i * pitch + j] = h, low[i * pitch + j] = l;
  }
};

/// Both parts of a factor (lines, depth), in each line one behind the other: tensor cores read TF32
/// numbers along the depth.
class split_matrix {
 public:
  split_matrix(const backend::cuda& on, const char* function, index_t lines, index_t depth,
               bool low_first)
      : memory_(on, function, static_cast<std::size_t>(2 * lines * depth) * sizeof(float)),
        low_first_(low_first),
        all_(reinterpret_cast<float*>(memory_.data()), {lines, 2 * depth}) {}
  void set(const backend::cuda& on, const char* function, const view<const float, 2>& from) {
    here_ = all_.slice(0, 0, from.extent(0)), depth_ = from.extent(1);
    const view<float, 2> low = part(low_first_), high = part(!low_first_);
    if (from.stride(1) == 1)
      return enqueue_transform(on, function, split_value{}, std::tuple{high, low},
                               std::tuple{from});
    turn(on, function, from, put_split{low.data_handle(), high.data_handle(), all_.stride(0)});
  }
  view<const float, 2> both() const { return here_.slice(1, 0, 2 * depth_); }
  /// Of the high parts: `count` along the depth.
  view<const float, 2> high(index_t first, index_t count) const {
    return part(!low_first_).slice(1, first, count);
  }

 private:
  view<float, 2> part(bool first) const { return here_.slice(1, first ? 0 : depth_, depth_); }

  stream_scratch memory_;
  bool low_first_;
  view<float, 2> all_, here_;
  index_t depth_ = 0;
};

/// Rows of A and terms of a sum that are split together, which bounds the scratch; and the terms
/// that tensor cores sum up, so that they lose no more than a long sum of floats does.
inline constexpr index_t split_rows = 16384, split_depth = 4096, summed_depth = 1024;
/// What is worth it: work for the splitting, and a result for every multiprocessor.
inline constexpr double split_flops = 4e9, split_results = 2e6;

/// D (m, n) = A (m, k) B (k, n), or D += A B.
template <class S, class D>
void multiply_split(const backend::cuda& on, const char* function, const view<const S, 2>& a,
                    const view<const S, 2>& b, const view<D, 2>& d, bool accumulate) {
  if constexpr (std::same_as<S, float>) {
    const index_t m = a.extent(0), k = a.extent(1), n = b.extent(1);
    const double results = static_cast<double>(m) * static_cast<double>(n),
                 flops = 2 * static_cast<double>(k) * results;
    if (!on.tf32 && !tuning_of_linear().plain_products && results >= split_results &&
        flops >= split_flops) {
      backend::cuda tensor = on;
      tensor.tf32 = true;
      const index_t rows = std::min(m, split_rows), terms = std::min(k, split_depth);
      split_matrix left(on, function, rows, terms, true), right(on, function, n, terms, false);
      const auto multiply_lines = [&](const view<const float, 2>& x, const view<const float, 2>& y,
                                      const view<D, 2>& to, bool add) {
        multiply(tensor, function, x, view<const float, 2>(y.permuted({1, 0})), to, add);
      };
      for (index_t q = 0; q < k; q += terms) {
        const index_t depth = std::min(terms, k - q);
        right.set(on, function, b.slice(0, q, depth).permuted({1, 0}));
        for (index_t i = 0; i < m; i += rows) {
          const index_t count = std::min(rows, m - i);
          const view<D, 2> to = d.slice(0, i, count);
          left.set(on, function, a.slice(0, i, count).slice(1, q, depth));
          // low high + high low, a sum of small terms, and then high high
          multiply_lines(left.both(), right.both(), to, accumulate || q > 0);
          for (index_t p = 0; p < depth; p += summed_depth) {
            const index_t summed = std::min(summed_depth, depth - p);
            multiply_lines(left.high(p, summed), right.high(p, summed), to, true);
          }
        }
      }
      return;
    }
  }
  multiply(on, function, a, b, d, accumulate);
}

}  // namespace mmrec::cuda::detail
