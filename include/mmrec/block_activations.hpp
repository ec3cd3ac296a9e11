// SPDX-License-Identifier: Apache-2.0
// What a pass of the block works on beside its parameters and its state: the activations that it
// saves, the dropout of a call, the gradients of the banks.
#pragma once

#include <mmrec/block_parameters.hpp>

#include <string>
#include <utility>
#include <vector>

namespace mmrec {

/// Dropout of a call: on only in training. Three streams are used, from `stream` on.
struct block_dropout {
  bool training = false;
  std::uint64_t seed = 0;
  std::uint64_t stream = 0;
  const std::uint64_t* offset = nullptr;  ///< of the streams, read when a call runs (random.hpp)
};

/// Everything a block's forward leaves for its backward, in one allocation of Memory.
template <element T, class Memory = host_memory>
class block_activations {
  template <class Value>
  using array = typename Memory::template array<Value>;

 public:
  using State = accumulator_t<T>;

  block_activations(const block_config& c, index_t batch, index_t time)
      : batch_(batch), time_(time) {
    check_config("block_activations", c);
    if (batch < 0 || time < 0)
      throw error("block_activations", "batch, time", "0 or more",
                  std::to_string(batch) + ", " + std::to_string(time));
    const index_t d = c.width, f = c.ffn,
                  i = c.decay == decay_kind::mdi ? c.inner_width() : c.dpg_rank;
    segments_ = most_segments(c, time);
    top_ = hds_slots(c.slots)[2];
    const index_t tokens = batch * time;
    std::vector<std::pair<view<T, 2>*, index_t>> parts{{&n1, d},
                                                       {&qkvz, 4 * d},
                                                       {&decay_pre, i},
                                                       {&decay_hidden, i},
                                                       {&decay_factor, d},
                                                       {&context_pre, i},
                                                       {&context_hidden, i},
                                                       {&context_factor, d},
                                                       {&gamma, d},
                                                       {&z, d},
                                                       {&gates, 2 * d},
                                                       {&h, d},
                                                       {&gated, d},
                                                       {&query, d},
                                                       {&read, d},
                                                       {&r, d},
                                                       {&n2, d},
                                                       {&ffn_pre, f},
                                                       {&ffn_hidden, f},
                                                       {&probabilities, c.heads * top_}};
    index_t total = 0;
    for (const auto& [part, columns] : parts) total += (tokens * columns + 31) / 32 * 32;
    storage_ = array<T>(static_cast<std::size_t>(total));
    T* p = storage_.data();
    for (const auto& [part, columns] : parts) {
      *part = {p, {tokens, columns}};
      p += (tokens * columns + 31) / 32 * 32;
    }
    tops_ = array<State>(static_cast<std::size_t>(2 * segments_ * batch * top_ * d));
    initial = array<State>(static_cast<std::size_t>(batch * d));
    width_ = d;
  }
  block_activations(const block_activations&) = delete;
  block_activations& operator=(const block_activations&) = delete;
  block_activations(block_activations&&) = default;
  block_activations& operator=(block_activations&&) = default;

  index_t batch() const { return batch_; }
  index_t time() const { return time_; }
  /// Throws mmrec::error unless made for a configuration of these sizes.
  void check(const char* function, const block_config& c) const {
    const auto same = [&](const char* what, index_t expected, index_t seen) {
      if (expected != seen)
        throw error(function, "saved",
                    "activations for " + std::string(what) + " " + std::to_string(expected),
                    std::to_string(seen));
    };
    same("width", c.width, width_);
    same("ffn", c.ffn, ffn_hidden.extent(1));
    same("decay of inner width", c.decay == decay_kind::mdi ? c.inner_width() : c.dpg_rank,
         decay_hidden.extent(1));
    same("top slots", hds_slots(c.slots)[2], top_);
    same("heads x top slots", c.heads * top_, probabilities.extent(1));
    same("memory blocks", most_segments(c, time_), segments_);
  }
  /// Throws mmrec::error if an array that a pass reads or writes lies on these.
  template <class A, std::size_t Rank>
  void check_apart(const char* function, const char* argument, const view<A, Rank>& v) const {
    const auto apart = [&]<class S>(const S& own) {
      using Value = std::remove_pointer_t<decltype(own.data())>;
      check_disjoint(function, argument, v, "saved",
                     view<Value, 1>{own.data(), {static_cast<index_t>(own.size())}});
    };
    apart(storage_), apart(tops_), apart(initial);
  }
  /// Keys (which = 0) or values (1) of the top level that segment s read.
  view<State, 3> top(index_t s, index_t which) {
    return {tops_.data() + (2 * s + which) * batch_ * top_ * width_,
            {batch_, top_, width_},
            {one_bank ? 0 : top_ * width_, width_, 1}};
  }

  view<State, 2> initial_view() { return {initial.data(), {batch_, width_}}; }

  // (tokens, columns), rows of one sequence together.
  view<T, 2> n1, qkvz, decay_pre, decay_hidden, decay_factor, context_pre, context_hidden,
      context_factor, gamma, z, gates, h, gated, query, read, r, n2, ffn_pre, ffn_hidden;
  view<T, 2> probabilities;  // segment after segment: (batch, heads, segment time, top slots)
  array<State> initial;      // (batch, D): h before the pass
  index_t first_token = 0;   // position of the pass
  block_dropout dropout{};   // as given to the forward call
  bool one_bank = false;     // that all sequences read

 private:
  /// A pass of `time` tokens meets at most this many memory blocks, whatever its alignment.
  static index_t most_segments(const block_config& c, index_t time) {
    return c.update == update::stream && time > 0 ? (time - 1) / c.memory_block + 2 : 1;
  }

  index_t batch_ = 0, time_ = 0, segments_ = 0, top_ = 0, width_ = 0;
  array<T> storage_;
  array<State> tops_;
};

/// The banks that new sequences begin with, the same for all of them: (slots, D).
template <class State>
struct initial_banks {
  view<const State, 2> keys;
  view<const State, 2> values;
};

/// Gradient of the banks as they were at the start of the pass, (batch, slots, D), overwritten;
/// optional.
template <class State>
struct bank_gradients {
  view<State, 3> keys{};
  view<State, 3> values{};
};

}  // namespace mmrec
