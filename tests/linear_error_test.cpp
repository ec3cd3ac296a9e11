// SPDX-License-Identifier: Apache-2.0
// What linear refuses: every message names the function, the argument, what was expected and what
// was seen, and nothing has been written when it is thrown.
#include <mmrec/linear.hpp>

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/compiled_linear.hpp"
#include "support/message_of.hpp"
#include "support/on_both_backends.hpp"

using namespace mmrec;
using mmrec::testing::tested;

namespace {

constexpr float poison = -12345;
using relu = activation::relu;

// The arrays of a call that is right; each test spoils one thing.
struct arrays {
  std::vector<float> inputs = std::vector<float>(200, 0.5F),
                     memory = std::vector<float>(200, poison);
  view<const float, 2> x{inputs.data(), {3, 5}}, w{inputs.data() + 20, {4, 5}},
      dy{inputs.data() + 40, {3, 4}}, saved{inputs.data() + 60, {3, 4}};
  view<const float, 1> bias{inputs.data() + 80, {4}};
  view<float, 2> y{memory.data(), {3, 4}}, u{memory.data() + 20, {3, 4}},
      dx{memory.data() + 40, {3, 5}}, dw{memory.data() + 60, {4, 5}};
  view<float, 1> dbias{memory.data() + 80, {4}};

  linear_gradients<float> gradients() const {
    return {.saved = saved, .dx = dx, .dw = dw, .dbias = dbias};
  }
  bool untouched() const {
    return std::all_of(memory.begin(), memory.end(), [](float v) { return v == poison; }) &&
           std::all_of(inputs.begin(), inputs.end(), [](float v) { return v == 0.5F; });
  }
};

// Both backends refuse the call with these words and write nothing.
template <class F>
void refused(const arrays& a, const F& call, std::initializer_list<std::string_view> words) {
  CHECK(says(message_of<error>([&] { call(backend::reference{}); }), words));
  CHECK(says(message_of<error>([&] { call(tested{}); }), words));
  CHECK(a.untouched());
}

template <class T, std::size_t Rank>
view<T, Rank> at(const view<T, Rank>& v, const std::array<index_t, Rank>& extents) {
  return {v.data_handle(), extents};
}
// The memory of an input, as an output of that shape.
template <std::size_t Rank>
view<float, Rank> over(const float* p, const std::array<index_t, Rank>& extents) {
  return {const_cast<float*>(p), extents};
}

}  // namespace

TEST_CASE("linear errors: shapes that disagree", "[errors]") {
  const arrays a;
  const auto forward = [&](auto x, auto w, auto y, linear_options<float> options,
                           std::initializer_list<std::string_view> words) {
    refused(a, [&](const auto& on) { linear<relu>(on, x, w, y, options); }, words);
  };
  forward(a.x, at(a.w, {4, 6}), a.y, {}, {"linear", ": w:", "(4, 5)", "(4, 6)"});
  forward(at(a.x, {2, 5}), a.w, a.y, {}, {"linear", ": y:", "(2, 4)", "(3, 4)"});
  forward(a.x, a.w, at(a.y, {3, 5}), {}, {"linear", ": y:", "(3, 4)", "(3, 5)"});
  forward(a.x, a.w, at(a.y, {4, 3}), {}, {"linear", ": y:", "(3, 4)", "(4, 3)"});
  forward(at(a.x, {-3, 5}), a.w, a.y, {}, {"linear", ": x:", "(-3, 5)"});
  forward(a.x, a.w, a.y, {.bias = at(a.bias, {5})}, {"linear", ": bias:", "(4)", "(5)"});
  forward(a.x, a.w, a.y, {.preactivation = at(a.u, {3, 3})},
          {"linear", ": preactivation:", "(3, 4)", "(3, 3)"});

  const auto backward = [&](auto dy, auto x, auto w, const linear_gradients<float>& g,
                            std::initializer_list<std::string_view> words) {
    refused(a, [&](const auto& on) { linear_backward<relu>(on, dy, x, w, g); }, words);
  };
  auto g = a.gradients();
  backward(at(a.dy, {3, 3}), a.x, a.w, g, {"linear_backward", ": dy:", "(3, 4)", "(3, 3)"});
  backward(a.dy, at(a.x, {2, 5}), a.w, g, {"linear_backward", ": dy:", "(2, 4)", "(3, 4)"});
  backward(a.dy, a.x, at(a.w, {4, 4}), g, {"linear_backward", ": w:", "(4, 5)", "(4, 4)"});
  g.saved = at(a.saved, {2, 4});
  backward(a.dy, a.x, a.w, g, {"linear_backward", ": saved:", "(3, 4)", "(2, 4)"});
  g = a.gradients();
  g.saved = {};
  backward(a.dy, a.x, a.w, g, {"linear_backward", ": saved:", "(3, 4)", "(0, 0)"});
  g = a.gradients();
  g.dx = at(a.dx, {3, 4});
  backward(a.dy, a.x, a.w, g, {"linear_backward", ": dx:", "(3, 5)", "(3, 4)"});
  g = a.gradients();
  g.dw = at(a.dw, {5, 4});
  backward(a.dy, a.x, a.w, g, {"linear_backward", ": dw:", "(4, 5)", "(5, 4)"});
  g = a.gradients();
  g.dbias = at(a.dbias, {3});
  backward(a.dy, a.x, a.w, g, {"linear_backward", ": dbias:", "(4)", "(3)"});
  g = a.gradients();
  g.saved = at(a.saved, {2, 4});
  refused(a, [&](const auto& on) { linear_backward(on, a.dy, a.x, a.w, g); },
          {"linear_backward", ": saved:", "(3, 4)", "(2, 4)"});
}

TEST_CASE("linear errors: null data with elements", "[errors]") {
  const arrays a;
  const auto none = [](auto v) { return decltype(v)(nullptr, v.extents()); };
  refused(a, [&](const auto& on) { linear<relu>(on, none(a.x), a.w, a.y); },
          {"linear", ": x:", "null"});
  refused(a, [&](const auto& on) { linear<relu>(on, a.x, none(a.w), a.y); },
          {"linear", ": w:", "null"});
  refused(a, [&](const auto& on) { linear<relu>(on, a.x, a.w, none(a.y)); },
          {"linear", ": y:", "null"});
  refused(a, [&](const auto& on) { linear<relu>(on, a.x, a.w, a.y, {.bias = none(a.bias)}); },
          {"linear", ": bias:", "null"});
  refused(a, [&](const auto& on) { linear<relu>(on, a.x, a.w, a.y, {.preactivation = none(a.u)}); },
          {"linear", ": preactivation:", "null"});
  refused(a, [&](const auto& on) { packed_weights(on, none(a.w)); },
          {"packed_weights", ": w:", "(4, 5)", "null"});
  refused(a, [&](const auto& on) { packed_weights(on, at(a.w, {-4, 5})); },
          {"packed_weights", ": w:", "(-4, 5)"});
  refused(a,
          [&](const auto& on) { linear<relu>(on, at(a.x, {3, 4}), packed_weights(on, a.w), a.y); },
          {"linear", ": x:", "(3, 5)", "(3, 4)"});
  auto g = a.gradients();
  refused(a, [&](const auto& on) { linear_backward<relu>(on, none(a.dy), a.x, a.w, g); },
          {"linear_backward", ": dy:", "null"});
  g.dw = none(g.dw);
  refused(a, [&](const auto& on) { linear_backward<relu>(on, a.dy, a.x, a.w, g); },
          {"linear_backward", ": dw:", "null"});
}

TEST_CASE("linear errors: outputs that overlap", "[errors]") {
  const arrays a;
  const auto forward = [&](view<float, 2> y, linear_options<float> options,
                           std::initializer_list<std::string_view> words) {
    refused(a, [&](const auto& on) { linear<relu>(on, a.x, a.w, y, options); }, words);
  };
  forward(over<2>(a.x.data_handle() + 14, {3, 4}), {}, {"linear", ": y:", "apart from x"});
  forward(over<2>(a.w.data_handle() + 4, {3, 4}), {}, {"linear", ": y:", "apart from w"});
  forward(over<2>(a.bias.data_handle() + 3, {3, 4}), {.bias = a.bias},
          {"linear", ": y:", "apart from bias"});
  forward(a.y, {.preactivation = at(a.y, {3, 4})}, {"linear", ": preactivation:", "apart from y"});
  forward(a.y, {.preactivation = over<2>(a.x.data_handle(), {3, 4})},
          {"linear", ": preactivation:", "apart from x"});
  forward(a.y, {.preactivation = over<2>(a.w.data_handle(), {3, 4})},
          {"linear", ": preactivation:", "apart from w"});
  // Rows of an output that share memory.
  forward({a.y.data_handle(), {3, 4}, {0, 1}}, {}, {"linear", ": y:", "its own place", "(0, 1)"});
  forward(a.y, {.preactivation = {a.u.data_handle(), {3, 4}, {2, 1}}},
          {"linear", ": preactivation:", "its own place"});

  const auto backward = [&](const linear_gradients<float>& g,
                            std::initializer_list<std::string_view> words) {
    refused(a, [&](const auto& on) { linear_backward<relu>(on, a.dy, a.x, a.w, g); }, words);
  };
  auto g = a.gradients();
  g.dx = over<2>(a.dy.data_handle() + 11, {3, 5});
  backward(g, {"linear_backward", ": dx:", "apart from dy"});
  g.dx = over<2>(a.x.data_handle(), {3, 5});
  backward(g, {"linear_backward", ": dx:", "apart from x"});
  g = a.gradients();
  g.dw = over<2>(a.w.data_handle(), {4, 5});
  backward(g, {"linear_backward", ": dw:", "apart from w"});
  g = a.gradients();
  g.dbias = over<1>(a.saved.data_handle() + 5, {4});
  backward(g, {"linear_backward", ": dbias:", "apart from saved"});
  g = a.gradients();
  g.dx = {a.dw.data_handle() + 19, {3, 5}};
  backward(g, {"linear_backward", ": dx:", "apart from dw"});
  g = a.gradients();
  g.dbias = {a.dx.data_handle() + 14, {4}};
  backward(g, {"linear_backward", ": dx:", "apart from dbias"});
  g = a.gradients();
  g.dbias = {a.dw.data_handle() + 19, {4}};
  backward(g, {"linear_backward", ": dw:", "apart from dbias"});
  g = a.gradients();
  g.dw = {a.dw.data_handle(), {4, 5}, {1, 1}};
  backward(g, {"linear_backward", ": dw:", "its own place"});
}

TEST_CASE("linear errors: rates outside [0, 1)", "[errors]") {
  const arrays a;
  for (const double rate : {-0.1, 1.0, 1.5, std::numeric_limits<double>::quiet_NaN(),
                            std::numeric_limits<double>::infinity()}) {
    CAPTURE(rate);
    refused(a,
            [&](const auto& on) { linear<relu>(on, a.x, a.w, a.y, {.dropout = {.rate = rate}}); },
            {"linear", "dropout.rate", "[0, 1)"});
    auto g = a.gradients();
    g.dropout.rate = rate;
    refused(a, [&](const auto& on) { linear_backward<relu>(on, a.dy, a.x, a.w, g); },
            {"linear_backward", "dropout.rate", "[0, 1)"});
  }
}

TEST_CASE("linear: neighbours in one matrix do not overlap", "[errors]") {
  // x and y are column slices of one array, as they are in a fused buffer.
  arrays a;
  std::vector<float> both(3 * 9, 0.5F);
  const view<float, 2> all{both.data(), {3, 9}};
  for (const bool swapped : {false, true}) {
    const auto x = all.slice(1, swapped ? 4 : 0, 5), y = all.slice(1, swapped ? 0 : 5, 4);
    CHECK_NOTHROW(linear<relu>(tested{}, x, a.w, y));
    CHECK_NOTHROW(linear<relu>(backend::reference{}, x, a.w, y));
  }
}
