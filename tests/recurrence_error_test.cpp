// SPDX-License-Identifier: Apache-2.0
// The gated recurrence: what it and its backward refuse.
#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "support/catch.hpp"
#include "support/message_of.hpp"
#include "support/on_both_backends.hpp"
#include "support/recurrence_problem.hpp"

using namespace mmrec;
using namespace mmrec::testing;

TEST_CASE("recurrence: calls that cannot be right are refused before anything is written",
          "[components][errors]") {
  const auto r = random_recurrence<float>({2, 4, 3}, 1);
  std::vector<float> h(24, 77), gates(48, 77), final(6, 77), other(200, 77);
  const auto call = [&](const auto& change) {
    auto z = r.z_view(), gamma = r.gamma_view();
    auto weights = r.weights();
    view<float, 3> out(h.data(), {2, 4, 3});
    recurrence_options<float> options{.initial = r.initial_view(),
                                      .final = {final.data(), {2, 3}},
                                      .gates = {gates.data(), {2, 4, 6}}};
    change(z, gamma, weights, out, options);
    const auto on = [&](const auto& backend) {
      return message_of<error>([&] { recurrence(backend, z, gamma, weights, out, options); });
    };
    const auto message = on(tested{});
    CHECK(on(backend::reference{}) == message);
    return message;
  };
  CHECK(says(call([](auto&, auto& gamma, auto&, auto&, auto&) { gamma = gamma.slice(1, 0, 3); }),
             {"recurrence: gamma", "(2, 4, 3)", "(2, 3, 3)"}));
  CHECK(says(call([](auto&, auto&, auto& w, auto&, auto&) { w.block = w.block.slice(0, 0, 2); }),
             {"recurrence: weights.block", "(3, 3)", "(2, 3)"}));
  CHECK(says(call([](auto&, auto&, auto& w, auto&, auto&) { w.mix = {}; }),
             {"weights.mix", "(3, 6)"}));
  CHECK(says(call([](auto&, auto&, auto& w, auto&, auto&) { w.mix_bias = {nullptr, {3}}; }),
             {"weights.mix_bias", "null"}));
  CHECK(says(call([](auto&, auto&, auto&, auto& out, auto&) { out = out.slice(0, 0, 1); }),
             {"recurrence: h", "(1, 4, 3)"}));
  CHECK(says(call([&](auto&, auto&, auto&, auto& out, auto&) {
               out = {other.data(), {2, 4, 3}, {24, 6, 2}};
             }),
             {"recurrence: h", "unit stride"}));
  CHECK(
      says(call([](auto&, auto&, auto&, auto&, auto& o) { o.initial = o.initial.slice(0, 0, 1); }),
           {"initial", "(2, 3)"}));
  CHECK(says(call([](auto&, auto&, auto&, auto&, auto& o) { o.gates = o.gates.slice(2, 0, 3); }),
             {"gates", "(2, 4, 6)"}));
  CHECK(says(call([](auto&, auto&, auto&, auto&, auto& o) { o.final = o.final.slice(1, 0, 2); }),
             {"final", "(2, 3)"}));
  CHECK(says(call([](auto&, auto&, auto&, auto& out, auto& o) {
               out = {o.gates.data_handle(), {2, 4, 3}};
             }),
             {"overlap"}));
  CHECK(says(call([](auto& z, auto&, auto&, auto& out, auto&) { z = out; }), {"h", "z"}));
  CHECK(says(call([](auto&, auto&, auto&, auto&, auto& o) { o.form.max_sweeps = 0; }),
             {"max_sweeps", "0"}));
  CHECK(says(call([](auto&, auto&, auto&, auto&, auto& o) { o.form.window = -1; }),
             {"window", "-1"}));
  CHECK(says(call([](auto&, auto&, auto&, auto&, auto& o) { o.form.tolerance = -1; }),
             {"tolerance", "0 or more"}));
  CHECK(says(call([](auto&, auto&, auto&, auto&, auto& o) { o.form.tolerance = std::nan(""); }),
             {"tolerance"}));
  for (const double mix : {std::nan(""), HUGE_VAL})
    CHECK(says(call([&](auto&, auto&, auto&, auto&, auto& o) { o.form.mix = mix; }),
               {"recurrence: form.mix", "finite"}));
  const auto repeated = [&](const auto& change) {
    return call([&](auto&, auto&, auto&, auto& out, auto& o) { change(out, o); });
  };
  CHECK(says(repeated([&](auto& out, auto&) { out = {h.data(), {2, 4, 3}, {0, 3, 1}}; }),
             {"recurrence: h", "its own place"}));
  CHECK(says(repeated([&](auto&, auto& o) { o.gates = {gates.data(), {2, 4, 6}, {24, 0, 1}}; }),
             {"recurrence: gates", "its own place"}));
  CHECK(says(repeated([&](auto&, auto& o) { o.final = {final.data(), {2, 3}, {0, 1}}; }),
             {"recurrence: final", "its own place"}));
  // An argument on top of an output.
  const auto at = [](auto& output) { return output.data_handle(); };
  CHECK(says(call([&](auto&, auto&, auto& w, auto& out, auto&) { w.block = {at(out), {3, 3}}; }),
             {"recurrence: h", "apart from weights.block"}));
  CHECK(
      says(call([&](auto&, auto&, auto& w, auto&, auto& o) { w.block_bias = {at(o.gates), {3}}; }),
           {"recurrence: gates", "apart from weights.block_bias"}));
  CHECK(says(call([&](auto&, auto&, auto& w, auto&, auto& o) { w.mix = {at(o.gates), {3, 6}}; }),
             {"recurrence: gates", "apart from weights.mix"}));
  CHECK(says(call([&](auto&, auto&, auto& w, auto&, auto& o) { w.mix_bias = {at(o.final), {3}}; }),
             {"recurrence: final", "apart from weights.mix_bias"}));
  CHECK(says(
      call([&](auto&, auto& gamma, auto&, auto&, auto& o) { gamma = {at(o.gates), {2, 4, 3}}; }),
      {"recurrence: gates", "apart from gamma"}));
  CHECK(says(call([&](auto& z, auto&, auto&, auto&, auto& o) {
               o.final = {other.data(), {2, 3}};
               z = {other.data(), {2, 4, 3}};
             }),
             {"recurrence: final", "apart from z"}));
  CHECK(says(call([&](auto&, auto&, auto&, auto&, auto& o) { o.initial = {at(o.gates), {2, 3}}; }),
             {"recurrence: gates", "apart from initial"}));
  CHECK(says(call([&](auto&, auto&, auto&, auto&, auto& o) {
               o.initial = {other.data(), {2, 3}};
               o.final = {other.data() + 1, {2, 3}};
             }),
             {"recurrence: final", "apart from initial"}));
  CHECK(says(call([&](auto&, auto&, auto&, auto&, auto& o) { o.final = {at(o.gates), {2, 3}}; }),
             {"recurrence: gates", "apart from final"}));
  for (const auto* written : {&h, &gates, &final, &other})
    CHECK(std::all_of(written->begin(), written->end(), [](float v) { return v == 77; }));
}

TEST_CASE("recurrence_backward: calls that cannot be right are refused before anything is written",
          "[gradients][errors]") {
  const auto r = random_recurrence<float>({2, 4, 3}, 1);
  const auto forward = run_recurrence(tested{}, r, {});
  std::vector<float> written(400, 77);
  const std::array<index_t, 3> shape{2, 4, 3};
  struct arguments {
    view<const float, 3> dh, z, gamma, h;
    recurrence_weights<float> w;
    recurrence_gradients<float> g;
  };
  const auto call = [&](const auto& change) {
    arguments a{r.z_view(),
                r.z_view(),
                r.gamma_view(),
                {forward.h.data(), shape},
                r.weights(),
                {.gates = {forward.gates.data(), {2, 4, 6}},
                 .dz = {written.data(), shape},
                 .dgamma = {written.data() + 24, shape},
                 .dblock = {written.data() + 48, {3, 3}},
                 .dblock_bias = {written.data() + 60, {3}},
                 .dmix = {written.data() + 64, {3, 6}},
                 .dmix_bias = {written.data() + 90, {3}},
                 .initial = r.initial_view(),
                 .dfinal = r.initial_view(),
                 .dinitial = {written.data() + 100, {2, 3}}}};
    change(a);
    const auto on = [&](const auto& backend) {
      return message_of<error>(
          [&] { recurrence_backward(backend, a.dh, a.z, a.gamma, a.h, a.w, a.g); });
    };
    const auto message = on(tested{});
    CHECK(on(backend::reference{}) == message);
    return message;
  };
  using change = arguments&;
  CHECK(says(call([](change a) { a.dh = a.dh.slice(1, 0, 3); }),
             {"recurrence_backward: dh", "(2, 4, 3)"}));
  CHECK(says(call([](change a) { a.h = a.h.slice(0, 0, 1); }),
             {"recurrence_backward: h", "(1, 4, 3)"}));
  CHECK(says(call([](change a) { a.g.gates = {}; }), {"gates", "(2, 4, 6)"}));
  CHECK(says(call([](change a) { a.g.dz = a.g.dz.slice(2, 0, 2); }), {"dz", "(2, 4, 2)"}));
  CHECK(says(call([](change a) { a.g.dmix = a.g.dmix.slice(1, 0, 3); }), {"dmix", "(3, 6)"}));
  CHECK(says(call([](change a) { a.g.dblock_bias = a.g.dblock_bias.slice(0, 0, 2); }),
             {"dblock_bias", "(3)", "(2)"}));
  CHECK(says(call([](change a) { a.g.dmix_bias = {nullptr, {3}}; }), {"dmix_bias", "null"}));
  CHECK(says(call([](change a) { a.g.dinitial = a.g.dinitial.slice(0, 0, 1); }),
             {"dinitial", "(2, 3)"}));
  CHECK(says(call([](change a) { a.g.initial = a.g.initial.slice(0, 0, 1); }),
             {"initial", "(2, 3)"}));
  CHECK(says(call([](change a) { a.g.dfinal = a.g.dfinal.slice(1, 0, 2); }), {"dfinal", "(2, 3)"}));
  CHECK(says(call([](change a) { a.g.form.window = 0; }), {"window", "0"}));

  // Outputs whose elements meet, in one another or in another output.
  CHECK(says(call([](change a) { a.g.dz = {a.g.dz.data_handle(), {2, 4, 3}, {12, 0, 1}}; }),
             {"dz", "its own place"}));
  CHECK(says(call([](change a) { a.g.dinitial = {a.g.dinitial.data_handle(), {2, 3}, {0, 1}}; }),
             {"dinitial", "its own place"}));
  CHECK(says(call([](change a) { a.g.dgamma = a.g.dz; }), {"dz", "apart from dgamma"}));
  CHECK(says(call([](change a) { a.g.dmix = {a.g.dz.data_handle(), {3, 6}}; }),
             {"dz", "apart from dmix"}));
  CHECK(says(call([](change a) { a.g.dmix_bias = a.g.dblock_bias; }),
             {"dblock_bias", "apart from dmix_bias"}));
  CHECK(says(call([](change a) { a.g.dinitial = {a.g.dblock.data_handle(), {2, 3}}; }),
             {"dblock", "apart from dinitial"}));
  // An input on top of an output.
  CHECK(says(call([](change a) { a.dh = a.g.dz; }), {"dz", "apart from dh"}));
  CHECK(says(call([](change a) { a.z = a.g.dgamma; }), {"dgamma", "apart from z"}));
  CHECK(says(call([](change a) { a.g.gates = {a.g.dz.data_handle(), {2, 4, 6}}; }),
             {"dz", "apart from gates"}));
  CHECK(
      says(call([](change a) { a.w.block = a.g.dblock; }), {"dblock", "apart from weights.block"}));
  CHECK(says(call([](change a) { a.w.block_bias = a.g.dblock_bias; }),
             {"dblock_bias", "apart from weights.block_bias"}));
  CHECK(says(call([](change a) { a.w.mix = a.g.dmix; }), {"dmix", "apart from weights.mix"}));
  CHECK(says(call([](change a) { a.w.mix_bias = a.g.dmix_bias; }),
             {"dmix_bias", "apart from weights.mix_bias"}));
  CHECK(
      says(call([](change a) { a.g.initial = a.g.dinitial; }), {"dinitial", "apart from initial"}));
  CHECK(says(call([](change a) { a.g.dfinal = {a.g.dz.data_handle(), {2, 3}}; }),
             {"dz", "apart from dfinal"}));
  CHECK(says(call([](change a) { a.g.dfinal = {a.g.dinitial.data_handle() + 1, {2, 3}}; }),
             {"dinitial", "apart from dfinal"}));
  CHECK(std::all_of(written.begin(), written.end(), [](float v) { return v == 77; }));
}
