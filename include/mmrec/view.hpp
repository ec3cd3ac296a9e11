// SPDX-License-Identifier: Apache-2.0
// view<T, Rank>: a pointer with extents and strides, in the vocabulary of std::mdspan.
//
// It owns nothing and copies like a pointer. Strides count elements and may be negative (a reversed
// axis is a view, not a flag) or zero (a broadcast input). A default-constructed view is absent: it
// has no data and stands for an optional argument that was not given.
//
//   float p[2 * 5 * 3];
//   mmrec::view<float, 3> x{p, {2, 5, 3}};           // (batch, time, channel), row-major
//   auto backwards = x.reversed(1);                   // time runs from the last step to the first
//   auto columns = mmrec::view<float, 3>{p, {2, 3, 5}}.permuted({0, 2, 1});   // time-last
//   auto bias = mmrec::as_view(vector);   // or a span, an mdspan, an Eigen matrix
#pragma once

#include <mmrec/dtype.hpp>
#include <mmrec/error.hpp>

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>

namespace mmrec {

using index_t = std::int64_t;

template <class T, std::size_t Rank>
class view {
 public:
  using element_type = T;
  using value_type = std::remove_cv_t<T>;
  using index_type = index_t;
  using extents_type = std::array<index_t, Rank>;

  constexpr view() = default;
  constexpr view(T* data, const extents_type& extents)
      : data_(data), extents_(extents), strides_(row_major(extents)) {}
  constexpr view(T* data, const extents_type& extents, const extents_type& strides)
      : data_(data), extents_(extents), strides_(strides) {}

  /// view<T> converts to view<const T>.
  template <class U>
    requires(std::same_as<const U, T> && !std::same_as<U, T>)
  constexpr view(const view<U, Rank>& other)
      : data_(other.data_handle()), extents_(other.extents()), strides_(other.strides()) {}

  static constexpr std::size_t rank() { return Rank; }
  constexpr T* data_handle() const { return data_; }
  constexpr index_t extent(std::size_t axis) const { return extents_[axis]; }
  constexpr index_t stride(std::size_t axis) const { return strides_[axis]; }
  constexpr const extents_type& extents() const { return extents_; }
  constexpr const extents_type& strides() const { return strides_; }
  constexpr explicit operator bool() const { return data_ != nullptr; }

  constexpr index_t size() const {
    index_t n = 1;
    for (const index_t e : extents_) n *= e;
    return n;
  }
  constexpr bool empty() const { return size() == 0; }

  template <std::convertible_to<index_t>... Index>
    requires(sizeof...(Index) == Rank)
  constexpr T& operator()(Index... index) const {
    index_t offset = 0;
    std::size_t axis = 0;
    ((offset += static_cast<index_t>(index) * strides_[axis++]), ...);
    return data_[offset];
  }

  /// The same elements with one axis running backwards.
  constexpr view reversed(std::size_t axis) const {
    view result = *this;
    if (extents_[axis] > 0 && data_) result.data_ += (extents_[axis] - 1) * strides_[axis];
    result.strides_[axis] = -strides_[axis];
    return result;
  }

  /// Elements [from, from + count) of one axis.
  constexpr view slice(std::size_t axis, index_t from, index_t count) const {
    view result = *this;
    if (data_) result.data_ += from * strides_[axis];
    result.extents_[axis] = count;
    return result;
  }

  /// Axis order[i] of this view becomes axis i.
  constexpr view permuted(const std::array<std::size_t, Rank>& order) const {
    view result = *this;
    for (std::size_t i = 0; i < Rank; ++i) {
      result.extents_[i] = extents_[order[i]];
      result.strides_[i] = strides_[order[i]];
    }
    return result;
  }

  /// One index of an axis: a view of one rank less.
  constexpr view<T, Rank - 1> select(std::size_t axis, index_t index) const
    requires(Rank > 1)
  {
    std::array<index_t, Rank - 1> e{}, s{};
    for (std::size_t i = 0, j = 0; i < Rank; ++i) {
      if (i == axis) continue;
      e[j] = extents_[i];
      s[j++] = strides_[i];
    }
    return {data_ ? data_ + index * strides_[axis] : nullptr, e, s};
  }

  static constexpr extents_type row_major(const extents_type& extents) {
    extents_type strides{};
    index_t stride = 1;
    for (std::size_t i = Rank; i-- > 0;) {
      strides[i] = stride;
      stride *= extents[i];
    }
    return strides;
  }

 private:
  T* data_ = nullptr;
  extents_type extents_{};
  extents_type strides_{};
};

/// Anything with std::mdspan's data_handle, extent, stride and rank.
template <class M>
concept mdspan_like = requires(const M& m) {
  { M::rank() } -> std::convertible_to<std::size_t>;
  { m.extent(0) } -> std::convertible_to<index_t>;
  { m.stride(0) } -> std::convertible_to<index_t>;
  m.data_handle();
};

/// A dense Eigen matrix or map (rows, columns, outer and inner stride).
template <class M>
concept eigen_like = requires(const M& m) {
  m.data();
  { m.rows() } -> std::convertible_to<index_t>;
  { m.cols() } -> std::convertible_to<index_t>;
  { m.innerStride() } -> std::convertible_to<index_t>;
  { m.outerStride() } -> std::convertible_to<index_t>;
  { M::IsRowMajor } -> std::convertible_to<bool>;
};

template <class R>
concept contiguous_like = requires(R& r) {
  std::span(r);
} && !mdspan_like<std::remove_cvref_t<R>> && !eigen_like<std::remove_cvref_t<R>>;

/// A view as it is.
template <class T, std::size_t Rank>
constexpr view<T, Rank> as_view(const view<T, Rank>& v) {
  return v;
}
/// A view of whatever looks like an array: std::mdspan, an Eigen matrix or map, a contiguous range.
template <class M>
  requires mdspan_like<std::remove_cvref_t<M>>
constexpr auto as_view(M&& m) {
  constexpr std::size_t rank = std::remove_cvref_t<M>::rank();
  using T = std::remove_pointer_t<decltype(m.data_handle())>;
  std::array<index_t, rank> extents{}, strides{};
  for (std::size_t i = 0; i < rank; ++i) {
    extents[i] = static_cast<index_t>(m.extent(i));
    strides[i] = static_cast<index_t>(m.stride(i));
  }
  return view<T, rank>(m.data_handle(), extents, strides);
}
template <class M>
  requires eigen_like<std::remove_cvref_t<M>>
constexpr auto as_view(M&& m) {
  using T = std::remove_pointer_t<decltype(m.data())>;
  const bool by_row = std::remove_cvref_t<M>::IsRowMajor;
  const index_t inner = m.innerStride(), outer = m.outerStride();
  return view<T, 2>(m.data(), {index_t(m.rows()), index_t(m.cols())},
                    {by_row ? outer : inner, by_row ? inner : outer});
}
template <contiguous_like R>
constexpr auto as_view(R&& r) {
  const std::span elements(r);
  using T = typename decltype(elements)::element_type;
  return view<T, 1>(elements.data(), {static_cast<index_t>(elements.size())});
}

/// An array of this rank that mmrec can read, const or not. (What may be absent is always a view.)
template <class A, std::size_t Rank>
concept readable_array = requires(const A& a) {
  requires decltype(as_view(a))::rank() == Rank;
  requires element<typename decltype(as_view(a))::value_type>;
};

/// An array of this rank whose elements mmrec can write.
template <class A, std::size_t Rank>
concept writable_array =
    readable_array<A, Rank> &&
    !std::is_const_v<typename decltype(as_view(std::declval<const A&>()))::element_type>;

/// The same for ids and targets: integers of any width.
template <class A, std::size_t Rank>
concept integer_array = requires(const A& a) {
  requires decltype(as_view(a))::rank() == Rank;
  requires std::integral<typename decltype(as_view(a))::value_type>;
};

template <class A>
using element_of = typename decltype(as_view(std::declval<const A&>()))::value_type;

namespace detail {

template <class First, class... Rest>
constexpr void require_one_type() {
  static_assert((std::same_as<First, Rest> && ...),
                "mmrec: the arrays of one call must have one element type (convert first)");
}

}  // namespace detail

/// Folds an N-dimensional array to (outer, axis, inner), the shape every sequence kernel takes.
/// Axes before `axis` must be mergeable into one stride, and so must those behind it; row-major
/// arrays always are.
template <class T, std::size_t Rank>
view<T, 3> along(const view<T, Rank>& x, std::size_t axis) {
  if (axis >= Rank)
    throw error("along", "axis", "less than " + std::to_string(Rank), std::to_string(axis));
  const auto merge = [&](std::size_t from, std::size_t to) {
    std::array<index_t, 2> merged{1, 1};  // extent, stride
    bool first = true;
    for (std::size_t i = to; i-- > from;) {
      if (x.extent(i) == 1) continue;
      if (first) {
        merged = {x.extent(i), x.stride(i)};
        first = false;
      } else if (x.stride(i) == merged[0] * merged[1]) {
        merged[0] *= x.extent(i);
      } else {
        throw error("along", "x", "axes that merge into one stride",
                    "stride " + std::to_string(x.stride(i)) + " on axis " + std::to_string(i));
      }
    }
    return merged;
  };
  const auto outer = merge(0, axis), inner = merge(axis + 1, Rank);
  return {
      x.data_handle(), {outer[0], x.extent(axis), inner[0]}, {outer[1], x.stride(axis), inner[1]}};
}

}  // namespace mmrec
