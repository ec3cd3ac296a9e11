// SPDX-License-Identifier: Apache-2.0
// The language model's configuration, parameters and states (model.hpp says what it computes). All
// parameters are one flat array with named parts; Memory is where it lies.
#pragma once

#include <mmrec/block.hpp>

#include <string>
#include <vector>

namespace mmrec {

struct model_config {
  index_t vocabulary = 256;
  index_t layers = 4;
  block_config block{};
  bool scaled_residual =
      false;  ///< initialisation: weights that write to the residual sum times 1/sqrt(2 layers)
  bool slow_decay = false;  ///< initialisation: the decay's last bias evenly from -1 to 5, memories
                            ///< of one to a hundred steps
  std::uint64_t bank_seed =
      1;  ///< the initial banks are N(0, 0.02^2) by this seed, the same at every evaluation
};

inline void check_config(const char* function, const model_config& c) {
  check_positive(function, "vocabulary", c.vocabulary);
  check_positive(function, "layers", c.layers);
  check_config(function, c.block);
}

/// Named parts of the flat array: embedding.weight, blocks.i.*, norm.weight.
inline std::vector<parameter> model_layout(const model_config& c) {
  std::vector<parameter> parts{{"embedding.weight", {c.vocabulary, c.block.width}, 0}};
  index_t offset = parts[0].size();
  for (index_t i = 0; i < c.layers; ++i) {
    for (auto part : block_layout(c.block)) {
      part.name = "blocks." + std::to_string(i) + "." + part.name;
      part.offset += offset;
      parts.push_back(std::move(part));
    }
    offset += block_size(c.block);
  }
  parts.push_back({"norm.weight", {c.block.width}, offset});
  return parts;
}

/// What the model remembers of a batch of sequences: one memory per block.
template <class State, class Memory = host_memory>
struct model_state {
  std::vector<memory_state<State, Memory>> blocks;
};

template <element T, class Memory = host_memory>
class model {
  template <class Value>
  using array = typename Memory::template array<Value>;

 public:
  using State = accumulator_t<T>;

  explicit model(const model_config& c) : config_(c) {
    check_config("model", c);
    layout_ = model_layout(c);
    parameters_ = array<T>(static_cast<std::size_t>(layout_.back().offset + layout_.back().size()));
    for (index_t i = 0; i < c.layers; ++i)
      for (std::uint64_t which : {0u, 1u})
        banks_.push_back(array<State>(initial_bank<State>(
            c.block.slots, c.block.width, c.bank_seed, 2 * static_cast<std::uint64_t>(i) + which)));
  }

  const model_config& config() const { return config_; }
  const std::vector<parameter>& layout() const { return layout_; }
  array<T>& parameters() { return parameters_; }
  const array<T>& parameters() const { return parameters_; }
  /// Key (0) or value (1) slots of block i at the start of a sequence, (slots, D).
  array<State>& bank(index_t i, index_t which) {
    return banks_[static_cast<std::size_t>(2 * i + which)];
  }
  initial_banks<State> banks(index_t i) const {
    const auto bank = [&](index_t which) {
      return view<const State, 2>{banks_[static_cast<std::size_t>(2 * i + which)].data(),
                                  {config_.block.slots, config_.block.width}};
    };
    return {bank(0), bank(1)};
  }

  /// Weights and biases U(+-1/sqrt(fan_in)), norms 1, embedding U(+-1/sqrt(D)); the same on every
  /// machine.
  void initialise(std::uint64_t seed) {
    std::vector<T> values(parameters_.size());
    for (std::size_t k = 0; k < layout_.size(); ++k) {
      const auto& part = layout_[k];
      const bool norm = part.name.find("norm") != std::string::npos;
      // A bias follows its weight (the four of qkvz their four weights); all of them have fan-in
      // shape[1].
      index_t fan_in = config_.block.width;
      if (part.shape.size() == 2)
        fan_in = part.shape[1];
      else if (!norm)
        fan_in = weight_of(k).shape[1];
      double bound = 1 / std::sqrt(static_cast<double>(fan_in));
      if (config_.scaled_residual && writes_residual(part.name))
        bound /= std::sqrt(2.0 * static_cast<double>(config_.layers));
      for (index_t i = 0; i < part.size(); ++i) {
        const double u = random_uniform(seed, k, static_cast<std::uint64_t>(i));
        store_element(&values[static_cast<std::size_t>(part.offset + i)],
                      static_cast<State>(norm ? 1.0 : bound * (2 * u - 1)));
      }
      const bool last_of_decay =
          part.name.ends_with("mdi.W_gamma.2.bias") || part.name.ends_with("W_gamma_up.bias");
      if (config_.slow_decay && last_of_decay)
        for (index_t i = 0; i < part.size(); ++i)
          store_element(&values[static_cast<std::size_t>(part.offset + i)],
                        static_cast<State>(-1 + 6 * (static_cast<double>(i) + 0.5) /
                                                    static_cast<double>(part.size())));
    }
    assign(parameters_, values);
  }

  model_state<State, Memory> initial_state(index_t batch) const {
    model_state<State, Memory> s;
    for (std::size_t i = 0; i < banks_.size(); i += 2)
      s.blocks.push_back(
          memory_state<State, Memory>::make(batch, config_.block.width, on_host(banks_[i]),
                                            on_host(banks_[i + 1]), config_.block.short_slots));
    return s;
  }

  /// The same in place: sequences that begin anew write their memory, but allocate none.
  template <backend_tag B>
  void restart(const B& backend, model_state<State, Memory>& s, index_t batch) const {
    require_built<B>();
    require_memory<B, Memory>();
    if (s.blocks.size() != static_cast<std::size_t>(config_.layers) || s.blocks[0].batch != batch) {
      s = initial_state(batch);
      return;
    }
    const index_t slots = config_.block.slots, d = config_.block.width;
    for (const auto& memory : s.blocks)
      detail::check_state("restart", config_.block, memory, batch, 0);
    for (std::size_t i = 0; i < s.blocks.size(); ++i) {
      auto& memory = s.blocks[i];
      memory.tokens = 0;
      for (const auto& part : {memory.hidden_view(), memory.sum_view(), memory.recent_view()})
        fill(backend, part, 0);
      const auto bank = [&](std::size_t which) {  // the same for every sequence
        return view<const State, 3>(banks_[2 * i + which].data(), {batch, slots, d}, {0, d, 1});
      };
      transform(backend, detail::both{}, std::tuple{memory.keys_view(), memory.values_view()},
                bank(0), bank(1));
    }
  }

  template <class U>  // T* or const T*
  block_parameters<U> block(U* base, index_t i) const {
    return {config_.block,
            base + config_.vocabulary * config_.block.width + i * block_size(config_.block)};
  }
  template <class U>
  view<U, 2> table(U* base) const {
    return {base, {config_.vocabulary, config_.block.width}};
  }
  template <class U>
  view<U, 1> final_norm(U* base) const {
    return {base + layout_.back().offset, {config_.block.width}};
  }

 private:
  static bool writes_residual(const std::string& name) {
    return name.ends_with("ffn.3.weight") || name.ends_with("multi_mem_attention.W_o.weight") ||
           name.ends_with("W_out.weight");
  }
  const parameter& weight_of(std::size_t bias) const {
    const std::string stem =
        layout_[bias].name.substr(0, layout_[bias].name.size() - std::string("bias").size());
    for (const auto& part : layout_)
      if (part.name == stem + "weight") return part;
    throw error("model", "layout", "a weight for every bias", layout_[bias].name);
  }

  model_config config_;
  std::vector<parameter> layout_;
  array<T> parameters_;
  std::vector<array<State>> banks_;
};

}  // namespace mmrec
