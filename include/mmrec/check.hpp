// SPDX-License-Identifier: Apache-2.0
// Argument checks shared by every public function. All of them run before anything is written.
#pragma once

#include <mmrec/view.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>

namespace mmrec {

namespace detail {

// Loops rather than the standard's algorithms: every file that checks an argument would compile
// what those have for long ranges.

/// A view of any type and rank: the checks are compiled once.
struct any_view {
  const void* data;
  std::intptr_t element;  // bytes
  std::size_t rank;
  const index_t *extent, *stride;  // of each axis

  template <class T, std::size_t Rank>
  any_view(const view<T, Rank>& v)
      : data(v.data_handle()),
        element(sizeof(T)),
        rank(Rank),
        extent(v.extents().data()),
        stride(v.strides().data()) {
    static_assert(Rank <= most_axes);
  }
  static constexpr std::size_t most_axes = 8;
  numbers extents() const { return {extent, rank}; }
  numbers strides() const { return {stride, rank}; }
  bool empty() const {
    for (std::size_t i = 0; i < rank; ++i)
      if (extent[i] == 0) return true;
    return false;
  }
};

inline bool equal(const numbers& a, const numbers& b) {
  if (a.count != b.count) return false;
  for (std::size_t i = 0; i < a.count; ++i)
    if (a[i] != b[i]) return false;
  return true;
}

MMREC_COLD inline void check_extents(const char* function, const char* argument, const any_view& v,
                                     const numbers& expected) {
  for (std::size_t i = 0; i < v.rank; ++i)
    if (v.extent[i] < 0)
      refuse(function, argument, "extents of 0 or more", message() << v.extents());
  if (!equal(v.extents(), expected))
    refuse(function, argument, message() << "extents " << expected, message() << v.extents());
  if (!v.data && !v.empty())
    refuse(function, argument, message() << "data for extents " << expected, "a null pointer");
}

/// The same for an argument that may be absent.
MMREC_COLD inline void check_optional_extents(const char* function, const char* argument,
                                              const any_view& v, const numbers& expected) {
  bool given = v.data != nullptr;
  for (std::size_t i = 0; i < v.rank; ++i) given |= v.extent[i] != 0;
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

namespace detail {

/// One axis of two views: its stride, and how many steps the first and the second view take.
struct shared_axis {
  std::intptr_t stride = 0;
  index_t first = 1, second = 1;
};

/// Descending strides.
MMREC_COLD inline void sort_by_stride(shared_axis* axes, std::size_t count) {
  for (std::size_t i = 1; i < count; ++i)
    for (std::size_t j = i; j > 0 && axes[j].stride > axes[j - 1].stride; --j) {
      const shared_axis larger = axes[j];
      axes[j] = axes[j - 1];
      axes[j - 1] = larger;
    }
}

/// In elements. An axis of one element takes no step.
inline index_t step_of(const any_view& v, std::size_t axis) {
  const index_t s = v.extent[axis] == 1 ? 0 : v.stride[axis];
  return s < 0 ? -s : s;
}

}  // namespace detail

/// The elements of an output do not share memory, as those of a broadcast or sliding view do: every
/// axis steps beyond what the axes of smaller strides reach.
MMREC_COLD inline void check_distinct(const char* function, const char* argument,
                                      const detail::any_view& v) {
  if (!v.data || v.empty()) return;
  detail::shared_axis axes[detail::any_view::most_axes];
  for (std::size_t i = 0; i < v.rank; ++i) axes[i] = {detail::step_of(v, i), v.extent[i], 1};
  detail::sort_by_stride(axes, v.rank);
  index_t reach = 0;
  for (std::size_t i = v.rank; i-- > 0;) {
    if (axes[i].first > 1 && axes[i].stride <= reach)
      detail::refuse(function, argument, "strides that give every element its own place",
                     detail::message() << v.strides() << " for extents " << v.extents());
    reach += (axes[i].first - 1) * axes[i].stride;
  }
}

inline void check_positive(const char* function, const char* argument, index_t value) {
  if (value <= 0)
    detail::refuse(function, argument, "a positive value", detail::message() << value);
}

/// Dropout rates and the like: in [0, 1).
inline void check_rate(const char* function, const char* argument, double rate) {
  if (!(rate >= 0 && rate < 1))
    detail::refuse(function, argument, "a rate in [0, 1)", std::to_string(rate));
}

/// Tolerances, epsilons and the like. NaN is not 0 or more.
MMREC_COLD inline void check_not_negative(const char* function, const char* argument,
                                          double value) {
  if (value >= 0) return;
  char seen[32];
  std::snprintf(seen, sizeof seen, "%g", value);
  detail::refuse(function, argument, "0 or more", seen);
}

namespace detail {

struct byte_range {
  std::intptr_t first = 0, last = 0;  // [first, last)
};

inline byte_range bytes_of(const any_view& v) {
  std::intptr_t low = 0, high = 0;
  for (std::size_t i = 0; i < v.rank; ++i) {
    const std::intptr_t reach = (v.extent[i] - 1) * v.stride[i];
    (reach < 0 ? low : high) += reach;
  }
  const auto base = reinterpret_cast<std::intptr_t>(v.data);
  return {base + low * v.element, base + (high + 1) * v.element};
}

/// Is there k with -second_i < k_i < first_i and |distance - sum k_i stride_i| < size? Strides
/// descend, so at every axis only the two multiples next to the rest can lead there when inner axes
/// reach less than one outer stride; where they reach further the answer is yes, to be safe.
MMREC_COLD inline bool meets(std::intptr_t distance, const shared_axis* axes,
                             const shared_axis* end, std::intptr_t size) {
  if (axes == end) return distance < size && distance > -size;
  const auto [stride, first, second] = *axes++;
  if (stride == 0 || (first == 1 && second == 1)) return meets(distance, axes, end, size);
  std::intptr_t reach = size - 1;
  for (const auto* inner = axes; inner != end; ++inner)
    reach += ((inner->first > inner->second ? inner->first : inner->second) - 1) * inner->stride;
  if (reach >= stride) return true;
  std::intptr_t k = distance / stride;
  if (distance % stride < 0) --k;
  for (int next = 0; next < 2; ++next, ++k)
    if (k < first && k > -second && meets(distance - k * stride, axes, end, size)) return true;
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
  detail::shared_axis axes[2 * detail::any_view::most_axes];  // strides in bytes
  for (std::size_t i = 0; i < a.rank; ++i)
    axes[i] = {detail::step_of(a, i) * a.element, a.extent[i], 1};
  const std::size_t count = a.rank + b.rank;
  for (std::size_t i = 0; i < b.rank; ++i) {
    const std::intptr_t stride = detail::step_of(b, i) * b.element;
    std::size_t same = 0;
    while (same < a.rank && (axes[same].stride != stride || axes[same].second != 1)) ++same;
    if (same < a.rank)
      axes[same].second = b.extent[i];
    else
      axes[a.rank + i] = {stride, 1, b.extent[i]};
  }
  detail::sort_by_stride(axes, count);
  return detail::meets(rb.first - ra.first, axes, axes + count,
                       a.element > b.element ? a.element : b.element);
}

inline bool same_layout(const detail::any_view& a, const detail::any_view& b) {
  return a.data == b.data && a.element == b.element && detail::equal(a.extents(), b.extents()) &&
         detail::equal(a.strides(), b.strides());
}

/// An output may not share elements with another argument.
MMREC_COLD inline void check_disjoint(const char* function, const char* output,
                                      const detail::any_view& out, const char* other_name,
                                      const detail::any_view& other) {
  if (may_overlap(out, other))
    detail::refuse(function, output, detail::message() << "memory apart from " << other_name,
                   "views that overlap");
}

/// The same, but the identical view is allowed (in place).
inline void check_disjoint_or_same(const char* function, const char* output,
                                   const detail::any_view& out, const char* other_name,
                                   const detail::any_view& other) {
  if (!same_layout(out, other)) check_disjoint(function, output, out, other_name, other);
}

}  // namespace mmrec
