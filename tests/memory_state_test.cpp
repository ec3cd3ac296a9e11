// SPDX-License-Identifier: Apache-2.0
// The hierarchy of memory levels, the state of a block and the two rules by which it is written.
#include <mmrec/memory_state.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include <Eigen/Core>

#include "support/catch.hpp"
#include "support/message_of.hpp"
#include "support/numeric.hpp"
#include "support/on_both_backends.hpp"

using namespace mmrec;
using namespace mmrec::testing;

namespace {

// The mean over windows of level slots / next slots each; what is left over at the end counts for
// nothing.
std::vector<double> pooled(const std::vector<double>& level, index_t batch, index_t from,
                           index_t to, index_t d) {
  std::vector<double> next;
  const index_t stride = from / to;
  for (index_t b = 0; b < batch; ++b)
    for (index_t s = 0; s < to; ++s)
      for (index_t j = 0; j < d; ++j) {
        double total = 0;
        for (index_t k = 0; k < stride; ++k)
          total += level[static_cast<std::size_t>((b * from + s * stride + k) * d + j)];
        next.push_back(total / static_cast<double>(stride));
      }
  return next;
}

template <class T>
std::vector<double> widened(const std::vector<T>& values) {
  std::vector<double> wide;
  for (const T v : values) wide.push_back(static_cast<double>(v));
  return wide;
}

memory_state<double> some_state(index_t batch, index_t width, index_t slots, std::uint64_t seed) {
  const auto keys = random_vector<double>(slots * width, seed),
             values = random_vector<double>(slots * width, seed + 1);
  auto s = memory_state<double>::make(batch, width, keys, values);
  s.keys = random_vector<double>(batch * slots * width, seed + 2);
  s.values = random_vector<double>(batch * slots * width, seed + 3);
  s.sum = random_vector<double>(batch * width, seed + 4);
  return s;
}

}  // namespace

TEST_CASE("hds: slots of the levels", "[components]") {
  using levels = std::array<index_t, 3>;
  CHECK(hds_slots(16) == levels{16, 4, 1});
  CHECK(hds_slots(17) == levels{17, 4, 1});
  CHECK(hds_slots(36) == levels{36, 9, 2});
  CHECK(hds_slots(1024) == levels{1024, 256, 64});
  for (const index_t slots : {15, 1, 0, -3})
    CHECK(says(message_of<error>([&] { hds_slots(slots); }),
               {"hds_slots: slots", "16 or more", std::to_string(slots)}));
}

// Each mean is a sum of at most 16 values with one product; half and bfloat16 store every level.
TEMPLATE_TEST_CASE("hds: every level is the mean over windows of the one before", "[components]",
                   float, double, Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  for (const index_t slots : {16, 17, 19, 31, 36, 63, 64, 1024})
    for (const index_t d : {1, 7, 16, 33})
      on_both_backends([&](const auto& backend) {
        const auto levels = hds_slots(slots);
        const auto bank = random_vector<T>(2 * slots * d, static_cast<std::uint64_t>(slots + d));
        std::vector<T> middle(static_cast<std::size_t>(2 * levels[1] * d)),
            top(static_cast<std::size_t>(2 * levels[2] * d));
        const view<const T, 3> bank_view(bank.data(), {2, slots, d});
        hds_pool(backend, bank_view, view<T, 3>(middle.data(), {2, levels[1], d}));
        hds_top(backend, bank_view, view<T, 3>(top.data(), {2, levels[2], d}));
        const auto middle_exact = pooled(widened(bank), 2, slots, levels[1], d);
        const auto top_exact = pooled(middle_exact, 2, levels[1], levels[2], d);
        CAPTURE(slots, d);
        // Elements are up to 1: absolute bounds.
        CHECK(max_scaled_error(std::span<const T>(middle), std::span<const double>(middle_exact),
                               1) <= scan_tolerance<T>(6));
        CHECK(max_scaled_error(std::span<const T>(top), std::span<const double>(top_exact), 1) <=
              scan_tolerance<T>(12, 2));
      });
}

TEST_CASE("hds: slots beyond the last whole window count for nothing", "[components]") {
  on_both_backends([](const auto& backend) {
    // 36 slots: level 1 has 9, of which the top's two windows of 4 take 8; the last four slots are
    // dropped.
    auto bank = random_vector<double>(36 * 3, 1);
    std::vector<double> before(2 * 3), after(2 * 3);
    hds_top(backend, view<const double, 3>(bank.data(), {1, 36, 3}),
            view<double, 3>(before.data(), {1, 2, 3}));
    std::fill(bank.begin() + 32 * 3, bank.end(), 1e9);
    hds_top(backend, view<const double, 3>(bank.data(), {1, 36, 3}),
            view<double, 3>(after.data(), {1, 2, 3}));
    CHECK(before == after);
    const std::vector<double> dtop(6, 1);
    std::vector<double> dbank(36 * 3, 5);
    hds_top_backward(backend, view<const double, 3>(dtop.data(), {1, 2, 3}),
                     view<double, 3>(dbank.data(), {1, 36, 3}));
    for (std::size_t i = 0; i < dbank.size(); ++i)
      CHECK(dbank[i] == (i < 32 * 3 ? 5 + 1.0 / 16 : 5));
  });
}

TEST_CASE("hds: gradients are the transpose and accumulate", "[gradients]") {
  // The map is linear: <R, top(x)> = <top_backward(R), x> for every x, checked slot by slot with
  // unit x.
  for (const index_t slots : {16, 17, 36, 50})
    on_both_backends([&](const auto& backend) {
      const index_t d = 3, top_slots = hds_slots(slots)[2];
      const auto weights = random_vector<double>(2 * top_slots * d, 7),
                 start = random_vector<double>(2 * slots * d, 8);
      auto gradient = start;
      hds_top_backward(backend, view<const double, 3>(weights.data(), {2, top_slots, d}),
                       view<double, 3>(gradient.data(), {2, slots, d}));
      std::vector<double> top(weights.size()), unit(start.size(), 0.0);
      for (std::size_t i = 0; i < unit.size(); ++i) {
        unit[i] = 1;
        hds_top(backend, view<const double, 3>(unit.data(), {2, slots, d}),
                view<double, 3>(top.data(), {2, top_slots, d}));
        double expected = 0;
        for (std::size_t j = 0; j < top.size(); ++j) expected += weights[j] * top[j];
        unit[i] = 0;
        CHECK(std::abs(gradient[i] - start[i] - expected) < 1e-15);
      }
    });
}

TEST_CASE("hds: calls that cannot be right are refused before anything is written",
          "[components][errors]") {
  std::vector<float> bank(32 * 4, 1), out(16 * 4, 77);
  const view<const float, 3> level(bank.data(), {2, 16, 4});
  const auto refuse = [&](const view<const float, 3>& from, const view<float, 3>& to) {
    return message_of<error>([&] { hds_pool(tested{}, from, to); });
  };
  CHECK(says(refuse(level, {out.data(), {2, 0, 4}}), {"hds_pool: next", "between 1 and 16", "0"}));
  CHECK(says(refuse(level.slice(1, 0, 3), {out.data(), {2, 4, 4}}),
             {"hds_pool: next", "between 1 and 3", "4"}));
  CHECK(says(refuse(level, {out.data(), {1, 4, 4}}), {"hds_pool: next", "(2, 4, 4)", "(1, 4, 4)"}));
  CHECK(says(refuse({nullptr, {2, 16, 4}}, {out.data(), {2, 4, 4}}), {"level", "null"}));
  CHECK(says(refuse(level, {bank.data(), {2, 4, 4}}), {"next", "level"}));
  CHECK(says(message_of<error>([&] {
               hds_top(tested{}, level.slice(1, 0, 15), view<float, 3>(out.data(), {2, 1, 4}));
             }),
             {"slots", "16 or more", "15"}));
  CHECK(std::all_of(out.begin(), out.end(), [](float v) { return v == 77; }));
}

TEST_CASE("hds: gradients and overlaps that cannot be right are refused before anything is written",
          "[components][errors]") {
  std::vector<float> memory(400, 77);
  const view<float, 3> level(memory.data(), {2, 16, 4}), next(memory.data() + 128, {2, 4, 4}),
      top(memory.data() + 160, {2, 1, 4}), repeated(next.data_handle(), {2, 4, 4}, {16, 0, 1}),
      repeated_level(level.data_handle(), {2, 16, 4}, {0, 4, 1}),
      repeated_top(top.data_handle(), {2, 1, 4}, {0, 4, 1});
  const auto refused = [&](const auto& call, std::initializer_list<std::string_view> words) {
    on_both_backends([&](const auto& backend) {
      CHECK(says(message_of<error>([&] { call(backend); }), words));
      CHECK(std::all_of(memory.begin(), memory.end(), [](float v) { return v == 77; }));
    });
  };
  const auto pool = [&](const view<float, 3>& from, const view<float, 3>& to,
                        std::initializer_list<std::string_view> words) {
    refused([&](const auto& on) { hds_pool(on, view<const float, 3>(from), to); }, words);
  };
  const auto pool_backward = [&](const view<float, 3>& from, const view<float, 3>& to,
                                 std::initializer_list<std::string_view> words) {
    refused([&](const auto& on) { hds_pool_backward(on, view<const float, 3>(from), to); }, words);
  };
  const auto up = [&](const view<float, 3>& from, const view<float, 3>& to,
                      std::initializer_list<std::string_view> words) {
    refused([&](const auto& on) { hds_top(on, view<const float, 3>(from), to); }, words);
  };
  const auto down = [&](const view<float, 3>& from, const view<float, 3>& to,
                        std::initializer_list<std::string_view> words) {
    refused([&](const auto& on) { hds_top_backward(on, view<const float, 3>(from), to); }, words);
  };
  pool(level, repeated, {"hds_pool: next", "its own place"});
  pool_backward(next.slice(0, 0, 1), level, {"hds_pool_backward: dnext", "(2, 4, 4)", "(1, 4, 4)"});
  pool_backward(next.slice(1, 0, 0), level, {"hds_pool_backward: dnext", "between 1 and 16"});
  pool_backward({nullptr, {2, 4, 4}}, level, {"hds_pool_backward: dnext", "null"});
  pool_backward(next, repeated_level, {"hds_pool_backward: dlevel", "its own place"});
  pool_backward(level.slice(1, 0, 4), level, {"hds_pool_backward: dlevel", "apart from dnext"});
  up(level, top.slice(2, 0, 3), {"hds_top: top", "(2, 1, 4)", "(2, 1, 3)"});
  up(level, repeated_top, {"hds_top: top", "its own place"});
  up(level, level.slice(1, 0, 1), {"hds_top: top", "apart from slots"});
  down(top, level.slice(1, 0, 15), {"hds_slots: slots", "16 or more", "15"});
  down(next, level, {"hds_top_backward: dtop", "(2, 1, 4)", "(2, 4, 4)"});
  down(top, {nullptr, {2, 16, 4}}, {"hds_top_backward: dslots", "null"});
  down(top, repeated_level, {"hds_top_backward: dslots", "its own place"});
  down(level.slice(1, 0, 1), level, {"hds_top_backward: dslots", "apart from dtop"});
}

TEST_CASE("memory state: every sequence starts with h = 0 and the same banks", "[components]") {
  const auto keys = initial_bank<float>(16, 6, 3, 0), values = initial_bank<float>(16, 6, 3, 1);
  auto s = memory_state<float>::make(3, 6, keys, values, 5);
  CHECK((s.batch == 3 && s.width == 6 && s.slots == 16 && s.tokens == 0));
  CHECK(s.hidden == std::vector<float>(18, 0));
  CHECK(s.sum == std::vector<float>(18, 0));
  CHECK(s.recent == std::vector<float>(30, 0));
  for (std::size_t b = 0; b < 3; ++b) {
    CHECK(std::equal(keys.begin(), keys.end(),
                     s.keys.begin() + static_cast<std::ptrdiff_t>(b * keys.size())));
    CHECK(std::equal(values.begin(), values.end(),
                     s.values.begin() + static_cast<std::ptrdiff_t>(b * values.size())));
  }
  CHECK(s.keys_view().extents() == std::array<index_t, 3>{3, 16, 6});
  CHECK(&s.values_view()(2, 15, 5) == &s.values.back());
}

TEST_CASE("memory state: the initial banks are N(0, 0.02^2), the same at every call",
          "[components]") {
  const auto bank = initial_bank<double>(1024, 16, 1, 0);
  CHECK(bank == initial_bank<double>(1024, 16, 1, 0));
  CHECK(bank != initial_bank<double>(1024, 16, 1, 1));
  CHECK(bank != initial_bank<double>(1024, 16, 2, 0));
  double mean = 0, square = 0;
  for (const double x : bank) mean += x / 16384, square += x * x / 16384;
  // Five standard errors: 0.02 / sqrt(n) of the mean, sqrt(2 / n) relative of the variance.
  CHECK(std::abs(mean) < 5 * 0.02 / 128);
  CHECK(std::abs(square / 4e-4 - 1) < 5 * std::sqrt(2.0 / 16384));
}

TEST_CASE("memory state: what cannot be is refused", "[components][errors]") {
  const std::vector<float> bank(16 * 4), short_bank(15 * 4), ragged(16 * 4 + 1);
  const auto make = [](index_t batch, index_t width, const std::vector<float>& k,
                       const std::vector<float>& v) {
    return message_of<error>([&] { memory_state<float>::make(batch, width, k, v); });
  };
  CHECK(says(make(0, 4, bank, bank), {"memory_state: batch", "0"}));
  CHECK(says(make(2, 0, bank, bank), {"memory_state: width", "0"}));
  CHECK(says(make(2, 4, short_bank, short_bank), {"slots", "16 or more", "15"}));
  CHECK(says(make(2, 4, bank, short_bank), {"values", "64", "60"}));
  CHECK(says(make(2, 4, ragged, ragged), {"memory_state: keys", "rows of width 4", "65"}));
  CHECK(says(message_of<error>([&] { memory_state<float>::make(2, 4, bank, bank, -1); }),
             {"memory_state: short_slots", "-1"}));
}

TEST_CASE("write_summary: a ring of block means", "[components]") {
  on_both_backends([](const auto& backend) {
    auto s = some_state(2, 3, 16, 1);
    auto keys = s.keys, values = s.values;
    for (const index_t block : {0, 1, 15, 16, 37, 1000003}) {
      s.sum = random_vector<double>(6, static_cast<std::uint64_t>(block) + 50);
      const auto sum = s.sum;
      write_summary(backend, s, write_rule::ring, block, 8);
      for (std::size_t b = 0; b < 2; ++b)
        for (std::size_t j = 0; j < 3; ++j)
          for (auto* bank : {&keys, &values})
            (*bank)[(b * 16 + static_cast<std::size_t>(block % 16)) * 3 + j] = sum[b * 3 + j] / 8;
      CHECK(s.keys == keys);
      CHECK(s.values == values);
      CHECK(s.sum == std::vector<double>(6, 0));
    }
  });
}

TEST_CASE("write_summary: the decay rule moves every slot", "[components]") {
  on_both_backends([](const auto& backend) {
    auto s = some_state(2, 3, 17, 1);
    for (index_t block = 0; block < 5; ++block) {
      s.sum = random_vector<double>(6, static_cast<std::uint64_t>(block) + 50);
      const auto before = s;
      write_summary(backend, s, write_rule::decay, block, 128);
      for (std::size_t i = 0; i < s.keys.size(); ++i) {
        const double mean = before.sum[i / (17 * 3) * 3 + i % 3] / 128;
        CHECK(std::abs(s.keys[i] - (0.99 * before.keys[i] + 0.01 * mean)) < 1e-15);
        CHECK(std::abs(s.values[i] - (0.99 * before.values[i] + 0.01 * mean)) < 1e-15);
      }
      CHECK(s.sum == std::vector<double>(6, 0));
    }
  });
}

TEST_CASE("write_summary: what cannot be is refused", "[components][errors]") {
  auto s = some_state(2, 3, 16, 1);
  const auto before = s.keys;
  CHECK(says(message_of<error>([&] { write_summary(tested{}, s, write_rule::ring, 0, 0); }),
             {"write_summary: block_tokens", "positive"}));
  CHECK(says(message_of<error>([&] { write_summary(tested{}, s, write_rule::ring, -1, 8); }),
             {"write_summary: block", "-1"}));
  const view<double, 3> keys = s.keys_view(), values = s.values_view();
  const auto refused = [&](const view<double, 3>& dvalues, const view<double, 2>& dmean) {
    return message_of<error>(
        [&] { write_summary_backward(tested{}, keys, dvalues, write_rule::decay, 0, dmean); });
  };
  CHECK(says(refused(values.slice(1, 0, 3), s.sum_view()), {"dvalues", "(2, 16, 3)"}));
  CHECK(says(refused(values, s.sum_view().slice(0, 0, 1)), {"dmean", "(2, 3)", "(1, 3)"}));
  CHECK(says(refused(keys, s.sum_view()), {"dkeys", "apart from dvalues"}));
  const auto back = [&](const view<double, 3>& dkeys, index_t block) {
    return message_of<error>([&] {
      write_summary_backward(tested{}, dkeys, dkeys, write_rule::ring, block, s.sum_view());
    });
  };
  CHECK(says(back(keys, -1), {"write_summary_backward: block", "-1"}));
  CHECK(says(back(keys.slice(1, 0, 0), 0), {"write_summary_backward: slots", "0"}));
  CHECK(s.keys == before);
}

TEST_CASE("write_summary: gradients against finite differences", "[gradients]") {
  on_both_backends([](const auto& backend) {
    for (const write_rule rule : {write_rule::ring, write_rule::decay})
      for (const index_t block : {0, 5, 21}) {
        const auto start = some_state(2, 3, 16, 9);
        const auto dkeys = random_vector<double>(2 * 16 * 3, 21),
                   dvalues = random_vector<double>(2 * 16 * 3, 22);
        const auto loss = [&](const memory_state<double>& before) {
          auto s = before;
          write_summary(backend, s, rule, block, 4);
          double total = 0;
          for (std::size_t i = 0; i < s.keys.size(); ++i)
            total += dkeys[i] * s.keys[i] + dvalues[i] * s.values[i];
          return total;
        };
        auto gk = dkeys, gv = dvalues;
        std::vector<double> dmean(6, 77);
        const std::array<index_t, 3> bank{2, 16, 3};
        write_summary_backward(backend, view<double, 3>(gk.data(), bank),
                               view<double, 3>(gv.data(), bank), rule, block,
                               view<double, 2>(dmean.data(), {2, 3}));
        const auto check = [&](std::vector<double> memory_state<double>::* part,
                               const std::vector<double>& gradient, double scale) {
          for (std::size_t i = 0; i < gradient.size(); ++i) {
            auto s = start;
            const double difference = finite_difference(
                [&](const std::vector<double>& x) {
                  s.*part = x;
                  return loss(s);
                },
                start.*part, i, 1e-3);
            CHECK(std::abs(difference - scale * gradient[i]) < 1e-11);
          }
        };
        check(&memory_state<double>::keys, gk, 1);
        check(&memory_state<double>::values, gv, 1);
        check(&memory_state<double>::sum, dmean, 0.25);  // the mean is a quarter of the sum
      }
  });
}
