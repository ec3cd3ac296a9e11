// SPDX-License-Identifier: Apache-2.0
// Reference transform: one element after the other.
#pragma once

#include <mmrec/transform.hpp>

namespace mmrec {

template <class Functor, class... Out, class... In>
void transform_kernel(const backend::reference&, const Functor& functor,
                      const std::tuple<Out...>& outputs, const std::tuple<In...>& inputs) {
  const auto& f = detail::prepared(functor);
  using Acc = accumulator_t<typename std::tuple_element_t<0, std::tuple<Out...>>::value_type>;
  const auto& first = std::get<0>(outputs);
  constexpr std::size_t rank = std::tuple_element_t<0, std::tuple<Out...>>::rank();
  for (index_t i = 0; i < first.size(); ++i) {
    std::array<index_t, rank> index{};
    for (std::size_t axis = rank, rest = static_cast<std::size_t>(i); axis-- > 0;) {
      const auto extent = static_cast<std::size_t>(first.extent(axis));
      index[axis] = static_cast<index_t>(rest % extent);
      rest /= extent;
    }
    const auto address = [&](const auto& v) {
      index_t offset = 0;
      for (std::size_t axis = 0; axis < rank; ++axis) offset += index[axis] * v.stride(axis);
      return v.data_handle() + offset;
    };
    const auto results = std::apply(
        [&](const auto&... in) { return detail::as_results(f(load_element<Acc>(address(in))...)); },
        inputs);
    std::apply(
        [&](const auto&... out) {
          std::size_t k = 0;
          (store_element(address(out), results[k++]), ...);
        },
        outputs);
  }
}

}  // namespace mmrec
