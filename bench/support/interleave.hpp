// SPDX-License-Identifier: Apache-2.0
// Fair timing on a machine that is not quiet: contenders take turns, round after round, so that
// whatever slows the machine down slows all of them, and ratios are formed within a round.
//
//   const auto results = bench::interleave({{"ours", f}, {"memcpy", g}}, {.rounds = 31});
//   results[1].median / results[0].median;          // or bench::ratio(results[0], results[1])
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <functional>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace bench {

/// The compiler must assume that everything reachable was read and changed here.
inline void clobber() { asm volatile("" ::: "memory"); }

inline double seconds_of(const std::function<void()>& f, long repeats) {
  using clock = std::chrono::steady_clock;
  const auto start = clock::now();
  for (long i = 0; i < repeats; ++i) {
    f();
    clobber();
  }
  return std::chrono::duration<double>(clock::now() - start).count();
}

/// Calls that fill about `seconds`, so that the clock's own cost and resolution do not show.
inline long repeats_for(const std::function<void()>& f, double seconds) {
  f();
  for (long n = 1;; n *= 2) {
    const double t = seconds_of(f, n);
    if (t < seconds / 4 && n < (1L << 40)) continue;
    return std::max(1L, std::lround(static_cast<double>(n) * seconds / std::max(t, 1e-9)));
  }
}

struct contender {
  std::string name;
  std::function<void()> run;
};

struct timing {
  std::string name;
  double median = 0, fastest = 0;
  double spread = 0;            // (third - first quartile) / median
  std::vector<double> samples;  // seconds per call, in the order of the rounds
};

struct interleave_options {
  int rounds = 51;
  double seconds = 2e-4;  // of one sample: short beside a scheduler's time slice
  double limit = std::numeric_limits<double>::infinity();  // of all rounds; three there always are
  double rest = 0;  // before each turn: threads of the last contender may still spin
  /// Seconds of calls after it that are not timed: threads wake on their caller's core, and it
  /// takes the system a millisecond or more to give them cores of their own.
  double warm = 0;
};

/// The q-quantile of samples, by linear interpolation.
inline double quantile(std::vector<double> samples, double q) {
  std::sort(samples.begin(), samples.end());
  const double at = q * static_cast<double>(samples.size() - 1);
  const auto low = static_cast<std::size_t>(at), high = std::min(low + 1, samples.size() - 1);
  return samples[low] + (at - static_cast<double>(low)) * (samples[high] - samples[low]);
}

inline std::vector<timing> interleave(const std::vector<contender>& contenders,
                                      const interleave_options& options) {
#ifndef __OPTIMIZE__
  if (static bool told = false; !std::exchange(told, true))
    std::fputs("compiled without optimisation (MMREC_BENCHMARKS_SMOKE?): no times to quote\n",
               stderr);
#endif
  std::vector<timing> results(contenders.size());
  std::vector<long> repeats(contenders.size(), 1);
  std::vector<bool> is_long(contenders.size());  // its own beginning warms caches, at no cost
  for (std::size_t i = 0; i < contenders.size(); ++i) {
    results[i].name = contenders[i].name;
    is_long[i] = seconds_of(contenders[i].run, 1) > 100 * options.seconds;
    if (!is_long[i]) repeats[i] = repeats_for(contenders[i].run, options.seconds);
  }
  using clock = std::chrono::steady_clock;
  const auto in_time = [&, end = clock::now() + std::chrono::duration<double>(options.limit)] {
    return clock::now() < end;
  };
  // Nobody is always the one who runs after the same neighbour.
  std::vector<std::size_t> order(contenders.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::mt19937 engine(1);
  for (int round = 0; round < options.rounds && (round < 3 || in_time()); ++round) {
    std::shuffle(order.begin(), order.end(), engine);
    for (const std::size_t i : order) {
      if (options.rest > 0)
        std::this_thread::sleep_for(std::chrono::duration<double>(options.rest));
      if (!is_long[i]) {
        const auto begin = clock::now();
        do contenders[i].run();  // warms caches and branch history after the other contenders
        while (clock::now() - begin < std::chrono::duration<double>(options.warm));
      }
      results[i].samples.push_back(seconds_of(contenders[i].run, repeats[i]) /
                                   static_cast<double>(repeats[i]));
    }
  }
  for (auto& r : results) {
    r.median = quantile(r.samples, 0.5);
    r.fastest = quantile(r.samples, 0);
    r.spread = (quantile(r.samples, 0.75) - quantile(r.samples, 0.25)) / r.median;
  }
  return results;
}

/// How many times faster `ours` is than `peer`: the median over the rounds of their quotients.
inline double ratio(const timing& ours, const timing& peer) {
  std::vector<double> quotients(ours.samples.size());
  for (std::size_t i = 0; i < quotients.size(); ++i)
    quotients[i] = peer.samples[i] / ours.samples[i];
  return quantile(quotients, 0.5);
}

}  // namespace bench
