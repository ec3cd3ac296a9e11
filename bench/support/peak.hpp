// SPDX-License-Identifier: Apache-2.0
// What the machine can do at most, as contenders of interleave(), on as many threads as the others
// may use: loops of independent operations that never leave the registers, and a loop that only
// reads.
//
//   const bench::fma_peak<float> peak(threads);
//   bench::interleave({{"ours", ours}, {"peak", peak}}, options);      // peak.flops() each call
#pragma once

#include <mmrec/backend.hpp>
#include <mmrec/loops.hpp>

#include <array>
#include <memory>
#include <utility>
#include <vector>

namespace bench {

/// Step: a = step(a), Step::flops operations on a register of type Step::lanes.
template <class Step>
class register_peak {
 public:
  explicit register_peak(unsigned threads) : threads_(mmrec::simd::thread_count(threads)) {}

  /// Operations of one call.
  double flops() const {
    return Step::flops * static_cast<double>(steps) * static_cast<double>(chains) * threads_;
  }

  void operator()() const {
    mmrec::simd::parallel_for(threads_, static_cast<mmrec::index_t>(threads_),
                              [](auto) { loop(std::make_index_sequence<chains>{}); });
  }

 private:
  using lanes = typename Step::lanes;
  static constexpr std::size_t chains = 12;  // more than latency times ports of any x86 core
  static constexpr long steps = 20000;

  template <std::size_t... I>
  static void loop(std::index_sequence<I...>) {
    const Step step;
    std::array<lanes, chains> a;
    a.fill(lanes(1));
    for (long i = 0; i < steps; ++i) ((a[I] = step(a[I])), ...);
    lanes total(0);
    for (const auto& v : a) total = total + v;
    volatile auto keep = mmrec::simd::sum(total);
    static_cast<void>(keep);
  }

  unsigned threads_;
};

/// A multiply-add is two operations. Operands are volatile, or the compiler computes the loop.
template <class T>
struct fma_step {
  using lanes = mmrec::simd::batch<T, mmrec::default_simd_arch>;
  static constexpr double flops = 2.0 * static_cast<double>(lanes::size);
  volatile T opaque[2] = {T(0.999), T(0.001)};
  lanes factor = lanes(opaque[0]), term = lanes(opaque[1]);
  lanes operator()(const lanes& a) const { return mmrec::simd::fma(a, factor, term); }
};
template <class T>
using fma_peak = register_peak<fma_step<T>>;

#if defined(__AVX512BF16__)
/// Two products of bfloat16 added to each float.
struct bf16_dot_step {
  using lanes = mmrec::simd::batch<float, mmrec::default_simd_arch>;
  static constexpr double flops = 4.0 * static_cast<double>(lanes::size);
  volatile float opaque = 0.001f;
  __m512bh factor = _mm512_cvtne2ps_pbh(_mm512_set1_ps(opaque), _mm512_set1_ps(opaque));
  lanes operator()(const lanes& a) const { return lanes(_mm512_dpbf16_ps(a, factor, factor)); }
};
using bf16_dot_peak = register_peak<bf16_dot_step>;
#endif

/// Reads `bytes` bytes once a call, each thread a part of its own, as several streams side by side:
/// the hardware fetches ahead for each of them, and one alone leaves it idle.
class read_peak {
 public:
  read_peak(std::size_t bytes, unsigned threads)
      : threads_(mmrec::simd::thread_count(threads)),
        part_(bytes / sizeof(float) / threads_ / unit * unit),
        data_(std::make_shared<std::vector<float>>(threads_ * part_, 1.0f)) {}

  void operator()() const {
    mmrec::simd::parallel_for(
        threads_, static_cast<mmrec::index_t>(threads_), [this](mmrec::index_t thread) {
          const float* p = data_->data() + static_cast<std::size_t>(thread) * part_;
          std::array<lanes, streams> a;
          a.fill(lanes(0));
          const std::size_t apart = part_ / streams;
          for (std::size_t i = 0; i < apart; i += line)
            for (std::size_t s = 0; s < streams; ++s)
              for (std::size_t j = 0; j < line; j += lanes::size)
                a[s] = a[s] + lanes::load_unaligned(p + s * apart + i + j);
          lanes total(0);
          for (const auto& v : a) total = total + v;
          volatile float keep = mmrec::simd::sum(total);
          static_cast<void>(keep);
        });
  }

 private:
  using lanes = mmrec::simd::batch<float, mmrec::default_simd_arch>;
  static constexpr std::size_t streams = 8, line = 16, unit = streams * line;

  unsigned threads_;
  std::size_t part_;
  std::shared_ptr<std::vector<float>> data_;  // copies of a contender share it
};

}  // namespace bench
