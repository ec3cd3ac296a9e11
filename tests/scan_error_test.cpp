// SPDX-License-Identifier: Apache-2.0
// What the scans refuse: every message names the function, the argument, what was expected and what
// was seen, and nothing has been written when it is thrown.
#include <mmrec/scan.hpp>

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/on_both_backends.hpp"

using namespace mmrec;
using mmrec::testing::tested;

namespace {

constexpr float poison = -12345;
const std::array<index_t, 3> shape{2, 5, 7};
const std::array<index_t, 2> state_shape{2, 7};

// Arrays of a call that is right; each test spoils one thing.
struct fixture {
  std::vector<float> memory = std::vector<float>(1000, poison);
  std::vector<float> inputs = std::vector<float>(1000, 0.5F);
  view<const float, 3> x{inputs.data(), shape}, b{inputs.data() + 100, shape},
      saved{inputs.data() + 200, shape};
  view<const float, 3> dy{inputs.data() + 300, shape};
  view<float, 3> y{memory.data(), shape}, z{memory.data() + 100, shape};
  view<float, 2> state{memory.data() + 200, state_shape};
  view<const float, 2> initial{inputs.data() + 400, state_shape};

  bool untouched() const {
    for (const float v : memory)
      if (v != poison) return false;
    return true;
  }
};

template <std::size_t Rank>
view<const float, Rank> of_shape(const view<const float, Rank>& v,
                                 const std::array<index_t, Rank>& extents) {
  return {v.data_handle(), extents};
}
template <std::size_t Rank>
view<float, Rank> of_shape(const view<float, Rank>& v, const std::array<index_t, Rank>& extents) {
  return {v.data_handle(), extents};
}

struct sum_of {
  template <class V>
  MMREC_HD V operator()(const V& a, const V& b) const {
    return a + b;
  }
};
struct same_partials {
  template <class V>
  MMREC_HD std::array<V, 2> operator()(const V& a, const V&) const {
    return {a, a};
  }
};

void check_words(const std::string& message, const std::vector<std::string>& words) {
  for (const auto& word : words) {
    CAPTURE(message, word);
    CHECK(message.find(word) != std::string::npos);
  }
}

// The call throws mmrec::error with all these words in its message, and writes nothing.
template <class F>
void check_refused(const fixture& f, const F& call, const std::vector<std::string>& words) {
  try {
    call(tested{});
    FAIL_CHECK("not refused by the backend under test");
  } catch (const error& e) {
    const std::string message = e.what();
    check_words(message, words);
  }
  CHECK_THROWS_AS(call(backend::reference{}), error);
  CHECK(f.untouched());
}

}  // namespace

TEST_CASE("scan errors: shapes that disagree", "[errors][scan]") {
  fixture f;
  const std::array<index_t, 3> wrong{2, 5, 6}, longer{2, 6, 7}, negative{2, -5, 7};
  const auto refused = [&](const auto& call, const std::vector<std::string>& words) {
    check_refused(f, call, words);
  };
  refused([&](const auto& on) { cumprod(on, f.x, of_shape(f.y, wrong)); },
          {"cumprod", ": y:", "(2, 5, 7)", "(2, 5, 6)"});
  refused([&](const auto& on) { cumsum(on, f.x, of_shape(f.y, longer)); },
          {"cumsum", ": y:", "(2, 5, 7)", "(2, 6, 7)"});
  refused([&](const auto& on) { log_cumprod(on, f.x, of_shape(f.y, wrong)); },
          {"log_cumprod", ": y:", "(2, 5, 6)"});
  refused([&](const auto& on) { logcumsumexp(on, f.x, of_shape(f.y, wrong)); },
          {"logcumsumexp", ": y:", "(2, 5, 6)"});
  refused([&](const auto& on) { linear_scan(on, f.x, of_shape(f.b, wrong), f.y); },
          {"linear_scan", ": b:", "(2, 5, 7)", "(2, 5, 6)"});
  refused([&](const auto& on) { linear_scan(on, f.x, f.b, of_shape(f.y, wrong)); },
          {"linear_scan", ": h:", "(2, 5, 6)"});
  refused([&](const auto& on) { log_linear_scan(on, f.x, of_shape(f.b, longer), f.y); },
          {"log_linear_scan", ": be:", "(2, 6, 7)"});
  refused([&](const auto& on) { log_linear_scan(on, f.x, f.b, of_shape(f.y, longer)); },
          {"log_linear_scan", ": l:", "(2, 6, 7)"});
  refused([&](const auto& on) { inclusive_scan(on, f.x, of_shape(f.y, wrong), sum_of{}, 0); },
          {"inclusive_scan", ": y:", "(2, 5, 6)"});
  refused([&](const auto& on) { cumsum(on, of_shape(f.x, negative), of_shape(f.y, negative)); },
          {"cumsum", ": x:", "0 or more", "(2, -5, 7)"});
}

TEST_CASE("scan errors: shapes that disagree in a gradient", "[errors][scan]") {
  fixture f;
  const std::array<index_t, 3> wrong{2, 5, 6};
  const auto refused = [&](const auto& call, const std::vector<std::string>& words) {
    check_refused(f, call, words);
  };
  refused([&](const auto& on) { cumsum_backward(on, f.dy, of_shape(f.y, wrong)); },
          {"cumsum_backward", ": dx:", "(2, 5, 7)", "(2, 5, 6)"});
  refused([&](const auto& on) { cumprod_backward(on, f.dy, of_shape(f.x, wrong), f.saved, f.y); },
          {"cumprod_backward", ": x:", "(2, 5, 6)"});
  refused([&](const auto& on) { cumprod_backward(on, f.dy, f.x, of_shape(f.saved, wrong), f.y); },
          {"cumprod_backward", ": y:", "(2, 5, 6)"});
  refused([&](const auto& on) { log_cumprod_backward(on, f.dy, of_shape(f.x, wrong), f.y); },
          {"log_cumprod_backward", ": x:", "(2, 5, 6)"});
  refused(
      [&](const auto& on) { logcumsumexp_backward(on, f.dy, f.x, f.saved, of_shape(f.y, wrong)); },
      {"logcumsumexp_backward", ": dx:", "(2, 5, 6)"});
  refused(
      [&](const auto& on) {
        linear_scan_backward(on, f.dy, of_shape(f.x, wrong), f.saved, {.da = f.y});
      },
      {"linear_scan_backward", ": a:", "(2, 5, 6)"});
  refused(
      [&](const auto& on) {
        linear_scan_backward(on, f.dy, f.x, f.saved, {.da = of_shape(f.y, wrong)});
      },
      {"linear_scan_backward", ": da:", "(2, 5, 6)"});
  refused(
      [&](const auto& on) {
        linear_scan_backward(on, f.dy, f.x, f.saved, {.da = f.y, .db = of_shape(f.z, wrong)});
      },
      {"linear_scan_backward", ": db:", "(2, 5, 6)"});
  refused(
      [&](const auto& on) {
        log_linear_scan_backward(on, f.dy, f.x, of_shape(f.b, wrong), f.saved, {.da = f.y});
      },
      {"log_linear_scan_backward", ": be:", "(2, 5, 6)"});
  const same_partials partials;
  refused(
      [&](const auto& on) {
        inclusive_scan_backward(on, f.dy, f.x, of_shape(f.saved, wrong), f.y, partials, 0);
      },
      {"inclusive_scan_backward", ": y:", "(2, 5, 6)"});
  refused(
      [&](const auto& on) {
        linear_scan_double_backward(on, f.dy, of_shape(f.b, wrong), f.x, f.saved, f.dy, f.y, {});
      },
      {"linear_scan_double_backward", ": vb:", "(2, 5, 6)"});
  refused(
      [&](const auto& on) {
        linear_scan_double_backward(on, f.dy, f.b, f.x, f.saved, f.dy, f.y,
                                    {.da = of_shape(f.z, wrong)});
      },
      {"linear_scan_double_backward", ": da:", "(2, 5, 6)"});
}

TEST_CASE("scan errors: states of the wrong shape", "[errors][scan]") {
  fixture f;
  const std::array<index_t, 2> wrong{3, 7}, narrow{2, 6};
  const auto refused = [&](const auto& call, const std::vector<std::string>& words) {
    check_refused(f, call, words);
  };
  refused([&](const auto& on) { cumprod(on, f.x, f.y, {.initial = of_shape(f.initial, wrong)}); },
          {"cumprod", ": initial:", "(2, 7)", "(3, 7)"});
  refused([&](const auto& on) { cumprod(on, f.x, f.y, {.final = of_shape(f.state, narrow)}); },
          {"cumprod", ": final:", "(2, 7)", "(2, 6)"});
  refused(
      [&](const auto& on) {
        linear_scan(on, f.x, f.b, f.y, {.initial = of_shape(f.initial, narrow)});
      },
      {"linear_scan", ": initial:", "(2, 6)"});
  refused(
      [&](const auto& on) {
        cumsum_backward(on, f.dy, f.y, {.dfinal = of_shape(f.initial, wrong)});
      },
      {"cumsum_backward", ": dfinal:", "(3, 7)"});
  refused(
      [&](const auto& on) {
        linear_scan_backward(on, f.dy, f.x, f.saved,
                             {.da = f.y, .dinitial = of_shape(f.state, narrow)});
      },
      {"linear_scan_backward", ": dinitial:", "(2, 6)"});
  refused(
      [&](const auto& on) {
        linear_scan_backward(on, f.dy, f.x, f.saved,
                             {.da = f.y, .initial = of_shape(f.initial, wrong)});
      },
      {"linear_scan_backward", ": initial:", "(3, 7)"});
  refused(
      [&](const auto& on) {
        linear_scan_double_backward(on, f.dy, f.b, f.x, f.saved, f.dy, f.y,
                                    {.vinitial = of_shape(f.initial, wrong)});
      },
      {"linear_scan_double_backward", ": vinitial:", "(3, 7)"});
  // With segments a state has a row for each of them.
  const std::vector<index_t> offsets{0, 2, 2, 5};
  const std::array<index_t, 3> packed{1, 5, 7};
  refused(
      [&](const auto& on) {
        cumsum(on, of_shape(f.x, packed), of_shape(f.y, packed),
               {.final = f.state, .offsets = offsets});
      },
      {"cumsum", ": final:", "(3, 7)", "(2, 7)"});
}

TEST_CASE("scan errors: null data", "[errors][scan]") {
  fixture f;
  const view<const float, 3> no_input{nullptr, shape};
  const view<float, 3> no_output{nullptr, shape};
  const auto refused = [&](const auto& call, const std::vector<std::string>& words) {
    check_refused(f, call, words);
  };
  refused([&](const auto& on) { cumsum(on, no_input, f.y); },
          {"cumsum", ": x:", "data", "(2, 5, 7)", "null"});
  refused([&](const auto& on) { cumsum(on, f.x, no_output); }, {"cumsum", ": y:", "data", "null"});
  refused([&](const auto& on) { linear_scan(on, f.x, no_input, f.y); },
          {"linear_scan", ": b:", "null"});
  refused([&](const auto& on) { cumsum(on, f.x, f.y, {.initial = {nullptr, state_shape}}); },
          {"cumsum", ": initial:", "null"});
  refused([&](const auto& on) { cumsum(on, f.x, f.y, {.final = {nullptr, state_shape}}); },
          {"cumsum", ": final:", "null"});
  refused([&](const auto& on) { cumprod_backward(on, no_input, f.x, f.saved, f.y); },
          {"cumprod_backward", ": dy:", "null"});
  refused([&](const auto& on) { cumprod_backward(on, f.dy, f.x, f.saved, no_output); },
          {"cumprod_backward", ": dx:", "null"});
  refused([&](const auto& on) { linear_scan_backward(on, f.dy, f.x, f.saved, {.da = no_output}); },
          {"linear_scan_backward", ": da:", "null"});
  refused(
      [&](const auto& on) {
        linear_scan_double_backward(on, f.dy, f.b, f.x, no_input, f.dy, f.y, {});
      },
      {"linear_scan_double_backward", ": h:", "null"});
}

TEST_CASE("scan errors: outputs that overlap", "[errors][scan]") {
  fixture f;
  const view<const float, 3> over_y = f.y;  // an input in the memory of the output
  const view<const float, 3> shifted{f.memory.data() + 1, shape}, in_z = f.z;
  const view<const float, 2> state_in_y{f.memory.data() + 3, state_shape};
  const view<float, 2> result_in_y{f.memory.data() + 3, state_shape};
  const view<float, 2> result_in_inputs{const_cast<float*>(f.x.data_handle()), state_shape};
  const auto refused = [&](const auto& call, const std::vector<std::string>& words) {
    check_refused(f, call, words);
  };
  refused([&](const auto& on) { cumsum(on, shifted, f.y); },
          {"cumsum", ": y:", "apart from x", "overlap"});
  refused([&](const auto& on) { cumsum(on, over_y.reversed(1), f.y); },
          {"cumsum", ": y:", "apart from x", "overlap"});
  refused([&](const auto& on) { linear_scan(on, f.x, shifted, f.y); },
          {"linear_scan", ": h:", "apart from b"});
  refused([&](const auto& on) { cumsum(on, f.x, f.y, {.initial = state_in_y}); },
          {"cumsum", ": y:", "apart from initial"});
  refused([&](const auto& on) { cumsum(on, f.x, f.y, {.final = result_in_y}); },
          {"cumsum", ": final:", "apart from y"});
  refused([&](const auto& on) { cumsum(on, f.x, f.y, {.final = result_in_inputs}); },
          {"cumsum", ": final:", "apart from x"});
  refused(
      [&](const auto& on) {
        cumsum(on, f.x, f.y,
               {.initial = {f.state.data_handle() + 1, state_shape}, .final = f.state});
      },
      {"cumsum", ": final:", "apart from initial"});
  refused([&](const auto& on) { cumprod_backward(on, f.dy, over_y, f.saved, f.y); },
          {"cumprod_backward", ": dx:", "apart from x"});
  refused([&](const auto& on) { cumprod_backward(on, f.dy, f.x, over_y, f.y); },
          {"cumprod_backward", ": dx:", "apart from y"});
  refused([&](const auto& on) { cumprod_backward(on, shifted, f.x, f.saved, f.y); },
          {"cumprod_backward", ": dx:", "apart from dy"});
  refused(
      [&](const auto& on) { linear_scan_backward(on, f.dy, f.x, f.saved, {.da = f.y, .db = f.y}); },
      {"linear_scan_backward", ": db:", "apart from da"});
  refused(
      [&](const auto& on) {
        linear_scan_backward(on, f.dy, f.x, f.saved, {.da = f.y, .dinitial = result_in_y});
      },
      {"linear_scan_backward", ": da:", "apart from dinitial"});
  refused(
      [&](const auto& on) {
        linear_scan_backward(on, f.dy, f.x, f.saved, {.da = f.y, .initial = state_in_y});
      },
      {"linear_scan_backward", ": da:", "apart from initial"});
  refused(
      [&](const auto& on) {
        linear_scan_backward(on, f.dy, f.x, f.saved, {.da = f.y, .dinitial = result_in_inputs});
      },
      {"linear_scan_backward", ": dinitial:", "apart from a"});
  refused(
      [&](const auto& on) {
        linear_scan_double_backward(on, f.dy, f.b, over_y, f.saved, f.dy, f.y, {});
      },
      {"linear_scan_double_backward", ": ddh:", "apart from a"});
  refused(
      [&](const auto& on) {
        linear_scan_double_backward(on, f.dy, f.b, f.x, f.saved, f.dy, f.y, {.da = f.y});
      },
      {"linear_scan_double_backward", ": da:", "apart from ddh"});
  refused(
      [&](const auto& on) {
        linear_scan_double_backward(on, f.dy, in_z, f.x, f.saved, f.dy, f.y, {.db = f.z});
      },
      {"linear_scan_double_backward", ": db:", "apart from vb"});
  refused(
      [&](const auto& on) {
        linear_scan_double_backward(on, f.dy, f.b, f.x, f.saved, f.dy, f.y,
                                    {.ddfinal = result_in_y});
      },
      {"linear_scan_double_backward", ": ddh:", "apart from ddfinal"});
  refused(
      [&](const auto& on) {
        linear_scan_double_backward(on, f.dy, f.b, f.x, f.saved, f.dy, f.y,
                                    {.initial = state_in_y});
      },
      {"linear_scan_double_backward", ": ddh:", "apart from initial"});
  refused(
      [&](const auto& on) {
        linear_scan_double_backward(on, f.dy, f.b, f.x, f.saved, f.dy, f.y,
                                    {.dinitial = f.state, .ddfinal = f.state});
      },
      {"linear_scan_double_backward", ": ddfinal:", "apart from dinitial"});
}

TEST_CASE("scan errors: an output whose elements share memory", "[errors][scan]") {
  fixture f;
  const view<float, 3> broadcast{f.memory.data(), shape, {35, 0, 1}},
      sliding{f.memory.data(), shape, {1, 1, 1}};
  const view<float, 2> one_state{f.memory.data() + 200, state_shape, {0, 1}};
  const auto refused = [&](const auto& call, const std::vector<std::string>& words) {
    check_refused(f, call, words);
  };
  refused([&](const auto& on) { cumsum(on, f.x, broadcast); },
          {"cumsum", ": y:", "own", "(35, 0, 1)"});
  refused([&](const auto& on) { cumsum(on, f.x, sliding); },
          {"cumsum", ": y:", "own", "(1, 1, 1)"});
  refused([&](const auto& on) { cumsum(on, f.x, f.y, {.final = one_state}); },
          {"cumsum", ": final:", "own", "(0, 1)"});
  refused([&](const auto& on) { cumprod_backward(on, f.dy, f.x, f.saved, broadcast); },
          {"cumprod_backward", ": dx:", "own"});
  refused([&](const auto& on) { linear_scan_backward(on, f.dy, f.x, f.saved, {.db = broadcast}); },
          {"linear_scan_backward", ": db:", "own"});
  refused(
      [&](const auto& on) {
        linear_scan_backward(on, f.dy, f.x, f.saved, {.db = f.y, .dinitial = one_state});
      },
      {"linear_scan_backward", ": dinitial:", "own"});
  refused(
      [&](const auto& on) {
        linear_scan_double_backward(on, f.dy, f.b, f.x, f.saved, f.dy, broadcast, {});
      },
      {"linear_scan_double_backward", ": ddh:", "own"});
  refused(
      [&](const auto& on) {
        linear_scan_double_backward(on, f.dy, f.b, f.x, f.saved, f.dy, f.y,
                                    {.da = sliding.reversed(1)});
      },
      {"linear_scan_double_backward", ": da:", "own"});
}

TEST_CASE("scan errors: offsets", "[errors][scan]") {
  fixture f;
  const std::array<index_t, 3> packed{1, 10, 7};
  const auto x = of_shape(f.x, packed), saved = of_shape(f.saved, packed),
             dy = of_shape(f.dy, packed);
  const auto y = of_shape(f.y, packed);
  struct bad {
    std::vector<index_t> offsets;
    std::vector<std::string> words;
  };
  for (const auto& [offsets, words] :
       std::vector<bad>{{{0, 5, 3, 10}, {"not decrease", "5 then 3", "index 2"}},  // unsorted
                        {{0, 5}, {"last value of 10", "got 5"}},                   // short
                        {{0, 5, 11}, {"last value of 10", "got 11"}},              // long
                        {{-1, 5, 10}, {"offsets[0] = 0", "got -1"}},               // negative
                        {{2, 5, 10}, {"offsets[0] = 0", "got 2"}},                 // late
                        {{0, -3, 10}, {"not decrease", "0 then -3"}},
                        {{0}, {"last value of 10", "got 0"}},
                        {{10}, {"offsets[0] = 0", "got 10"}}}) {
    CAPTURE(offsets);
    const auto refused = [&](const std::string& function, const auto& call) {
      std::vector<std::string> all{function, ": offsets:"};
      all.insert(all.end(), words.begin(), words.end());
      check_refused(f, call, all);
    };
    refused("cumprod", [&](const auto& on) { cumprod(on, x, y, {.offsets = offsets}); });
    refused("linear_scan", [&](const auto& on) { linear_scan(on, x, x, y, {.offsets = offsets}); });
    refused("cumprod_backward",
            [&](const auto& on) { cumprod_backward(on, dy, x, saved, y, {.offsets = offsets}); });
    refused("linear_scan_backward", [&](const auto& on) {
      linear_scan_backward(on, dy, x, saved, {.da = y, .offsets = offsets});
    });
    refused("linear_scan_double_backward", [&](const auto& on) {
      linear_scan_double_backward(on, dy, x, x, saved, dy, y, {.offsets = offsets});
    });
  }
  const std::vector<index_t> good{0, 2, 5};
  check_refused(f, [&](const auto& on) { cumsum(on, f.x, f.y, {.offsets = good}); },
                {"cumsum", ": offsets:", "batch of 1", "batch 2"});
  const std::array<index_t, 3> none{0, 5, 7};
  check_refused(f,
                [&](const auto& on) {
                  cumsum(on, of_shape(f.x, none), of_shape(f.y, none), {.offsets = good});
                },
                {"cumsum", ": offsets:", "batch of 1", "batch 0"});
}

TEST_CASE("scan errors: a domain without a number in it", "[errors][scan]") {
  fixture f;
  for (const log_domain domain : {log_domain{.lower = 0, .upper = -1},
                                  log_domain{.lower = std::numeric_limits<double>::quiet_NaN()},
                                  log_domain{.upper = std::numeric_limits<double>::quiet_NaN()}}) {
    check_refused(f, [&](const auto& on) { log_cumprod(on, f.x, f.y, {.domain = domain}); },
                  {"log_cumprod: domain:", "lower limit", "not above"});
    check_refused(
        f, [&](const auto& on) { log_cumprod_backward(on, f.dy, f.x, f.y, {.domain = domain}); },
        {"log_cumprod_backward: domain:", "lower limit", "not above"});
  }
}

TEST_CASE("scan errors: along", "[errors][scan]") {
  std::vector<float> memory(120);
  const view<float, 3> x{memory.data(), {2, 3, 4}};
  const auto message = [](const auto& call) {
    try {
      call();
    } catch (const error& e) {
      return std::string(e.what());
    }
    return std::string("not refused");
  };
  check_words(message([&] { along(x, 3); }), {"along", "axis", "less than 3", "got 3"});
  // Axes that do not merge into one stride, behind the scanned one and before it.
  const view<float, 3> gaps{memory.data(), {2, 3, 4}, {40, 8, 1}};
  check_words(message([&] { along(gaps, 0); }), {"along: x", "merge", "stride 8"});
  CHECK_THROWS_AS(along(gaps, 2), error);
}
