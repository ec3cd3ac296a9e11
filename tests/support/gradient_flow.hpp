// SPDX-License-Identifier: Apache-2.0
// The forms of the model in which gradients are checked, what is expected of the gradient of each
// part, and the pass as a function of all it depends on.
#pragma once

#include <mmrec/model.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "compiled_passes.hpp"
#include "numeric.hpp"

namespace mmrec::testing {

enum class expected {
  all,      // every element has a gradient
  some,     // some elements have none: half of a matrix, or what stands behind a relu
  rounding  // none but rounding errors
};

// The parts whose names contain a text.
struct flow_exception {
  std::string part;
  expected gradient;
};

struct scenario {
  std::string name;
  model_config config;
  index_t batch = 2, time = 11;
  index_t before =
      5;  // tokens that an earlier pass has seen: the pass starts inside a memory block
  bool training = false;
  double step = 1e-3;  // of the differences
  std::vector<flow_exception> exceptions{};
};

inline model_config small_model() {
  model_config c;
  c.vocabulary = 11;
  c.layers = 2;
  c.block.width = 8;
  c.block.heads = 2;
  c.block.ffn = 12;
  c.block.slots = 32;  // two slots at the top: attention has a choice
  c.block.memory_block = 4;
  return c;
}

// With all slots equal the softmax is uniform whatever the query: neither the query nor the keys
// matter, and W_q of the block reaches nothing but the query.
inline const std::vector<flow_exception> no_choice{{"multi_mem_attention.W_q", expected::rounding},
                                                   {".W_q.", expected::rounding},
                                                   {".keys", expected::rounding}};

inline std::vector<scenario> scenarios() {
  std::vector<scenario> all;
  const auto add = [&](std::string name, auto&& change) {
    scenario s{std::move(name), small_model()};
    change(s, s.config.block);
    all.push_back(std::move(s));
  };
  add("stream, ring", [](auto&, auto&) {});
  add("stream, ring, from the start", [](auto& s, auto&) { s.before = 0; });
  add("stream, ring of more blocks than slots", [](auto& s, auto& c) {
    c.memory_block = 1;
    s.time = 35;
  });
  add("stream, decay", [](auto&, auto& c) { c.write = write_rule::decay; });
  add("reference", [](auto& s, auto& c) {
    c.update = update::reference;
    s.before = 0;
  });
  add("reference, second pass", [](auto& s, auto& c) {
    c.update = update::reference;
    s.exceptions = no_choice;  // the first pass left all slots equal
  });
  add("one slot at the top", [](auto& s, auto& c) {
    c.slots = 16;
    s.exceptions = no_choice;
  });
  add("dpg", [](auto& s, auto& c) {
    c.decay = decay_kind::dpg;
    c.dpg_rank = 6;
    s.step = 1e-5;                                  // the kink of relu must not lie within a step
    s.exceptions = {{".W_k.", expected::rounding},  // keys are the context of MDI, which is absent
                    {"W_gamma_down", expected::some},  // relu
                    {"W_gamma_up.weight", expected::some}};
  });
  add("relu", [](auto& s, auto& c) {
    c.activation = ffn_activation::relu;
    s.step = 1e-5;
    s.exceptions = {{"ffn.0", expected::some}, {"ffn.3.weight", expected::some}};
  });
  add("convex, output gate, dropout, silu, slow decay", [](auto& s, auto& c) {
    c.convex = c.output_gate = true;
    c.dropout = 0.2;
    c.activation = ffn_activation::silu;
    s.config.slow_decay = s.training = true;
  });
  add("parallel solver", [](auto&, auto& c) {
    c.recurrence.solver = solver::parallel;
    c.recurrence.window = 4;
  });
  add("parallel solver that gives up", [](auto&, auto& c) {
    c.recurrence.solver = solver::parallel;
    c.recurrence.max_sweeps = 3;
  });
  // m = 1: W_m is neither read nor a parameter.
  add("no mix gate", [](auto&, auto& c) { c.recurrence.mix_gate = false; });
  add("no mix", [](auto& s, auto& c) {
    c.recurrence.mix = 0;
    s.exceptions = {{"mdi.W_g.", expected::rounding}};  // m counts for mix = 0
  });
  add("the usual norm, wider decay", [](auto&, auto& c) {
    c.norm.position = epsilon_position::inside;
    c.inner = 5;
  });
  add("one token from the start", [](auto& s, auto&) {
    s.time = 1;
    s.before = 0;
    // h_{t-1} = 0: nothing decays, and the gates do not see a state.
    s.exceptions = {{".W_k.", expected::rounding},
                    {"mdi.W_gamma.", expected::rounding},
                    {"mdi.W_context.", expected::rounding},
                    {"mdi.W_g.weight", expected::some},  // its half for z
                    {"W_g.weight", expected::rounding}};
  });
  return all;
}

// The pass of a scenario as a function of the parameters and of the banks before it, all in one
// vector: first the flat parameters, then keys and values of each block.
template <class T, class Backend>
class flow {
 public:
  flow(const Backend& backend, const scenario& s)
      : backend_(backend), s_(s), model_(s.config), work_(s.config, s.batch, s.time) {
    model_.initialise(5);
    state_ = model_.initial_state(s.batch);
    const index_t tokens = s.batch * s.time;
    random_source random(9);
    const auto draw = [&](index_t count) {
      std::vector<std::int32_t> ids;
      for (index_t i = 0; i < count; ++i) {
        ids.push_back(static_cast<std::int32_t>(random.integer(0, s.config.vocabulary - 1)));
      }
      return ids;
    };
    if (s.before > 0) {
      const auto earlier = draw(s.batch * s.before);
      model_pass<T> pass(s.config, s.batch, s.before);
      pass.forward(backend, model_,
                   view<const std::int32_t, 2>(earlier.data(), {s.batch, s.before}), state_);
    }
    ids_ = draw(tokens);
    targets_ = draw(tokens);
    parts_ = model_.layout();
    values_ = model_.parameters();
    for (std::size_t i = 0; i < state_.blocks.size(); ++i) {
      add_bank("banks." + std::to_string(i) + ".keys", state_.blocks[i].keys);
      add_bank("banks." + std::to_string(i) + ".values", state_.blocks[i].values);
    }
  }

  const std::vector<parameter>& parts() const { return parts_; }
  const std::vector<T>& values() const { return values_; }
  const recurrence_report& report() const { return work_.report(); }

  double loss(const std::vector<T>& values, bool for_backward = false) {
    auto& parameters = model_.parameters();
    std::copy_n(values.begin(), parameters.size(), parameters.begin());
    auto state = state_;
    auto next = values.begin() + static_cast<std::ptrdiff_t>(parameters.size());
    for (auto& block : state.blocks) {
      for (auto* bank : {&block.keys, &block.values}) {
        std::copy_n(next, bank->size(), bank->begin());
        next += static_cast<std::ptrdiff_t>(bank->size());
      }
    }
    return work_.forward(backend_, model_, tokens(ids_), tokens(targets_), state, for_backward, 1,
                         {.training = s_.training, .seed = 3, .stream = 100});
  }

  std::vector<T> gradient() {
    std::vector<T> all(values_.size(), T(0));
    std::vector<bank_gradients<T>> banks;
    const std::size_t parameters = model_.parameters().size();
    T* next = all.data() + parameters;
    for (std::size_t i = 0; i < state_.blocks.size(); ++i) {
      const auto take = [&] {
        const view<T, 3> bank(next, {s_.batch, s_.config.block.slots, s_.config.block.width});
        next += bank.size();
        return bank;
      };
      const auto keys = take();
      banks.push_back({keys, take()});
    }
    loss(values_, true);
    work_.backward(backend_, model_, tokens(ids_), std::span<T>(all).first(parameters),
                   std::span<const bank_gradients<T>>(banks));
    return all;
  }

 private:
  void add_bank(std::string name, const std::vector<T>& bank) {
    const auto size = static_cast<index_t>(bank.size());
    parts_.push_back({std::move(name), {size}, static_cast<index_t>(values_.size())});
    values_.insert(values_.end(), bank.begin(), bank.end());
  }
  view<const std::int32_t, 2> tokens(const std::vector<std::int32_t>& ids) const {
    return {ids.data(), {s_.batch, s_.time}};
  }

  Backend backend_;
  const scenario& s_;
  model<T> model_;
  model_pass<T> work_;
  model_state<T> state_;
  std::vector<std::int32_t> ids_, targets_;
  std::vector<parameter> parts_;
  std::vector<T> values_;
};

/// Elements of each part whose gradients are compared with differences. On a GPU a pass of so small
/// a model is a hundred launches.
#if defined(__CUDACC__)
inline constexpr int compared_elements = 1;
#else
inline constexpr int compared_elements = 3;
#endif

inline expected gradient_of(const scenario& s, const std::string& part) {
  for (const flow_exception& e : s.exceptions) {
    if (part.find(e.part) != part.npos) return e.gradient;
  }
  return expected::all;
}

template <class T>
std::span<const T> elements_of(const std::vector<T>& all, const parameter& part) {
  return std::span<const T>(all).subspan(static_cast<std::size_t>(part.offset),
                                         static_cast<std::size_t>(part.size()));
}

// What is sane, at these sizes and the model's own initialisation: the loss is about log 11, a mean
// over tokens of logits of order 1, so no derivative exceeds 1 and the largest is not small. What
// acts through a branch of the block is a few orders smaller. The query side of attention, W_q and
// the keys, acts through the differences between slots, of which both the keys and the values are
// small (banks are N(0, 0.02^2), and the top averages 16 slots): five orders smaller still.
struct sane_size {
  double least, most;
};
inline sane_size sane_size_of(const std::string& part) {
  const bool query_side = part.find("W_q.") != part.npos || part.find(".keys") != part.npos;
  return {query_side ? 1e-8 : 5e-5, 1};
}

// Every part has a finite gradient of a sane size, or none where none is expected.
template <class TestType>
void check_gradient_sizes() {
  using T = typename TestType::element_type;
  for (const scenario& s : scenarios()) {
    flow<T, typename TestType::backend_type> pass(TestType::backend(), s);
    const std::vector<T> gradient = pass.gradient();
    CHECK(std::all_of(gradient.begin(), gradient.end(), [](T g) { return std::isfinite(g); }));
    const double largest = max_abs(std::span<const T>(gradient));
    CAPTURE(s.name, largest);
    CHECK(largest > 0.05);
    for (const flow_exception& e : s.exceptions) {
      CAPTURE(e.part);  // an exception that no part needs is out of date
      CHECK(std::any_of(pass.parts().begin(), pass.parts().end(),
                        [&](const parameter& p) { return p.name.find(e.part) != p.name.npos; }));
    }
    for (const parameter& part : pass.parts()) {
      const auto g = elements_of(gradient, part);
      const double size = max_abs(g);
      const auto zeros = std::count(g.begin(), g.end(), T(0));
      CAPTURE(part.name, size, zeros);
      const auto [least, most] = sane_size_of(part.name);
      switch (gradient_of(s, part.name)) {
        case expected::all:
          CHECK(zeros == 0);
          CHECK((size >= least && size <= most));
          break;
        case expected::some:
          CHECK(2 * zeros <= static_cast<std::ptrdiff_t>(g.size()));
          CHECK((size >= least && size <= most));
          break;
        case expected::rounding:
          CHECK(size <= 64 * unit_roundoff<T>() * largest);
          break;
      }
    }
  }
}

}  // namespace mmrec::testing
