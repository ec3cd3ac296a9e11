// SPDX-License-Identifier: Apache-2.0
// The block in double: chunking, causality, update policies, independence of batch entries,
// dropout, and what is refused. Its values and gradients are tested by the fixtures and by
// gradient_flow.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <string>
#include <vector>

#include "support/block_runs.hpp"
#include "support/catch.hpp"
#include "support/numeric.hpp"
#include "support/on_both_backends.hpp"

using namespace mmrec;
using namespace mmrec::testing;

namespace {

const tested one_thread = on_threads(1);

bool same_bits(const memory_state<double>& a, const memory_state<double>& b) {
  return a.tokens == b.tokens && a.hidden == b.hidden && a.keys == b.keys && a.values == b.values &&
         a.sum == b.sum && a.recent == b.recent;
}

}  // namespace

TEST_CASE("block: the result does not depend on how tokens are cut into passes", "[components]") {
  check_chunking<double>(one_thread);
}

TEST_CASE("block: memory, carried state and position matter to the result", "[components]") {
  // What the invariant above would not notice if it were all ignored.
  const auto c = small_block();
  const auto weights = block_weights<double>(c, 1);
  const auto x = random_vector<double>(40 * c.width, 2),
             early = random_vector<double>(24 * c.width, 3);
  auto fresh = block_state<double>(c, 1), used = block_state<double>(c, 1);
  run_block(one_thread, c, weights, early, used, {24});
  CHECK(used.tokens == 24);
  CHECK(used.keys != fresh.keys);
  const auto start = used;
  const auto y = run_block(one_thread, c, weights, x, used, {40});
  const auto after = [&](auto change) {
    auto s = start;
    change(s);
    return run_block(one_thread, c, weights, x, s, {40});
  };
  const auto differs = [&](const std::vector<double>& other) {
    return max_relative_error(other, y) > 1e-6;
  };
  CHECK(after([](auto&) {}) == y);
  CHECK(differs(after([&](auto& s) { s.hidden = fresh.hidden; })));
  CHECK(differs(after([&](auto& s) { s.keys = fresh.keys; })));
  CHECK(differs(after([&](auto& s) { s.values = fresh.values; })));
  CHECK(differs(after([&](auto& s) { s.sum = fresh.sum; })));
  CHECK(differs(after([&](auto& s) { s.tokens = 0; })));
}

TEST_CASE("block: a memory block's mean of h goes where the rule says", "[components]") {
  for (const write_rule rule : {write_rule::ring, write_rule::decay}) {
    auto c = small_block();
    c.write = rule;
    c.slots = 16;
    c.memory_block = 5;
    const index_t batch = 2, time = 5 * 19 + 3, d = c.width;
    const auto weights = block_weights<double>(c, 1);
    const auto x = random_vector<double>(batch * time * d, 2);
    auto state = block_state<double>(c, batch);
    auto keys = state.keys, values = state.values;
    block_activations<double> saved(c, batch, time);
    std::vector<double> y(x.size());
    block_forward(one_thread, c, block_parameters<const double>(c, weights.data()),
                  view<const double, 3>(x.data(), {batch, time, d}),
                  view<double, 3>(y.data(), {batch, time, d}), state, saved);
    std::vector<double> rest(static_cast<std::size_t>(batch * d), 0.0);
    for (index_t b = 0; b < batch; ++b)
      for (index_t j = 0; j < d; ++j) {
        for (index_t k = 0; k < 19; ++k) {
          double mean = 0;
          for (index_t t = 5 * k; t < 5 * k + 5; ++t) mean += saved.h(b * time + t, j) / 5;
          for (auto* bank : {&keys, &values})
            for (index_t m = 0; m < 16; ++m) {
              double& slot = (*bank)[static_cast<std::size_t>((b * 16 + m) * d + j)];
              if (rule == write_rule::decay)
                slot = 0.99 * slot + 0.01 * mean;
              else if (m == k % 16)
                slot = mean;
            }
        }
        for (index_t t = 5 * 19; t < time; ++t)
          rest[static_cast<std::size_t>(b * d + j)] += saved.h(b * time + t, j);
        CHECK(state.hidden[static_cast<std::size_t>(b * d + j)] == saved.h(b * time + time - 1, j));
      }
    const auto close = [](const std::vector<double>& a, const std::vector<double>& b) {
      return max_relative_error(a, b) < 1e-14;
    };
    CHECK(close(state.keys, keys));
    CHECK(close(state.values, values));
    CHECK(close(state.sum, rest));
    CHECK(state.tokens == time);
  }
}

TEST_CASE("block: no output depends on a later token", "[components]") {
  for (const auto& [name, c] : stream_forms()) {
    const index_t time = 50, d = c.width;
    const auto weights = block_weights<double>(c, 1);
    const auto x = random_vector<double>(time * d, 2);
    auto state = block_state<double>(c, 1);
    const auto y = run_block(one_thread, c, weights, x, state, {time});
    for (const index_t t : {0, 1, 15, 16, 33, 49}) {
      CAPTURE(name, t);
      auto changed = x;
      changed[static_cast<std::size_t>(t * d + 3)] += 0.5;
      auto other_state = block_state<double>(c, 1);
      const auto other = run_block(one_thread, c, weights, changed, other_state, {time});
      // The parallel solver's number of sweeps may change, and with it the last bits.
      if (c.recurrence.solver == solver::sequential) {
        CHECK(std::equal(y.begin(), y.begin() + t * d, other.begin()));
      } else {
        for (std::size_t i = 0; i < static_cast<std::size_t>(t * d); ++i)
          REQUIRE(std::abs(y[i] - other[i]) < 1e-13);
      }
      // It does depend on earlier ones, before their trace in h falls below rounding.
      for (index_t s = t; s < std::min(time, t + 8); ++s)
        CHECK(!std::equal(y.begin() + s * d, y.begin() + (s + 1) * d, other.begin() + s * d));
    }
  }
}

TEST_CASE("block: batch entries do not influence one another", "[components]") {
  for (const auto& [name, c] : stream_forms()) {
    const index_t time = 40, d = c.width;
    const std::size_t each = static_cast<std::size_t>(time * d);
    const auto weights = block_weights<double>(c, 1);
    const auto x = random_vector<double>(3 * time * d, 2);
    auto state = block_state<double>(c, 3);
    const auto y = run_block(one_thread, c, weights, x, state, {time});
    CAPTURE(name);
    // Alone, a sequence gives the same.
    for (std::size_t b = 0; b < 3; ++b) {
      const auto begin = static_cast<std::ptrdiff_t>(b * each),
                 end = static_cast<std::ptrdiff_t>((b + 1) * each);
      const std::vector<double> own(x.begin() + begin, x.begin() + end),
          expected(y.begin() + begin, y.begin() + end);
      auto own_state = block_state<double>(c, 1);
      CHECK(max_relative_error(run_block(one_thread, c, weights, own, own_state, {time}),
                               expected) <= 2 * chunking_tolerance<double>(c));
    }
    // And damage to one does not reach the others.
    auto damaged = x;
    damaged[each + 7] = std::numeric_limits<double>::quiet_NaN();
    auto other_state = block_state<double>(c, 3);
    const auto other = run_block(one_thread, c, weights, damaged, other_state, {time});
    CHECK(std::isnan(other[each]));
    for (std::size_t i = 0; i < other.size(); ++i) {
      if (i / each == 1) continue;
      // Without convergence for all, the parallel solver ends sequentially: the last bits may
      // differ.
      if (c.recurrence.solver == solver::sequential ? other[i] != y[i]
                                                    : !(std::abs(other[i] - y[i]) < 1e-13)) {
        FAIL("an element of another sequence changed");
      }
    }
    const auto bank = static_cast<std::size_t>(c.slots * d);
    CHECK(std::none_of(other_state.keys.begin(),
                       other_state.keys.begin() + static_cast<std::ptrdiff_t>(bank),
                       [](double v) { return std::isnan(v); }));
    CHECK(std::none_of(other_state.hidden.begin() + 2 * d, other_state.hidden.end(),
                       [](double v) { return std::isnan(v); }));
  }
}

TEST_CASE("block: update::reference starts h anew and fills the bank with the mean output",
          "[components]") {
  auto c = small_block();
  c.update = update::reference;
  c.short_slots = 12;
  const index_t batch = 2, time = 9, d = c.width;
  const auto weights = block_weights<double>(c, 1);
  const auto x = random_vector<double>(batch * time * d, 2);
  auto state = block_state<double>(c, batch);
  block_activations<double> saved(c, batch, time);
  std::vector<double> y(x.size());
  const auto pass = [&](memory_state<double>& s) {
    block_forward(one_thread, c, block_parameters<const double>(c, weights.data()),
                  view<const double, 3>(x.data(), {batch, time, d}),
                  view<double, 3>(y.data(), {batch, time, d}), s, saved);
    return y;
  };
  const auto first = pass(state);
  for (index_t b = 0; b < batch; ++b)
    for (index_t j = 0; j < d; ++j) {
      double mean = 0;
      for (index_t t = 0; t < time; ++t)
        mean += first[static_cast<std::size_t>((b * time + t) * d + j)] / static_cast<double>(time);
      for (index_t m = 0; m < c.slots; ++m) {
        REQUIRE(std::abs(state.keys_view()(b, m, j) - mean) < 1e-14);
        REQUIRE(std::abs(state.values_view()(b, m, j) - mean) < 1e-14);
      }
    }
  // The short-term bank: the batch mean of h step by step; rows beyond the pass stay.
  for (index_t t = 0; t < 12; ++t)
    for (index_t j = 0; j < d; ++j) {
      const double expected = t < time ? (saved.h(t, j) + saved.h(time + t, j)) / 2 : 0;
      REQUIRE(std::abs(state.recent[static_cast<std::size_t>(t * d + j)] - expected) < 1e-15);
    }
  CHECK(state.tokens == time);
  // Neither h nor the position enter the next pass; the banks do.
  auto other = state;
  other.hidden = random_vector<double>(batch * d, 8), other.tokens = 5;
  const auto second = pass(state);
  CHECK(pass(other) == second);
  CHECK(second != first);
}

TEST_CASE("block: dropout in training only, from its seed and stream, with the right mean",
          "[components]") {
  auto c = small_block();
  c.dropout = 0.3;
  const index_t batch = 2, time = 9, d = c.width;
  auto weights = block_weights<double>(c, 1);
  const auto x = random_vector<double>(batch * time * d, 2);
  const auto run = [&](const block_config& config, const block_dropout& drop,
                       unsigned threads = 1) {
    auto state = block_state<double>(config, batch);
    return run_block(on_threads(threads), config, weights, x, state, {time}, drop);
  };
  auto without = c;
  without.dropout = 0;
  const auto plain = run(without, {});
  CHECK(run(c, {.training = false, .seed = 1, .stream = 2}) == plain);
  CHECK(run(without, {.training = true, .seed = 1, .stream = 2}) == plain);
  const auto trained = run(c, {.training = true, .seed = 1, .stream = 2});
  CHECK(trained != plain);
  CHECK(run(c, {.training = true, .seed = 1, .stream = 2}) == trained);
  CHECK(run(c, {.training = true, .seed = 1, .stream = 2}, 3) == trained);
  CHECK(run(c, {.training = true, .seed = 2, .stream = 2}) != trained);
  const auto other = run(c, {.training = true, .seed = 1, .stream = 5});
  CHECK(other != trained);
  const std::vector<std::uint64_t> three{3};
  CHECK(run(c, {.training = true, .seed = 1, .stream = 2, .offset = three.data()}) == other);

  // Without the ffn the block is linear in the dropped sum: the mean over seeds is the value
  // without dropout, within six standard errors, |c| sqrt(rate / (1 - rate) / n).
  for (const auto& part : block_layout(c))
    if (part.name.starts_with("ffn.3"))
      std::fill_n(weights.begin() + part.offset, part.size(), 0.0);
  const auto expected = run(without, {});
  std::vector<double> mean(expected.size(), 0.0);
  const int runs = 500;
  for (int seed = 0; seed < runs; ++seed) {
    const auto y = run(c, {.training = true, .seed = static_cast<std::uint64_t>(seed)});
    for (std::size_t i = 0; i < y.size(); ++i) mean[i] += y[i] / runs;
  }
  for (std::size_t i = 0; i < mean.size(); ++i) {
    const double deviation = std::abs(expected[i] - x[i]) * std::sqrt(0.3 / 0.7 / runs);
    CHECK(std::abs(mean[i] - expected[i]) <= 6 * deviation + 1e-12);
  }
}

TEST_CASE("block: an empty pass changes nothing", "[components]") {
  const auto c = small_block();
  const auto weights = block_weights<double>(c, 1);
  auto state = block_state<double>(c, 2);
  const auto before = state;
  block_activations<double> saved(c, 2, 0);
  const view<const double, 3> x(nullptr, {2, 0, c.width});
  block_forward(one_thread, c, block_parameters<const double>(c, weights.data()), x,
                view<double, 3>(nullptr, {2, 0, c.width}), state, saved);
  CHECK(same_bits(state, before));
  std::vector<double> gradients(weights.size(), 3),
      bank(static_cast<std::size_t>(2 * c.slots * c.width), 77);
  block_backward(one_thread, c, block_parameters<const double>(c, weights.data()), x, x, saved,
                 block_parameters<double>(c, gradients.data()),
                 view<double, 3>(nullptr, {2, 0, c.width}),
                 {.keys = {bank.data(), {2, c.slots, c.width}}});
  CHECK(gradients == std::vector<double>(weights.size(), 3));
  CHECK(bank == std::vector<double>(bank.size(), 0));  // overwritten, as it is by any other pass
}

TEST_CASE("block: gradients of the banks go to arrays of any row stride", "[gradients]") {
  const auto c = small_block();
  const index_t d = c.width;
  const auto weights = block_weights<double>(c, 1);
  const auto x = random_vector<double>(2 * 40 * d, 2), dy = random_vector<double>(2 * 40 * d, 3);
  auto state = block_state<double>(c, 2);
  block_activations<double> saved(c, 2, 40);
  std::vector<double> y(x.size()), dx(x.size()), dense(static_cast<std::size_t>(4 * c.slots * d)),
      wide(static_cast<std::size_t>(4 * c.slots * (d + 5)), 77);
  const std::array<index_t, 3> tokens{2, 40, d}, bank{2, c.slots, d};
  const view<const double, 3> in(x.data(), tokens);
  block_forward(one_thread, c, block_parameters<const double>(c, weights.data()), in,
                view<double, 3>(y.data(), tokens), state, saved);
  const auto backward = [&](const bank_gradients<double>& banks) {
    std::vector<double> g(weights.size(), 0.0);
    block_backward(one_thread, c, block_parameters<const double>(c, weights.data()), in,
                   view<const double, 3>(dy.data(), tokens), saved,
                   block_parameters<double>(c, g.data()), view<double, 3>(dx.data(), tokens),
                   banks);
    return g;
  };
  const view<double, 3> keys(dense.data(), bank), values(dense.data() + keys.size(), bank);
  const view<double, 3> all(wide.data(), {4, c.slots, d + 5});
  const auto wide_keys = all.slice(0, 0, 2).slice(2, 2, d),
             wide_values = all.slice(0, 2, 2).slice(2, 2, d);
  const auto with = backward({keys, values});
  CHECK(backward({wide_keys, wide_values}) == with);
  CHECK(backward({}) == with);
  for (index_t b = 0; b < 2; ++b)
    for (index_t m = 0; m < c.slots; ++m) {
      for (index_t j = 0; j < d; ++j) {
        REQUIRE(wide_keys(b, m, j) == keys(b, m, j));
        REQUIRE(wide_values(b, m, j) == values(b, m, j));
      }
      REQUIRE((all(b, m, 0) == 77 && all(b, m, 1) == 77 && all(b, m, d + 2) == 77));
    }
  CHECK(max_abs(std::span<const double>(dense)) > 1e-6);
}
