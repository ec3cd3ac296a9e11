// SPDX-License-Identifier: Apache-2.0
// RMSNorm against its formula in double, both positions of epsilon: values, gradients, finite
// differences, rows of zeros, accumulation, in place, thread counts, and what is refused.
#include <mmrec/norm.hpp>

#include <Eigen/Core>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/message_of.hpp"
#include "support/numeric.hpp"
#include "support/on_both_backends.hpp"
#include "support/wake_threads.hpp"

using namespace mmrec;
using namespace mmrec::testing;

namespace {

// Rows of an array with a gap behind each, which must keep its values.
template <class T>
struct rows {
  index_t count, n, pitch;
  std::vector<T> memory;
  rows(index_t count_, index_t n_, std::uint64_t seed, index_t gap = 3)
      : count(count_),
        n(n_),
        pitch(n_ + gap),
        memory(random_vector<T>(count_ * pitch + 1, seed, -2, 2)) {}
  mmrec::view<T, 2> view() { return {memory.data() + 1, {count, n}, {pitch, 1}}; }
  mmrec::view<const T, 2> view() const { return {memory.data() + 1, {count, n}, {pitch, 1}}; }
  double at(index_t i, index_t j) const {
    return static_cast<double>(memory[static_cast<std::size_t>(1 + i * pitch + j)]);
  }
  /// The gaps are those of `before`.
  bool same_gaps(const rows& before) const {
    for (index_t i = 0; i < count; ++i)
      for (index_t j = n; j < pitch; ++j)
        if (at(i, j) != before.at(i, j)) return false;
    return memory[0] == before.memory[0];
  }
};

template <class T>
std::vector<double> doubles(const std::vector<T>& v) {
  std::vector<double> result;
  for (const T x : v) result.push_back(static_cast<double>(x));
  return result;
}

struct exact_row {
  double inverse, slope;  // 1 / r; the factor of x sum(w dy x) in dx
};
template <class Row>
exact_row solve_row(const Row& x, index_t n, const rms_norm_options& o) {
  double squares = 0;
  for (index_t j = 0; j < n; ++j) squares += x(j) * x(j);
  const auto d = static_cast<double>(n);
  if (o.position == epsilon_position::inside) {
    const double r = std::sqrt(squares / d + o.epsilon);
    return {1 / r, 1 / (r * r * r * d)};
  }
  const double norm = std::sqrt(squares), r = norm / std::sqrt(d) + o.epsilon;
  return {1 / r, norm > 0 ? 1 / (r * r * std::sqrt(d) * norm) : 0};
}

template <class T, class Backend>
void check_norm(const Backend& backend, index_t count, index_t n, const rms_norm_options& options,
                bool accumulate, std::uint64_t seed) {
  CAPTURE(count, n, options.epsilon, options.position == epsilon_position::inside, accumulate);
  // A sum of squares is off by g(n + 1), its root by half; a handful of operations follow.
  const double u = unit_roundoff<accumulator_t<T>>(),
               growth = rounding_growth(static_cast<double>(n) + 12, u);
  const double stored = sizeof(T) == 2 ? unit_roundoff<T>() : 0;
  const double tiny = static_cast<double>(std::numeric_limits<T>::denorm_min());
  rows<T> x(count, n, seed), y(count, n, seed + 1), dy(count, n, seed + 2), dx(count, n, seed + 3);
  if (count > 2)  // a row of zeros
    for (index_t j = 0; j < n; ++j) x.view()(1, j) = T(0);
  const auto w = random_vector<T>(n, seed + 4);
  auto dw = random_vector<T>(n, seed + 5);
  const auto w_exact = doubles(w), dw_before = doubles(dw);
  const auto y_before = y, dx_before = dx;
  rms_norm(backend, x.view(), w, y.view(), options);
  rms_norm_backward(backend, dy.view(), x.view(), w,
                    {.dx = dx.view(),
                     .dw = as_view(dw),
                     .accumulate_dx = accumulate,
                     .accumulate_dw = accumulate,
                     .options = options});
  std::vector<double> dw_exact(w.size(), 0.0), dw_size(w.size(), 0.0);
  const auto within = [&](double actual, double exact, double error) {
    // Where 1 / epsilon leaves half's range.
    if (std::abs(exact) > static_cast<double>(std::numeric_limits<T>::max()))
      return actual == std::copysign(std::numeric_limits<double>::infinity(), exact);
    return distance(actual, exact) <= error + stored * (std::abs(exact) + error) + tiny;
  };
  // Millions of elements: only what is wrong becomes an assertion.
  const auto require = [](bool right, const char* what, index_t i, index_t j) {
    if (right) return;
    CAPTURE(what, i, j);
    FAIL("further from the exact result than rounding explains");
  };
  for (index_t i = 0; i < count; ++i) {
    const auto s = solve_row([&](index_t j) { return x.at(i, j); }, n, options);
    double dot = 0, dot_size = 0;
    for (index_t j = 0; j < n; ++j) {
      const double term = w_exact[static_cast<std::size_t>(j)] * dy.at(i, j) * x.at(i, j);
      dot += term, dot_size += std::abs(term);
    }
    for (index_t j = 0; j < n; ++j) {
      const auto k = static_cast<std::size_t>(j);
      const double exact = w_exact[k] * x.at(i, j) * s.inverse;
      require(within(y.at(i, j), exact, growth * std::abs(exact)), "y", i, j);
      const double before = accumulate ? dx_before.at(i, j) : 0;
      const double first = w_exact[k] * dy.at(i, j) * s.inverse,
                   second = x.at(i, j) * dot * s.slope;
      const double size =
          std::abs(before) + std::abs(first) + std::abs(x.at(i, j)) * s.slope * 4 * dot_size;
      require(within(dx.at(i, j), before + first - second, growth * size), "dx", i, j);
      const double term = dy.at(i, j) * x.at(i, j) * s.inverse;
      dw_exact[k] += term, dw_size[k] += std::abs(term);
    }
  }
  for (std::size_t k = 0; k < w.size(); ++k) {
    const double before = accumulate ? dw_before[k] : 0;
    const double sums = rounding_growth(static_cast<double>(n + count) + 12, u);
    require(within(static_cast<double>(dw[k]), before + dw_exact[k],
                   sums * (std::abs(before) + dw_size[k])),
            "dw", 0, static_cast<index_t>(k));
  }
  CHECK(y.same_gaps(y_before));
  CHECK(dx.same_gaps(dx_before));
}

}  // namespace

TEMPLATE_TEST_CASE("rms_norm: ragged sizes, both positions of epsilon", "[components]", float,
                   double, Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  std::uint64_t seed = 1;
  for (const epsilon_position position : {epsilon_position::outside, epsilon_position::inside})
    for (const double epsilon : {1e-6, 0.3})
      for (const index_t n : {1, 2, 7, 8, 9, 15, 16, 17, 33, 128, 257})
        for (const index_t count : {1, 3, 70}) {
          const rms_norm_options options{epsilon, position};
          ++seed;
          check_norm<T>(backend::reference{}, count, n, options, seed % 2 == 0, 100 * seed);
          check_norm<T>(tested{}, count, n, options, seed % 2 == 0, 100 * seed);
          check_norm<T>(on_threads(3), count, n, options, seed % 2 == 1, 100 * seed);
        }
}

TEST_CASE("rms_norm_backward: finite differences", "[gradients]") {
  const index_t count = 3, n = 11;
  const auto x = random_vector<double>(count * n, 1, -2, 2), w = random_vector<double>(n, 2),
             dy = random_vector<double>(count * n, 3);
  const std::array<index_t, 2> shape{count, n};
  const auto check = [&](const auto& backend, const rms_norm_options& options) {
    const auto f = [&](const std::vector<double>& x_, const std::vector<double>& w_) {
      std::vector<double> y(x_.size());
      rms_norm(backend, view<const double, 2>(x_.data(), shape), w_,
               view<double, 2>(y.data(), shape), options);
      double sum = 0;
      for (std::size_t i = 0; i < y.size(); ++i) sum += dy[i] * y[i];
      return sum;
    };
    std::vector<double> dx(x.size()), dw(w.size());
    rms_norm_backward(backend, view<const double, 2>(dy.data(), shape),
                      view<const double, 2>(x.data(), shape), w,
                      {.dx = {dx.data(), shape}, .dw = as_view(dw), .options = options});
    CHECK(max_relative_error(
              dx, finite_difference_gradient([&](const auto& v) { return f(v, w); }, x)) < 1e-10);
    CHECK(max_relative_error(
              dw, finite_difference_gradient([&](const auto& v) { return f(x, v); }, w)) < 1e-10);
  };
  for (const epsilon_position position : {epsilon_position::outside, epsilon_position::inside})
    for (const double epsilon : {1e-6, 0.5}) {
      on_each_backend([&](const auto& backend) { check(backend, {epsilon, position}); });
    }
}

TEMPLATE_TEST_CASE("rms_norm: rows of zeros, NaN and infinity stay in their rows", "[components]",
                   float, double, Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  const index_t n = 19;
  const auto check = [&](const auto& backend, epsilon_position position) {
    const rms_norm_options options{0.25, position};
    rows<T> x(4, n, 1, 0), y(4, n, 2, 0), dx(4, n, 3, 0);
    const rows<T> dy(4, n, 4, 0);
    const auto w = random_vector<T>(n, 5);
    for (index_t j = 0; j < n; ++j) x.view()(1, j) = T(0);
    x.view()(2, 17) = std::numeric_limits<T>::quiet_NaN();
    x.view()(3, 2) = std::numeric_limits<T>::infinity();
    rms_norm(backend, x.view(), w, y.view(), options);
    rms_norm_backward(backend, dy.view(), x.view(), w, {.dx = dx.view(), .options = options});
    // r = epsilon, or its root: 0.25 and 0.5.
    const double inverse = position == epsilon_position::inside ? 2 : 4;
    for (index_t j = 0; j < n; ++j) {
      CHECK(y.at(1, j) == 0);
      const double exact =
          static_cast<double>(w[static_cast<std::size_t>(j)]) * dy.at(1, j) * inverse;
      CHECK(std::abs(dx.at(1, j) - exact) <= 8 * unit_roundoff<T>() * std::abs(exact));
      CHECK(std::isfinite(y.at(0, j)));
      CHECK(std::isfinite(dx.at(0, j)));
      CHECK(std::isnan(y.at(2, j)));
      CHECK(std::isnan(dx.at(2, j)));
      CHECK((j == 2 ? std::isnan(y.at(3, j)) : y.at(3, j) == 0));
    }
  };
  for (const epsilon_position position : {epsilon_position::outside, epsilon_position::inside}) {
    on_each_backend([&](const auto& backend) { check(backend, position); });
  }
}

TEMPLATE_TEST_CASE("rms_norm: in place, and the same bits for every thread count", "[components]",
                   float, double, Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  const index_t count = 300, n = 130;
  const rows<T> x(count, n, 1), dy(count, n, 2);
  const auto w = random_vector<T>(n, 3);
  struct result {
    std::vector<T> y, dx, dw;
    bool operator==(const result&) const = default;
  };
  const auto run = [&](const auto& backend, bool in_place) {
    rows<T> y = in_place ? x : rows<T>(count, n, 9), dx = in_place ? dy : rows<T>(count, n, 9);
    std::vector<T> dw(w.size());
    const rows<T>& source = in_place ? y : x;
    wake_threads(backend);
    rms_norm(backend, source.view(), w, y.view());
    const rows<T>& upstream = in_place ? dx : dy;
    rms_norm_backward(backend, upstream.view(), x.view(), w, {.dx = dx.view(), .dw = as_view(dw)});
    result r{{}, {}, dw};
    for (index_t i = 0; i < count; ++i)
      for (index_t j = 0; j < n; ++j) {
        r.y.push_back(y.view()(i, j));
        r.dx.push_back(dx.view()(i, j));
      }
    return r;
  };
  CHECK(run(backend::reference{}, true) == run(backend::reference{}, false));
  const auto one = run(on_threads(1), false);
  for (const unsigned threads : {1u, 2u, 3u, 8u}) {
    CAPTURE(threads);
    CHECK(run(on_threads(threads), false) == one);
    CHECK(run(on_threads(threads), true) == one);
  }
  // A gradient alone is the same as with the other.
  rows<T> dx(count, n, 9);
  std::vector<T> dw(w.size());
  rms_norm_backward(on_threads(2), dy.view(), x.view(), w, {.dx = dx.view()});
  rms_norm_backward(on_threads(2), dy.view(), x.view(), w, {.dw = as_view(dw)});
  CHECK(dw == one.dw);
  CHECK(dx.view()(1, 2) == one.dx[static_cast<std::size_t>(n + 2)]);
}

TEMPLATE_TEST_CASE("rms_norm: long rows, and the same bits for every layout", "[components]", float,
                   double, Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  // Longer than what a thread of the GPU keeps of a row, and rows enough for several to a thread.
  for (const auto& [count, n] : {std::array<index_t, 2>{3, 8200}, {2, 20001}, {1100, 520}}) {
    for (const auto& backend : {on_threads(0), on_threads(3)})
      check_norm<T>(backend, count, n, {}, n % 2 == 0, static_cast<std::uint64_t>(n));
    CAPTURE(count, n);
    const auto values = random_vector<T>(count * n, 1), upstream = random_vector<T>(count * n, 2),
               w = random_vector<T>(n, 3);
    // The first row lies `offset` elements behind an aligned address.
    const auto run = [&](index_t offset, index_t pitch) {
      std::vector<T> x(static_cast<std::size_t>(offset + count * pitch)), dy = x, y = x, dx = x;
      const auto at = [&](std::vector<T>& v) {
        return view<T, 2>(v.data() + offset, {count, n}, {pitch, 1});
      };
      for (index_t i = 0; i < count; ++i)
        for (index_t j = 0; j < n; ++j) {
          at(x)(i, j) = values[static_cast<std::size_t>(i * n + j)];
          at(dy)(i, j) = upstream[static_cast<std::size_t>(i * n + j)];
        }
      std::vector<T> dw(w.size()), all;
      rms_norm(tested{}, at(x), w, at(y));
      rms_norm_backward(tested{}, at(dy), at(x), w, {.dx = at(dx), .dw = as_view(dw)});
      for (index_t i = 0; i < count; ++i)
        for (index_t j = 0; j < n; ++j) all.push_back(at(y)(i, j)), all.push_back(at(dx)(i, j));
      all.insert(all.end(), dw.begin(), dw.end());
      return all;
    };
    const auto dense = run(0, (n + 7) / 8 * 8);
    CHECK(run(0, n) == dense);
    CHECK(run(1, n + 3) == dense);
  }
}

#if !defined(__CUDACC__)
TEST_CASE("rms_norm: a second call obtains no memory", "[components]") {
  const rows<float> x(300, 130, 1), dy(300, 130, 2);
  const auto w = random_vector<float>(130, 3);
  arena memory;
  const backend::simd simd{.threads = 2, .memory = &memory};
  rows<float> dx(300, 130, 9);
  std::vector<float> dw(w.size());
  rms_norm_backward(simd, dy.view(), x.view(), w, {.dx = dx.view()});
  rms_norm_backward(simd, dy.view(), x.view(), w, {.dw = as_view(dw)});
  const auto capacity = memory.capacity();
  rms_norm_backward(simd, dy.view(), x.view(), w, {.dx = dx.view(), .dw = as_view(dw)});
  CHECK(memory.capacity() == capacity);
  CHECK(memory.used() == 0);
}
#endif

TEST_CASE("rms_norm: a residual is what dx would have been added to", "[components]") {
  const index_t count = 70, n = 37;
  const rows<float> x(count, n, 1), dy(count, n, 2), residual(count, n, 3);
  const auto w = random_vector<float>(n, 4);
  const auto check = [&](const auto& backend) {
    rows<float> added = residual, given(count, n, 5), same = residual;
    rms_norm_backward(backend, dy.view(), x.view(), w, {.dx = added.view(), .accumulate_dx = true});
    rms_norm_backward(backend, dy.view(), x.view(), w,
                      {.dx = given.view(), .residual = residual.view()});
    rms_norm_backward(backend, dy.view(), x.view(), w,
                      {.dx = same.view(), .residual = same.view()});
    index_t different = 0;
    for (index_t i = 0; i < count; ++i)
      for (index_t j = 0; j < n; ++j)
        different += given.view()(i, j) != added.view()(i, j) ||
                     same.view()(i, j) != added.view()(i, j) ||
                     given.view()(i, j) == residual.view()(i, j);
    CHECK(different == 0);
  };
  on_each_backend(check);
}

TEST_CASE("rms_norm: no rows and no columns", "[components]") {
  const std::vector<float> w(5, 1.0F);
  std::vector<float> dw(5, 7.0F);
  const auto check = [&](const auto& backend) {
    rms_norm(backend, view<const float, 2>(nullptr, {0, 5}), w, view<float, 2>(nullptr, {0, 5}));
    rms_norm(backend, view<const float, 2>(nullptr, {3, 0}), view<const float, 1>(nullptr, {0}),
             view<float, 2>(nullptr, {3, 0}));
    const view<const float, 2> none{nullptr, {0, 5}};
    std::fill(dw.begin(), dw.end(), 7.0F);
    rms_norm_backward(backend, none, none, w, {.dw = as_view(dw), .accumulate_dw = true});
    CHECK(dw == std::vector<float>(5, 7.0F));
    rms_norm_backward(backend, none, none, w, {.dw = as_view(dw)});
    CHECK(dw == std::vector<float>(5, 0.0F));
  };
  on_each_backend(check);
}

TEST_CASE("rms_norm errors", "[errors]") {
  std::vector<float> memory(200, -7.0F);
  const auto before = memory;
  const auto at = [&](index_t offset, std::array<index_t, 2> e) {
    return view<float, 2>(memory.data() + offset, e);
  };
  const auto line = [&](index_t offset, index_t n) {
    return view<float, 1>(memory.data() + offset, {n});
  };
  const auto x = at(0, {3, 5}), y = at(20, {3, 5}), dy = at(40, {3, 5});
  const auto w = line(60, 5);
  const auto refused = [&](const auto& call, std::initializer_list<std::string_view> words) {
    on_each_backend([&](const auto& on) {
      CHECK(says(message_of<error>([&] { call(on); }), words));
      CHECK(memory == before);
    });
  };
  const auto forward = [&](auto x_, auto w_, auto y_,
                           std::initializer_list<std::string_view> words) {
    refused([&](const auto& on) { rms_norm(on, x_, w_, y_); }, words);
  };
  forward(x, line(60, 4), y, {"rms_norm", ": w:", "(5)", "(4)"});
  forward(x, w, at(20, {3, 4}), {"rms_norm", ": y:", "(3, 5)", "(3, 4)"});
  forward(view<float, 2>(nullptr, {3, 5}), w, y, {"rms_norm", ": x:", "null"});
  forward(view<float, 2>(memory.data(), {3, 5}, {1, 3}), w, y,
          {"rms_norm", ": x:", "unit stride", "3"});
  forward(x, view<float, 1>(memory.data() + 60, {5}, {2}), y,
          {"rms_norm", ": w:", "unit stride", "2"});
  forward(x, w, at(1, {3, 5}), {"rms_norm", ": y:", "apart from x"});
  forward(x, w, at(56, {3, 5}), {"rms_norm", ": y:", "apart from w"});
  forward(x, w, view<float, 2>(memory.data() + 20, {3, 5}, {0, 1}),
          {"rms_norm", ": y:", "its own place"});
  const auto backward = [&](auto dy_, auto x_, const rms_norm_gradients<float>& g,
                            std::initializer_list<std::string_view> words) {
    refused([&](const auto& on) { rms_norm_backward(on, dy_, x_, w, g); }, words);
  };
  backward(at(40, {2, 5}), x, {}, {"rms_norm_backward", ": dy:", "(3, 5)", "(2, 5)"});
  backward(dy, x, {.dx = at(20, {5, 3})}, {"rms_norm_backward", ": dx:", "(3, 5)", "(5, 3)"});
  backward(dy, x, {.dw = line(80, 6)}, {"rms_norm_backward", ": dw:", "(5)", "(6)"});
  backward(dy, x, {.dw = view<float, 1>(nullptr, {5})}, {"rms_norm_backward", ": dw:", "null"});
  backward(dy, x, {.dx = at(1, {3, 5})}, {"rms_norm_backward", ": dx:", "apart from x"});
  backward(dy, x, {.dx = at(41, {3, 5})}, {"rms_norm_backward", ": dx:", "apart from dy"});
  backward(dy, x, {.dw = line(10, 5)}, {"rms_norm_backward", ": dw:", "apart from x"});
  backward(dy, x, {.dx = y, .dw = line(30, 5)}, {"rms_norm_backward", ": dx:", "apart from dw"});
  backward(dy, x, {.dx = y, .residual = at(21, {3, 5})},
           {"rms_norm_backward", ": dx:", "apart from residual"});
  backward(dy, x, {.dx = y, .residual = at(40, {3, 5}), .accumulate_dx = true},
           {"rms_norm_backward", ": residual:", "accumulate_dx"});
  for (const double epsilon : {-1e-6, std::nan("")}) {
    refused([&](const auto& on) { rms_norm(on, x, w, y, {.epsilon = epsilon}); },
            {"rms_norm: epsilon:", "0 or more"});
    backward(dy, x, {.dx = y, .options = {.epsilon = epsilon}},
             {"rms_norm_backward: options.epsilon:", "0 or more"});
  }
}
