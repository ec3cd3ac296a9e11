// SPDX-License-Identifier: Apache-2.0
// view: indices, transformations, conversions from other libraries' arrays, and along.
#include <mmrec/check.hpp>
#include <mmrec/view.hpp>

#include <Eigen/Core>
#include <array>
#include <initializer_list>
#include <limits>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "support/catch.hpp"

using namespace mmrec;

namespace {

std::vector<float> counted(std::size_t n) {
  std::vector<float> v(n);
  std::iota(v.begin(), v.end(), 0.0F);
  return v;
}

template <class T>
concept three_dimensional = readable_array<T, 3>;

// What std::mdspan offers, without <mdspan>.
struct span_of_rank_two {
  float* data;
  static constexpr std::size_t rank() { return 2; }
  constexpr std::size_t extent(std::size_t i) const { return i == 0 ? 3 : 4; }
  constexpr std::size_t stride(std::size_t i) const { return i == 0 ? 1 : 3; }
  constexpr float* data_handle() const { return data; }
};

}  // namespace

TEST_CASE("view: row-major unless told otherwise", "[components][view]") {
  auto p = counted(2 * 5 * 3);
  const view<float, 3> x{p.data(), {2, 5, 3}};
  CHECK(x.rank() == 3);
  CHECK(x.strides() == std::array<index_t, 3>{15, 3, 1});
  CHECK(x.size() == 30);
  CHECK_FALSE(x.empty());
  for (index_t i = 0, n = 0; i < 2; ++i)
    for (index_t j = 0; j < 5; ++j)
      for (index_t k = 0; k < 3; ++k, ++n) CHECK(x(i, j, k) == static_cast<float>(n));
  x(1, 2, 0) = -1;
  CHECK(p[21] == -1);
  CHECK(x(1, 2, 1u) == 22);
}

TEST_CASE("view: absent and empty are different things", "[components][view]") {
  const view<float, 3> absent;
  CHECK_FALSE(absent);
  CHECK(absent.empty());
  CHECK(absent.data_handle() == nullptr);
  float one = 0;
  const view<float, 3> empty{&one, {2, 0, 3}};
  CHECK(empty);
  CHECK(empty.empty());
  CHECK(view<float, 2>{nullptr, {4, 5}}.size() == 20);
  // Transformations of views without data or elements do not touch the pointer.
  CHECK(absent.reversed(1).data_handle() == nullptr);
  CHECK(empty.reversed(1).data_handle() == &one);
  CHECK(absent.slice(0, 5, 0).data_handle() == nullptr);
  CHECK(view<float, 2>{nullptr, {4, 5}}.select(0, 3).data_handle() == nullptr);
}

TEST_CASE("view: 64-bit sizes and offsets", "[components][view]") {
  float* const p = nullptr;
  const view<float, 3> x{p, {8, 1 << 20, 4096}};
  CHECK(x.size() == index_t{8} << 32);
  CHECK(x.stride(0) == index_t{1} << 32);
}

TEST_CASE("view: reversed, slice, permuted and select", "[components][view]") {
  auto p = counted(2 * 4 * 3);
  const view<float, 3> x{p.data(), {2, 4, 3}};
  for (std::size_t axis = 0; axis < 3; ++axis) {
    const auto r = x.reversed(axis);
    CHECK(r.extents() == x.extents());
    CHECK(r.stride(axis) == -x.stride(axis));
    const auto twice = r.reversed(axis);
    CHECK(twice.data_handle() == x.data_handle());
    CHECK(twice.strides() == x.strides());
    for (index_t i = 0; i < 2; ++i)
      for (index_t j = 0; j < 4; ++j)
        for (index_t k = 0; k < 3; ++k) {
          std::array<index_t, 3> at{i, j, k};
          at[axis] = x.extent(axis) - 1 - at[axis];
          CHECK(r(i, j, k) == x(at[0], at[1], at[2]));
        }
  }
  const auto part = x.slice(1, 1, 2);
  CHECK(part.extents() == std::array<index_t, 3>{2, 2, 3});
  CHECK(part(1, 0, 2) == x(1, 1, 2));
  CHECK(part(1, 1, 0) == x(1, 2, 0));
  CHECK(x.slice(2, 3, 0).empty());

  const auto q = x.permuted({2, 0, 1});
  CHECK(q.extents() == std::array<index_t, 3>{3, 2, 4});
  for (index_t i = 0; i < 2; ++i)
    for (index_t j = 0; j < 4; ++j)
      for (index_t k = 0; k < 3; ++k) CHECK(q(k, i, j) == x(i, j, k));

  const view<float, 2> row = x.select(1, 3);
  CHECK(row.extents() == std::array<index_t, 2>{2, 3});
  CHECK(row(1, 2) == x(1, 3, 2));
  CHECK(x.select(0, 1).select(1, 2)(3) == x(1, 3, 2));
}

TEST_CASE("view: to const, and not back", "[components][view]") {
  STATIC_REQUIRE(std::is_convertible_v<view<float, 2>, view<const float, 2>>);
  STATIC_REQUIRE_FALSE(std::is_constructible_v<view<float, 2>, view<const float, 2>>);
  STATIC_REQUIRE_FALSE(std::is_convertible_v<view<float, 2>, view<const double, 2>>);
  STATIC_REQUIRE_FALSE(std::is_convertible_v<view<float, 2>, view<const float, 3>>);
  STATIC_REQUIRE(std::is_trivially_copyable_v<view<float, 3>>);
  STATIC_REQUIRE(readable_array<view<const float, 3>, 3>);
  STATIC_REQUIRE(writable_array<view<float, 3>, 3>);
  STATIC_REQUIRE_FALSE(writable_array<view<const float, 3>, 3>);
  STATIC_REQUIRE_FALSE(readable_array<view<int, 3>, 3>);
  STATIC_REQUIRE_FALSE(three_dimensional<view<float, 2>>);
  STATIC_REQUIRE(readable_array<view<Eigen::half, 2>, 2>);
}

TEST_CASE("as_view: ranges, Eigen and mdspan", "[components][view]") {
  std::vector<double> v{1, 2, 3};
  const auto from_vector = as_view(v);
  STATIC_REQUIRE(std::is_same_v<decltype(from_vector), const view<double, 1>>);
  CHECK(from_vector.extent(0) == 3);
  from_vector(1) = 7;
  CHECK(v[1] == 7);
  const std::array<float, 4> fixed{1, 2, 3, 4};
  STATIC_REQUIRE(std::is_same_v<decltype(as_view(fixed)), view<const float, 1>>);
  CHECK(as_view(std::span<const float>(fixed))(3) == 4);

  Eigen::MatrixXf columns(2, 3);
  columns << 1, 2, 3, 4, 5, 6;
  const auto c = as_view(columns);
  CHECK(c.extents() == std::array<index_t, 2>{2, 3});
  CHECK(c(1, 2) == 6);
  CHECK(c(0, 1) == 2);
  Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> rows(2, 3);
  rows << 1, 2, 3, 4, 5, 6;
  CHECK(as_view(rows)(1, 0) == 4);
  CHECK(as_view(rows).strides() == std::array<index_t, 2>{3, 1});
  const Eigen::Map<const Eigen::MatrixXf, 0, Eigen::OuterStride<>> map(columns.data(), 1, 3,
                                                                       Eigen::OuterStride<>(2));
  CHECK(as_view(map)(0, 2) == 3);
  STATIC_REQUIRE(std::is_same_v<decltype(as_view(map))::element_type, const float>);
  const Eigen::VectorXd column = Eigen::VectorXd::LinSpaced(4, 0, 3);
  CHECK(as_view(column)(3, 0) == 3);

  auto memory = counted(12);
  const span_of_rank_two m{memory.data()};
  CHECK(as_view(m).extents() == std::array<index_t, 2>{3, 4});
  CHECK(as_view(m)(2, 3) == 11);
}

TEST_CASE("along: any axis of any rank as (outer, axis, inner)", "[components][view]") {
  auto p = counted(2 * 3 * 4 * 5);
  const view<float, 4> x{p.data(), {2, 3, 4, 5}};
  CHECK(along(x, 0).extents() == std::array<index_t, 3>{1, 2, 60});
  CHECK(along(x, 1).extents() == std::array<index_t, 3>{2, 3, 20});
  CHECK(along(x, 2).extents() == std::array<index_t, 3>{6, 4, 5});
  CHECK(along(x, 3).extents() == std::array<index_t, 3>{24, 5, 1});
  for (index_t i = 0; i < 2; ++i)
    for (index_t j = 0; j < 3; ++j)
      for (index_t k = 0; k < 4; ++k)
        for (index_t l = 0; l < 5; ++l) {
          const float value = x(i, j, k, l);
          CHECK(along(x, 0)(0, i, (j * 4 + k) * 5 + l) == value);
          CHECK(along(x, 1)(i, j, k * 5 + l) == value);
          CHECK(along(x, 2)(i * 3 + j, k, l) == value);
          CHECK(along(x, 3)((i * 3 + j) * 4 + k, l, 0) == value);
        }
  // One axis, an axis of one, a permuted array whose outer axes still merge, and an empty one.
  CHECK(along(view<float, 1>{p.data(), {7}}, 0).extents() == std::array<index_t, 3>{1, 7, 1});
  CHECK(along(view<float, 3>{p.data(), {2, 1, 3}, {3, 999, 1}}, 0).extents() ==
        std::array<index_t, 3>{1, 2, 3});
  CHECK(along(x.slice(2, 1, 2), 2)(5, 1, 4) == x(1, 2, 2, 4));
  CHECK(along(x.reversed(3), 3)(23, 0, 0) == x(1, 2, 3, 4));
  CHECK(along(view<float, 3>{p.data(), {2, 0, 3}}, 1).empty());
  CHECK_THROWS_AS(along(x, 4), error);
  CHECK_THROWS_AS(along(x.slice(2, 0, 2), 0), error);  // a gap between the axes behind
  CHECK_THROWS_AS(along(x.permuted({1, 0, 2, 3}), 3),
                  error);  // the axes before are in another order
}

TEST_CASE("view: shapes as text", "[components][view]") {
  const auto text = [](std::initializer_list<index_t> extents) {
    detail::message m;
    m << detail::numbers{extents.begin(), extents.size()};
    return std::string(std::string_view(m));
  };
  CHECK(text({2, 7, 64}) == "(2, 7, 64)");
  CHECK(text({-1}) == "(-1)");
  CHECK(text({}) == "()");
  CHECK(text({0, std::numeric_limits<index_t>::min()}) == "(0, -9223372036854775808)");
}
