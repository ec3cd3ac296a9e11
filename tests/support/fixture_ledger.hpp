// SPDX-License-Identifier: Apache-2.0
// What it means to agree with a file of reference data, and which of its results were looked at.
//
// A result is an array under f64/ or f32/, named without that prefix. The distance of a result is
// max|actual - reference| / max|reference|. With d the largest distance between the file's own
// float32 and float64 results, the tolerances of tests/fixtures/README.md are
//   double against f64/              1e-10
//   float  against f64/              max(2e-5, 10 d)
//   either against f32/ alone        max(2e-5, 10 d)
//   either against f32/ beside f64/  the tolerance against f64/ plus the distance of f32/ from f64/
// The last says nothing new (triangle inequality); it is there so that no array goes unread.
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <limits>
#include <map>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "npz.hpp"
#include "numeric.hpp"

namespace mmrec::testing {

// Over what max|reference| is taken. rows: each row along the last axis is measured by its own
// largest element, for arrays whose rows differ by many orders of magnitude.
enum class fixture_scale { array, rows };

struct fixture_comparison {
  std::string array;
  double error = 0;
  double tolerance = 0;
  bool passed() const { return error <= tolerance; }  // false for NaN
};

class fixture_ledger {
 public:
  explicit fixture_ledger(npz data) : data_(std::move(data)) {
    for (const std::string& name : data_.names()) {
      if (!is_result(name)) continue;
      open_.insert(name);
      const std::string result = name.substr(prefix_size);
      double& largest = largest_gradient_[call_of(result)];
      if (is_gradient(result)) {
        largest = std::max(largest, max_abs<double>(data_.array(name).as<double>()));
      }
    }
    if (open_.empty()) throw std::invalid_argument(data_.file() + ": no array under f64/ or f32/");
    for (const std::string& name : open_) {
      const std::string result = name.substr(prefix_size);
      if (!name.starts_with("f64/") || !data_.contains("f32/" + result)) continue;
      reference_distance_ = std::max(
          reference_distance_, distance_to(name, values("f32/" + result), fixture_scale::array));
    }
    // A file whose two runs disagree cannot judge a third.
    if (!(reference_distance_ < 1e-3)) {
      throw std::invalid_argument(data_.file() + ": f32/ and f64/ differ by " +
                                  std::to_string(reference_distance_));
    }
  }

  const npz& data() const { return data_; }
  // The largest distance between the two runs of the file: the column "f32-f64" of its README.
  double reference_distance() const { return reference_distance_; }
  bool expects(std::string_view result) const {
    return data_.contains("f64/" + std::string(result)) ||
           data_.contains("f32/" + std::string(result));
  }

  // One comparison for each precision in which the file holds the result; there is at least one.
  template <std::floating_point T>
  std::vector<fixture_comparison> compare(std::string_view result, const std::vector<T>& actual,
                                          fixture_scale scale = fixture_scale::array) {
    const std::string f64 = "f64/" + std::string(result);
    const std::string f32 = "f32/" + std::string(result);
    if (!expects(result)) {
      throw std::invalid_argument(data_.file() + ": holds neither " + f64 + " nor " + f32);
    }
    const double single = std::max(2e-5, 10 * reference_distance_);
    const double tolerance = std::same_as<T, double> ? 1e-10 : single;
    const std::vector<double> promoted(actual.begin(), actual.end());

    std::vector<fixture_comparison> comparisons;
    if (data_.contains(f64)) {
      comparisons.push_back({f64, distance_to(f64, promoted, scale), tolerance});
      if (data_.contains(f32)) {
        const double between = distance_to(f64, values(f32), scale);
        comparisons.push_back({f32, distance_to(f32, promoted, scale), tolerance + between});
      }
    } else {
      comparisons.push_back({f32, distance_to(f32, promoted, scale), single});
    }
    for (const fixture_comparison& comparison : comparisons) open_.erase(comparison.array);
    return comparisons;
  }

  std::vector<std::string> never_compared() const { return {open_.begin(), open_.end()}; }

 private:
  static constexpr std::size_t prefix_size = 4;

  static bool is_result(std::string_view name) {
    return name.starts_with("f64/") || name.starts_with("f32/");
  }
  // "fwd_ctx/grad/in/z" belongs to call "fwd_ctx", "grad/in/x" to the only call, "".
  static std::size_t gradient_at(std::string_view result) {
    if (result.starts_with("grad/")) return 0;
    const std::size_t at = result.find("/grad/");
    return at == std::string_view::npos ? at : at + 1;
  }
  static bool is_gradient(std::string_view result) {
    return gradient_at(result) != std::string_view::npos;
  }
  static std::string call_of(std::string_view result) {
    const std::size_t at = gradient_at(result);
    return std::string(result.substr(0, at == std::string_view::npos ? 0 : at));
  }

  std::vector<double> values(const std::string& name) const {
    return data_.array(name).as<double>();
  }

  // A gradient that is zero up to rounding has no scale of its own: it takes the call's largest.
  // Below 1e-12 of it in the float64 run (u = 1e-16), or below u in a float32 run, it is rounding.
  double scale_of(const std::string& name, std::span<const double> reference) const {
    const double own = max_abs(reference);
    const std::string result = name.substr(prefix_size);
    if (!is_gradient(result)) return own;
    const double largest = largest_gradient_.at(call_of(result));
    const bool judged_by_f64 = data_.contains("f64/" + result);
    return own <= (judged_by_f64 ? 1e-12 : 0x1p-24) * largest ? largest : own;
  }

  double distance_to(const std::string& name, const std::vector<double>& actual,
                     fixture_scale scale) const {
    const npy_array& array = data_.array(name);
    const std::vector<double> reference = array.as<double>();
    if (actual.size() != reference.size()) {
      throw std::invalid_argument(data_.file() + ": " + name + ": expected " +
                                  std::to_string(reference.size()) + " values, seen " +
                                  std::to_string(actual.size()));
    }
    // f32/ beside f64/ is measured by the scale of f64/, so that distances add up.
    const std::string f64 = "f64/" + name.substr(prefix_size);
    const std::string scale_name = data_.contains(f64) ? f64 : name;
    const std::vector<double> scales = values(scale_name);
    const std::size_t row = scale == fixture_scale::rows
                                ? static_cast<std::size_t>(array.shape.back())
                                : reference.size();
    double worst = 0;
    for (std::size_t from = 0; from < reference.size(); from += row) {
      const std::span<const double> mine(actual.data() + from, row);
      const std::span<const double> theirs(reference.data() + from, row);
      const std::span<const double> by(scales.data() + from, row);
      const double unit = scale == fixture_scale::rows ? max_abs(by) : scale_of(scale_name, by);
      worst = std::max(worst, max_scaled_error(mine, theirs, unit));
    }
    return worst;
  }

  npz data_;
  std::set<std::string> open_;
  std::map<std::string, double> largest_gradient_;
  double reference_distance_ = 0;
};

}  // namespace mmrec::testing
