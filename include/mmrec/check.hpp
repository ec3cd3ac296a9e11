// SPDX-License-Identifier: Apache-2.0
// Argument checks shared by every public function. All of them run before anything is written.
#pragma once

#include <mmrec/view.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace mmrec {

inline std::string to_string(std::span<const index_t> extents) {
  return std::string(std::string_view(detail::message() << extents));
}

namespace detail {

/// Sorts a few axes. Every file that checks an argument would compile all that std::sort has for
/// long ranges.
template <class Axis, class Less>
void sort_few(std::span<Axis> axes, const Less& less) {
  for (std::size_t i = 1; i < axes.size(); ++i)
    for (std::size_t j = i; j > 0 && less(axes[j], axes[j - 1]); --j)
      std::swap(axes[j], axes[j - 1]);
}

/// A view of any type and rank: the checks are compiled once.
struct any_view {
  const void* data;
  std::intptr_t element;  // bytes
  std::span<const index_t> extents, strides;

  template <class T, std::size_t Rank>
  any_view(const view<T, Rank>& v)
      : data(v.data_handle()), element(sizeof(T)), extents(v.extents()), strides(v.strides()) {
    static_assert(Rank <= most_axes);
  }
  static constexpr std::size_t most_axes = 8;
  bool empty() const { return std::find(extents.begin(), extents.end(), 0) != extents.end(); }
};

inline bool equal(std::span<const index_t> a, std::span<const index_t> b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end());
}

MMREC_COLD inline void check_extents(const char* function, const char* argument, const any_view& v,
                                     std::span<const index_t> expected) {
  for (const index_t e : v.extents)
    if (e < 0)
      throw error(function, argument, "extents of 0 or more", detail::message() << v.extents);
  if (!equal(v.extents, expected))
    throw error(function, argument, detail::message() << "extents " << expected,
                detail::message() << v.extents);
  if (!v.data && !v.empty())
    throw error(function, argument, detail::message() << "data for extents " << expected,
                "a null pointer");
}

/// The same for an argument that may be absent.
MMREC_COLD inline void check_optional_extents(const char* function, const char* argument,
                                              const any_view& v,
                                              std::span<const index_t> expected) {
  bool given = v.data != nullptr;
  for (const index_t e : v.extents) given |= e != 0;
  if (given) check_extents(function, argument, v, expected);
}

}  // namespace detail

/// A view's extents are the expected ones, and it has data if it has elements.
template <class T, std::size_t Rank>
void check_view(const char* function, const char* argument, const view<T, Rank>& v,
                const std::array<index_t, Rank>& expected) {
  detail::check_extents(function, argument, v, expected);
}

/// The same for an argument that may be absent.
template <class T, std::size_t Rank>
void check_optional(const char* function, const char* argument, const view<T, Rank>& v,
                    const std::array<index_t, Rank>& expected) {
  detail::check_optional_extents(function, argument, v, expected);
}

/// The elements of an output do not share memory, as those of a broadcast or sliding view do: every
/// axis steps beyond what the axes of smaller strides reach.
MMREC_COLD inline void check_distinct(const char* function, const char* argument,
                                      const detail::any_view& v) {
  if (!v.data || v.empty()) return;
  std::array<std::array<index_t, 2>, detail::any_view::most_axes> axes{};  // stride, extent
  const std::size_t rank = v.extents.size();
  for (std::size_t i = 0; i < rank; ++i) {
    const index_t s = v.strides[i];
    axes[i] = {v.extents[i] == 1 ? 0 : s < 0 ? -s : s, v.extents[i]};
  }
  const std::span used(axes.data(), rank);
  detail::sort_few(used, [](const auto& x, const auto& y) { return x < y; });
  index_t reach = 0;
  for (const auto& [stride, extent] : used) {
    if (extent > 1 && stride <= reach)
      throw error(function, argument, "strides that give every element its own place",
                  detail::message() << v.strides << " for extents " << v.extents);
    reach += (extent - 1) * stride;
  }
}

inline void check_positive(const char* function, const char* argument, index_t value) {
  if (value <= 0) throw error(function, argument, "a positive value", detail::message() << value);
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

inline byte_range bytes_of(const any_view& v) {
  std::intptr_t low = 0, high = 0;
  for (std::size_t i = 0; i < v.extents.size(); ++i) {
    const std::intptr_t reach = (v.extents[i] - 1) * v.strides[i];
    (reach < 0 ? low : high) += reach;
  }
  const auto base = reinterpret_cast<std::intptr_t>(v.data);
  return {base + low * v.element, base + (high + 1) * v.element};
}

/// One axis of two views: steps in bytes, and how many steps the first and the second view take.
struct shared_axis {
  std::intptr_t stride = 0;
  index_t first = 1, second = 1;
};

/// Is there k with -second_i < k_i < first_i and |distance - sum k_i stride_i| < size? Strides
/// descend, so at every axis only the two multiples next to the rest can lead there when inner axes
/// reach less than one outer stride; where they reach further the answer is yes, to be safe.
MMREC_COLD inline bool meets(std::intptr_t distance, std::span<const shared_axis> axes,
                             std::intptr_t size) {
  if (axes.empty()) return distance < size && distance > -size;
  const auto [stride, first, second] = axes[0];
  const auto inner = axes.subspan(1);
  if (stride == 0 || (first == 1 && second == 1)) return meets(distance, inner, size);
  std::intptr_t reach = size - 1;
  for (const auto& axis : inner) reach += (std::max(axis.first, axis.second) - 1) * axis.stride;
  if (reach >= stride) return true;
  std::intptr_t k = distance / stride;
  if (distance % stride < 0) --k;
  for (const std::intptr_t candidate : {k, k + 1})
    if (candidate < first && candidate > -second &&
        meets(distance - candidate * stride, inner, size))
      return true;
  return false;
}

}  // namespace detail

/// May two views share an element? Exact for parts of one array, of whatever ranks (two column
/// slices of a matrix, a row beside the rows above it): where the axes of both, by descending
/// stride, reach less than the stride before. Otherwise yes, to be safe.
MMREC_COLD inline bool may_overlap(const detail::any_view& a, const detail::any_view& b) {
  if (!a.data || !b.data || a.empty() || b.empty()) return false;
  const auto ra = detail::bytes_of(a), rb = detail::bytes_of(b);
  if (ra.last <= rb.first || rb.last <= ra.first) return false;
  std::array<detail::shared_axis, 2 * detail::any_view::most_axes> axes{};
  const auto bytes = [](const detail::any_view& v, std::size_t i) {
    const std::intptr_t s = v.extents[i] == 1 ? 0 : v.strides[i];
    return (s < 0 ? -s : s) * v.element;
  };
  const std::size_t rank = a.extents.size();
  for (std::size_t i = 0; i < rank; ++i) axes[i] = {bytes(a, i), a.extents[i], 1};
  const std::span first(axes.data(), rank), all(axes.data(), rank + b.extents.size());
  for (std::size_t i = 0; i < b.extents.size(); ++i) {
    const std::intptr_t stride = bytes(b, i);
    const auto same = std::find_if(
        first.begin(), first.end(),
        [&](const detail::shared_axis& axis) { return axis.stride == stride && axis.second == 1; });
    if (same != first.end())
      same->second = b.extents[i];
    else
      all[rank + i] = {stride, 1, b.extents[i]};
  }
  detail::sort_few(all, [](const auto& x, const auto& y) { return x.stride > y.stride; });
  return detail::meets(rb.first - ra.first, all, std::max(a.element, b.element));
}

inline bool same_layout(const detail::any_view& a, const detail::any_view& b) {
  return a.data == b.data && a.element == b.element && detail::equal(a.extents, b.extents) &&
         detail::equal(a.strides, b.strides);
}

/// An output may not share elements with another argument.
MMREC_COLD inline void check_disjoint(const char* function, const char* output,
                                      const detail::any_view& out, const char* other_name,
                                      const detail::any_view& other) {
  if (may_overlap(out, other))
    throw error(function, output, detail::message() << "memory apart from " << other_name,
                "views that overlap");
}

/// The same, but the identical view is allowed (in place).
inline void check_disjoint_or_same(const char* function, const char* output,
                                   const detail::any_view& out, const char* other_name,
                                   const detail::any_view& other) {
  if (!same_layout(out, other)) check_disjoint(function, output, out, other_name, other);
}

}  // namespace mmrec
