// SPDX-License-Identifier: Apache-2.0
// Memory of the MM-Rec block: the carried hidden state, and the long-term bank of key and value
// slots, whose hierarchy (hds.hpp) attention reads.
//
// Update policies of a pass over a stretch of tokens:
//   update::reference  the MM-Rec reference code: h starts at 0 in every pass, and afterwards every
//                      slot is the mean over time of the block's output. Parity mode: it forgets h
//                      between passes.
//   update::stream     h is carried from token to token and pass to pass. Time is cut at absolute
//                      multiples of `memory_block`; the tokens of a block read the memory as the
//                      block before left it, and at its end the mean of h over the block is
//                      written, as key and value: to slot k mod M (write_rule::ring) or to every
//                      slot as M := 0.99 M + 0.01 mean (decay). The result does not depend on how
//                      the tokens are cut into passes, to rounding.
//
// A state is float or double. Errors: fewer than 16 slots, shapes, null data, overlap, banks of
// different sizes.
//
// On the GPU views are of device memory, and a state's second template argument is device_memory;
// sums are in a fixed order, another one than on the CPU.
//
//   auto state = memory_state<float>::make(batch, width,
//                                          initial_bank<float>(slots, width, seed, 0),
//                                          initial_bank<float>(slots, width, seed, 1));
//   hds_top(backend::simd{}, state.keys_view(), keys);
#pragma once

#include <mmrec/check_outputs.hpp>
#include <mmrec/hds.hpp>
#include <mmrec/loops.hpp>
#include <mmrec/random.hpp>
#include <mmrec/transform.hpp>

#include <algorithm>
#include <span>
#include <string>
#include <vector>

namespace mmrec {

enum class update { reference, stream };
enum class write_rule { ring, decay };

inline constexpr double decay_rule_keep = 0.99;

/// The state of one block for a batch of sequences: plain data, copied like a value, saved like any
/// array. State is float or double; Memory is where the arrays lie.
template <class State, class Memory = host_memory>
struct memory_state {
  using array = typename Memory::template array<State>;
  index_t batch = 0, width = 0, slots = 0;
  index_t tokens = 0;  ///< seen so far, per sequence
  array hidden;        ///< (batch, D): h after the last token
  array keys, values;  ///< (batch, slots, D)
  array sum;           ///< (batch, D): sum of h over the unfinished memory block
  array recent;        ///< (short slots, D): update::reference only, the batch mean of h by step

  /// h = 0 and banks as given, (slots, D), the same for every sequence; the host reads them.
  static memory_state make(index_t batch, index_t width, std::span<const State> keys,
                           std::span<const State> values, index_t short_slots = 0) {
    check_positive("memory_state", "batch", batch);
    check_positive("memory_state", "width", width);
    if (keys.size() % static_cast<std::size_t>(width) != 0)
      throw error("memory_state", "keys", "rows of width " + std::to_string(width),
                  std::to_string(keys.size()) + " elements");
    if (keys.size() != values.size())
      throw error("memory_state", "values", std::to_string(keys.size()) + " elements, as keys",
                  std::to_string(values.size()));
    if (short_slots < 0)
      throw error("memory_state", "short_slots", "0 or more", std::to_string(short_slots));
    memory_state s;
    s.batch = batch, s.width = width, s.slots = static_cast<index_t>(keys.size()) / width;
    hds_slots(s.slots);
    s.hidden = s.sum = array(static_cast<std::size_t>(batch * width));
    const auto repeated = [&](std::span<const State> bank) {
      std::vector<State> all;
      all.reserve(static_cast<std::size_t>(batch) * bank.size());
      for (index_t b = 0; b < batch; ++b) all.insert(all.end(), bank.begin(), bank.end());
      return array(std::move(all));
    };
    s.keys = repeated(keys);
    s.values = repeated(values);
    s.recent = array(static_cast<std::size_t>(short_slots * width));
    return s;
  }

  view<State, 2> hidden_view() { return {hidden.data(), {batch, width}}; }
  view<State, 2> sum_view() { return {sum.data(), {batch, width}}; }
  view<State, 3> keys_view() { return {keys.data(), {batch, slots, width}}; }
  view<State, 3> values_view() { return {values.data(), {batch, slots, width}}; }
  view<State, 2> recent_view() {
    return {recent.data(), {static_cast<index_t>(recent.size()) / width, width}};
  }
};

/// The initial bank of the MM-Rec model, N(0, 0.02^2), by seed and stream.
template <class State>
std::vector<State> initial_bank(index_t slots, index_t width, std::uint64_t seed,
                                std::uint64_t stream) {
  std::vector<State> bank(static_cast<std::size_t>(slots * width));
  for (std::size_t i = 0; i < bank.size(); ++i)
    bank[i] = static_cast<State>(0.02 * random_normal(seed, stream, i));
  return bank;
}

/// What write_summary does: `sum` becomes the mean, goes to the banks and is cleared.
template <loop_backend B, class State>
void write_mean(const B&, const view<State, 3>& keys, const view<State, 3>& values,
                const view<State, 2>& sum, write_rule rule, index_t block, index_t block_tokens) {
  const auto keep = static_cast<State>(decay_rule_keep);
  const auto [batch, slots, width] = keys.extents();
  for (index_t b = 0; b < batch; ++b) {
    State* mean = &sum(b, 0);
    for (index_t j = 0; j < width; ++j) mean[j] /= static_cast<State>(block_tokens);
    for (const auto* bank : {&keys, &values}) {
      State* to = &(*bank)(b, 0, 0);
      if (rule == write_rule::ring) {
        std::copy_n(mean, width, to + block % slots * width);
      } else {
        for (index_t m = 0; m < slots; ++m, to += width)
          for (index_t j = 0; j < width; ++j) to[j] = keep * to[j] + (State(1) - keep) * mean[j];
      }
    }
    std::fill_n(mean, width, State(0));
  }
}

namespace detail {
inline void check_block(const char* function, index_t block, index_t slots) {
  if (block < 0) throw error(function, "block", "0 or more", std::to_string(block));
  check_positive(function, "slots", slots);
}
}  // namespace detail

/// Writes the summary of memory block k into the banks.
template <backend_tag B, class State, class Memory>
void write_summary(const B& backend, memory_state<State, Memory>& s, write_rule rule, index_t block,
                   index_t block_tokens) {
  require_built<B>();
  require_memory<B, Memory>();
  detail::check_block("write_summary", block, s.slots);
  check_positive("write_summary", "block_tokens", block_tokens);
  write_mean(backend, s.keys_view(), s.values_view(), s.sum_view(), rule, block, block_tokens);
}

/// What write_summary_backward does once its arguments are checked.
template <loop_backend B, class State>
void write_mean_backward(const B&, const view<State, 3>& dkeys, const view<State, 3>& dvalues,
                         write_rule rule, index_t block, const view<State, 2>& dmean) {
  const auto [batch, slots, width] = dkeys.extents();
  const bool ring = rule == write_rule::ring;
  const auto keep = ring ? State(0) : static_cast<State>(decay_rule_keep);
  const index_t first = ring ? block % slots : 0, last = ring ? first + 1 : slots;
  for (index_t b = 0; b < batch; ++b) {
    for (index_t j = 0; j < width; ++j) dmean(b, j) = State(0);
    for (const auto* bank : {&dkeys, &dvalues})
      for (index_t m = first; m < last; ++m)
        for (index_t j = 0; j < width; ++j) {
          State& d = (*bank)(b, m, j);
          dmean(b, j) += (State(1) - keep) * d;
          d = ring ? State(0) : keep * d;
        }
  }
}

/// From the gradients of the banks after write_summary to those before it (in place), and the
/// gradient of the mean (batch, D), overwritten.
template <backend_tag B, class State>
void write_summary_backward(const B& backend, const view<State, 3>& dkeys,
                            const view<State, 3>& dvalues, write_rule rule, index_t block,
                            const view<State, 2>& dmean) {
  require_built<B>();
  const char* function = "write_summary_backward";
  detail::check_block(function, block, dkeys.extent(1));
  check_view(function, "dkeys", dkeys, dkeys.extents());
  check_view(function, "dvalues", dvalues, dkeys.extents());
  check_view(function, "dmean", dmean, {dkeys.extent(0), dkeys.extent(2)});
  check_outputs(
      function,
      std::tuple{argument{"dkeys", dkeys}, argument{"dvalues", dvalues}, argument{"dmean", dmean}},
      std::tuple{});
  write_mean_backward(backend, dkeys, dvalues, rule, block, dmean);
}

}  // namespace mmrec

#if defined(__CUDACC__)
#include <mmrec/cuda/memory_state.cuh>
#endif
