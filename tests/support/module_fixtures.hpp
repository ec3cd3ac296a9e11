// SPDX-License-Identifier: Apache-2.0
// What the fixture tests of the modules above the primitives share: arrays that own their elements
// and know their shape, the parameters of a file with a gradient beside each, and the rule for what
// has no gradient.
#pragma once

#include <mmrec/decay.hpp>
#include <mmrec/view.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <limits>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "fixtures.hpp"

namespace mmrec::testing {

// A row-major array. `unwritten` ones hold NaN, so that an element nobody writes is seen.
template <class T>
class dense {
 public:
  using shape_type = std::vector<index_t>;

  dense() = default;
  dense(shape_type shape, T value) : shape_(std::move(shape)) {
    index_t size = 1;
    for (const index_t extent : shape_) size *= extent;
    values_.assign(static_cast<std::size_t>(size), value);
  }
  explicit dense(const npy_array& array) : shape_(array.shape), values_(array.as<T>()) {}
  static dense zeros(shape_type shape) { return {std::move(shape), T(0)}; }
  static dense unwritten(shape_type shape) {
    return {std::move(shape), std::numeric_limits<T>::quiet_NaN()};
  }

  const shape_type& shape() const { return shape_; }
  index_t extent(std::size_t axis) const { return shape_.at(axis); }
  index_t width() const { return shape_.back(); }
  const std::vector<T>& values() const { return values_; }

  view<const T, 1> vector() const { return {values_.data(), {size()}}; }
  view<T, 1> vector() { return {values_.data(), {size()}}; }
  // All axes before the last as one.
  view<const T, 2> rows() const { return {values_.data(), {size() / width(), width()}}; }
  view<T, 2> rows() { return {values_.data(), {size() / width(), width()}}; }
  // Rank 3 as it is; rank 2 as one batch entry.
  view<const T, 3> cube() const { return {values_.data(), cube_extents()}; }
  view<T, 3> cube() { return {values_.data(), cube_extents()}; }

 private:
  index_t size() const { return static_cast<index_t>(values_.size()); }
  std::array<index_t, 3> cube_extents() const {
    if (shape_.size() == 2) return {1, shape_[0], shape_[1]};
    if (shape_.size() != 3) throw std::invalid_argument("dense: expected rank 2 or 3");
    return {shape_[0], shape_[1], shape_[2]};
  }

  shape_type shape_;
  std::vector<T> values_;
};

// The sum over the first axis of a rank 3 array: the gradient of what every batch entry shares.
template <class T>
std::vector<T> sum_over_batch(const view<const T, 3>& x) {
  std::vector<T> sum(static_cast<std::size_t>(x.extent(1) * x.extent(2)), T(0));
  for (index_t b = 0; b < x.extent(0); ++b) {
    for (index_t i = 0; i < x.extent(1); ++i) {
      for (index_t j = 0; j < x.extent(2); ++j) {
        sum[static_cast<std::size_t>(i * x.extent(2) + j)] += x(b, i, j);
      }
    }
  }
  return sum;
}

// The gradient of a bank that the file gives as (M, D), one for all, or as (B, M, D).
template <class T>
std::vector<T> bank_gradient(const view<const T, 3>& per_sequence, index_t size_in_file) {
  if (per_sequence.size() != size_in_file) return sum_over_batch(per_sequence);
  return {per_sequence.data_handle(), per_sequence.data_handle() + per_sequence.size()};
}

// The number behind "_KEY" in "kind_D16_H4_B1.npz"; absent: the default.
inline index_t number_in_name(std::string_view name, std::string_view key, index_t absent) {
  const std::string part = "_" + std::string(key);
  for (std::size_t at = name.find(part); at != name.npos; at = name.find(part, at + 1)) {
    const std::string_view digits = name.substr(at + part.size());
    index_t number = 0;
    const auto [end, problem] =
        std::from_chars(digits.data(), digits.data() + digits.size(), number);
    const std::string_view rest = digits.substr(static_cast<std::size_t>(end - digits.data()));
    if (problem == std::errc{} && (rest.starts_with('_') || rest.starts_with('.'))) return number;
  }
  return absent;
}

// The file's results of one call hold gradients. `call` is "" or ends with a slash.
inline bool has_gradients(const npz& data, const std::string& call) {
  return std::any_of(data.names().begin(), data.names().end(), [&](const std::string& name) {
    return name.starts_with("f64/" + call + "grad/") || name.starts_with("f32/" + call + "grad/");
  });
}

// `name` is "in/x" or "param/W.weight". What has no entry beside others that have one receives no
// gradient in that call: it must be exactly zero here.
template <class T>
void compare_gradient(fixture_check& check, const std::string& call, const std::string& name,
                      const std::vector<T>& actual) {
  const std::string result = call + "grad/" + name;
  if (check.expects(result)) {
    check.compare(result, actual);
  } else if (has_gradients(check.data(), call)) {
    INFO(check.data().file() << ": " << result << " is not in the file, so it must be zero");
    CHECK(std::all_of(actual.begin(), actual.end(), [](T g) { return g == T(0); }));
  }
}

// All param/ arrays of a file, and a gradient of zeros for each, to which a backward adds.
template <class T>
class parameter_set {
 public:
  explicit parameter_set(const npz& data) {
    for (const std::string& name : data.names()) {
      if (!name.starts_with("param/")) continue;
      dense<T> value(data.array(name));
      gradients_.emplace(name.substr(6), dense<T>::zeros(value.shape()));
      values_.emplace(name.substr(6), std::move(value));
    }
  }

  const dense<T>& operator()(const std::string& name) const { return values_.at(name); }
  dense<T>& gradient(const std::string& name) { return gradients_.at(name); }

  // STEM.0 and STEM.2, the two layers of a perceptron.
  decay_branch_weights<const T> branch(const std::string& stem) const {
    const auto& p = *this;
    return {p(stem + ".0.weight").rows(), p(stem + ".0.bias").vector(),
            p(stem + ".2.weight").rows(), p(stem + ".2.bias").vector()};
  }
  decay_branch_weights<T> branch_gradient(const std::string& stem) {
    return {gradient(stem + ".0.weight").rows(), gradient(stem + ".0.bias").vector(),
            gradient(stem + ".2.weight").rows(), gradient(stem + ".2.bias").vector()};
  }

  void compare_gradients(fixture_check& check, const std::string& call) const {
    for (const auto& [name, g] : gradients_) {
      compare_gradient(check, call, "param/" + name, g.values());
    }
  }

 private:
  std::map<std::string, dense<T>> values_, gradients_;
};

}  // namespace mmrec::testing
