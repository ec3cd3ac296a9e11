// SPDX-License-Identifier: Apache-2.0
// Reference linear: three loops forward, three backward.
#pragma once

#include <mmrec/linear.hpp>

#include <vector>

namespace mmrec {

template <element T>
struct detail::weight_storage<backend::reference, T> {
  std::vector<T> copy;
  view<const T, 2> w;
  weight_storage(const backend::reference&, const view<const T, 2>& from)
      : copy(static_cast<std::size_t>(from.size())), w(copy.data(), from.extents()) {
    for (index_t o = 0; o < from.extent(0); ++o)
      for (index_t k = 0; k < from.extent(1); ++k)
        copy[static_cast<std::size_t>(o * from.extent(1) + k)] = from(o, k);
  }
};

template <class Activation, element T>
void linear_kernel(const backend::reference&, const view<const T, 2>& x, const view<const T, 2>& w,
                   const view<T, 2>& y, const linear_options<T>& options) {
  using Acc = accumulator_t<T>;
  for (index_t i = 0; i < x.extent(0); ++i)
    for (index_t o = 0; o < w.extent(0); ++o) {
      Acc u = options.bias ? load_element<Acc>(&options.bias(o)) : Acc(0);
      for (index_t k = 0; k < x.extent(1); ++k)
        u += load_element<Acc>(&x(i, k)) * load_element<Acc>(&w(o, k));
      if (options.preactivation) store_element(&options.preactivation(i, o), u);
      Acc result = Activation::forward(u);
      if (options.dropout.active())
        result *= static_cast<Acc>(options.dropout.factor(i * w.extent(0) + o));
      store_element(&y(i, o), result);
    }
}

template <class Activation, element T>
void linear_kernel(const backend::reference& backend, const view<const T, 2>& x,
                   const detail::weight_storage<backend::reference, T>& w, const view<T, 2>& y,
                   const linear_options<T>& options) {
  linear_kernel<Activation>(backend, x, w.w, y, options);
}

template <class Activation, element T>
void linear_backward_kernel(const backend::reference&, const view<const T, 2>& dy,
                            const view<const T, 2>& x, const view<const T, 2>& w,
                            const linear_gradients<T>& gradients) {
  using Acc = accumulator_t<T>;
  const index_t rows = x.extent(0), inputs = x.extent(1), outputs = w.extent(0);
  const auto du = [&](index_t i, index_t o) {
    const Acc saved = gradients.saved ? load_element<Acc>(&gradients.saved(i, o)) : Acc(0);
    const auto factor = static_cast<Acc>(
        gradients.dropout.active() ? gradients.dropout.factor(i * outputs + o) : 1.0);
    const auto keep = static_cast<Acc>(1 - gradients.dropout.rate);
    return detail::preactivation_gradient<Activation>(load_element<Acc>(&dy(i, o)), saved, factor,
                                                      keep);
  };
  const auto write = [](T* p, Acc value, bool accumulate) {
    store_element(p, accumulate ? load_element<Acc>(p) + value : value);
  };
  if (gradients.dx)
    for (index_t i = 0; i < rows; ++i)
      for (index_t k = 0; k < inputs; ++k) {
        Acc total(0);
        for (index_t o = 0; o < outputs; ++o) total += du(i, o) * load_element<Acc>(&w(o, k));
        write(&gradients.dx(i, k), total, gradients.accumulate_dx);
      }
  if (gradients.dw)
    for (index_t o = 0; o < outputs; ++o)
      for (index_t k = 0; k < inputs; ++k) {
        Acc total(0);
        for (index_t i = 0; i < rows; ++i) total += du(i, o) * load_element<Acc>(&x(i, k));
        write(&gradients.dw(o, k), total, gradients.accumulate_parameters);
      }
  if (gradients.dbias)
    for (index_t o = 0; o < outputs; ++o) {
      Acc total(0);
      for (index_t i = 0; i < rows; ++i) total += du(i, o);
      write(&gradients.dbias(o), total, gradients.accumulate_parameters);
    }
}

}  // namespace mmrec
