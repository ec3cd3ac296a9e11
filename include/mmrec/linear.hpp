// SPDX-License-Identifier: Apache-2.0
// Linear layers with the activation fused into the product's epilogue.
//
//   u = x W^T + b,   y = mask o act(u) / (1 - rate)
//
//   x (rows, inputs)   W (outputs, inputs)   b (outputs), optional   y (rows, outputs)
//
// Elements are float, double or 16-bit storage (products and sums in float). The activation is a
// template argument (activation.hpp; default identity). The dropout mask (random.hpp) is recomputed
// from its seed, never stored. Any strides; a row-major W is the fast layout. The order of
// summation is fixed by the shapes alone: results have the same bits for every thread count
// (another number of rows may give others, and with up to 8 rows another layout of W or packing
// it). On the GPU it also depends on layout and alignment, and float products may use TF32
// (backend::cuda::tf32). The products of backward take du rounded to the element's type for
// bfloat16, and on the GPU for half, too (dbias sums it before; backend::reference never rounds
// it).
// On a CPU with the dot product of bfloat16 (AVX512_BF16, where the file is compiled for it)
// products of two bfloat16 factors, here and wherever else they occur, may take factors and sums
// below 1.2e-38 for zero. Errors: extents that disagree, null data, outputs that overlap inputs or
// each other, a rate outside [0, 1).
//
//   linear_relu(backend::simd{}, x, w, bias, y);
//   linear_backward<activation::relu>(backend::simd{}, dy, x, w,
//                                     {.saved = y, .dx = dx, .dw = dw, .dbias = db});
//   linear<activation::gelu>(backend::simd{}, x, w, y, {.bias = b, .preactivation = u});
//   linear_backward<activation::gelu>(backend::simd{}, dy, x, w,
//                                     {.saved = u, .dx = dx, .dw = dw, .dbias = db});
//
// Weights that serve many calls can be packed once:
//
//   const packed_weights packed(backend::simd{}, w);
//   linear<activation::relu>(backend::simd{}, x, packed, y, {.bias = b});
#pragma once

#include <mmrec/activation.hpp>
#include <mmrec/backend.hpp>
#include <mmrec/check.hpp>
#include <mmrec/random.hpp>
#include <mmrec/view.hpp>

#include <memory>

namespace mmrec {

template <element T>
struct linear_options {
  view<const T, 1> bias{};
  view<T, 2> preactivation{};  ///< receives u, which gelu and silu need for their gradient
  struct dropout dropout{};
};

/// What linear_backward needs and which gradients it writes; every gradient is optional.
template <element T>
struct linear_gradients {
  /// The output y (relu, sigmoid, tanh) or the pre-activation u (gelu, silu); not used by identity.
  view<const T, 2> saved{};
  view<T, 2> dx{};
  view<T, 2> dw{};
  view<T, 1> dbias{};
  bool accumulate_dx = false;
  bool accumulate_parameters = false;  ///< dw and dbias
  struct dropout dropout{};
};

namespace detail {

/// W as a backend's products want it; each backend has its own.
template <class B, element T>
struct weight_storage;

/// The checks of linear for weights of these extents; whether there is anything to do.
template <element T>
bool check_linear(const view<const T, 2>& x, index_t outputs, index_t inputs, const view<T, 2>& y,
                  const linear_options<T>& options) {
  const char* function = "linear";
  check_view(function, "x", x, {x.extent(0), inputs});
  check_view(function, "y", y, {x.extent(0), outputs});
  check_optional(function, "bias", options.bias, {outputs});
  check_optional(function, "preactivation", options.preactivation, y.extents());
  check_rate(function, "dropout.rate", options.dropout.rate);
  check_distinct(function, "y", y);
  check_distinct(function, "preactivation", options.preactivation);
  check_disjoint(function, "y", y, "x", x);
  check_disjoint(function, "y", y, "bias", options.bias);
  check_disjoint(function, "preactivation", options.preactivation, "x", x);
  check_disjoint(function, "preactivation", options.preactivation, "bias", options.bias);
  check_disjoint(function, "preactivation", options.preactivation, "y", y);
  return !y.empty();
}

}  // namespace detail

/// W (outputs, inputs) prepared once for many products with it. Holds a copy of its elements in the
/// backend's layout; W may change or go afterwards. Copies of this object share it.
/// Errors: null data.
template <backend_tag B, element T>
class packed_weights {
 public:
  template <readable_array<2> W>
  packed_weights(const B& backend, const W& w)
      : outputs_(as_view(w).extent(0)), inputs_(as_view(w).extent(1)) {
    require_built<B>();
    const view<const T, 2> weights = as_view(w);
    check_view("packed_weights", "w", weights, weights.extents());
    storage_ = std::make_shared<const detail::weight_storage<B, T>>(backend, weights);
  }
  index_t outputs() const { return outputs_; }
  index_t inputs() const { return inputs_; }
  const detail::weight_storage<B, T>& storage() const { return *storage_; }

 private:
  index_t outputs_, inputs_;
  std::shared_ptr<const detail::weight_storage<B, T>> storage_;
};
template <backend_tag B, readable_array<2> W>
packed_weights(const B&, const W&) -> packed_weights<B, element_of<W>>;

template <activation_function Activation = activation::identity, backend_tag B, readable_array<2> X,
          readable_array<2> W, writable_array<2> Y>
void linear(const B& backend, const X& x, const W& w, const Y& y,
            const linear_options<element_of<Y>>& options = {}) {
  using T = element_of<Y>;
  detail::require_one_type<T, element_of<X>, element_of<W>>();
  require_built<B>();
  const view<const T, 2> in = as_view(x), weight = as_view(w);
  const view<T, 2> out = as_view(y);
  check_view("linear", "w", weight, {weight.extent(0), in.extent(1)});
  const bool any = detail::check_linear(in, weight.extent(0), weight.extent(1), out, options);
  check_disjoint("linear", "y", out, "w", weight);
  check_disjoint("linear", "preactivation", options.preactivation, "w", weight);
  if (!any) return;
  linear_kernel<Activation>(backend, in, weight, out, options);
}

/// The same with weights packed for this backend.
template <activation_function Activation = activation::identity, backend_tag B, readable_array<2> X,
          writable_array<2> Y>
void linear(const B& backend, const X& x, const packed_weights<B, element_of<Y>>& w, const Y& y,
            const linear_options<element_of<Y>>& options = {}) {
  using T = element_of<Y>;
  detail::require_one_type<T, element_of<X>>();
  require_built<B>();
  const view<const T, 2> in = as_view(x);
  const view<T, 2> out = as_view(y);
  if (!detail::check_linear(in, w.outputs(), w.inputs(), out, options)) return;
  linear_kernel<Activation>(backend, in, w.storage(), out, options);
}

/// y = relu(x W^T + bias), the headline case.
template <backend_tag B, readable_array<2> X, readable_array<2> W, readable_array<1> Bias,
          writable_array<2> Y>
void linear_relu(const B& backend, const X& x, const W& w, const Bias& bias, const Y& y) {
  linear<activation::relu>(backend, x, w, y, {.bias = as_view(bias)});
}

/// du = dy o act'(u) o mask / (1 - rate);  dx = du W;  dW = du^T x;  dbias = sum of du over rows.
template <activation_function Activation = activation::identity, backend_tag B, readable_array<2> G,
          readable_array<2> X, readable_array<2> W>
void linear_backward(const B& backend, const G& dy, const X& x, const W& w,
                     const linear_gradients<element_of<G>>& gradients) {
  using T = element_of<G>;
  detail::require_one_type<T, element_of<X>, element_of<W>>();
  require_built<B>();
  const view<const T, 2> g = as_view(dy), in = as_view(x), weight = as_view(w);
  const char* function = "linear_backward";
  check_view(function, "dy", g, {in.extent(0), weight.extent(0)});
  check_view(function, "x", in, in.extents());
  check_view(function, "w", weight, {weight.extent(0), in.extent(1)});
  if constexpr (!std::same_as<Activation, activation::identity>)
    check_view(function, "saved", gradients.saved, g.extents());
  else
    check_optional(function, "saved", gradients.saved, g.extents());
  check_optional(function, "dx", gradients.dx, in.extents());
  check_optional(function, "dw", gradients.dw, weight.extents());
  check_optional(function, "dbias", gradients.dbias, {weight.extent(0)});
  check_rate(function, "dropout.rate", gradients.dropout.rate);
  const auto apart = [&](const char* name, const auto& out) {
    check_distinct(function, name, out);
    check_disjoint(function, name, out, "dy", g);
    check_disjoint(function, name, out, "x", in);
    check_disjoint(function, name, out, "w", weight);
    check_disjoint(function, name, out, "saved", gradients.saved);
  };
  apart("dx", gradients.dx);
  apart("dw", gradients.dw);
  apart("dbias", gradients.dbias);
  check_disjoint(function, "dx", gradients.dx, "dw", gradients.dw);
  check_disjoint(function, "dx", gradients.dx, "dbias", gradients.dbias);
  check_disjoint(function, "dw", gradients.dw, "dbias", gradients.dbias);
  linear_backward_kernel<Activation>(backend, g, in, weight, gradients);
}

}  // namespace mmrec

#include <mmrec/reference/linear.hpp>
#if defined(__CUDACC__)
#include <mmrec/cuda/linear.cuh>
#endif
#if !defined(__CUDACC__) && __has_include(<xsimd/xsimd.hpp>)
#include <mmrec/simd/linear.hpp>
#endif
