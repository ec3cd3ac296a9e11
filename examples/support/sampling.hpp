// SPDX-License-Identifier: Apache-2.0
// Which token follows: drawn from softmax(logits / temperature), among the k likeliest. The n-th
// draw depends on the seed, n and the logits alone.
//
//   token_sampler draw({.temperature = 0.8, .seed = 1});
//   id = draw(net.next(id));
#pragma once

#include <mmrec/error.hpp>
#include <mmrec/random.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <vector>

namespace mmrec::examples {

struct sampling_options {
  double temperature = 1;  // 0: always the likeliest token, the first of equals
  std::int64_t top_k = 0;  // 0: all
  std::uint64_t seed = 0;
};

class token_sampler {
 public:
  explicit token_sampler(const sampling_options& options) : options_(options) {
    if (!(options.temperature >= 0 && std::isfinite(options.temperature)))
      throw error("token_sampler", "temperature", "a finite number, 0 or above",
                  std::to_string(options.temperature));
    if (options.top_k < 0)
      throw error("token_sampler", "top_k", "0 or more", std::to_string(options.top_k));
  }

  std::int32_t operator()(std::span<const double> logits) {
    const std::uint64_t draw = draws_++;
    if (logits.empty()) throw error("token_sampler", "logits", "at least one", "none");
    const auto largest = std::max_element(logits.begin(), logits.end());
    for (const double x : logits)
      if (!std::isfinite(x))
        throw runtime_failure("token_sampler", "a logit is not a finite number");
    if (options_.temperature == 0) return static_cast<std::int32_t>(largest - logits.begin());

    const auto k = static_cast<std::size_t>(options_.top_k);
    double least = -std::numeric_limits<double>::infinity();
    if (k > 0 && k < logits.size()) {
      weights_.assign(logits.begin(), logits.end());
      std::nth_element(weights_.begin(), weights_.begin() + options_.top_k - 1, weights_.end(),
                       std::greater<>());
      least = weights_[k - 1];
    }
    weights_.resize(logits.size());
    double total = 0;
    for (std::size_t i = 0; i < logits.size(); ++i) {
      weights_[i] = logits[i] < least ? 0 : std::exp((logits[i] - *largest) / options_.temperature);
      total += weights_[i];
    }
    double left = random_uniform(options_.seed, 0, draw) * total;
    std::size_t last = 0;
    for (std::size_t i = 0; i < logits.size(); ++i) {
      if (weights_[i] == 0) continue;
      last = i;
      left -= weights_[i];
      if (left < 0) break;
    }
    return static_cast<std::int32_t>(last);
  }

 private:
  sampling_options options_;
  std::uint64_t draws_ = 0;
  std::vector<double> weights_;
};

}  // namespace mmrec::examples
