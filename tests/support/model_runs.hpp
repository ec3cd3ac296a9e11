// SPDX-License-Identifier: Apache-2.0
// A small model with random tokens, for tests of what the whole of it does.
#pragma once

#include <mmrec/model.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "compiled_passes.hpp"
#include "numeric.hpp"

namespace mmrec::testing {

using token_ids = std::vector<std::int32_t>;

inline model_config tiny_model() {
  model_config c;
  c.vocabulary = 23;
  c.layers = 2;
  c.block.width = 20;
  c.block.heads = 4;
  c.block.ffn = 24;
  c.block.slots = 32;
  c.block.memory_block = 16;
  return c;
}

template <class T>
model<T> initialised(const model_config& c, std::uint64_t seed = 4) {
  model<T> m(c);
  m.initialise(seed);
  return m;
}

inline token_ids random_ids(index_t count, index_t vocabulary, std::uint64_t seed) {
  random_source random(seed);
  token_ids ids;
  for (index_t i = 0; i < count; ++i)
    ids.push_back(static_cast<std::int32_t>(random.integer(0, vocabulary - 1)));
  return ids;
}

inline view<const std::int32_t, 2> as_tokens(const token_ids& ids, index_t batch) {
  return {ids.data(), {batch, static_cast<index_t>(ids.size()) / batch}};
}

template <class T>
std::vector<T> logits_of(model_pass<T>& pass) {
  const auto all = pass.logits();
  return {all.data_handle(), all.data_handle() + all.size()};
}

// Loss and gradients of a pass over the tokens from the start of a sequence.
template <class T>
struct training_step {
  double loss = 0;
  std::vector<T> logits, gradients;
};
template <class T, class Backend>
training_step<T> step_of(const Backend& backend, const model<T>& m, const token_ids& ids,
                         const token_ids& targets, index_t batch, double scale = 1,
                         const block_dropout& drop = {}) {
  const auto in = as_tokens(ids, batch), next = as_tokens(targets, batch);
  model_pass<T> pass(m.config(), batch, in.extent(1));
  auto state = m.initial_state(batch);
  training_step<T> out;
  pass.forward(backend, m, in, state);
  out.logits = logits_of(pass);
  state = m.initial_state(batch);
  out.loss = pass.forward(backend, m, in, next, state, true, scale, drop);
  out.gradients.assign(m.parameters().size(), T(0));
  pass.backward(backend, m, in, std::span<T>(out.gradients));
  return out;
}

}  // namespace mmrec::testing
