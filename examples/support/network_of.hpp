// SPDX-License-Identifier: Apache-2.0
// network.hpp for one backend and element type. Included by network/*.cpp only: it is what takes
// long to compile.
#pragma once

#include "host_place.hpp"
#include "network.hpp"

#include <concepts>
#include <functional>
#include <optional>
#include <type_traits>
#include <utility>

namespace mmrec::examples {

/// a + factor b.
struct add_scaled {
  double factor;
  template <class V>
  MMREC_HD V operator()(const V& a, const V& b) const {
    return a + b * math::constant<V>(factor);
  }
};

template <class B, element T, class Place = host_place>
class network_of final : public network {
  using memory = typename Place::memory;
  template <class Value>
  using array = typename memory::template array<Value>;
  using real = accumulator_t<T>;  // of parameters, moments and states
  static constexpr bool is_16_bit = storage16<T>;
  static constexpr double gradient_scale =
      storage_format<T> == mmrec::format::binary16 ? 1024.0 : 1.0;

 public:
  explicit network_of(const network_options& o) : options_(o), model_(o.model) {
    if constexpr (requires { backend_.threads; }) backend_.threads = o.threads;
    if constexpr (requires { place_.stream(); }) backend_.stream = place_.stream();
    if constexpr (is_16_bit) master_.emplace(o.model);
    if (o.training) {
      gradients_ = array<real>(model_.parameters().size());
      moments_ = array<real>(2 * gradients_.size());
      if constexpr (is_16_bit) batch_gradients_ = array<T>(gradients_.size());
    }
    adopt();
  }

  index_t parameter_count() const override {
    return static_cast<index_t>(model_.parameters().size());
  }

  device_figures device() override { return place_.template figures<T>(); }

  void initialise(std::uint64_t seed) override {
    master().initialise(seed);
    fill(backend_, all(moments_), 0);
    fill(backend_, all(gradients_), 0);
    adopt();
  }

  void learn(std::span<const token> inputs, std::span<const token> targets,
             const learn_options& o) override {
    require_training("learn");
    const auto ids = table("learn", "inputs", inputs, 0),
               next = table("learn", "targets", targets, 1);
    const std::uint64_t* const offset =
        place_.put(std::span<const std::uint64_t>(&o.dropout_stream, 1), 3);
    const view<double, 1> loss{loss_.data(), {1}};
    const double scale = o.scale * gradient_scale;
    const block_dropout drop{.training = true, .seed = o.dropout_seed, .offset = offset};
    const auto work = [&] {
      if (o.whole) {
        pass().forward_whole(backend_, model_, ids, next, loss, true, scale, drop);
      } else {
        if (o.fresh || state_.blocks.empty()) model_.restart(backend_, state_, options_.batch);
        pass().forward(backend_, model_, ids, next, state_, loss, true, scale, drop);
      }
      if constexpr (is_16_bit) {
        fill(backend_, all(batch_gradients_), 0);
        pass().backward(backend_, model_, ids, as_span(batch_gradients_));
        transform(backend_, add_scaled{1 / gradient_scale}, all(gradients_), all(gradients_),
                  all(batch_gradients_));
      } else {
        pass().backward(backend_, model_, ids, as_span(gradients_));
      }
    };
    // Whole sequences do the same every time, on the same arrays.
    if (o.whole)
      place_.repeat(repeated::learn, repeat_key_of(o.dropout_seed, {o.scale}), work);
    else
      work();
  }

  double loss() override { return *place_.get(std::span<const double>(loss_.data(), 1)); }

  double update(const adamw_options& options, const update_options& more) override {
    require_training("update");
    const adamw_rates now = rates_of(options);
    adamw_options o = options;
    o.rates = place_.put(std::span<const adamw_rates>(&now, 1), 4);
    o.clip = clip_.data();
    const auto& layout = model_.layout();
    const auto decayed = [&](std::size_t i) {
      return more.decay_vectors || layout[i].shape.size() > 1;
    };
    const auto work = [&] {
      clip_to(backend_, view<const real, 1>{gradients_.data(), {parameter_count()}}, more.clip,
              clip_.data());
      // One call for each run of parts that are decayed, or not, alike.
      for (std::size_t k = 0; k < layout.size();) {
        const index_t begin = layout[k].offset;
        o.decay = decayed(k) ? options.decay : 0;
        for (const bool kind = decayed(k); k < layout.size() && decayed(k) == kind;) ++k;
        const index_t size = (k < layout.size() ? layout[k].offset : parameter_count()) - begin;
        const auto part = [&](array<real>& values, index_t from = 0) {
          return view<real, 1>{values.data() + from + begin, {size}};
        };
        adamw(backend_, part(master().parameters()), view<const real, 1>(part(gradients_)),
              part(moments_), part(moments_, parameter_count()), o);
      }
      fill(backend_, all(gradients_), 0);
      round_parameters();
    };
    place_.repeat(repeated::update,
                  repeat_key_of(more.decay_vectors, {more.clip, o.beta1, o.beta2, o.epsilon,
                                                     o.decay, o.gradient_scale}),
                  work);
    return place_.get(std::span<const gradient_clip>(clip_.data(), 1))->norm;
  }

  bool finite() override {
    const auto& p = master().parameters();
    return std::isfinite(norm2(backend_, view<const real, 1>{p.data(), {parameter_count()}}));
  }

  double evaluate(std::span<const token> inputs, std::span<const token> targets, bool fresh,
                  bool whole) override {
    const auto ids = table("evaluate", "inputs", inputs, 0),
               next = table("evaluate", "targets", targets, 1);
    if (whole) {
      pass().forward_whole(backend_, model_, ids, next, view<double, 1>{loss_.data(), {1}});
      return *place_.get(std::span<const double>(loss_.data(), 1));
    }
    if (fresh || evaluation_state_.blocks.empty())
      model_.restart(backend_, evaluation_state_, options_.batch);
    return pass().forward(backend_, model_, ids, next, evaluation_state_);
  }

  std::span<const double> next(token id, bool fresh) override {
    if (!step_pass_) {
      step_pass_.emplace(options_.model, 1, 1);
      next_.resize(static_cast<std::size_t>(options_.model.vocabulary));
      fresh = true;
    }
    if (fresh) model_.restart(backend_, step_state_, 1);
    const token* const at = place_.put(std::span<const token>(&id, 1), 2);
    step_pass_->forward(backend_, model_, view<const token, 2>{at, {1, 1}}, step_state_);
    const T* const logits =
        place_.get(std::span<const T>(step_pass_->logits().data_handle(), next_.size()));
    for (std::size_t i = 0; i < next_.size(); ++i)
      next_[i] = static_cast<double>(load_element<real>(logits + i));
    return next_;
  }

  std::vector<network_array> arrays(bool with_state) override {
    place_.hide();
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
    add_parts("", place_.show(master().parameters()));
    for (index_t i = 0; i < options_.model.layers; ++i) {
      const std::string name = "banks." + std::to_string(i);
      add(name + ".keys", {block.slots, block.width}, place_.show(master().bank(i, 0)));
      add(name + ".values", {block.slots, block.width}, place_.show(master().bank(i, 1)));
    }
    if (options_.training) {
      real* const moments = place_.show(moments_);
      add_parts("adamw.m.", moments);
      add_parts("adamw.v.", moments + parameter_count());
    }
    if (with_state && state_.blocks.empty()) state_ = model_.initial_state(options_.batch);
    for (std::size_t i = 0; with_state && i < state_.blocks.size(); ++i) {
      auto& s = state_.blocks[i];
      const std::string name = "state." + std::to_string(i);
      add(name + ".tokens", {}, &s.tokens);
      add(name + ".hidden", {s.batch, s.width}, place_.show(s.hidden));
      add(name + ".keys", {s.batch, s.slots, s.width}, place_.show(s.keys));
      add(name + ".values", {s.batch, s.slots, s.width}, place_.show(s.values));
      add(name + ".sum", {s.batch, s.width}, place_.show(s.sum));
    }
    return list;
  }

  void arrays_changed() override {
    place_.take_back();
    adopt();
  }

 private:
  /// Parameters, banks and states are new.
  void adopt() {
    if constexpr (is_16_bit) {
      for (index_t i = 0; i < options_.model.layers; ++i)
        for (const index_t which : {0, 1}) model_.bank(i, which) = master().bank(i, which);
    }
    round_parameters();
  }

  /// The parameters that training changes: those of the pass, or for 16 bits their float originals.
  model<real, memory>& master() {
    if constexpr (is_16_bit)
      return *master_;
    else
      return model_;
  }

  void round_parameters() {
    if constexpr (is_16_bit)
      transform(backend_, same_value{}, all(model_.parameters()), all(master_->parameters()));
  }

  template <class Array>
  static auto as_span(Array& values) {
    return std::span(values.data(), values.size());
  }
  template <class Array>
  static auto all(Array& values) {
    return as_view(as_span(values));
  }

  model_pass<T, memory>& pass() {
    if (!pass_) pass_.emplace(options_.model, options_.batch, options_.time);
    return *pass_;
  }

  void require_training(const char* function) const {
    if (!options_.training)
      throw error(function, "network", "one made with .training = true", "one without gradients");
  }

  view<const token, 2> table(const char* function, const char* argument,
                             std::span<const token> values, int slot) {
    const index_t wanted = options_.batch * options_.time;
    if (static_cast<index_t>(values.size()) != wanted)
      throw error(function, argument, std::to_string(wanted) + " tokens",
                  std::to_string(values.size()));
    return {place_.put(values, slot), {options_.batch, options_.time}};
  }

  network_options options_;
  Place place_;
  B backend_{};
  model<T, memory> model_;
  std::optional<model<real, memory>> master_;
  array<real> gradients_, moments_;  // moments: m, then v
  array<T> batch_gradients_;         // 16 bits only
  array<double> loss_ = array<double>(1);
  array<gradient_clip> clip_ = array<gradient_clip>(1);
  std::optional<model_pass<T, memory>> pass_, step_pass_;
  model_state<real, memory> state_, evaluation_state_, step_state_;
  std::vector<double> next_;
};

template <class Backend>
struct place_of {
  using type = host_place;
};

template <class Backend, class Element>
std::unique_ptr<network> make_network_of(const network_options& options) {
  return std::make_unique<network_of<Backend, Element, typename place_of<Backend>::type>>(options);
}

}  // namespace mmrec::examples

#if defined(__CUDACC__)
#include "device_place.cuh"

template <>
struct mmrec::examples::place_of<mmrec::backend::cuda> {
  using type = device_place;
};
#endif
