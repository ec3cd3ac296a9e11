// SPDX-License-Identifier: Apache-2.0
// The language model: initialisation, what is refused, accumulation and determinism.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/message_of.hpp"
#include "support/model_runs.hpp"
#include "support/numeric.hpp"
#include "support/on_both_backends.hpp"

using namespace mmrec;
using namespace mmrec::testing;

namespace {

std::vector<float> part_of(const model<float>& m, const std::string& name) {
  for (const parameter& part : m.layout())
    if (part.name == name)
      return {m.parameters().begin() + part.offset,
              m.parameters().begin() + part.offset + part.size()};
  throw std::logic_error("no part " + name);
}

double largest(const std::vector<float>& values) { return max_abs(std::span<const float>(values)); }

bool same_bits(const model_state<float>& a, const model_state<float>& b) {
  bool same = a.blocks.size() == b.blocks.size();
  for (std::size_t i = 0; same && i < a.blocks.size(); ++i) {
    const auto &x = a.blocks[i], &y = b.blocks[i];
    same = x.tokens == y.tokens && x.hidden == y.hidden && x.keys == y.keys &&
           x.values == y.values && x.sum == y.sum && x.recent == y.recent;
  }
  return same;
}

}  // namespace

TEST_CASE("model: the layout covers one flat array without gaps", "[components]") {
  auto c = tiny_model();
  c.block.output_gate = true;
  const model<float> m(c);
  index_t offset = 0;
  std::vector<std::string> names;
  for (const parameter& part : m.layout()) {
    CHECK(part.offset == offset);
    offset += part.size();
    names.push_back(part.name);
  }
  CHECK(m.parameters().size() == static_cast<std::size_t>(offset));
  CHECK(names.front() == "embedding.weight");
  CHECK(names.back() == "norm.weight");
  std::sort(names.begin(), names.end());
  CHECK(std::adjacent_find(names.begin(), names.end()) == names.end());
  CHECK(std::binary_search(names.begin(), names.end(), std::string("blocks.1.mdi.W_gamma.2.bias")));
}

TEST_CASE("model: initialisation is reproducible and within its bounds", "[components]") {
  const auto c = tiny_model();
  const auto m = initialised<float>(c, 7);
  CHECK(m.parameters() == initialised<float>(c, 7).parameters());
  CHECK(m.parameters() != initialised<float>(c, 8).parameters());
  for (const parameter& part : m.layout()) {
    const auto values = part_of(m, part.name);
    CAPTURE(part.name);
    if (part.name.find("norm") != part.name.npos) {
      CHECK(values == std::vector<float>(values.size(), 1));
      continue;
    }
    // Fan-in: D everywhere but in W_m (2 D), behind the ffn (F) and behind the decay's inner layer
    // (D / 4).
    const bool mix = part.name.find(".mdi.W_g.") != part.name.npos,
               ffn = part.name.find("ffn.3") != part.name.npos,
               inner = part.name.find("W_gamma.2") != part.name.npos ||
                       part.name.find("W_context.2") != part.name.npos;
    const double fan_in = mix ? 40 : ffn ? 24 : inner ? 5 : 20, bound = 1 / std::sqrt(fan_in);
    CHECK(largest(values) <= bound * (1 + 1e-6));
    if (values.size() < 20) continue;  // few values say little about their distribution
    // Of n uniform values the largest is below 60 % of the bound with probability 0.6^n < 4e-5.
    CHECK(largest(values) > 0.6 * bound);
    CHECK(std::any_of(values.begin(), values.end(), [](float v) { return v < 0; }));
    CHECK(std::any_of(values.begin(), values.end(), [](float v) { return v > 0; }));
  }
  CHECK(part_of(m, "blocks.0.W_g.weight") != part_of(m, "blocks.1.W_g.weight"));
  CHECK(part_of(m, "blocks.0.W_q.weight") != part_of(m, "blocks.0.W_k.weight"));
}

TEST_CASE("model: slow decay spreads the last bias, scaled residuals shrink what writes",
          "[components]") {
  auto c = tiny_model();
  const auto plain = initialised<float>(c, 7);
  c.slow_decay = true;
  const auto slow = initialised<float>(c, 7);
  for (const char* name : {"blocks.0.mdi.W_gamma.2.bias", "blocks.1.mdi.W_gamma.2.bias"}) {
    const auto bias = part_of(slow, name);
    CHECK(std::is_sorted(bias.begin(), bias.end()));
    for (std::size_t i = 0; i < bias.size(); ++i)
      CHECK(std::abs(static_cast<double>(bias[i]) -
                     (-1 + 6 * (static_cast<double>(i) + 0.5) / 20)) < 1e-6);
  }
  for (const parameter& part : plain.layout())
    CHECK((part_of(slow, part.name) == part_of(plain, part.name)) ==
          (part.name.find("W_gamma.2.bias") == part.name.npos));

  c.slow_decay = false;
  c.scaled_residual = true;
  const auto scaled = initialised<float>(c, 7);
  for (const parameter& part : plain.layout()) {
    const bool writes = part.name.find("ffn.3.weight") != part.name.npos ||
                        part.name.find("multi_mem_attention.W_o.weight") != part.name.npos;
    auto expected = part_of(plain, part.name);
    if (writes)
      for (float& v : expected) v /= 2;  // sqrt(2 x 2 layers)
    CAPTURE(part.name);
    CHECK(max_relative_error(part_of(scaled, part.name), expected) < 1e-6);
  }

  auto dpg = tiny_model();
  dpg.block.decay = decay_kind::dpg;
  dpg.block.dpg_rank = 6;
  dpg.slow_decay = true;
  const auto bias = part_of(initialised<float>(dpg, 7), "blocks.0.W_gamma_up.bias");
  CHECK((std::abs(bias.front() + 0.85F) < 1e-6F && std::abs(bias.back() - 4.85F) < 1e-6F));
}

TEST_CASE("model: the initial banks come from their seed alone", "[components]") {
  auto c = tiny_model();
  model<float> a = initialised<float>(c, 1), b = initialised<float>(c, 2);
  CHECK(same_bits(a.initial_state(3), a.initial_state(3)));
  CHECK(same_bits(a.initial_state(3), b.initial_state(3)));
  CHECK(a.bank(0, 0) != a.bank(0, 1));
  CHECK(a.bank(0, 0) != a.bank(1, 0));
  c.bank_seed = 2;
  CHECK(!same_bits(a.initial_state(3), model<float>(c).initial_state(3)));
  // Evaluation twice gives the same bits.
  const auto ids = random_ids(2 * 30, c.vocabulary, 1);
  CHECK(step_of(tested{}, a, ids, ids, 2).logits == step_of(tested{}, a, ids, ids, 2).logits);
}

TEST_CASE("model: a state that is restarted is one that was never used", "[components]") {
  for (const update rule : {update::stream, update::reference}) {
    auto c = tiny_model();
    c.block.update = rule;
    auto m = initialised<float>(c);
    const index_t batch = 2, time = 9;
    const auto check = [&](const auto& backend) {
      model_pass<float> pass(c, batch, time);
      model_state<float> state;
      m.restart(backend, state, batch);  // from nothing
      CHECK(same_bits(state, m.initial_state(batch)));
      const auto ids = random_ids(batch * time, c.vocabulary, 1);
      pass.forward(backend, m, as_tokens(ids, batch), state);
      CHECK(!same_bits(state, m.initial_state(batch)));
      m.restart(backend, state, batch);
      CHECK(same_bits(state, m.initial_state(batch)));
      m.restart(backend, state, 3);
      CHECK(same_bits(state, m.initial_state(3)));
    };
    check(backend::reference{});
    check(tested{});
  }
}

TEST_CASE("model: what cannot be is refused before anything is written", "[components][errors]") {
  auto c = tiny_model();
  const auto m = initialised<float>(c);
  const index_t batch = 2, time = 5;
  model_pass<float> pass(c, batch, time);
  auto good = random_ids(10, c.vocabulary, 1);
  auto state = m.initial_state(batch);
  pass.forward(tested{}, m, as_tokens(good, batch), state);
  const auto before = state;
  const auto logits = logits_of(pass);
  const auto refused = [&](const token_ids& ids, const token_ids& targets, model_state<float>& s) {
    const auto message = message_of<error>([&] {
      pass.forward(tested{}, m, as_tokens(ids, batch), as_tokens(targets, batch), s, true);
    });
    CHECK(logits_of(pass) == logits);
    CHECK(same_bits(state, before));
    return message;
  };
  [[maybe_unused]] const auto with = [&](std::int32_t id) {
    auto ids = good;
    ids[7] = id;
    return ids;
  };
#if !defined(__CUDACC__)  // the host does not look at what lies on the device
  CHECK(says(refused(with(23), good, state), {"ids", "[0, 23)", "23"}));
  CHECK(says(refused(with(-1), good, state), {"ids", "-1"}));
  CHECK(says(refused(with(-100), good, state), {"ids", "-100"}));
  CHECK(says(refused(with(std::numeric_limits<std::int32_t>::max()), good, state),
             {"ids", "2147483647"}));
  CHECK(says(refused(good, with(23), state), {"targets", "[0, 23)", "-100", "23"}));
  CHECK(says(refused(good, with(-1), state), {"targets", "-1"}));
#endif
  CHECK(says(refused(good, random_ids(8, 23, 1), state), {"targets", "(2, 5)", "(2, 4)"}));
  const view<const std::int32_t, 2> columns(good.data(), {batch, time}, {1, batch});
  CHECK(says(
      message_of<error>([&] { pass.forward(tested{}, m, as_tokens(good, batch), columns, state); }),
      {"model_pass::forward: targets", "row-major"}));
  CHECK(says(message_of<error>([&] { pass.forward(tested{}, m, columns, state); }),
             {"model_pass::forward: ids", "row-major"}));
  CHECK(same_bits(state, before));
  CHECK(says(refused(random_ids(12, 23, 1), good, state), {"ids", "(2, 5)", "(2, 6)"}));

  auto three = m.initial_state(3);
  const auto untouched = three;
  CHECK(says(refused(good, good, three), {"state", "batch of 2", "batch 3"}));
  CHECK(same_bits(three, untouched));
  auto short_state = state;
  short_state.blocks.pop_back();
  CHECK(says(refused(good, good, short_state), {"state", "2 blocks", "1"}));
  auto wider = c;
  wider.block.slots = 48;
  auto foreign = model<float>(wider).initial_state(batch);
  CHECK(says(refused(good, good, foreign), {"state", "32 slots", "48"}));
  // The second block's state is looked at before the first block runs.
  auto mixed = state;
  mixed.blocks[1] = foreign.blocks[1];
  CHECK(says(refused(good, good, mixed), {"state", "48"}));
  CHECK(mixed.blocks[0].hidden == before.blocks[0].hidden);
  mixed = state;
  mixed.blocks[1].sum.pop_back();
  CHECK(says(refused(good, good, mixed), {"state", "arrays of its batch"}));
  CHECK(mixed.blocks[0].hidden == before.blocks[0].hidden);
  CHECK(says(message_of<error>([&] { m.restart(tested{}, mixed, batch); }), {"restart"}));
  CHECK(mixed.blocks[0].hidden == before.blocks[0].hidden);

  auto other = c;
  other.layers = 3;
  const auto deeper = initialised<float>(other);
  CHECK(says(
      message_of<error>([&] { pass.forward(tested{}, deeper, as_tokens(good, batch), state); }),
      {"model_pass::forward: model"}));
  other = c;
  other.block.ffn = 30;
  const auto wider_ffn = initialised<float>(other);
  CHECK(says(
      message_of<error>([&] { pass.forward(tested{}, wider_ffn, as_tokens(good, batch), state); }),
      {"model_pass::forward: saved", "ffn", "30"}));
  CHECK(same_bits(state, before));

  other = c;
  other.layers = 0;
  CHECK(says(message_of<error>([&] { model<float>{other}; }), {"model: layers", "positive", "0"}));
  other = c;
  other.vocabulary = -5;
  CHECK(says(message_of<error>([&] { model<float>{other}; }), {"model: vocabulary", "-5"}));
  other = c;
  other.block.heads = 3;
  CHECK(says(message_of<error>([&] { model_pass<float>(other, 1, 1); }), {"model_pass: heads"}));
}

TEST_CASE("model: a backward that cannot be is refused before anything is written",
          "[gradients][errors]") {
  const auto c = tiny_model();
  auto m = initialised<float>(c);
  const index_t batch = 2, time = 5, d = c.block.width;
  model_pass<float> pass(c, batch, time);
  const auto good = random_ids(10, c.vocabulary, 1);
  auto state = m.initial_state(batch);
  std::vector<float> gradients(m.parameters().size(), 77),
      bank(static_cast<std::size_t>(batch * c.block.slots * d), 77);
  const view<float, 3> keys(bank.data(), {batch, c.block.slots, d});
  using banks = bank_gradients<float>;
  const auto refused = [&](const model<float>& of, const view<const std::int32_t, 2>& ids,
                           std::span<float> to, const banks& first, std::size_t count) {
    const std::array<banks, 2> all_banks{first, banks{}};
    const auto message = message_of<error>([&] {
      pass.backward(tested{}, of, ids, to, std::span<const banks>(all_banks.data(), count));
    });
    for (const auto* written : {&gradients, &bank})
      CHECK(std::all_of(written->begin(), written->end(), [](float v) { return v == 77; }));
    CHECK(message.find("model_pass::backward") != message.npos);
    return message;
  };
  const std::span<float> all(gradients);
  const auto ids = as_tokens(good, batch);

  // Logits are no gradient, nor is what lies in a pass before the first forward.
  const auto no_gradient = [&] {
    CHECK(says(refused(m, ids, all, banks{}, 0), {"pass", "a forward with for_backward before"}));
  };
  std::vector<double> at_loss(1);
  const view<double, 1> loss(at_loss.data(), {1});
  no_gradient();
  pass.forward(tested{}, m, ids, state);
  no_gradient();
  pass.forward(tested{}, m, ids, ids, state, true);
  pass.forward(tested{}, m, ids, ids, state);
  no_gradient();
  pass.forward_whole(tested{}, m, ids, ids, loss);
  no_gradient();
  pass.forward(tested{}, m, ids, ids, state, true);
#if !defined(__CUDACC__)
  for (const std::int32_t bad : {23, -1, -100}) {
    auto wrong = good;
    wrong[7] = bad;
    CHECK(says(refused(m, as_tokens(wrong, batch), all, banks{}, 0),
               {"ids", "[0, 23)", std::to_string(bad), "index 7"}));
  }
#endif
  CHECK(says(refused(m, ids.slice(1, 0, 4), all, banks{}, 0), {"ids", "(2, 5)", "(2, 4)"}));
  CHECK(says(refused(m, {nullptr, {batch, time}}, all, banks{}, 0), {"ids", "null"}));
  CHECK(says(refused(m, {good.data(), {batch, time}, {1, batch}}, all, banks{}, 0),
             {"ids", "row-major"}));

  auto other = c;
  other.layers = 3;
  CHECK(says(refused(model<float>(other), ids, all, banks{}, 0), {"model", "configuration"}));
  other = c;
  other.block.heads = 2;
  CHECK(says(refused(model<float>(other), ids, all, banks{}, 0), {"saved", "heads"}));
  CHECK(says(refused(m, ids, all.first(all.size() - 1), banks{}, 0),
             {"gradients", std::to_string(gradients.size())}));
  CHECK(says(refused(m, ids, m.parameters(), banks{}, 0), {"gradients", "apart from parameters"}));

  CHECK(says(refused(m, ids, all, banks{.keys = keys}, 1), {"dbanks", "2 entries", "1"}));
  CHECK(says(refused(m, ids, all, banks{.keys = keys.slice(1, 0, 16)}, 2),
             {"dbanks.keys", "(2, 32, 20)", "(2, 16, 20)"}));
  CHECK(says(refused(m, ids, all, banks{.values = keys.slice(0, 0, 1)}, 2), {"dbanks.values"}));
  CHECK(says(refused(m, ids, all, banks{.keys = keys, .values = keys}, 2),
             {"dbanks.keys", "apart from dbanks.values"}));

  // A backward that was refused, or done, leaves what the next one needs.
  for (int i = 0; i < 2; ++i) CHECK_NOTHROW(pass.backward(tested{}, m, ids, all));
  CHECK(gradients.front() != 77);
}

TEST_CASE("model: an ignored target counts for nothing", "[components]") {
  const auto c = tiny_model();
  const auto m = initialised<float>(c);
  const auto ids = random_ids(2 * 12, c.vocabulary, 1);
  auto targets = random_ids(2 * 12, c.vocabulary, 2);
  // The loss with all but one ignored is that one's, and the mean of all of them the loss of all.
  double mean = 0;
  for (std::size_t i = 0; i < targets.size(); ++i) {
    token_ids one(targets.size(), -100);
    one[i] = targets[i];
    mean += step_of(tested{}, m, ids, one, 2).loss / 24;
  }
  CHECK(std::abs(mean - step_of(tested{}, m, ids, targets, 2).loss) < 1e-6);
  const auto none = step_of(tested{}, m, ids, token_ids(24, -100), 2);
  CHECK(none.loss == 0);
  CHECK(none.gradients == std::vector<float>(none.gradients.size(), 0));
}

TEST_CASE("model: gradients add up over passes", "[components][gradients]") {
  const auto c = tiny_model();
  const auto m = initialised<float>(c);
  const index_t batch = 2, time = 20;
  const auto ids = random_ids(batch * time, c.vocabulary, 1),
             targets = random_ids(batch * time, c.vocabulary, 2);
  const auto once = step_of(tested{}, m, ids, targets, batch);
  model_pass<float> pass(c, batch, time);
  std::vector<float> sum = random_vector<float>(static_cast<index_t>(once.gradients.size()), 3),
                     start = sum;
  for (int i = 0; i < 2; ++i) {
    auto state = m.initial_state(batch);
    pass.forward(tested{}, m, as_tokens(ids, batch), as_tokens(targets, batch), state, true, 0.25);
    pass.backward(tested{}, m, as_tokens(ids, batch), std::span<float>(sum));
  }
  // A quarter, twice: half. Each addition rounds at the size of the sum.
  for (std::size_t i = 0; i < sum.size(); ++i) {
    const double expected =
        static_cast<double>(start[i]) + 0.5 * static_cast<double>(once.gradients[i]);
    REQUIRE(std::abs(static_cast<double>(sum[i]) - expected) < 1e-5);
  }
  CHECK(sum != start);
}

TEST_CASE("model: a training step has the same bits for every thread count", "[components]") {
  auto c = tiny_model();
  c.block.width = 48;
  c.block.ffn = 96;
  c.block.dropout = 0.1;
  const auto ids = random_ids(3 * 70, c.vocabulary, 1),
             targets = random_ids(3 * 70, c.vocabulary, 2);
  const auto check = [&](const model_config& config) {
    const auto m = initialised<float>(config);
    const auto one = step_of(on_threads(1), m, ids, targets, 3, 1, {.training = true, .seed = 5});
    CHECK(std::isfinite(one.loss));
    for (const unsigned threads : {2u, 3u, 8u, 0u}) {
      CAPTURE(threads);
      const auto many =
          step_of(on_threads(threads), m, ids, targets, 3, 1, {.training = true, .seed = 5});
      CHECK(many.loss == one.loss);
      CHECK(many.logits == one.logits);
      CHECK(many.gradients == one.gradients);
    }
  };
  check(c);
  c.block.recurrence.solver = solver::parallel;
  c.block.write = write_rule::decay;
  c.block.decay = decay_kind::dpg;
  c.block.output_gate = true;
  check(c);
}
