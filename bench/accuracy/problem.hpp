// SPDX-License-Identifier: Apache-2.0
// What bench/accuracy measures: problems, each one result of one primitive on inputs that are exact
// in the element type, computed in long double and by the backends. The files beside this one add
// those of their primitives.
#pragma once

#include "support/exact.hpp"

#include <mmrec/backend.hpp>
#include <mmrec/dtype.hpp>
#include <mmrec/view.hpp>

#include <Eigen/Core>

#include <array>
#include <limits>
#include <random>
#include <string>
#include <vector>

namespace bench::accuracy {

using namespace mmrec;
using exact::at;
using exact::given;
using exact::real;

/// What an error is relative to: the element itself where a result can be small only by its own
/// right (exp, products), the largest element of the result where it is a sum that may cancel.
enum class relative_to { element, array };

struct problem {
  std::string name, dtype;
  relative_to unit;
  double epsilon;
  std::vector<std::vector<index_t>> shapes;
  std::vector<given> inputs;
  exact::array expected;
  std::array<exact::array, 2> ours;  // reference, simd
};

struct sizes {
  index_t batch = 4, time = 2048, channel = 16;  // scans
  index_t elements = 1 << 16;                    // elementwise, AdamW
  index_t rows = 64, in = 512, out = 128;        // linear, norm
  index_t classes = 1000;                        // cross-entropy
  index_t slots = 128, heads = 4, width = 64;    // attention, recurrence, decay, HDS
  index_t steps = 32;                            // attention, recurrence
};

template <class T>
constexpr const char* dtype_of() {
  switch (storage_format<T>) {
    case format::binary16:
      return "float16";
    case format::bfloat16:
      return "bfloat16";
    default:
      return sizeof(T) == 4 ? "float32" : "float64";
  }
}

/// Of the storage: 16-bit elements are rounded when they are stored, whatever they were summed in.
template <class T>
constexpr double epsilon_of() {
  switch (storage_format<T>) {
    case format::binary16:
      return 0x1p-10;
    case format::bfloat16:
      return 0x1p-7;
    default:
      return static_cast<double>(std::numeric_limits<T>::epsilon());
  }
}

template <class T>
class collection {
 public:
  explicit collection(std::vector<problem>& problems) : all_(problems) {}

  given uniform(index_t n, double low, double high) {
    std::uniform_real_distribution<double> any(low, high);
    given x(at(n));
    for (double& v : x) v = static_cast<double>(static_cast<T>(any(random_)));
    return x;
  }
  /// `compute` is called with a backend, the inputs as arrays of T, and the result to write.
  template <class F>
  void add(const std::string& name, relative_to unit, std::vector<std::vector<index_t>> shapes,
           std::vector<given> inputs, exact::array expected, const F& compute) {
    std::vector<std::vector<T>> x;
    for (const given& input : inputs) {
      x.emplace_back();
      for (const double v : input) x.back().push_back(static_cast<T>(v));
    }
    problem p{name,
              dtype_of<T>(),
              unit,
              epsilon_of<T>(),
              std::move(shapes),
              std::move(inputs),
              std::move(expected),
              {}};
    const auto run = [&](const auto& backend, exact::array& to) {
      std::vector<T> y(p.expected.size(), T(0));
      compute(backend, x, y.data());
      for (const T& v : y) to.push_back(static_cast<real>(static_cast<accumulator_t<T>>(v)));
    };
    run(backend::reference{}, p.ours[0]);
    run(backend::simd{}, p.ours[1]);
    all_.push_back(std::move(p));
  }

 private:
  std::vector<problem>& all_;
  std::mt19937_64 random_{7};
};

/// An array of T that a result is not compared of.
template <class T>
std::vector<T> spare(index_t n) {
  return std::vector<T>(at(n), T(0));
}

template <class T>
view<T, 2> matrix(T* p, index_t rows, index_t columns) {
  return {p, {rows, columns}};
}

void add_scans(std::vector<problem>& all, const sizes& s);
void add_elementwise(std::vector<problem>& all, const sizes& s);
void add_products(std::vector<problem>& all, const sizes& s);
void add_rows(std::vector<problem>& all, const sizes& s);
void add_memory(std::vector<problem>& all, const sizes& s);

}  // namespace bench::accuracy
