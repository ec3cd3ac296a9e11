// SPDX-License-Identifier: Apache-2.0
// What the tests of linear share: problems with random values, runs in any layout, checked against
// the oracle.
#pragma once

#include <mmrec/linear.hpp>

#include <Eigen/Core>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "catch.hpp"
#include "compiled_linear.hpp"
#include "linear_oracle.hpp"
#include "numeric.hpp"
#include "on_both_backends.hpp"
#include "strided_buffer.hpp"

namespace mmrec::testing {

// ---- Arrays -------------------------------------------------------------------------------------

/// A matrix in one of strided_buffer's layouts; batch_last gives both axes a stride of their own.
template <class T>
class matrix {
 public:
  matrix(index_t rows, index_t columns, layout kind)
      : count_(static_cast<std::size_t>(rows * columns)),
        batches_(kind == layout::batch_last ? 2 : 1),
        buffer_({batches_, rows, columns}, kind) {}
  matrix(index_t rows, index_t columns, layout kind, const std::vector<double>& values)
      : matrix(rows, columns, kind) {
    assign(values);
  }

  mmrec::view<T, 2> view() { return buffer_.view().select(0, 0); }
  mmrec::view<const T, 2> view() const { return buffer_.view().select(0, 0); }
  void assign(const std::vector<double>& values) {
    auto all = buffer_.values();
    for (std::size_t i = 0; i < values.size(); ++i)
      all[i] = static_cast<T>(static_cast<accumulator_t<T>>(values[i]));
    buffer_.assign(all);
  }
  std::vector<double> values() const {
    const auto all = buffer_.values();
    std::vector<double> result(count_);
    for (std::size_t i = 0; i < count_; ++i) result[i] = static_cast<double>(all[i]);
    return result;
  }
  /// None of its elements was written.
  bool untouched() const {
    const auto all = values();
    return std::all_of(all.begin(), all.end(), [](double v) { return std::isnan(v); });
  }
  /// Nothing but its own elements was written.
  bool intact() const {
    const auto all = buffer_.values();
    for (std::size_t i = count_; i < all.size(); ++i)
      if (!std::isnan(static_cast<double>(all[i]))) return false;
    return buffer_.canaries_intact();
  }

 private:
  std::size_t count_;
  index_t batches_;
  strided_buffer<T> buffer_;
};

/// Random values that T holds exactly.
template <class T>
std::vector<double> storable(index_t size, std::uint64_t seed, double low = -1, double high = 1) {
  std::vector<double> result;
  for (const T v : random_vector<T>(size, seed, low, high))
    result.push_back(static_cast<double>(v));
  return result;
}

// ---- Problems and runs --------------------------------------------------------------------------

template <class T>
linear_problem random_linear(const linear_shape& s, bool biased, double rate, double before,
                             std::uint64_t seed) {
  linear_problem p{s, {}, {}, {}, {}, {rate, seed, 3}, before};
  p.x = storable<T>(s.rows * s.inputs, 4 * seed);
  // Pre-activations of order 1 at any length, where activations bend.
  const double spread = 3 / std::sqrt(static_cast<double>(std::max<index_t>(1, s.inputs)));
  p.w = storable<T>(s.outputs * s.inputs, 4 * seed + 1, -spread, spread);
  if (biased) p.bias = storable<T>(s.outputs, 4 * seed + 2);
  p.dy = storable<T>(s.rows * s.outputs, 4 * seed + 3);
  return p;
}

struct linear_layouts {
  layout x = layout::channel_last, w = layout::channel_last, y = layout::channel_last,
         gradients = layout::channel_last;
};

/// The weights of a forward call: a view of them, or a copy packed for the backend.
struct as_they_lie {
  template <class B, class T>
  view<const T, 2> operator()(const B&, const view<const T, 2>& w) const {
    return w;
  }
};
struct packed {
  template <class B, class T>
  packed_weights<B, T> operator()(const B& backend, const view<const T, 2>& w) const {
    return {backend, w};
  }
};

/// Forward, then backward from what it saved. Activations whose gradient needs u save it always.
template <class A, class T, class Weights = as_they_lie, class Backend>
linear_result run_linear(const Backend& backend, const linear_problem& p,
                         const linear_layouts& kinds = {}, linear_request ask = {}) {
  ask.u = ask.u || !A::saves_output;
  const auto [rows, inputs, outputs] = p.shape;
  const matrix<T> x(rows, inputs, kinds.x, p.x), w(outputs, inputs, kinds.w, p.w),
      dy(rows, outputs, kinds.y, p.dy);
  matrix<T> bias(1, outputs, kinds.gradients), y(rows, outputs, kinds.y),
      u(rows, outputs, kinds.gradients);
  matrix<T> dx(rows, inputs, kinds.gradients), dw(outputs, inputs, kinds.gradients),
      dbias(1, outputs, kinds.w);
  linear_options<T> options{.dropout = p.dropout};
  if (ask.u) options.preactivation = u.view();
  if (!p.bias.empty()) {
    bias.assign(p.bias);
    options.bias = bias.view().select(0, 0);
  }
  linear<A>(backend, x.view(), Weights{}(backend, w.view()), y.view(), options);

  const struct {
    matrix<T>& array;
    bool asked;
  } gradients_of[]{{dx, ask.dx}, {dw, ask.dw}, {dbias, ask.dbias}};
  const bool accumulate = p.before != 0;
  for (const auto& [m, asked] : gradients_of)
    if (accumulate && asked) m.assign(std::vector<double>(m.values().size(), p.before));
  linear_gradients<T> gradients{.saved = A::saves_output ? y.view() : u.view(),
                                .accumulate_dx = accumulate,
                                .accumulate_parameters = accumulate,
                                .dropout = p.dropout};
  if (ask.dx) gradients.dx = dx.view();
  if (ask.dw) gradients.dw = dw.view();
  if (ask.dbias) gradients.dbias = dbias.view().select(0, 0);
  linear_backward<A>(backend, dy.view(), x.view(), w.view(), gradients);
  const auto values = [](const matrix<T>& m, bool asked) {
    return asked ? m.values() : std::vector<double>{};
  };
  linear_result r{y.values(),
                  values(u, ask.u),
                  values(dx, ask.dx),
                  values(dw, ask.dw),
                  values(dbias, ask.dbias),
                  {},
                  ask,
                  ask.u || u.untouched()};
  r.saved = A::saves_output ? r.y : r.u;
  for (const auto* m : {&bias, &y, &u, &dx, &dw, &dbias}) r.intact = r.intact && m->intact();
  for (const auto& [m, asked] : gradients_of) r.intact = r.intact && (asked || m.untouched());
  return r;
}

/// The GPU's products sum in an order of their own, and those of 16-bit elements take du rounded to
/// the element's type. So do the CPU's of bfloat16.
template <class Backend>
inline constexpr bool sums_in_order = true;
template <class Backend, class T>
inline constexpr bool rounds_du = storage_format<T> == format::bfloat16;
template <class T>
inline constexpr bool rounds_du<backend::reference, T> = false;
#if defined(__CUDACC__)
template <>
inline constexpr bool sums_in_order<device> = false;
template <class T>
inline constexpr bool rounds_du<device, T> = storage16<T>;
#endif

template <class A, class T, class Weights = as_they_lie, class Backend>
void check_linear(const char* name, const Backend& backend, const linear_problem& p,
                  const linear_layouts& kinds = {}, std::size_t most = 20000,
                  const linear_request& ask = {}) {
  CAPTURE(name, activation_name<A>(), p.shape.rows, p.shape.inputs, p.shape.outputs, p.bias.empty(),
          p.dropout.rate, p.before, to_string(kinds.x), to_string(kinds.w), to_string(kinds.y),
          to_string(kinds.gradients), ask.u, ask.dx, ask.dw, ask.dbias);
  const auto r = run_linear<A, T, Weights>(backend, p, kinds, ask);
  CHECK(r.intact);
  CHECK(worst_linear_error<A, T>(p, r, most, rounds_du<Backend, T>) <= 1);
}

}  // namespace mmrec::testing
