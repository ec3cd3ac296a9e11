// SPDX-License-Identifier: Apache-2.0
// The functions of the decay: what each refuses, before anything is written. Their values and
// gradients are tested by the fixtures of MDI and of the block.
#include <mmrec/decay.hpp>
#include <mmrec/integrate.hpp>

#include <algorithm>
#include <array>
#include <initializer_list>
#include <string_view>
#include <vector>

#include "support/catch.hpp"
#include "support/message_of.hpp"
#include "support/numeric.hpp"
#include "support/on_both_backends.hpp"

using namespace mmrec;
using namespace mmrec::testing;

namespace {

constexpr index_t rows = 3, d = 4, inner = 2;

// Arrays one behind the other, all of one value.
class arrays {
 public:
  template <class... Extent>
  auto make(Extent... extents) {
    const view<float, sizeof...(Extent)> v(next_, {extents...});
    next_ += v.size();
    return v;
  }
  bool untouched() const {
    return std::all_of(memory_.begin(), memory_.end(), [](float v) { return v == 77; });
  }

 private:
  std::vector<float> memory_ = std::vector<float>(400, 77);
  float* next_ = memory_.data();
};

// One call of each function, on arguments that are right until a test changes them.
struct branch_call {
  arrays memory;
  view<const float, 2> dfactor = memory.make(rows, d), x = memory.make(rows, d);
  decay_branch_weights<const float> w{memory.make(inner, d), memory.make(inner),
                                      memory.make(d, inner), memory.make(d)};
  decay_branch_saved<float> saved{memory.make(rows, inner), memory.make(rows, inner),
                                  memory.make(rows, d)};
  decay_branch_weights<float> dw{memory.make(inner, d), memory.make(inner), memory.make(d, inner),
                                 memory.make(d)};
  view<float, 2> dx = memory.make(rows, d);
  template <class B>
  void forward(const B& backend) {
    decay_branch<activation::gelu>(backend, x, w, saved);
  }
  template <class B>
  void backward(const B& backend) {
    decay_branch_backward<activation::gelu>(backend, dfactor, x, w, saved, dw, dx, false);
  }
};
struct combine_call {
  arrays memory;
  view<const float, 2> dgamma = memory.make(rows, d), factor = memory.make(rows, d),
                       context = memory.make(rows, d);
  view<float, 2> gamma = memory.make(rows, d), dfactor = memory.make(rows, d),
                 dcontext = memory.make(rows, d);
  template <class B>
  void forward(const B& backend) {
    combine_decay(backend, factor, context, gamma);
  }
  template <class B>
  void backward(const B& backend) {
    combine_decay_backward(backend, dgamma, factor, context, dfactor, dcontext);
  }
};
struct integrate_call {
  arrays memory;
  view<const float, 2> dh = memory.make(rows, d), z = memory.make(rows, d),
                       p = memory.make(rows, d), gamma = memory.make(rows, d),
                       w = memory.make(d, 2 * d);
  view<const float, 1> bias = memory.make(d);
  view<float, 2> gate = memory.make(rows, d), h_new = memory.make(rows, d),
                 dz = memory.make(rows, d), dp = memory.make(rows, d),
                 dgamma = memory.make(rows, d), dw = memory.make(d, 2 * d);
  view<float, 1> db = memory.make(d);
  template <class B>
  void forward(const B& backend) {
    integrate(backend, z, p, gamma, w, bias, gate, h_new);
  }
  template <class B>
  void backward(const B& backend) {
    integrate_backward(backend, dh, z, p, gamma, w, view<const float, 2>(gate), dz, dp, dgamma, dw,
                       db);
  }
};

using words = std::initializer_list<std::string_view>;

template <class Call, class Change>
void forward_refuses(const Change& change, words parts) {
  on_both_backends([&](const auto& backend) {
    Call call;
    change(call);
    CHECK(says(message_of<error>([&] { call.forward(backend); }), parts));
    CHECK(call.memory.untouched());
  });
}
template <class Call, class Change>
void backward_refuses(const Change& change, words parts) {
  on_both_backends([&](const auto& backend) {
    Call call;
    change(call);
    CHECK(says(message_of<error>([&] { call.backward(backend); }), parts));
    CHECK(call.memory.untouched());
  });
}

// The same memory, its rows on top of one another.
template <class T>
view<T, 2> folded(const view<T, 2>& v) {
  return {v.data_handle(), v.extents(), {0, 1}};
}

}  // namespace

TEST_CASE("decay_branch: calls that cannot be right are refused before anything is written",
          "[components][errors]") {
  const auto forward = [](void (*change)(branch_call&), words parts) {
    forward_refuses<branch_call>(change, parts);
  };
  const auto backward = [](void (*change)(branch_call&), words parts) {
    backward_refuses<branch_call>(change, parts);
  };
  forward([](auto& c) { c.w.w0 = c.w.w0.slice(1, 0, 3); },
          {"decay_branch: w0", "(2, 4)", "(2, 3)"});
  forward([](auto& c) { c.w.b0 = {nullptr, {inner}}; }, {"decay_branch: b0", "null"});
  forward([](auto& c) { c.w.w2 = c.w.w2.slice(0, 0, 3); },
          {"decay_branch: w2", "(4, 2)", "(3, 2)"});
  forward([](auto& c) { c.w.b2 = c.w.b2.slice(0, 0, 3); }, {"decay_branch: b2", "(4)", "(3)"});
  forward([](auto& c) { c.saved.preactivation = {}; }, {"decay_branch: saved.preactivation"});
  forward([](auto& c) { c.saved.hidden = c.saved.hidden.slice(0, 0, 2); },
          {"decay_branch: saved.hidden", "(3, 2)", "(2, 2)"});
  forward([](auto& c) { c.saved.factor = c.saved.factor.slice(1, 0, 2); },
          {"decay_branch: saved.factor", "(3, 4)", "(3, 2)"});
  forward([](auto& c) { c.saved.factor = folded(c.saved.factor); },
          {"decay_branch: saved.factor", "its own place"});
  forward([](auto& c) { c.saved.factor = {c.saved.hidden.data_handle(), {rows, d}}; },
          {"decay_branch: saved.hidden", "apart from saved.factor"});
  forward([](auto& c) { c.w.w2 = {c.saved.factor.data_handle(), {d, inner}}; },
          {"decay_branch: saved.factor", "apart from w2"});

  backward([](auto& c) { c.dfactor = c.dfactor.slice(0, 0, 2); },
           {"decay_branch_backward: dfactor", "(3, 4)", "(2, 4)"});
  backward([](auto& c) { c.saved.preactivation = {}; },
           {"decay_branch_backward: saved.preactivation"});
  backward([](auto& c) { c.dx = c.dx.slice(1, 0, 3); }, {"decay_branch_backward: dx", "(3, 3)"});
  backward([](auto& c) { c.dw.w0 = c.dw.w0.slice(0, 0, 1); },
           {"decay_branch_backward: dw.w0", "(2, 4)", "(1, 4)"});
  backward([](auto& c) { c.dw.b0 = c.dw.b0.slice(0, 0, 1); },
           {"decay_branch_backward: dw.b0", "(2)", "(1)"});
  backward([](auto& c) { c.dw.w2 = {nullptr, {d, inner}}; },
           {"decay_branch_backward: dw.w2", "null"});
  backward([](auto& c) { c.dw.b2 = {c.dw.b2.data_handle(), {d}, {0}}; },
           {"decay_branch_backward: dw.b2", "its own place"});
  backward([](auto& c) { c.dw.b0 = {c.dw.w2.data_handle(), {inner}}; },
           {"decay_branch_backward: dw.b0", "apart from dw.w2"});
  backward([](auto& c) { c.x = c.dx; }, {"decay_branch_backward: dx", "apart from x"});
}

TEST_CASE("combine_decay: calls that cannot be right are refused before anything is written",
          "[components][errors]") {
  const auto forward = [](void (*change)(combine_call&), words parts) {
    forward_refuses<combine_call>(change, parts);
  };
  const auto backward = [](void (*change)(combine_call&), words parts) {
    backward_refuses<combine_call>(change, parts);
  };
  forward([](auto& c) { c.gamma = c.gamma.slice(0, 0, 2); },
          {"combine_decay: gamma", "(3, 4)", "(2, 4)"});
  forward([](auto& c) { c.context = c.context.slice(1, 0, 2); }, {"combine_decay: context"});
  forward([](auto& c) { c.gamma = folded(c.gamma); }, {"combine_decay: gamma", "its own place"});
  backward([](auto& c) { c.dgamma = c.dgamma.slice(0, 0, 2); },
           {"combine_decay_backward: dgamma", "(2, 4)"});
  backward([](auto& c) { c.dfactor = {nullptr, {rows, d}}; },
           {"combine_decay_backward: dfactor", "null"});
  backward([](auto& c) { c.dcontext = {}; }, {"combine_decay_backward: dcontext", "(3, 4)"});
  backward([](auto& c) { c.context = {}; }, {"combine_decay_backward: dcontext", "none"});
  backward([](auto& c) { c.dcontext = c.dfactor; }, {"apart"});
}

TEST_CASE("integrate: calls that cannot be right are refused before anything is written",
          "[components][errors]") {
  const auto forward = [](void (*change)(integrate_call&), words parts) {
    forward_refuses<integrate_call>(change, parts);
  };
  const auto backward = [](void (*change)(integrate_call&), words parts) {
    backward_refuses<integrate_call>(change, parts);
  };
  forward([](auto& c) { c.p = c.p.slice(0, 0, 2); }, {"integrate: p", "(3, 4)", "(2, 4)"});
  forward([](auto& c) { c.gamma = c.gamma.slice(1, 0, 2); }, {"integrate: gamma", "(3, 2)"});
  forward([](auto& c) { c.w = c.w.slice(1, 0, d); }, {"integrate: w", "(4, 8)", "(4, 4)"});
  forward([](auto& c) { c.bias = c.bias.slice(0, 0, 2); }, {"integrate: bias", "(4)", "(2)"});
  forward([](auto& c) { c.h_new = {nullptr, {rows, d}}; }, {"integrate: h_new", "null"});
  forward([](auto& c) { c.h_new = folded(c.h_new); }, {"integrate: h_new", "its own place"});
  forward([](auto& c) { c.h_new = c.gate; }, {"integrate: gate", "apart from h_new"});
  forward([](auto& c) { c.p = c.gate; }, {"integrate: gate", "apart from p"});

  backward([](auto& c) { c.dh = c.dh.slice(0, 0, 2); }, {"integrate_backward: dh", "(2, 4)"});
  backward([](auto& c) { c.gate = {}; }, {"integrate_backward: gate", "(3, 4)"});
  backward([](auto& c) { c.dz = c.dz.slice(0, 0, 2); }, {"integrate_backward: dz", "(2, 4)"});
  backward([](auto& c) { c.dp = {}; }, {"integrate_backward: dp", "(3, 4)"});
  backward([](auto& c) { c.dgamma = folded(c.dgamma); },
           {"integrate_backward: dgamma", "its own place"});
  backward([](auto& c) { c.dw = c.dw.slice(1, 0, d); },
           {"integrate_backward: dw", "(4, 8)", "(4, 4)"});
  backward([](auto& c) { c.db = c.db.slice(0, 0, 3); }, {"integrate_backward: db", "(4)", "(3)"});
  // The second product reads p, which an earlier one would have overwritten.
  backward([](auto& c) { c.p = c.dz; }, {"integrate_backward: dz", "apart from p"});
  backward([](auto& c) { c.dp = c.dz; }, {"integrate_backward: dz", "apart from dp"});
  backward([](auto& c) { c.w = c.dw; }, {"integrate_backward: dw", "apart from w"});
}

TEST_CASE("integrate: h_new may be p", "[components]") {
  on_both_backends([](const auto& backend) {
    const auto z = random_vector<float>(rows * d, 1), p = random_vector<float>(rows * d, 2),
               gamma = random_vector<float>(rows * d, 3), w = random_vector<float>(2 * d * d, 4);
    const std::array<index_t, 2> shape{rows, d};
    std::vector<float> gate(z.size()), apart(z.size()), in_place = p;
    const auto run = [&](const std::vector<float>& state, std::vector<float>& h_new) {
      integrate(backend, view<const float, 2>(z.data(), shape),
                view<const float, 2>(state.data(), shape),
                view<const float, 2>(gamma.data(), shape),
                view<const float, 2>(w.data(), {d, 2 * d}), view<const float, 1>(),
                view<float, 2>(gate.data(), shape), view<float, 2>(h_new.data(), shape));
    };
    run(p, apart);
    run(in_place, in_place);
    CHECK(in_place == apart);
  });
}
