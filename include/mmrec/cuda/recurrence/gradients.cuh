// SPDX-License-Identifier: Apache-2.0
// The gradients that do not wait for one another: once e and a = [a_b a_m] of all tokens are there,
// those of the weights are products over all tokens, and those of z and gamma one pass over them.
#pragma once

#include <mmrec/cuda/linear/split_product.cuh>
#include <mmrec/cuda/recurrence/steps.cuh>
#include <mmrec/cuda/reduce.cuh>

#include <cstddef>

namespace mmrec::cuda::detail {

template <class T>
T* scratch_array(const stream_scratch& memory) {
  return reinterpret_cast<T*>(memory.data());
}
template <class Acc>
std::size_t bytes_of(index_t n) {
  return static_cast<std::size_t>(n) * sizeof(Acc);
}

/// Elements as the arithmetic type, dense, as rows of a matrix; the memory they lie in.
template <class Acc, std::size_t Rank>
struct widened {
  stream_scratch memory;
  view<Acc, Rank> values;
  template <class E>
  widened(const backend::cuda& on, const char* function, const view<E, Rank>& from)
      : memory(on, function, bytes_of<Acc>(from.size())),
        values(scratch_array<Acc>(memory), from.extents()) {
    if (!from.empty())
      enqueue_transform(on, function, same_value{}, std::tuple{values}, std::tuple{from});
  }
  view<const Acc, 2> rows() const {
    const index_t n = values.extent(Rank - 1);
    return {values.data_handle(), {n > 0 ? values.size() / n : 0, n}};
  }
};

struct added {
  template <class V>
  MMREC_HD V operator()(const V& a, const V& b) const {
    return a + b;
  }
};

/// to = from, or to += from.
template <class Acc, class T, std::size_t Rank>
void combine(const backend::cuda& on, const char* function, const view<const Acc, Rank>& from,
             const view<T, Rank>& to, bool accumulate) {
  if (to.empty()) return;
  if (accumulate)
    enqueue_transform(on, function, added{}, std::tuple{to},
                      std::tuple{view<const T, Rank>(to), from});
  else
    enqueue_transform(on, function, same_value{}, std::tuple{to}, std::tuple{from});
}

/// to (+)= a^T b, summed in the arithmetic type and rounded once.
template <class Acc, class T>
void sum_over_tokens(const backend::cuda& on, const char* function, const view<const Acc, 2>& a,
                     const view<const Acc, 2>& b, const view<T, 2>& to, bool accumulate) {
  if constexpr (std::same_as<Acc, T>) {
    multiply_split(on, function, a.permuted({1, 0}), b, to, accumulate);
  } else {
    const stream_scratch memory(on, function, bytes_of<Acc>(to.size()));
    const view<Acc, 2> sums(scratch_array<Acc>(memory), to.extents());
    multiply_split(on, function, a.permuted({1, 0}), b, sums, false);
    combine(on, function, view<const Acc, 2>(sums), to, accumulate);
  }
}

template <class S>
__global__ void __launch_bounds__(256)
    token_gradients_kernel(const __grid_constant__ adjoint_steps<S> steps,
                           const accumulator_t<S>* through_mix, view<S, 3> dz, view<S, 3> dgamma) {
  using Acc = accumulator_t<S>;
  const auto& r = steps.r;
  for (index_t row = blockIdx.x; row < r.batch * r.time; row += gridDim.x) {
    const index_t b = row / r.time, t = row - b * r.time;
    for (index_t j = threadIdx.x; j < r.d; j += blockDim.x) {
      const index_t i = row * r.d + j;
      const Acc e = steps.e[i];
      if (dz) {
        const Acc direct = e * (widen<Acc>(steps.gates(b, t, j)) +
                                r.mix_factor * widen<Acc>(steps.gates(b, t, r.d + j)));
        dz(b, t, j) = narrow<S>(through_mix ? through_mix[i] + direct : direct);
      }
      if (dgamma) dgamma(b, t, j) = narrow<S>((Acc(1) + r.mix_factor) * e * steps.p[i]);
    }
  }
}

/// How products with a are taken: for 16-bit elements as one product of TF32 numbers, 11 bits of a,
/// where linear takes no more of its du than the element has.
template <class S>
backend::cuda products_with_a(backend::cuda on) {
  on.tf32 = on.tf32 || sizeof(S) == 2;
  return on;
}

template <class S, element T>
void gradients_of_tokens(const backend::cuda& on, const char* function,
                         const adjoint_steps<S>& steps, const recurrence_weights<T>& w,
                         const recurrence_gradients<T>& out) {
  using Acc = accumulator_t<S>;
  const backend::cuda products = products_with_a<S>(on);
  const auto& r = steps.r;
  const bool mix_gate = r.gates == 2, add = out.accumulate_parameters;
  const index_t tokens = r.batch * r.time, width = r.gates * r.pitch;
  const view<const Acc, 2> a(steps.a, {tokens, width}), p(steps.p, {tokens, r.d});
  const view<const Acc, 2> a_mix(steps.a + (mix_gate ? r.pitch : 0), {tokens, r.d}, {width, 1});
  if (out.dblock || (mix_gate && out.dmix)) {
    const stream_scratch memory(on, function, bytes_of<Acc>(width * r.d));
    const view<Acc, 2> sums(scratch_array<Acc>(memory), {width, r.d});  // both products with p
    sum_over_tokens(products, function, a, p, sums, false);
    const auto of_gate = [&](index_t gate) {
      return view<const Acc, 2>(sums.slice(0, gate * r.pitch, r.d));
    };
    if (out.dblock) combine(on, function, of_gate(0), out.dblock, add);
    if (mix_gate && out.dmix) combine(on, function, of_gate(1), out.dmix.slice(1, r.d, r.d), add);
  }
  if (mix_gate && out.dmix) {
    const widened<Acc, 3> z(on, function, view<const S, 3>(r.z));
    sum_over_tokens(products, function, a_mix, z.rows(), out.dmix.slice(1, 0, r.d), add);
  }
  if (out.dblock_bias || (mix_gate && out.dmix_bias)) {
    const stream_scratch memory(on, function, bytes_of<Acc>(width));
    Acc* const sums = scratch_array<Acc>(memory);
    sum_rows(on, function, static_cast<const Acc*>(steps.a), tokens,
             view<Acc, 3>(sums, {1, 1, width}), false);
    if (out.dblock_bias)
      combine(on, function, view<const Acc, 1>(sums, {r.d}), out.dblock_bias, add);
    if (mix_gate && out.dmix_bias)
      combine(on, function, view<const Acc, 1>(sums + r.pitch, {r.d}), out.dmix_bias, add);
  }
  if (tokens == 0 || !(out.dz || out.dgamma)) return;
  const bool product = out.dz && mix_gate;
  const stream_scratch memory(on, function, bytes_of<Acc>(product ? tokens * r.d : 0));
  Acc* const through_mix = scratch_array<Acc>(memory);
  if (product) {
    const widened<Acc, 2> weights(on, function, w.mix.slice(1, 0, r.d));
    multiply_split(products, function, a_mix, weights.rows(),
                   view<Acc, 2>(through_mix, {tokens, r.d}), false);
  }
  launch(on, function, {std::min<index_t>(tokens, 65535), 256, 0}, token_gradients_kernel<S>, steps,
         static_cast<const Acc*>(through_mix), stored_view(out.dz), stored_view(out.dgamma));
}

}  // namespace mmrec::cuda::detail
