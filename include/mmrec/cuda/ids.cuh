// SPDX-License-Identifier: Apache-2.0
// Integers in device memory that name rows or classes. Nobody has checked them.
#pragma once

#include <mmrec/view.hpp>

#include <utility>

namespace mmrec::cuda {

template <class Id>
struct id_list {
  const Id* data;
  index_t stride;
  __device__ Id operator()(index_t i) const { return data[i * stride]; }
};
template <class Id>
id_list<Id> ids_of(const view<const Id, 1>& v) {
  return {v.data_handle(), v.stride(0)};
}

/// Does `id` name one of `count` things?
template <class Id>
__device__ bool in_range(Id id, index_t count) {
  return std::cmp_greater_equal(id, 0) && std::cmp_less(id, count);
}

}  // namespace mmrec::cuda
