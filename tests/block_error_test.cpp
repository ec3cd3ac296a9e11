// SPDX-License-Identifier: Apache-2.0
// The block: configurations and calls that are refused.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <string>
#include <type_traits>
#include <vector>

#include "support/block_runs.hpp"
#include "support/catch.hpp"
#include "support/message_of.hpp"
#include "support/numeric.hpp"
#include "support/on_both_backends.hpp"

using namespace mmrec;
using namespace mmrec::testing;

TEST_CASE("block: configurations that cannot be are refused", "[components][errors]") {
  const auto refused = [](const auto& change) {
    auto c = small_block();
    change(c);
    return message_of<error>([&] { check_config("block_forward", c); });
  };
  CHECK_NOTHROW(check_config("block_forward", small_block()));
  CHECK(says(refused([](auto& c) { c.heads = 3; }),
             {"block_forward: heads", "divisor of width = 20", "3"}));
  CHECK(says(refused([](auto& c) { c.heads = 0; }), {"heads", "positive"}));
  CHECK(says(refused([](auto& c) { c.width = 0; }), {"width", "positive"}));
  CHECK(says(refused([](auto& c) { c.ffn = -4; }), {"ffn", "-4"}));
  CHECK(says(refused([](auto& c) { c.inner = -1; }), {"inner", "-1"}));
  CHECK(says(refused([](auto& c) { c.slots = 15; }), {"slots", "16 or more", "15"}));
  CHECK(says(refused([](auto& c) { c.short_slots = -1; }), {"short_slots", "-1"}));
  CHECK(says(refused([](auto& c) { c.memory_block = 0; }), {"memory_block", "positive"}));
  CHECK(says(refused([](auto& c) { c.decay = decay_kind::dpg, c.dpg_rank = 0; }),
             {"dpg_rank", "positive"}));
  CHECK(says(refused([](auto& c) { c.dropout = 1; }), {"dropout", "[0, 1)", "1.0"}));
  CHECK(says(refused([](auto& c) { c.dropout = -0.1; }), {"dropout", "[0, 1)", "-0.1"}));
  CHECK(says(refused([](auto& c) { c.dropout = std::nan(""); }), {"dropout", "nan"}));
  CHECK(says(refused([](auto& c) { c.recurrence.max_sweeps = 0; }), {"max_sweeps", "positive"}));
  CHECK(says(refused([](auto& c) { c.recurrence.window = 0; }), {"window", "positive"}));
  CHECK(says(refused([](auto& c) { c.recurrence.tolerance = -1; }), {"tolerance", "0 or more"}));
  CHECK(says(refused([](auto& c) { c.recurrence.mix = std::nan(""); }), {"mix", "finite", "nan"}));
  CHECK(says(refused([](auto& c) { c.norm.epsilon = std::nan(""); }), {"norm.epsilon", "nan"}));
  CHECK(says(refused([](auto& c) { c.norm.epsilon = -1e-6; }), {"norm.epsilon", "-1e-06"}));
  auto c = small_block();
  c.slots = 3;
  CHECK(says(message_of<error>([&] { block_activations<double>(c, 1, 1); }),
             {"block_activations: slots"}));
  CHECK(says(message_of<error>([&] { block_activations<double>(small_block(), -1, 1); }),
             {"block_activations", "-1"}));
}

TEST_CASE("block: calls that cannot be right are refused before anything is written",
          "[components][errors]") {
  auto config = small_block();
  const tested one_thread = on_threads(1);
  const index_t batch = 2, time = 6, d = config.width;
  const auto weights = block_weights<double>(config, 1);
  const auto x = random_vector<double>(batch * time * d, 2);
  std::vector<double> y(static_cast<std::size_t>(config.slots * d), 77);  // more than y's size
  const auto call = [&](const auto& change) {
    auto c = config;
    auto state = block_state<double>(c, batch);
    state.hidden = random_vector<double>(batch * d, 5);
    block_activations<double> saved(c, batch, time);
    view<const double, 3> in(x.data(), {batch, time, d});
    view<double, 3> out(y.data(), {batch, time, d});
    block_parameters<const double> w(config, weights.data());
    if constexpr (std::is_invocable_v<decltype(change), block_parameters<const double>&>)
      change(w);
    else
      change(c, in, out, state, saved);
    const auto before = state;
    const auto message =
        message_of<error>([&] { block_forward(one_thread, c, w, in, out, state, saved); });
    CHECK((state.tokens == before.tokens && state.hidden == before.hidden &&
           state.keys == before.keys && state.values == before.values && state.sum == before.sum));
    CHECK(std::all_of(y.begin(), y.end(), [](double v) { return v == 77; }));
    CHECK(message.find("block_forward") != message.npos);
    return message;
  };
  CHECK(says(call([&](auto& c, auto&, auto&, auto& s, auto&) { s = block_state<double>(c, 3); }),
             {"state", "batch of 2", "batch 3"}));
  CHECK(says(call([&](auto& c, auto&, auto&, auto& s, auto&) {
               c.slots = 16;
               s = block_state<double>(c, 2);
               c.slots = 32;
             }),
             {"state", "32 slots", "16"}));
  CHECK(says(call([&](auto& c, auto&, auto&, auto& s, auto&) {
               c.width = 24;
               s = block_state<double>(c, 2);
               c.width = 20;
             }),
             {"state", "width 20", "24"}));
  CHECK(says(call([&](auto&, auto& in, auto&, auto&, auto&) { in = in.slice(2, 0, 19); }),
             {"x", "(2, 6, 20)", "(2, 6, 19)"}));
  CHECK(says(call([&](auto&, auto& in, auto&, auto&, auto&) { in = {nullptr, {batch, time, d}}; }),
             {"x", "null"}));
  CHECK(says(call([&](auto&, auto&, auto& out, auto&, auto&) { out = out.slice(1, 0, 5); }),
             {"y", "(2, 5, 20)"}));
  CHECK(says(call([&](auto&, auto&, auto& out, auto&, auto&) {
               out = {y.data(), {batch, time, d}, {time * d + 7, d, 1}};
             }),
             {"y", "one stride apart"}));
  CHECK(says(call([&](auto&, auto& in, auto& out, auto&, auto&) { in = out; }), {"y", "x"}));
  CHECK(says(call([&](auto& c, auto&, auto&, auto&, auto& saved) {
               saved = block_activations<double>(c, 2, 5);
             }),
             {"saved", "2 x 6", "2 x 5"}));
  CHECK(says(call([&](auto& c, auto&, auto&, auto&, auto&) { c.memory_block = 1; }),
             {"saved", "memory blocks"}));
  CHECK(says(call([&](auto& c, auto&, auto&, auto&, auto&) { c.heads = 2; }), {"saved", "heads"}));
  CHECK(says(call([&](auto& c, auto&, auto&, auto&, auto&) { c.ffn = 30; }),
             {"saved", "ffn", "30", "24"}));
  CHECK(says(call([&](auto& c, auto&, auto&, auto&, auto&) { c.inner = 3; }), {"saved", "inner"}));
  CHECK(says(call([&](auto& c, auto&, auto&, auto&, auto&) { c.recurrence.max_sweeps = 0; }),
             {"max_sweeps"}));
  CHECK(says(call([&](auto&, auto&, auto&, auto& s, auto&) { s.keys.pop_back(); }),
             {"state", "arrays of its batch, width and slots"}));
  // On top of what the pass writes beside y.
  const auto onto = [&](auto& tokens, auto* memory) { tokens = {memory, {batch, time, d}}; };
  CHECK(says(call([&](auto&, auto&, auto& out, auto& s, auto&) { onto(out, s.keys.data()); }),
             {"block_forward: y", "apart from state.keys"}));
  CHECK(says(call([&](auto&, auto&, auto& out, auto& s, auto&) { onto(out, s.values.data()); }),
             {"block_forward: y", "apart from state.values"}));
  CHECK(says(call([&](auto&, auto& in, auto&, auto& s, auto&) { onto(in, s.keys.data()); }),
             {"block_forward: x", "apart from state.keys"}));
  CHECK(says(call([&](auto&, auto&, auto& out, auto& s, auto&) {
               s.hidden.reserve(x.size());
               onto(out, s.hidden.data());
             }),
             {"block_forward: y", "apart from state.hidden"}));
  CHECK(says(
      call([&](auto&, auto&, auto& out, auto&, auto& saved) { onto(out, saved.h.data_handle()); }),
      {"block_forward: y", "apart from saved"}));
  CHECK(says(
      call([&](auto&, auto& in, auto&, auto&, auto& saved) { onto(in, saved.n1.data_handle()); }),
      {"block_forward: x", "apart from saved"}));
  CHECK(says(call([&](auto&, auto&, auto& out, auto&, auto& saved) {
               onto(out, saved.top(0, 1).data_handle());
             }),
             {"block_forward: y", "apart from saved"}));

  // Without a state.
  const auto bank = random_vector<double>(config.slots * d, 6);
  const auto whole = [&](const auto& change) {
    initial_banks<double> banks{{bank.data(), {config.slots, d}}, {bank.data(), {config.slots, d}}};
    auto c = config;
    change(c, banks);
    block_activations<double> saved(c, batch, time);
    const auto message = message_of<error>([&] {
      block_forward(one_thread, c, block_parameters<const double>(config, weights.data()),
                    view<const double, 3>(x.data(), {batch, time, d}),
                    view<double, 3>(y.data(), {batch, time, d}), banks, saved);
    });
    CHECK(std::all_of(y.begin(), y.end(), [](double v) { return v == 77; }));
    CHECK(message.find("block_forward") != message.npos);
    return message;
  };
  CHECK(says(whole([](auto&, auto& banks) { banks.keys = banks.keys.slice(0, 0, 31); }),
             {"banks.keys", "(32, 20)", "(31, 20)"}));
  CHECK(says(whole([](auto&, auto& banks) { banks.values = {nullptr, {32, 20}}; }),
             {"banks.values", "null"}));
  for (const auto member : {&initial_banks<double>::keys, &initial_banks<double>::values})
    CHECK(says(whole([&](auto&, auto& banks) { banks.*member = {y.data(), {32, 20}}; }),
               {"block_forward: y", "apart from banks."}));
  CHECK(says(whole([](auto& c, auto&) { c.memory_block = 5; }),
             {"x", "at most 5 tokens", "no state", "6"}));

  // Parameters of another form, or on top of the output.
  using parameters = block_parameters<const double>;
  auto other = config;
  other.ffn = 12;
  CHECK(says(call([&](parameters& w) { w = parameters(other, weights.data()); }),
             {"block_forward: w: ffn.0", "(24, 20)", "(12, 20)"}));
  other = config;
  other.recurrence.mix_gate = false;
  CHECK(says(call([&](parameters& w) { w = parameters(other, weights.data()); }),
             {"block_forward: w: mdi.W_g", "(20, 40)", "(0, 0)"}));
  CHECK(says(call([&](parameters& w) { w.norm2 = {nullptr, {d}}; }),
             {"block_forward: w: norm2", "null"}));
  CHECK(says(call([&](parameters& w) { w.norm1 = {y.data(), {d}}; }),
             {"block_forward: y", "apart from norm1"}));

  // More tokens than the short-term bank has rows would be lost.
  config.update = update::reference;
  config.short_slots = 5;
  CHECK(says(call([](auto&, auto&, auto&, auto&, auto&) {}), {"x", "at most 5 tokens", "6"}));
}

TEST_CASE("block_backward: calls that cannot be right are refused before anything is written",
          "[gradients][errors]") {
  const auto config = small_block();
  const index_t batch = 2, time = 6, d = config.width;
  const std::array<index_t, 3> shape{batch, time, d}, bank{batch, config.slots, d};
  const auto weights = block_weights<double>(config, 1);
  const auto x = random_vector<double>(batch * time * d, 2), dy = random_vector<double>(240, 3);
  const auto tokens = static_cast<std::size_t>(batch * time * d);
  // dx, the gradients of the banks and of the parameters lie behind one another.
  const auto bank_size = static_cast<std::size_t>(batch * config.slots * d);
  std::vector<double> written(tokens + 2 * bank_size + weights.size(), 77);
  double* const at_banks = written.data() + tokens;
  double* const at_parameters = at_banks + 2 * bank_size;
  struct arguments {
    block_config c;
    block_parameters<const double> w;
    view<const double, 3> x, dy;
    block_activations<double> saved;
    block_parameters<double> dw;
    view<double, 3> dx;
    bank_gradients<double> banks;
  };
  const auto call = [&](const auto& change) {
    arguments a{config,
                {config, weights.data()},
                {x.data(), shape},
                {dy.data(), shape},
                {config, batch, time},
                {config, at_parameters},
                {written.data(), shape},
                {.keys = {at_banks, bank}, .values = {at_banks + bank_size, bank}}};
    change(a);
    const auto message = message_of<error>(
        [&] { block_backward(on_threads(1), a.c, a.w, a.x, a.dy, a.saved, a.dw, a.dx, a.banks); });
    CHECK(std::all_of(written.begin(), written.end(), [](double v) { return v == 77; }));
    return message;
  };
  using change = arguments&;
  CHECK(says(call([](change a) { a.c.heads = 3; }), {"block_backward: heads", "divisor"}));
  CHECK(says(call([](change a) { a.c.ffn = 30; }), {"block_backward: saved", "ffn", "30", "24"}));
  CHECK(says(call([](change a) { a.x = a.x.slice(1, 0, 5); }),
             {"block_backward: x", "(2, 6, 20)", "(2, 5, 20)"}));
  CHECK(says(call([](change a) { a.dy = a.dy.slice(2, 0, 19); }), {"block_backward: dy", "19"}));
  CHECK(says(call([](change a) { a.dx = a.dx.slice(0, 0, 1); }), {"block_backward: dx", "(1, 6"}));
  CHECK(says(call([](change a) { a.dx = {nullptr, a.dx.extents()}; }),
             {"block_backward: dx", "null"}));
  CHECK(says(call([](change a) { a.banks.keys = a.banks.keys.slice(1, 0, 31); }),
             {"block_backward: dbanks.keys", "(2, 32, 20)", "(2, 31, 20)"}));
  CHECK(says(call([](change a) { a.banks.values = a.banks.values.slice(0, 0, 1); }),
             {"block_backward: dbanks.values", "(1, 32, 20)"}));
  CHECK(says(call([](change a) { a.banks.values = a.banks.keys; }),
             {"dbanks.keys", "apart from dbanks.values"}));
  CHECK(says(call([](change a) { a.dy = a.dx; }), {"block_backward: dx", "apart from dy"}));
  CHECK(says(call([](change a) { a.x = a.dx; }), {"block_backward: dx", "apart from x"}));

  // Parameters and their gradients.
  CHECK(says(call([&](change a) {
               auto other = config;
               other.inner = 3;
               a.w = {other, weights.data()};
             }),
             {"block_backward: w: mdi.W_gamma.0", "(5, 20)", "(3, 20)"}));
  CHECK(says(call([&](change a) {
               auto other = config;
               other.ffn = 12;
               a.dw = {other, at_parameters};
             }),
             {"block_backward: dw: ffn.0", "(24, 20)", "(12, 20)"}));
  CHECK(says(call([](change a) { a.dw.gate.bias = {}; }), {"block_backward: dw: W_g", "(20)"}));
  CHECK(says(call([](change a) { a.dw.norm1 = {a.dw.norm1.data_handle(), {20}, {0}}; }),
             {"block_backward: dw: norm1", "unit stride"}));
  CHECK(says(call([](change a) { a.dw.norm1 = {a.dx.data_handle(), {20}}; }),
             {"block_backward: dw: norm1", "apart from dx"}));
  CHECK(says(call([](change a) { a.w.norm1 = {a.dx.data_handle(), {20}}; }),
             {"block_backward: dx", "apart from norm1"}));
  CHECK(says(call([](change a) { a.x = {a.dw.qkvz.weight.data_handle(), a.x.extents()}; }),
             {"block_backward: dw: W_q", "apart from x"}));
  CHECK(says(call([&](change a) { a.w = {a.c, at_parameters}; }),
             {"block_backward: dw: W_q", "apart from W_q"}));
  CHECK(says(call([](change a) { a.w.norm2 = a.dw.gate.bias; }),
             {"block_backward: dw: W_g", "apart from norm2"}));

  // On top of what the forward left.
  const auto left = [](change a) { return a.saved.gamma.data_handle(); };
  CHECK(says(call([&](change a) { a.dx = {left(a), a.dx.extents()}; }),
             {"block_backward: dx", "apart from saved"}));
  CHECK(says(call([&](change a) { a.dw.norm1 = {left(a), {20}}; }),
             {"block_backward: dw: norm1", "apart from saved"}));
  CHECK(says(call([&](change a) { a.banks.keys = {left(a), a.banks.keys.extents()}; }),
             {"block_backward: dbanks.keys", "apart from saved"}));
}
