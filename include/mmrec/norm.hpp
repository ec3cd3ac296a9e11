// SPDX-License-Identifier: Apache-2.0
// RMSNorm over the last axis (Zhang and Sennrich, 2019).
//
//   epsilon_position::outside (the MM-Rec reference): n = ||x||_2 / sqrt(D), y = w o x / (n + eps)
//   epsilon_position::inside (the usual form):        y = w o x / sqrt(mean(x^2) + eps)
//
//   x, y, dy, dx (rows, D)   w, dw (D)   unit stride on D; float, double or 16-bit storage
//
// Backward of the reference form, r = n + eps:
//   dx = w o dy / r - x (sum_j w_j dy_j x_j) / (r^2 sqrt(D) ||x||), the second term 0 at x = 0
//   dw = sum dy o x / r
//
// Squares are summed in the arithmetic type: elements of 1e19 and more are too large for float (as
// they are for PyTorch's RMSNorm), and their row becomes 0.
//
// y may be x; dx may be dy or the residual. Errors: shapes, null data, another stride than 1 on D,
// any other overlap of outputs with inputs or each other, a residual together with accumulate_dx,
// an epsilon that is negative or NaN.
//
// On the GPU the bits depend on the shape only, not on strides, alignment or the device.
//
//   rms_norm(backend::simd{}, x, w, y);
//   rms_norm_backward(backend::simd{}, dy, x, w, {.dx = dx, .dw = dw});
#pragma once

#include <mmrec/loops.hpp>

namespace mmrec {

enum class epsilon_position { outside, inside };

struct rms_norm_options {
  double epsilon = 1e-6;
  epsilon_position position = epsilon_position::outside;
};

template <element T>
struct rms_norm_gradients {
  view<T, 2> dx{};
  view<T, 1> dw{};
  view<const T, 2> residual{};  ///< added to dx: what came past the norm
  bool accumulate_dx = false;   ///< the same with dx itself
  bool accumulate_dw = false;
  rms_norm_options options{};
};

namespace detail {

/// 1 / r for one row, and the factor of x (sum w dy x) in the gradient.
template <class Acc>
struct row_scale {
  Acc inverse, slope;
};

/// Of a row of n elements whose squares have this sum.
template <class Acc>
MMREC_HD row_scale<Acc> rms_scale(Acc squares, index_t n, const rms_norm_options& options) {
  const auto eps = static_cast<Acc>(options.epsilon);
  const Acc mean = squares / static_cast<Acc>(n);
  if (options.position == epsilon_position::inside) {
    const Acc inverse = Acc(1) / math::sqrt(mean + eps);
    return {inverse, inverse * inverse * inverse / static_cast<Acc>(n)};
  }
  const Acc rms = math::sqrt(mean), r = rms + eps;
  // sqrt(D) ||x|| = D rms
  return {Acc(1) / r, rms > 0 ? Acc(1) / (r * r * rms * static_cast<Acc>(n)) : Acc(0)};
}

template <class V, class T>
auto rms_scale(const T* x, index_t n, const rms_norm_options& options) {
  return rms_scale(sum_units<V>(n,
                                [&](index_t j, std::size_t live) {
                                  const V v = load_unit<V>(x + j, live);
                                  return v * v;
                                }),
                   n, options);
}

}  // namespace detail

/// What rms_norm does once its arguments are checked and not empty.
template <loop_backend B, element T>
void rms_norm_rows(const B& backend, const view<const T, 2>& in, const view<const T, 1>& weight,
                   const view<T, 2>& out, const rms_norm_options& options) {
  using V = lanes_of<B, accumulator_t<T>>;
  const index_t n = in.extent(1);
  for_each_row(backend, in.extent(0), 2 * n, [&](index_t i) {
    const T* xi = &in(i, 0);
    T* yi = &out(i, 0);
    const V inverse(detail::rms_scale<V>(xi, n, options).inverse);
    for_units<V>(n, [&](index_t j, std::size_t live) {
      store_unit(yi + j, load_unit<V>(&weight(0) + j, live) * load_unit<V>(xi + j, live) * inverse,
                 live);
    });
  });
}

template <backend_tag B, readable_array<2> X, readable_array<1> W, writable_array<2> Y>
void rms_norm(const B& backend, const X& x, const W& w, const Y& y,
              const rms_norm_options& options = {}) {
  using T = element_of<Y>;
  detail::require_one_type<element_of<X>, element_of<W>, T>();
  require_built<B>();
  const view<const T, 2> in = as_view(x);
  const view<const T, 1> weight = as_view(w);
  const view<T, 2> out = as_view(y);
  const index_t n = in.extent(1);
  check_dense("rms_norm", "x", in, in.extents());
  check_dense("rms_norm", "w", weight, {n});
  check_dense("rms_norm", "y", out, in.extents());
  check_distinct("rms_norm", "y", out);
  check_disjoint_or_same("rms_norm", "y", out, "x", in);
  check_disjoint("rms_norm", "y", out, "w", weight);
  check_not_negative("rms_norm", "epsilon", options.epsilon);
  if (!out.empty()) rms_norm_rows(backend, in, weight, out, options);
}

/// What rms_norm_backward does once its arguments are checked and rows have columns. `residual` is
/// what is added to dx.
template <loop_backend B, element T>
void rms_norm_backward_rows(const B& backend, const view<const T, 2>& g, const view<const T, 2>& in,
                            const view<const T, 1>& weight, const rms_norm_gradients<T>& gradients,
                            const view<const T, 2>& residual) {
  using Acc = accumulator_t<T>;
  using V = lanes_of<B, Acc>;
  const index_t rows = in.extent(0), n = in.extent(1);
  // One pass over the rows, blocks of them with a sum of dw each: the bits are the same for every
  // thread count. A row of dy is used up before dx, which may be the same memory, is written.
  constexpr index_t together = 32;
  const index_t blocks = (rows + together - 1) / together;
  scratch<Acc> partial(scratch_of(backend),
                       static_cast<std::size_t>(std::max<index_t>(1, blocks * n)));
  for_each_row(backend, blocks, 4 * together * n, [&](index_t block) {
    const index_t first = block * together;
    Acc* sums = partial.data() + block * n;
    for (index_t i = first; i < std::min(rows, first + together); ++i) {
      const T *xi = &in(i, 0), *gi = &g(i, 0);
      const auto s = detail::rms_scale<V>(xi, n, gradients.options);
      const V scale(s.inverse);
      const Acc dot = sum_units<V>(n, [&](index_t j, std::size_t live) {
        const V xj = load_unit<V>(xi + j, live), gj = load_unit<V>(gi + j, live);
        const V share = gj * xj * scale;
        if (gradients.dw)
          store_unit(sums + j, i == first ? share : load_unit<V>(sums + j, live) + share, live);
        return load_unit<V>(&weight(0) + j, live) * gj * xj;
      });
      if (!gradients.dx) continue;
      const V along(dot * s.slope);
      for_units<V>(n, [&](index_t j, std::size_t live) {
        V d = load_unit<V>(&weight(0) + j, live) * load_unit<V>(gi + j, live) * scale -
              load_unit<V>(xi + j, live) * along;
        if (residual) d = d + load_unit<V>(&residual(i, 0) + j, live);
        store_unit(&gradients.dx(i, 0) + j, d, live);
      });
    }
  });
  if (!gradients.dw) return;
  for_units<V>(n, [&](index_t j, std::size_t live) {
    T* dw = &gradients.dw(0) + j;
    V total = gradients.accumulate_dw ? load_unit<V>(dw, live) : math::constant<V>(0);
    for (index_t block = 0; block < blocks; ++block)
      total = total + load_unit<V>(partial.data() + block * n + j, live);
    store_unit(dw, total, live);
  });
}

template <backend_tag B, readable_array<2> G, readable_array<2> X, readable_array<1> W>
void rms_norm_backward(const B& backend, const G& dy, const X& x, const W& w,
                       const rms_norm_gradients<element_of<G>>& gradients) {
  using T = element_of<G>;
  detail::require_one_type<T, element_of<X>, element_of<W>>();
  require_built<B>();
  const char* function = "rms_norm_backward";
  const view<const T, 2> g = as_view(dy), in = as_view(x);
  const view<const T, 1> weight = as_view(w);
  const index_t n = in.extent(1);
  check_dense(function, "x", in, in.extents());
  check_dense(function, "dy", g, in.extents());
  check_dense(function, "w", weight, {n});
  check_optional_dense(function, "dx", gradients.dx, in.extents());
  check_optional_dense(function, "dw", gradients.dw, {n});
  check_distinct(function, "dx", gradients.dx);
  check_disjoint_or_same(function, "dx", gradients.dx, "dy", g);
  check_disjoint(function, "dx", gradients.dx, "x", in);
  check_disjoint(function, "dx", gradients.dx, "w", weight);
  check_disjoint(function, "dw", gradients.dw, "dy", g);
  check_disjoint(function, "dw", gradients.dw, "x", in);
  check_disjoint(function, "dw", gradients.dw, "w", weight);
  check_disjoint(function, "dx", gradients.dx, "dw", gradients.dw);
  check_optional_dense(function, "residual", gradients.residual, in.extents());
  check_disjoint_or_same(function, "dx", gradients.dx, "residual", gradients.residual);
  check_disjoint(function, "dw", gradients.dw, "residual", gradients.residual);
  if (gradients.residual && gradients.accumulate_dx)
    throw error(function, "residual", "none with accumulate_dx", "one");
  check_not_negative(function, "options.epsilon", gradients.options.epsilon);
  if (n == 0) return;
  rms_norm_backward_rows(
      backend, g, in, weight, gradients,
      gradients.accumulate_dx ? view<const T, 2>(gradients.dx) : gradients.residual);
}

}  // namespace mmrec

#if defined(__CUDACC__)
#include <mmrec/cuda/norm.cuh>
#endif
