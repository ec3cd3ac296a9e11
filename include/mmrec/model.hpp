// SPDX-License-Identifier: Apache-2.0
// The MM-Rec language model: embedding, L blocks, a final norm and the embedding again as the head.
//
//   x = E[ids];  x = block_i(x), i = 0 .. layers - 1;  logits = norm(x) E^T
//   loss = mean cross-entropy
//
//   ids, targets (batch, time), row-major integers of any width   logits (batch, time, vocabulary)
//
// Parameters, gradients and logits are float, double or 16-bit storage; the state is of the
// arithmetic type, the loss a double. Errors, before anything is written: a configuration that
// cannot be, ids outside the vocabulary, targets outside it that are not -100, shapes, other
// strides, a model or a state of another configuration than the pass, gradients of another size or
// on top of the parameters, a backward where the last forward was not one with for_backward.
//
// A `model` is its parameters: one flat array with named parts (a parallel array of gradients has
// the same layout). A `model_state` is what it remembers of a batch of sequences. A `model_pass` is
// the working memory of a forward and backward over (batch, time) tokens, allocated once.
//
//   model<float> m(config);  m.initialise(seed);
//   model_pass<float> pass(config, batch, time);
//   auto state = m.initial_state(batch);
//   double loss = pass.forward(backend::simd{}, m, ids, targets, state, true);   // for_backward
//   pass.backward(backend::simd{}, m, ids, gradients);               // adds to the flat array
//
// Whole sequences, whose memory nobody asks for afterwards, need no state. The result is that of
// restart and forward, but no bank is copied for each sequence and none is written:
//
//   pass.forward_whole(backend::simd{}, m, ids, targets, loss, true);
//
// On the GPU the model, its states and its passes lie in device memory, by their second template
// argument, and so do ids, targets and gradients (the span is of device memory). No call waits but
// the one that returns the loss. The host does not look at ids and targets: the loss of a wrong one
// is NaN (embedding.hpp, loss.hpp). A captured step must begin its sequences anew (block.hpp).
//
//   model<float, device_memory> m(config);
//   model_pass<float, device_memory> pass(config, batch, time);
//   m.restart(backend::cuda{stream}, state, batch);
//   pass.forward(backend::cuda{stream}, m, ids, targets, state, loss, true);
//   pass.backward(backend::cuda{stream}, m, ids, gradients);
#pragma once

#include <mmrec/check_outputs.hpp>
#include <mmrec/embedding.hpp>
#include <mmrec/loss.hpp>
#include <mmrec/model_parameters.hpp>

#include <span>
#include <string>
#include <vector>

namespace mmrec {

template <element T, class Memory = host_memory>
class model_pass {
  template <class Value>
  using array = typename Memory::template array<Value>;

 public:
  using State = accumulator_t<T>;

  model_pass(const model_config& c, index_t batch, index_t time)
      : batch_(batch), time_(time), d_(c.block.width), v_(c.vocabulary) {
    check_config("model_pass", c);
    for (index_t i = 0; i < c.layers; ++i) blocks_.emplace_back(c.block, batch, time);
    const index_t tokens = batch * time;
    x_ = array<T>(static_cast<std::size_t>((c.layers + 1) * tokens * d_));
    normed_ = array<T>(static_cast<std::size_t>(tokens * d_));
    logits_ = array<T>(static_cast<std::size_t>(tokens * v_));
  }

  index_t batch() const { return batch_; }
  index_t time() const { return time_; }
  /// (batch, time, vocabulary); after `forward` with targets and training they hold the loss's
  /// gradient.
  view<T, 3> logits() { return {logits_.data(), {batch_, time_, v_}}; }
  /// Of all blocks in the last forward; on backend::cuda a parallel solve's sweeps are unknown_yet.
  const recurrence_report& report() const { return report_; }

  /// Logits only. Advances the state.
  template <backend_tag B, integer_array<2> Ids>
  void forward(const B& backend, const model<T, Memory>& m, const Ids& ids,
               model_state<State, Memory>& state, const block_dropout& drop = {}) {
    require_built<B>();
    require_memory<B, Memory>();
    const view<const element_of<Ids>, 2> in = as_view(ids);
    check<B>("model_pass::forward", m, in);
    check_state("model_pass::forward", m, state);
    run(backend, m, in, drop, [&](index_t i) -> memory_state<State, Memory>& {
      return state.blocks[static_cast<std::size_t>(i)];
    });
  }

  /// Writes the loss to loss(0), in the backend's memory; with `for_backward` the logits become its
  /// gradient times `scale`.
  template <backend_tag B, integer_array<2> Ids, integer_array<2> Targets>
  void forward(const B& backend, const model<T, Memory>& m, const Ids& ids, const Targets& targets,
               model_state<State, Memory>& state, const view<double, 1>& loss,
               bool for_backward = false, double scale = 1, const block_dropout& drop = {}) {
    const view<const element_of<Targets>, 2> wanted = as_view(targets);
    check_loss<B>("model_pass::forward", wanted, loss);
    forward(backend, m, ids, state, drop);
    take_loss(backend, wanted, loss, for_backward, scale);
  }

  /// The same for whole sequences, which begin with the model's banks and leave no memory. A pass
  /// that is longer than a memory block keeps a state of its own for this (update::stream).
  template <backend_tag B, integer_array<2> Ids, integer_array<2> Targets>
  void forward_whole(const B& backend, const model<T, Memory>& m, const Ids& ids,
                     const Targets& targets, const view<double, 1>& loss, bool for_backward = false,
                     double scale = 1, const block_dropout& drop = {}) {
    require_built<B>();
    require_memory<B, Memory>();
    const char* function = "model_pass::forward_whole";
    const view<const element_of<Ids>, 2> in = as_view(ids);
    check<B>(function, m, in);
    const view<const element_of<Targets>, 2> wanted = as_view(targets);
    check_loss<B>(function, wanted, loss);
    const auto& c = m.config().block;
    if (c.update == update::stream && time_ > c.memory_block) {
      m.restart(backend, own_state_, batch_);
      forward(backend, m, in, own_state_, drop);
    } else {
      run(backend, m, in, drop, [&](index_t i) { return m.banks(i); });
    }
    take_loss(backend, wanted, loss, for_backward, scale);
  }

  /// Returns the loss; backend::cuda waits for it.
  template <backend_tag B, integer_array<2> Ids, integer_array<2> Targets>
  double forward(const B& backend, const model<T, Memory>& m, const Ids& ids,
                 const Targets& targets, model_state<State, Memory>& state,
                 bool for_backward = false, double scale = 1, const block_dropout& drop = {}) {
    return value_of(backend, "model_pass::forward", [&](double* loss) {
      forward(backend, m, ids, targets, state, view<double, 1>{loss, {1}}, for_backward, scale,
              drop);
    });
  }

  /// Adds the gradients of the last forward to `gradients`, a flat array of the parameters' layout.
  /// `dbanks`, if not empty, receives the gradients of every block's banks.
  template <backend_tag B, integer_array<2> Ids>
  void backward(const B& backend, const model<T, Memory>& m, const Ids& ids, std::span<T> gradients,
                std::span<const bank_gradients<State>> dbanks = {}) {
    require_built<B>();
    require_memory<B, Memory>();
    const char* function = "model_pass::backward";
    const view<const element_of<Ids>, 2> in = as_view(ids);
    check<B>(function, m, in);
    const auto& c = m.config();
    const auto size = static_cast<index_t>(m.parameters().size());
    const auto all = as_view(gradients);
    check_view(function, "gradients", all, {size});
    check_disjoint(function, "gradients", all, "parameters",
                   view<const T, 1>{m.parameters().data(), {size}});
    check_disjoint(function, "gradients", all, "ids", in);
    check_banks(function, c, dbanks);
    if (!has_gradient_)
      throw error(function, "pass", "a forward with for_backward before",
                  "logits that are not the gradient of a loss");
    if (batch_ * time_ == 0) {
      for (const auto& d : dbanks) {
        if (d.keys) fill(backend, d.keys, 0);
        if (d.values) fill(backend, d.values, 0);
      }
      return;
    }
    const T* w = m.parameters().data();
    T* g = gradients.data();
    const scratch_for<B, T> space(backend, static_cast<std::size_t>(2 * batch_ * time_ * d_));
    view<T, 3> dx{space.data(), {batch_, time_, d_}},
        dnext{space.data() + batch_ * time_ * d_, {batch_, time_, d_}};
    linear_backward(
        backend, flat_logits(), normed(), m.table(w),
        {.dx = detail::token_rows(dnext), .dw = m.table(g), .accumulate_parameters = true});
    rms_norm_backward(backend, detail::token_rows(dnext), rows(c.layers), m.final_norm(w),
                      {.dx = detail::token_rows(dx),
                       .dw = m.final_norm(g),
                       .accumulate_dw = true,
                       .options = c.block.norm});
    for (index_t i = c.layers; i-- > 0;) {
      std::swap(dx, dnext);
      block_backward(
          backend, c.block, m.block(w, i), tokens(i), dnext, blocks_[static_cast<std::size_t>(i)],
          m.block(g, i), dx,
          dbanks.empty() ? bank_gradients<State>{} : dbanks[static_cast<std::size_t>(i)]);
    }
    embedding_backward(backend, detail::token_rows(dx), flat(in), m.table(g));
  }

 private:
  /// All blocks; memory(i) is block i's state, or the banks that whole sequences begin with.
  template <class B, class Id, class BlockMemory>
  void run(const B& backend, const model<T, Memory>& m, const view<const Id, 2>& ids,
           const block_dropout& drop, const BlockMemory& memory) {
    const auto& c = m.config();
    const T* w = m.parameters().data();
    has_gradient_ = false;
    embedding(backend, flat(ids), m.table(w), rows(0));
    report_ = {};
    for (index_t i = 0; i < c.layers; ++i) {
      block_dropout mine = drop;
      mine.stream += 3 * static_cast<std::uint64_t>(i);
      const auto r = block_forward(backend, c.block, m.block(w, i), tokens(i), tokens(i + 1),
                                   memory(i), blocks_[static_cast<std::size_t>(i)], mine);
      const bool known = r.sweeps != unknown_yet && report_.sweeps != unknown_yet;
      report_ = {r.solver, report_.windows + r.windows,
                 known ? std::max(report_.sweeps, r.sweeps) : unknown_yet,
                 known ? report_.sequential_steps + r.sequential_steps : unknown_yet};
    }
    rms_norm(backend, rows(c.layers), m.final_norm(w), normed(), c.block.norm);
    linear(backend, normed(), m.table(w), flat_logits());
  }
  template <class B, class Id>
  void check_loss(const char* function, const view<const Id, 2>& targets,
                  const view<double, 1>& loss) const {
    check_view(function, "loss", loss, {1});
    check_tokens(function, "targets", targets);
    if constexpr (loop_backend<B>) check_targets(function, flat(targets), v_, -100);
  }
  template <class B, class Id>
  void take_loss(const B& backend, const view<const Id, 2>& targets, const view<double, 1>& loss,
                 bool for_backward, double scale) {
    cross_entropy(backend, flat_logits(), flat(targets), loss,
                  {.dlogits = for_backward ? flat_logits() : view<T, 2>{}, .scale = scale});
    has_gradient_ = for_backward;
  }
  template <class Id>
  void check_tokens(const char* function, const char* argument, const view<const Id, 2>& v) const {
    check_view(function, argument, v, {batch_, time_});
    if (v.size() > 1 && (v.stride(1) != 1 || (batch_ > 1 && v.stride(0) != time_)))
      throw error(function, argument, "a row-major array",
                  detail::message() << "strides " << v.strides());
  }
  template <class B, std::integral Id>
  void check(const char* function, const model<T, Memory>& m, const view<const Id, 2>& ids) const {
    if (m.config().block.width != d_ || m.config().vocabulary != v_ ||
        m.config().layers != static_cast<index_t>(blocks_.size()))
      throw error(function, "model", "the configuration this pass was made for", "another");
    blocks_[0].check(function, m.config().block);
    check_tokens(function, "ids", ids);
    if constexpr (loop_backend<B>) check_ids(function, "ids", flat(ids), v_);
  }
  void check_state(const char* function, const model<T, Memory>& m,
                   const model_state<State, Memory>& state) const {
    if (state.blocks.size() != blocks_.size())
      throw error(function, "state", std::to_string(blocks_.size()) + " blocks",
                  std::to_string(state.blocks.size()));
    for (const auto& s : state.blocks)
      detail::check_state(function, m.config().block, s, batch_, time_);
  }
  void check_banks(const char* function, const model_config& c,
                   std::span<const bank_gradients<State>> dbanks) const {
    if (!dbanks.empty() && dbanks.size() != blocks_.size())
      throw error(function, "dbanks", std::to_string(blocks_.size()) + " entries",
                  std::to_string(dbanks.size()));
    for (const auto& bank : dbanks) {
      check_optional_dense(function, "dbanks.keys", bank.keys, {batch_, c.block.slots, d_});
      check_optional_dense(function, "dbanks.values", bank.values, {batch_, c.block.slots, d_});
      check_outputs(
          function,
          std::tuple{argument{"dbanks.keys", bank.keys}, argument{"dbanks.values", bank.values}},
          std::tuple{});
    }
  }
  template <class Id>
  view<const Id, 1> flat(const view<const Id, 2>& v) const {
    return {v.data_handle(), {v.size()}};
  }
  view<T, 3> tokens(index_t i) {
    return {x_.data() + i * batch_ * time_ * d_, {batch_, time_, d_}};
  }
  view<T, 2> rows(index_t i) { return detail::token_rows(tokens(i)); }
  view<T, 2> normed() { return {normed_.data(), {batch_ * time_, d_}}; }
  view<T, 2> flat_logits() { return {logits_.data(), {batch_ * time_, v_}}; }

  index_t batch_, time_, d_, v_;
  std::vector<block_activations<T, Memory>> blocks_;
  array<T> x_, normed_, logits_;
  model_state<State, Memory> own_state_;  // of forward_whole, where it needs one
  recurrence_report report_{};
  // What the last forward left in logits_. A captured one leaves it again with every launch.
  bool has_gradient_ = false;
};

}  // namespace mmrec
