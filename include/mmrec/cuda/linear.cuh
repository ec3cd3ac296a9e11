// SPDX-License-Identifier: Apache-2.0
// linear on the GPU: cuBLASLt for the products, one pass of our own where its epilogues do not give
// our results.
//
//   forward   identity, relu                 one product with cuBLASLt's epilogue, where that is
//                                            right (bias_epilogue_is_right, relu_in_product)
//             anything else                  the product in y, or for 16-bit elements in float
//                                            scratch; then bias, activation and dropout in one pass
//   backward  du and dbias in one pass (none where du is dy), then dx = du W and dW = du^T x, whose
//             accumulation is the product's beta; side by side in a graph, but for large
//             products without tensor cores
//
// Which epilogues of cuBLASLt are used, and which not. BIAS is. GELU is the tanh approximation of
// ours. RELU is where it keeps a NaN, as ours and PyTorch's do (linear_tuning). RELU_AUX, DRELU and
// DRELU_BGRAD pass a bit mask between two layers' products, but one layer's calls meet only their
// own: saved is y itself. BGRADA and BGRADB sum du over rows inside the product for dW, an order
// that the algorithm chooses; here it is summed on the way to du, which costs no further reading.
//
// The order of summation is that of the algorithm which cuBLASLt names for the shapes, strides and
// alignment: equal calls give equal bits, another layout may give others. (With autotune it is that
// of the fastest of several, which another run may measure otherwise.) With 16-bit elements du
// is rounded to the element's type, as tensor cores take it; dbias is summed before that rounding.
#pragma once

#include <mmrec/cuda/branches.cuh>
#include <mmrec/cuda/linear/elementwise.cuh>
#include <mmrec/cuda/linear/product.cuh>
#include <mmrec/linear.hpp>

#include <optional>

namespace mmrec {

namespace cuda::detail {

/// With 16-bit elements and rows of y that are not whole vectors of 16 bytes, cuBLASLt's bias
/// epilogue was seen to give wrong results (bfloat16) and not to end (half), on an H200 with CUDA
/// 13.0; the same products without an epilogue are right.
template <class S>
bool bias_epilogue_is_right(const view<S, 2>& y, index_t leading) {
  return !storage16<S> || (y.extent(1) % pack_size<S> == 0 && leading % pack_size<S> == 0 &&
                           aligned16(y.data_handle()));
}

/// y = x W^T + bias, perhaps through relu, all in cuBLASLt; false, and nothing is enqueued, where
/// it cannot.
template <class S>
bool fused_product(const backend::cuda& on, const view<const S, 2>& x, const view<const S, 2>& w,
                   const view<S, 2>& y, const view<const S, 1>& bias, bool relu) {
  if (x.extent(1) == 0) return false;
  const auto order = order_of(y);
  if (!order || !order->by_rows) return false;
  if (bias && !bias_epilogue_is_right(y, order->leading)) return false;
  const readable_matrix<S> in(on, "linear", x), weight(on, "linear", w);
  // A bias that has gaps or is not aligned is copied; it is small.
  const bool direct =
      !bias || ((bias.stride(0) == 1 || bias.extent(0) == 1) && aligned16(bias.data_handle()));
  const stream_scratch memory(on, "linear",
                              direct ? 0 : static_cast<std::size_t>(bias.extent(0)) * sizeof(S));
  const S* terms = bias.data_handle();
  if (!direct) {
    const view<S, 1> dense(reinterpret_cast<S*>(memory.data()), bias.extents());
    enqueue_transform(on, "linear", same_value{}, std::tuple{dense}, std::tuple{bias});
    terms = dense.data_handle();
  }
  const auto epilogue = relu ? (bias ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_RELU)
                             : (bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT);
  return blas_product(on, "linear", in.get(), weight.get().permuted({1, 0}), y, false, epilogue,
                      terms);
}

template <class Activation, class S>
void linear_forward(const backend::cuda& on, const view<const S, 2>& x, const view<const S, 2>& w,
                    const view<S, 2>& y, const view<const S, 1>& bias, const view<S, 2>& u,
                    const struct dropout& dropout) {
  constexpr bool identity = std::same_as<Activation, activation::identity>;
  constexpr bool relu = std::same_as<Activation, activation::relu>;
  const bool bare = !u && !dropout.active();
  if (bare && identity && fused_product(on, x, w, y, bias, false)) return;
  if (bare && relu && tuning_of_linear().relu_in_product && fused_product(on, x, w, y, bias, true))
    return;
  if constexpr ((identity || relu) && storage16<S>)
    if (!dropout.active() && fused_product(on, x, w, y, bias, false))
      return finish<Activation, S, S>(on, y, {}, y, u, dropout);

  using Q = accumulator_t<S>;
  const bool in_place = std::same_as<Q, S> && order_of(y);
  const bool nothing = x.extent(1) == 0;
  const stream_scratch memory(
      on, "linear", nothing || in_place ? 0 : static_cast<std::size_t>(y.size()) * sizeof(Q));
  view<Q, 2> product(reinterpret_cast<Q*>(memory.data()), y.extents());
  if constexpr (std::same_as<Q, S>)
    if (in_place) product = y;
  if (nothing)
    product = {};
  else
    multiply(on, "linear", x, w.permuted({1, 0}), product, false);
  finish<Activation, Q, S>(on, product, bias, y, u, dropout);
}

/// Should a graph run dx and dW side by side? Small ones together take 0.8 to 0.85 of the step's
/// time (MLPs of width 256 to 512, TF32 and bfloat16, an H100), large ones 0.97 to 1; but where
/// products without tensor cores fill the device, 1.2 of it at (512, 1024, 1024).
template <class S>
bool products_go_together(const backend::cuda& on, index_t rows, const view<const S, 2>& w) {
  constexpr index_t filling = index_t{1} << 28;  // multiplications
  return !std::same_as<S, float> || on.tf32 || rows * w.size() < filling;
}

template <class Activation, class S>
void linear_backward(const backend::cuda& on, const view<const S, 2>& dy, const view<const S, 2>& x,
                     const view<const S, 2>& w, const view<const S, 2>& saved, const view<S, 2>& dx,
                     const view<S, 2>& dw, const view<S, 1>& dbias, bool accumulate_dx,
                     bool accumulate_parameters, const struct dropout& dropout) {
  const char* const function = "linear_backward";
  const bool is_dy = std::same_as<Activation, activation::identity> && !dropout.active();
  const bool products = (dx && !dx.empty()) || (dw && !dw.empty());
  const stream_scratch memory(
      on, function, products && !is_dy ? static_cast<std::size_t>(dy.size()) * sizeof(S) : 0);
  view<S, 2> written;
  view<const S, 2> du = dy;
  if (memory.data()) {
    written = {reinterpret_cast<S*>(memory.data()), dy.extents()};
    du = written;
  }
  std::optional<gradient_pass<S>> pass;
  const auto begin_pass = [&] {
    pass.emplace(Activation(), on, dy, saved, written, dbias, accumulate_parameters, dropout);
  };
  if (written) begin_pass();
  branches side_by_side(on, function);
  if (dx) multiply(on, function, du, w, dx, accumulate_dx);
  if (products_go_together<S>(on, dy.extent(0), w)) side_by_side.next();
  if (dw) multiply(on, function, du.permuted({1, 0}), x, dw, accumulate_parameters);
  if (dbias && (!pass || pass->adds())) {
    side_by_side.next();
    if (!pass) begin_pass();
    pass->add_up();
  }
  side_by_side.join();
}

}  // namespace cuda::detail

/// W's copy lies dense in memory of the tag's pool, which goes back to it on the tag's stream.
template <element T>
struct detail::weight_storage<backend::cuda, T> {
  cuda::stream_scratch memory;
  view<const T, 2> w;
  weight_storage(const backend::cuda& on, const view<const T, 2>& from)
      : memory(on, "packed_weights", static_cast<std::size_t>(from.size()) * sizeof(T)),
        w(reinterpret_cast<const T*>(memory.data()), from.extents()) {
    if (!from.empty())
      cuda::detail::copy(on, "packed_weights", from,
                         view<T, 2>(reinterpret_cast<T*>(memory.data()), from.extents()));
  }
};

template <class Activation, element T>
void linear_kernel(const backend::cuda& on, const view<const T, 2>& x, const view<const T, 2>& w,
                   const view<T, 2>& y, const linear_options<T>& options) {
  using cuda::stored_view;
  cuda::detail::linear_forward<Activation>(on, stored_view(x), stored_view(w), stored_view(y),
                                           stored_view(options.bias),
                                           stored_view(options.preactivation), options.dropout);
}

template <class Activation, element T>
void linear_kernel(const backend::cuda& on, const view<const T, 2>& x,
                   const detail::weight_storage<backend::cuda, T>& w, const view<T, 2>& y,
                   const linear_options<T>& options) {
  linear_kernel<Activation>(on, x, w.w, y, options);
}

template <class Activation, element T>
void linear_backward_kernel(const backend::cuda& on, const view<const T, 2>& dy,
                            const view<const T, 2>& x, const view<const T, 2>& w,
                            const linear_gradients<T>& gradients) {
  using cuda::stored_view;
  cuda::detail::linear_backward<Activation>(
      on, stored_view(dy), stored_view(x), stored_view(w), stored_view(gradients.saved),
      stored_view(gradients.dx), stored_view(gradients.dw), stored_view(gradients.dbias),
      gradients.accumulate_dx, gradients.accumulate_parameters, gradients.dropout);
}

}  // namespace mmrec
