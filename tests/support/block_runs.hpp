// SPDX-License-Identifier: Apache-2.0
// A block with random weights, run over a stretch of tokens in any cut, and what two cuts may
// differ by.
#pragma once

#include <mmrec/block.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "compiled_passes.hpp"
#include "numeric.hpp"

namespace mmrec::testing {

inline block_config small_block() {
  block_config c;
  c.width = 20;
  c.heads = 4;
  c.ffn = 24;
  c.slots = 32;
  c.memory_block = 16;
  return c;
}

// Weights and biases U(+-1/sqrt(D)), norms around 1.
template <class T>
std::vector<T> block_weights(const block_config& c, std::uint64_t seed) {
  auto all = random_vector<T>(block_size(c), seed, -1 / std::sqrt(static_cast<double>(c.width)),
                              1 / std::sqrt(static_cast<double>(c.width)));
  random_source random(seed + 1);
  for (const parameter& part : block_layout(c))
    if (part.name.starts_with("norm"))
      for (index_t i = 0; i < part.size(); ++i)
        all[static_cast<std::size_t>(part.offset + i)] = static_cast<T>(random.uniform(0.8, 1.2));
  return all;
}

// Banks larger than the model's own, so that attention has something to choose between.
template <class T>
memory_state<T> block_state(const block_config& c, index_t batch, std::uint64_t seed = 90) {
  return memory_state<T>::make(batch, c.width, random_vector<T>(c.slots * c.width, seed),
                               random_vector<T>(c.slots * c.width, seed + 1), c.short_slots);
}

// Lengths of at most `size` that fill `time`: (0: a ragged cut, different every time).
inline std::vector<index_t> cuts(index_t time, index_t size) {
  std::vector<index_t> lengths;
  random_source random(static_cast<std::uint64_t>(time));
  while (time > 0) {
    lengths.push_back(std::min(time, size > 0 ? size : random.integer(1, 60)));
    time -= lengths.back();
  }
  return lengths;
}

// y (batch, time, D) of x, in passes of the given lengths.
template <class T, class Backend>
std::vector<T> run_block(const Backend& backend, const block_config& c,
                         const std::vector<T>& weights, const std::vector<T>& x,
                         memory_state<T>& state, const std::vector<index_t>& lengths,
                         const block_dropout& drop = {}) {
  const index_t batch = state.batch, d = c.width,
                time = static_cast<index_t>(x.size()) / (batch * d);
  std::vector<T> y(x.size(), T(77));
  std::map<index_t, block_activations<T>> saved;
  index_t from = 0;
  for (const index_t n : lengths) {
    std::vector<T> in, out(static_cast<std::size_t>(batch * n * d), T(77));
    for (index_t b = 0; b < batch; ++b)
      in.insert(in.end(), x.begin() + (b * time + from) * d, x.begin() + (b * time + from + n) * d);
    auto& activations = saved.try_emplace(n, c, batch, n).first->second;
    block_forward(backend, c, block_parameters<const T>(c, weights.data()),
                  view<const T, 3>(in.data(), {batch, n, d}), view<T, 3>(out.data(), {batch, n, d}),
                  state, activations, drop);
    for (index_t b = 0; b < batch; ++b)
      std::copy_n(out.begin() + b * n * d, n * d, y.begin() + (b * time + from) * d);
    from += n;
  }
  return y;
}

// Two cuts compute the same sums, possibly in another order. Along the longest way through a block
// a value passes the dot products of two norms, qkvz, two layers of the decay, the gates, the
// query, scores and weighted sum of attention, the mean of a memory block, two pools, the output
// layer and the ffn. The recurrence remembers: errors of all steps add up to 1 / (1 - rho) of one,
// rho <= 0.9.
template <class T>
double chunking_tolerance(const block_config& c, index_t layers = 1) {
  const index_t once =
      5 * c.width + c.inner_width() + c.width + c.slots / 16 + c.memory_block + 16 + c.ffn;
  const index_t remembered = 10 * (2 * c.width + 10);
  return stored_tolerance<T>(static_cast<double>(layers * (once + remembered)));
}

template <class T>
void check_same_state(const memory_state<T>& a, const memory_state<T>& b, double tolerance) {
  CHECK(a.tokens == b.tokens);
  const auto same = [&](const char* name, const std::vector<T>& x, const std::vector<T>& y) {
    CAPTURE(name);
    CHECK(max_scaled_error(std::span<const T>(x), std::span<const T>(y),
                           1 + max_abs(std::span<const T>(y))) <= tolerance);
  };
  same("hidden", a.hidden, b.hidden);
  same("keys", a.keys, b.keys);
  same("values", a.values, b.values);
  same("sum", a.sum, b.sum);
}

// The forms of the block in which the chunking invariant must hold.
inline std::vector<std::pair<std::string, block_config>> stream_forms() {
  std::vector<std::pair<std::string, block_config>> all;
  const auto add = [&](std::string name, const auto& change) {
    auto c = small_block();
    change(c);
    all.emplace_back(std::move(name), c);
  };
  add("ring that wraps round", [](auto& c) { c.slots = 16; });  // 18 blocks of 300 tokens
  add("ring, long blocks", [](auto& c) { c.memory_block = 128; });
  add("ring, blocks of one token", [](auto& c) { c.memory_block = 1; });
  add("decay", [](auto& c) { c.write = write_rule::decay; });
  add("decay, long blocks", [](auto& c) {
    c.write = write_rule::decay;
    c.memory_block = 128;
  });
  add("parallel solver", [](auto& c) {
    c.recurrence.solver = solver::parallel;
    c.recurrence.window = 50;
  });
  add("dpg, convex, output gate, relu", [](auto& c) {
    c.decay = decay_kind::dpg;
    c.dpg_rank = 9;
    c.convex = c.output_gate = true;
    c.activation = ffn_activation::relu;
  });
  add("no mix gate, heads of one channel", [](auto& c) {
    c.recurrence.mix_gate = false;
    c.heads = 20;
  });
  return all;
}

template <class T, class Backend>
void check_chunking(const Backend& backend) {
  for (const auto& [name, c] : stream_forms()) {
    const index_t batch = 2, time = 300;
    const auto weights = block_weights<T>(c, 1);
    const auto x = random_vector<T>(batch * time * c.width, 2);
    auto whole_state = block_state<T>(c, batch);
    const auto whole = run_block(backend, c, weights, x, whole_state, {time});
    // The parallel solver is exact to its own tolerance, 4 epsilon of each window's largest.
    const double tolerance = 2 * chunking_tolerance<T>(c);
    REQUIRE(tolerance < (std::is_same_v<T, double> ? 1e-12 : 5e-4));
    for (const index_t size : {1, 7, 128, 0}) {
      auto state = block_state<T>(c, batch);
      const auto y = run_block(backend, c, weights, x, state, cuts(time, size));
      CAPTURE(name, size, tolerance);
      CHECK(max_relative_error(y, whole) <= tolerance);
      check_same_state(state, whole_state, tolerance);
    }
  }
}

}  // namespace mmrec::testing
