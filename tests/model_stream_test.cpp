// SPDX-License-Identifier: Apache-2.0
// The whole model, and the block in float: the result does not depend on how tokens are cut into
// passes, and no logit depends on a later token.
#include <algorithm>
#include <cstddef>
#include <map>
#include <vector>

#include "support/block_runs.hpp"
#include "support/catch.hpp"
#include "support/model_runs.hpp"
#include "support/numeric.hpp"

using namespace mmrec;
using namespace mmrec::testing;

namespace {

const backend::simd one_thread{.threads = 1};

template <class T>
std::vector<T> run_model(const model<T>& m, const token_ids& ids, model_state<T>& state,
                         const std::vector<index_t>& lengths) {
  const index_t batch = state.blocks[0].batch, time = static_cast<index_t>(ids.size()) / batch,
                v = m.config().vocabulary;
  std::vector<T> all(static_cast<std::size_t>(batch * time * v), T(77));
  const view<T, 3> result(all.data(), {batch, time, v});
  std::map<index_t, model_pass<T>> passes;
  index_t from = 0;
  for (const index_t n : lengths) {
    token_ids part;
    for (index_t b = 0; b < batch; ++b)
      part.insert(part.end(), ids.begin() + b * time + from, ids.begin() + b * time + from + n);
    auto& pass = passes.try_emplace(n, m.config(), batch, n).first->second;
    pass.forward(one_thread, m, as_tokens(part, batch), state);
    for (index_t b = 0; b < batch; ++b)
      for (index_t t = 0; t < n; ++t)
        std::copy_n(&pass.logits()(b, t, 0), v, &result(b, from + t, 0));
    from += n;
  }
  return all;
}

}  // namespace

TEST_CASE("block in float: the result does not depend on how tokens are cut into passes",
          "[components]") {
  check_chunking<float>(one_thread);
}

TEMPLATE_TEST_CASE("model: the result does not depend on how tokens are cut into passes",
                   "[components]", float, double) {
  using T = TestType;
  const index_t batch = 2, time = 300;
  for (const auto& [name, form] : stream_forms()) {
    auto c = tiny_model();
    c.block = form;
    const auto m = initialised<T>(c);
    const auto ids = random_ids(batch * time, c.vocabulary, 5);
    auto whole_state = m.initial_state(batch);
    const auto whole = run_model(m, ids, whole_state, {time});
    const double tolerance = 2 * chunking_tolerance<T>(form, c.layers);
    for (const index_t size : {1, 7, 128, 0}) {
      auto state = m.initial_state(batch);
      const auto logits = run_model(m, ids, state, cuts(time, size));
      CAPTURE(name, size, tolerance);
      CHECK(max_relative_error(logits, whole) <= tolerance);
      for (std::size_t i = 0; i < state.blocks.size(); ++i)
        check_same_state(state.blocks[i], whole_state.blocks[i], tolerance);
    }
  }
}

TEST_CASE("model: no logit depends on a later token", "[components]") {
  const auto c = tiny_model();
  const auto m = initialised<float>(c);
  const index_t time = 70;
  const auto ids = random_ids(time, c.vocabulary, 5);
  auto state = m.initial_state(1);
  const auto logits = run_model(m, ids, state, {time});
  for (const index_t t : {0, 1, 15, 16, 40, 69}) {
    auto changed = ids;
    auto& id = changed[static_cast<std::size_t>(t)];
    id = (id + 1) % static_cast<std::int32_t>(c.vocabulary);
    auto other_state = m.initial_state(1);
    const auto other = run_model(m, changed, other_state, {time});
    const auto border = t * c.vocabulary;
    CAPTURE(t);
    CHECK(std::equal(logits.begin(), logits.begin() + border, other.begin()));
    CHECK(!std::equal(logits.end() - c.vocabulary, logits.end(), other.end() - c.vocabulary));
  }
}
