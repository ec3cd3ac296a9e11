// SPDX-License-Identifier: Apache-2.0
// The block on the files of kinds block and block_decode, for the fixture tests of each element
// type (one translation unit for all would take minutes to compile).
#pragma once

#include <mmrec/block.hpp>

#include <string>
#include <vector>

#include "block_fixtures.hpp"
#include "catch.hpp"
#include "compiled_passes.hpp"
#include "fixtures.hpp"
#include "module_fixtures.hpp"

namespace mmrec::testing {

template <class T, class Backend>
class block_module {
 public:
  block_module(const Backend& backend, const fixture_file& file, const npz& data)
      : backend_(backend),
        data_(data),
        config_(block_config_of(file, data, "param/", "in/long_k")),
        map_(data, block_layout(config_)),
        parameters_(map_.template load<T>()) {}

  // The state before the first pass over `time` tokens a time. The rows of short_k are kept: a pass
  // of more tokens writes none of them in the reference, and is an error here unless there are
  // none.
  memory_state<T> initial_state(index_t batch, index_t time) const {
    auto state = state_with_banks(dense<T>(data_.array("in/long_k")),
                                  dense<T>(data_.array("in/long_v")), batch);
    const dense<T> short_k(data_.array("in/short_k"));
    if (time <= short_k.extent(0)) state.recent = short_k.values();
    return state;
  }

  dense<T> forward(const view<const T, 3>& x, memory_state<T>& state) {
    saved_.emplace_back(config_, x.extent(0), x.extent(1));
    auto y = dense<T>::unwritten({x.extent(0), x.extent(1), x.extent(2)});
    block_forward(backend_, config_, weights(), x, y.cube(), state, saved_.back());
    return y;
  }

  // Of the last forward; the banks' gradients have the shape of the file's.
  void compare_gradients(fixture_check& check, const std::string& call, const std::string& input,
                         const dense<T>& x, const dense<T>& dy) {
    std::vector<T> gradients(parameters_.size(), T(0));
    const block_parameters<T> dw(config_, gradients.data());
    auto dx = dense<T>::unwritten(x.shape());
    auto dkeys = dense<T>::unwritten({x.extent(0), config_.slots, config_.width}), dvalues = dkeys;
    block_backward(backend_, config_, weights(), x.cube(), dy.cube(), saved_.back(), dw, dx.cube(),
                   {dkeys.cube(), dvalues.cube()});
    compare_gradient(check, call, input, dx.values());
    compare_bank(check, call, "in/long_k", dkeys);
    compare_bank(check, call, "in/long_v", dvalues);
    map_.compare_gradients(check, call, gradients);
  }

  void compare_state(fixture_check& check, const std::string& call,
                     const memory_state<T>& state) const {
    CHECK(state.keys == state.values);
    const bool written = !state.recent.empty();
    const auto short_k = data_.array("in/short_k").template as<T>();
    check.compare(call + "state/short_k", written ? state.recent : short_k);
    check.compare(call + "state/long_k", state.keys);
  }

 private:
  block_parameters<const T> weights() const { return {config_, parameters_.data()}; }

  void compare_bank(fixture_check& check, const std::string& call, const std::string& name,
                    const dense<T>& gradient) const {
    const std::string result = "/" + call + "grad/" + name;
    const bool doubles = data_.contains("f64" + result);
    const view<const T, 3> per_sequence = gradient.cube();
    const index_t size = check.expects(call + "grad/" + name)
                             ? data_.array((doubles ? "f64" : "f32") + result).size()
                             : per_sequence.size();
    compare_gradient(check, call, name, bank_gradient(per_sequence, size));
  }

  Backend backend_;
  const npz& data_;
  block_config config_;
  parameter_map map_;
  std::vector<T> parameters_;
  std::vector<block_activations<T>> saved_;
};

// Passes from the initial banks and from the state that the pass before left.
template <class TestType>
void compare_block_files() {
  using T = typename TestType::element_type;
  for (const fixture_file& file : fixture_files("block")) {
    fixture_check check(file);
    const npz& data = check.data();
    block_module<T, typename TestType::backend_type> subject(TestType::backend(), file, data);
    const auto& shape = data.array("in/x1").shape;
    auto state = subject.initial_state(shape.at(0), shape.at(1));
    for (int run = 1; data.contains("in/x" + std::to_string(run)); ++run) {
      const std::string number = std::to_string(run), call = "run" + number + "/";
      CAPTURE(file.name(), call);
      const dense<T> x(data.array("in/x" + number)), dy(data.array("R/y" + number));
      const dense<T> y = subject.forward(x.cube(), state);
      check.compare(call + "y", y.values());
      subject.compare_state(check, call, state);
      if (has_gradients(data, call)) {
        subject.compare_gradients(check, call, "in/x" + number, x, dy);
      }
    }
  }
}

// One token at a time against all at once.
template <class TestType>
void compare_block_decode_files() {
  using T = typename TestType::element_type;
  for (const fixture_file& file : fixture_files("block_decode")) {
    CAPTURE(file.name());
    fixture_check check(file);
    block_module<T, typename TestType::backend_type> subject(TestType::backend(), file,
                                                             check.data());
    const dense<T> x(check.data().array("in/x"));
    const index_t batch = x.extent(0), time = x.extent(1);
    auto state = subject.initial_state(batch, time);
    check.compare("y_whole", subject.forward(x.cube(), state).values());

    state = subject.initial_state(batch, 1);
    auto y = dense<T>::unwritten(x.shape());
    for (index_t t = 0; t < time; ++t) {
      // A pass wants its rows one stride apart, which a column of tokens is not.
      auto token = dense<T>::unwritten({batch, 1, x.width()});
      const same_value copy;
      transform(TestType::backend(), copy, token.cube(), x.cube().slice(1, t, 1));
      const dense<T> step = subject.forward(token.cube(), state);
      transform(TestType::backend(), copy, y.cube().slice(1, t, 1), step.cube());
    }
    check.compare("y_steps", y.values());
    subject.compare_state(check, "", state);
  }
}

}  // namespace mmrec::testing
