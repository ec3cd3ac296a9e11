// SPDX-License-Identifier: Apache-2.0
// Argument checks shared by every public function. All of them run before anything is written.
#pragma once

#include <mmrec/view.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>

namespace mmrec {

template <std::size_t Rank>
std::string to_string(const std::array<index_t, Rank>& extents) {
  std::string s = "(";
  for (std::size_t i = 0; i < Rank; ++i) s += (i ? ", " : "") + std::to_string(extents[i]);
  return s + ")";
}

/// A view's extents are the expected ones, and it has data if it has elements.
template <class T, std::size_t Rank>
void check_view(const char* function, const char* argument, const view<T, Rank>& v,
                const std::array<index_t, Rank>& expected) {
  for (const index_t e : v.extents())
    if (e < 0) throw error(function, argument, "extents of 0 or more", to_string(v.extents()));
  if (v.extents() != expected)
    throw error(function, argument, "extents " + to_string(expected), to_string(v.extents()));
  if (!v && !v.empty())
    throw error(function, argument, "data for extents " + to_string(expected), "a null pointer");
}

/// The same for an argument that may be absent.
template <class T, std::size_t Rank>
void check_optional(const char* function, const char* argument, const view<T, Rank>& v,
                    const std::array<index_t, Rank>& expected) {
  if (v || v.extents() != std::array<index_t, Rank>{}) check_view(function, argument, v, expected);
}

/// The elements of an output do not share memory, as those of a broadcast or sliding view do: every
/// axis steps beyond what the axes of smaller strides reach.
template <class T, std::size_t Rank>
void check_distinct(const char* function, const char* argument, const view<T, Rank>& v) {
  if (!v || v.empty()) return;
  std::array<std::array<index_t, 2>, Rank> axes{};  // stride, extent
  for (std::size_t i = 0; i < Rank; ++i) {
    const index_t s = v.stride(i);
    axes[i] = {v.extent(i) == 1 ? 0 : s < 0 ? -s : s, v.extent(i)};
  }
  std::sort(axes.begin(), axes.end());
  index_t reach = 0;
  for (const auto& [stride, extent] : axes) {
    if (extent > 1 && stride <= reach)
      throw error(function, argument, "strides that give every element its own place",
                  to_string(v.strides()) + " for extents " + to_string(v.extents()));
    reach += (extent - 1) * stride;
  }
}

inline void check_positive(const char* function, const char* argument, index_t value) {
  if (value <= 0) throw error(function, argument, "a positive value", std::to_string(value));
}

/// Dropout rates and the like: in [0, 1).
inline void check_rate(const char* function, const char* argument, double rate) {
  if (!(rate >= 0 && rate < 1))
    throw error(function, argument, "a rate in [0, 1)", std::to_string(rate));
}

namespace detail {

struct byte_range {
  std::intptr_t first = 0, last = 0;  // [first, last)
};

template <class T, std::size_t Rank>
byte_range bytes_of(const view<T, Rank>& v) {
  std::intptr_t low = 0, high = 0;
  for (std::size_t i = 0; i < Rank; ++i) {
    const std::intptr_t reach = (v.extent(i) - 1) * v.stride(i);
    (reach < 0 ? low : high) += reach;
  }
  const auto base = reinterpret_cast<std::intptr_t>(v.data_handle());
  const auto size = static_cast<std::intptr_t>(sizeof(T));
  return {base + low * size, base + (high + 1) * size};
}

/// One axis of two views: steps in bytes, and how many steps the first and the second view take.
struct shared_axis {
  std::intptr_t stride = 0;
  index_t first = 1, second = 1;
};

/// Is there k with -second_i < k_i < first_i and |distance - sum k_i stride_i| < size? Strides
/// descend, so at every axis only the two multiples next to the rest can lead there when inner axes
/// reach less than one outer stride; where they reach further the answer is yes, to be safe.
template <std::size_t Rank>
bool meets(std::intptr_t distance, const std::array<shared_axis, Rank>& axes, std::size_t axis,
           std::intptr_t size) {
  if (axis == Rank) return distance < size && distance > -size;
  const auto [stride, first, second] = axes[axis];
  if (stride == 0 || (first == 1 && second == 1)) return meets(distance, axes, axis + 1, size);
  std::intptr_t reach = size - 1;
  for (std::size_t i = axis + 1; i < Rank; ++i)
    reach += (std::max(axes[i].first, axes[i].second) - 1) * axes[i].stride;
  if (reach >= stride) return true;
  std::intptr_t k = distance / stride;
  if (distance % stride < 0) --k;
  for (const std::intptr_t candidate : {k, k + 1})
    if (candidate < first && candidate > -second &&
        meets(distance - candidate * stride, axes, axis + 1, size))
      return true;
  return false;
}

}  // namespace detail

/// May two views share an element? Exact for parts of one array, of whatever ranks (two column
/// slices of a matrix, a row beside the rows above it): where the axes of both, by descending
/// stride, reach less than the stride before. Otherwise yes, to be safe.
template <class T, class U, std::size_t RankT, std::size_t RankU>
bool may_overlap(const view<T, RankT>& a, const view<U, RankU>& b) {
  if (!a || !b || a.empty() || b.empty()) return false;
  const auto ra = detail::bytes_of(a), rb = detail::bytes_of(b);
  if (ra.last <= rb.first || rb.last <= ra.first) return false;
  std::array<detail::shared_axis, RankT + RankU> axes{};
  const auto bytes = []<class E, std::size_t Rank>(const view<E, Rank>& v, std::size_t i) {
    const std::intptr_t s = v.extent(i) == 1 ? 0 : v.stride(i);
    return (s < 0 ? -s : s) * static_cast<std::intptr_t>(sizeof(E));
  };
  for (std::size_t i = 0; i < RankT; ++i) axes[i] = {bytes(a, i), a.extent(i), 1};
  for (std::size_t i = 0; i < RankU; ++i) {
    const std::intptr_t stride = bytes(b, i);
    const auto same = std::find_if(axes.begin(), axes.begin() + RankT, [&](const auto& axis) {
      return axis.stride == stride && axis.second == 1;
    });
    if (same != axes.begin() + RankT)
      same->second = b.extent(i);
    else
      axes[RankT + i] = {stride, 1, b.extent(i)};
  }
  std::sort(axes.begin(), axes.end(),
            [](const auto& x, const auto& y) { return x.stride > y.stride; });
  return detail::meets(rb.first - ra.first, axes, 0, std::max(sizeof(T), sizeof(U)));
}

template <class T, class U, std::size_t Rank>
bool same_layout(const view<T, Rank>& a, const view<U, Rank>& b) {
  return static_cast<const void*>(a.data_handle()) == static_cast<const void*>(b.data_handle()) &&
         sizeof(T) == sizeof(U) && a.extents() == b.extents() && a.strides() == b.strides();
}

/// An output may not share elements with another argument.
template <class T, class U, std::size_t RankT, std::size_t RankU>
void check_disjoint(const char* function, const char* output, const view<T, RankT>& out,
                    const char* other_name, const view<U, RankU>& other) {
  if (may_overlap(out, other))
    throw error(function, output, std::string("memory apart from ") + other_name,
                "views that overlap");
}

/// The same, but the identical view is allowed (in place).
template <class T, class U, std::size_t Rank>
void check_disjoint_or_same(const char* function, const char* output, const view<T, Rank>& out,
                            const char* other_name, const view<U, Rank>& other) {
  if (!same_layout(out, other)) check_disjoint(function, output, out, other_name, other);
}

}  // namespace mmrec
