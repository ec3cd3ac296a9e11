// SPDX-License-Identifier: Apache-2.0
// network.hpp for one backend and element type. Included by network/*.cpp only: it is what takes
// long to compile.
#pragma once

#include "network.hpp"

#include <concepts>
#include <functional>
#include <optional>
#include <type_traits>
#include <utility>

namespace mmrec::examples {

template <class B, element T>
class network_of final : public network {
  using real = accumulator_t<T>;  // of parameters, moments and states
  static constexpr bool is_16_bit = storage16<T>;
  static constexpr double gradient_scale =
      storage_format<T> == mmrec::format::binary16 ? 1024.0 : 1.0;

 public:
  explicit network_of(const network_options& o) : options_(o), model_(o.model) {
    if constexpr (requires { backend_.threads; }) backend_.threads = o.threads;
    if constexpr (is_16_bit) master_.emplace(o.model);
    if (o.training) {
      gradients_.resize(model_.parameters().size());
      moments_.resize(2 * gradients_.size());
      if constexpr (is_16_bit) batch_gradients_.resize(gradients_.size());
    }
    arrays_changed();
  }

  index_t parameter_count() const override {
    return static_cast<index_t>(model_.parameters().size());
  }

  void initialise(std::uint64_t seed) override {
    master().initialise(seed);
    std::fill(moments_.begin(), moments_.end(), real(0));
    std::fill(gradients_.begin(), gradients_.end(), real(0));
    arrays_changed();
  }

  double learn(std::span<const token> inputs, std::span<const token> targets,
               const learn_options& o) override {
    require_training("learn");
    if (o.fresh) model_.restart(backend_, state_, options_.batch);
    const auto ids = table("learn", "inputs", inputs);
    const double loss = pass().forward(backend_, model_, ids, table("learn", "targets", targets),
                                       state_, true, o.scale * gradient_scale,
                                       {.training = options_.model.block.dropout > 0,
                                        .seed = o.dropout_seed,
                                        .stream = o.dropout_stream});
    if constexpr (is_16_bit) {
      std::fill(batch_gradients_.begin(), batch_gradients_.end(), T{});
      pass().backward(backend_, model_, ids, std::span<T>(batch_gradients_));
      for (std::size_t i = 0; i < gradients_.size(); ++i)
        gradients_[i] +=
            load_element<real>(&batch_gradients_[i]) * static_cast<real>(1 / gradient_scale);
    } else {
      pass().backward(backend_, model_, ids, std::span<T>(gradients_));
    }
    return loss;
  }

  double gradient_norm() override {
    require_training("gradient_norm");
    return norm2(backend_, view<const real, 1>{gradients_.data(), {parameter_count()}});
  }

  void update(adamw_options o, bool decay_vectors) override {
    require_training("update");
    const double decay = o.decay;
    const auto& layout = model_.layout();
    // One call for each run of parts that are decayed, or not, alike.
    for (std::size_t k = 0; k < layout.size();) {
      const auto decayed = [&](std::size_t i) {
        return decay_vectors || layout[i].shape.size() > 1;
      };
      const index_t begin = layout[k].offset;
      o.decay = decayed(k) ? decay : 0;
      for (const bool kind = decayed(k); k < layout.size() && decayed(k) == kind;) ++k;
      const index_t size = (k < layout.size() ? layout[k].offset : parameter_count()) - begin;
      const auto part = [&](std::vector<real>& all, index_t from = 0) {
        return view<real, 1>{all.data() + from + begin, {size}};
      };
      adamw(backend_, part(master().parameters()), view<const real, 1>(part(gradients_)),
            part(moments_), part(moments_, parameter_count()), o);
    }
    fill(backend_, view<real, 1>{gradients_.data(), {parameter_count()}}, 0);
    round_parameters();
  }

  bool finite() override {
    const auto& p = master().parameters();
    return std::isfinite(norm2(backend_, view<const real, 1>{p.data(), {parameter_count()}}));
  }

  double evaluate(std::span<const token> inputs, std::span<const token> targets,
                  bool fresh) override {
    if (fresh || evaluation_state_.blocks.empty())
      model_.restart(backend_, evaluation_state_, options_.batch);
    return pass().forward(backend_, model_, table("evaluate", "inputs", inputs),
                          table("evaluate", "targets", targets), evaluation_state_);
  }

  std::span<const double> next(token id, bool fresh) override {
    if (!step_pass_) {
      step_pass_.emplace(options_.model, 1, 1);
      next_.resize(static_cast<std::size_t>(options_.model.vocabulary));
      fresh = true;
    }
    if (fresh) model_.restart(backend_, step_state_, 1);
    step_pass_->forward(backend_, model_, view<const token, 2>{&id, {1, 1}}, step_state_);
    const auto logits = step_pass_->logits();
    for (std::size_t i = 0; i < next_.size(); ++i)
      next_[i] = static_cast<double>(load_element<real>(&logits(0, 0, static_cast<index_t>(i))));
    return next_;
  }

  std::vector<network_array> arrays(bool with_state) override {
    std::vector<network_array> list;
    const auto add = [&]<class Value>(std::string name, std::vector<std::int64_t> shape,
                                      Value* values) {
      std::size_t n = 1;
      for (const std::int64_t e : shape) n *= static_cast<std::size_t>(e);
      list.push_back({std::move(name), tensor_dtype_of<Value>(), std::move(shape),
                      std::as_writable_bytes(std::span(values, n))});
    };
    const auto add_parts = [&](const std::string& prefix, real* base) {
      for (const auto& part : model_.layout())
        add(prefix + part.name, part.shape, base + part.offset);
    };
    const auto& block = options_.model.block;
    add_parts("", master().parameters().data());
    for (index_t i = 0; i < options_.model.layers; ++i) {
      const std::string name = "banks." + std::to_string(i);
      add(name + ".keys", {block.slots, block.width}, master().bank(i, 0).data());
      add(name + ".values", {block.slots, block.width}, master().bank(i, 1).data());
    }
    if (options_.training) {
      add_parts("adamw.m.", moments_.data());
      add_parts("adamw.v.", moments_.data() + parameter_count());
    }
    for (std::size_t i = 0; with_state && i < state_.blocks.size(); ++i) {
      auto& s = state_.blocks[i];
      const std::string name = "state." + std::to_string(i);
      add(name + ".tokens", {}, &s.tokens);
      add(name + ".hidden", {s.batch, s.width}, s.hidden.data());
      add(name + ".keys", {s.batch, s.slots, s.width}, s.keys.data());
      add(name + ".values", {s.batch, s.slots, s.width}, s.values.data());
      add(name + ".sum", {s.batch, s.width}, s.sum.data());
    }
    return list;
  }

  void arrays_changed() override {
    if constexpr (is_16_bit) {
      for (index_t i = 0; i < options_.model.layers; ++i)
        for (const index_t which : {0, 1}) model_.bank(i, which) = master().bank(i, which);
    }
    round_parameters();
    if (state_.blocks.empty()) state_ = model_.initial_state(options_.batch);
  }

 private:
  /// The parameters that training changes: those of the pass, or for 16 bits their float originals.
  model<real>& master() {
    if constexpr (is_16_bit)
      return *master_;
    else
      return model_;
  }

  void round_parameters() {
    if constexpr (is_16_bit) {
      for (std::size_t i = 0; i < model_.parameters().size(); ++i)
        store_element(&model_.parameters()[i], master_->parameters()[i]);
    }
  }

  model_pass<T>& pass() {
    if (!pass_) pass_.emplace(options_.model, options_.batch, options_.time);
    return *pass_;
  }

  void require_training(const char* function) const {
    if (!options_.training)
      throw error(function, "network", "one made with .training = true", "one without gradients");
  }

  view<const token, 2> table(const char* function, const char* argument,
                             std::span<const token> values) const {
    const index_t wanted = options_.batch * options_.time;
    if (static_cast<index_t>(values.size()) != wanted)
      throw error(function, argument, std::to_string(wanted) + " tokens",
                  std::to_string(values.size()));
    return {values.data(), {options_.batch, options_.time}};
  }

  network_options options_;
  B backend_{};
  model<T> model_;
  std::optional<model<real>> master_;
  std::vector<real> gradients_, moments_;  // moments: m, then v
  std::vector<T> batch_gradients_;         // 16 bits only
  std::optional<model_pass<T>> pass_, step_pass_;
  model_state<real> state_, evaluation_state_, step_state_;
  std::vector<double> next_;
};

template <class Backend, class Element>
std::unique_ptr<network> make_network_of(const network_options& options) {
  return std::make_unique<network_of<Backend, Element>>(options);
}

}  // namespace mmrec::examples
