// SPDX-License-Identifier: Apache-2.0
// Counter-based random numbers: Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as
// 1, 2, 3", 2011). A number is a function of a seed and an index, so it is the same on every
// backend and for every number of threads, and a dropout mask need not be stored.
//
//   double u = random_uniform(seed, stream, i);   // in (0, 1)
//   double n = random_normal(seed, stream, i);
//   const dropout drop{.rate = 0.1, .seed = seed, .stream = step};
//   y[i] = x[i] * drop.factor(i);                 // as linear does it in its epilogue
#pragma once

#include <mmrec/check.hpp>
#include <mmrec/dtype.hpp>

#include <array>
#include <cmath>
#include <cstdint>

namespace mmrec {

/// The four 32-bit numbers of one counter under one key.
MMREC_HD constexpr std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter,
                                                       std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * counter[0];
    const std::uint64_t p1 = std::uint64_t{0xCD9E8D57u} * counter[2];
    counter = {
        static_cast<std::uint32_t>(p1 >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(p1),
        static_cast<std::uint32_t>(p0 >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(p0)};
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return counter;
}

/// Random numbers 4 block to 4 block + 3 of the sequence `stream` under `seed`.
MMREC_HD constexpr std::array<std::uint32_t, 4> random_block(std::uint64_t seed,
                                                             std::uint64_t stream,
                                                             std::uint64_t block) {
  return philox({static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32),
                 static_cast<std::uint32_t>(stream), static_cast<std::uint32_t>(stream >> 32)},
                {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
}

/// Random number `index` of the sequence `stream` under `seed`.
MMREC_HD constexpr std::uint32_t random_bits(std::uint64_t seed, std::uint64_t stream,
                                             std::uint64_t index) {
  return random_block(seed, stream, index / 4)[index % 4];
}

/// Uniform in (0, 1).
MMREC_HD constexpr double random_uniform(std::uint64_t seed, std::uint64_t stream,
                                         std::uint64_t index) {
  return (static_cast<double>(random_bits(seed, stream, index)) + 0.5) * 0x1p-32;
}

/// Standard normal (Box and Muller); uses the uniform numbers 2 index and 2 index + 1.
inline double random_normal(std::uint64_t seed, std::uint64_t stream, std::uint64_t index) {
  const double u = random_uniform(seed, stream, 2 * index),
               v = random_uniform(seed, stream, 2 * index + 1);
  return std::sqrt(-2 * std::log(u)) * std::cos(6.283185307179586477 * v);
}

/// Dropout of an array: element i is kept with probability 1 - rate and then scaled by 1 / (1 -
/// rate). `i` is the element's row-major index; `stream` tells the dropouts of one step apart.
struct dropout {
  double rate = 0;
  std::uint64_t seed = 0;
  std::uint64_t stream = 0;
  /// If given, *offset is added to `stream` when a call runs (backend::cuda: device memory): a
  /// captured graph draws anew in every replay. Must not change between forward and backward.
  const std::uint64_t* offset = nullptr;

  constexpr bool active() const { return rate > 0; }
  MMREC_HD constexpr double scale() const { return 1 / (1 - rate); }
  /// Elements whose random bits are less are dropped.
  MMREC_HD constexpr std::uint64_t threshold() const {
    return static_cast<std::uint64_t>(rate * 0x1p32);
  }
  /// The sequence that is drawn from.
  MMREC_HD constexpr std::uint64_t sequence() const { return stream + (offset ? *offset : 0); }
  /// 0 or scale().
  MMREC_HD constexpr double factor(index_t i) const {
    return random_bits(seed, sequence(), static_cast<std::uint64_t>(i)) >= threshold() ? scale()
                                                                                       : 0.0;
  }
};

}  // namespace mmrec
