// SPDX-License-Identifier: Apache-2.0
// The yardsticks of the other tests: tolerances that plain loops respect and that are not vacuous,
// distances that NaN cannot pass, finite differences, random values, and buffers with canaries.
#include "support/numeric.hpp"

#include <Eigen/Core>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <stdexcept>
#include <vector>

#include "support/catch.hpp"

namespace {

using namespace mmrec::testing;

const double infinity = std::numeric_limits<double>::infinity();
const double nan_value = std::numeric_limits<double>::quiet_NaN();

// T as the tests see it: arithmetic in its accumulator, each result stored in T.
template <class T, class Step>
std::vector<double> serial_scan(const std::vector<T>& x, double start, const Step& step) {
  using acc = mmrec::accumulator_t<T>;
  acc carry = static_cast<acc>(start);
  std::vector<double> y;
  for (const T value : x) {
    carry = step(carry, static_cast<acc>(value));
    y.push_back(static_cast<double>(static_cast<T>(carry)));
  }
  return y;
}

template <class T, class Step>
std::vector<double> exact_scan(const std::vector<T>& x, double start, const Step& step) {
  std::vector<double> y;
  for (const T value : x) y.push_back(start = step(start, static_cast<double>(value)));
  return y;
}

const auto add = [](auto a, auto b) { return a + b; };
const auto multiply = [](auto a, auto b) { return a * b; };
const auto log_add = [](auto a, auto b) {
  return std::max(a, b) + std::log1p(std::exp(std::min(a, b) - std::max(a, b)));
};

}  // namespace

TEST_CASE("numeric: unit roundoffs", "[components][numeric]") {
  CHECK(unit_roundoff<float>() == 0x1p-24);
  CHECK(unit_roundoff<double>() == 0x1p-53);
  CHECK(unit_roundoff<Eigen::half>() == 0x1p-11);
  CHECK(unit_roundoff<Eigen::bfloat16>() == 0x1p-8);
}

TEST_CASE("numeric: tolerances grow with length, and refuse to say nothing",
          "[components][numeric]") {
  CHECK(scan_tolerance<float>(1) == rounding_growth(1, 0x1p-24));
  CHECK(scan_tolerance<float>(1000) > 1000 * 0x1p-24);
  CHECK(scan_tolerance<float>(1000) < 1001 * 0x1p-24);
  CHECK(scan_tolerance<float, double>(1000) < 1.01 * 0x1p-24);  // one rounding, to float
  CHECK(linear_scan_tolerance<double>(49) < 101 * 0x1p-53);
  CHECK(scan_tolerance<Eigen::bfloat16>(1) < 1.01 * 0x1p-8);
  CHECK(scan_tolerance<Eigen::bfloat16>(1, 2) > 2 * 0x1p-8);
  CHECK(scan_tolerance<float>(1000, 1, 5) == 5 * scan_tolerance<float>(1000));
  CHECK_THROWS_AS(scan_tolerance<float>(1 << 23), std::invalid_argument);
  CHECK_NOTHROW(scan_tolerance<double>(1 << 23));
}

TEMPLATE_TEST_CASE("numeric: plain loops stay within the tolerances", "[components][numeric]",
                   float, Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  const std::int64_t length = GENERATE(1, 2, 17, 1000);
  const auto n = static_cast<std::size_t>(length);
  CAPTURE(length);

  const auto terms = random_vector<T>(length, 1, 0.5, 1.5);
  const double sum_error =
      max_relative_error(serial_scan(terms, 0, add), exact_scan(terms, 0, add));
  CHECK(sum_error <= scan_tolerance<T>(length));
  if (length == 1000) CHECK(sum_error > 0);

  // Element by element, and with one sign: factors near 1, so that nothing underflows.
  const auto factors = random_vector<T>(length, 2, 0.98, 1.02);
  const auto product = exact_scan(factors, 1, multiply);
  CHECK(max_elementwise_error(serial_scan(factors, 1, multiply), product, 0) <=
        scan_tolerance<T>(length));

  const auto logs = random_vector<T>(length, 3, -5, 5);
  const auto log_sum = exact_scan(logs, -100, log_add);
  CHECK(max_relative_error(serial_scan(logs, -100, log_add), log_sum) <=
        log_scan_tolerance<T>(length, max_abs(std::span<const double>(log_sum))));

  // h_t = a_t h_{t-1} + b_t, with positive terms: condition 1.
  const auto decay = random_vector<T>(length, 4, 0, 1);
  std::size_t t = 0;
  const auto step = [&](auto h, auto b) { return static_cast<decltype(h)>(decay[t++]) * h + b; };
  const auto h = exact_scan(terms, 2, step);
  t = 0;
  CHECK(max_relative_error(serial_scan(terms, 2, step), h) <= linear_scan_tolerance<T>(length));
  CHECK(t == n);
}

TEST_CASE("numeric: sixteen-bit storage costs what the tolerance allows", "[components][numeric]") {
  // The largest relative rounding error is u / (1 + u), at a value halfway between two others.
  const auto rounding = [](auto stored, float value) {
    return std::abs(static_cast<double>(static_cast<float>(stored)) - double{value}) / value;
  };
  const float bf16_tie = 1 + 0x1p-8F;
  const float half_tie = 1 + 0x1p-11F;
  CHECK(rounding(Eigen::bfloat16(bf16_tie), bf16_tie) <= scan_tolerance<Eigen::bfloat16>(1));
  CHECK(rounding(Eigen::bfloat16(bf16_tie), bf16_tie) > 0.99 * scan_tolerance<Eigen::bfloat16>(1));
  CHECK(rounding(Eigen::half(half_tie), half_tie) <= scan_tolerance<Eigen::half>(1));
  CHECK(rounding(Eigen::half(half_tie), half_tie) > 0.99 * scan_tolerance<Eigen::half>(1));
}

TEST_CASE("numeric: distances", "[components][numeric]") {
  CHECK(distance(1, 3) == 2);
  CHECK(distance(infinity, infinity) == 0);
  CHECK(distance(infinity, -infinity) == infinity);
  CHECK(distance(infinity, 1) == infinity);
  CHECK(distance(nan_value, nan_value) == 0);
  CHECK(distance(nan_value, 1) == infinity);
  CHECK(distance(1, nan_value) == infinity);
  CHECK(distance(nan_value, infinity) == infinity);

  using vec = std::vector<double>;
  CHECK(max_relative_error(vec{1, 2}, vec{1, 4}) == 0.5);
  CHECK(max_relative_error(vec{1, 4}, vec{2, 4}) == 0.25);
  CHECK(max_relative_error(vec{1, nan_value}, vec{1, 4}) == infinity);
  CHECK(max_relative_error(vec{0, 0}, vec{0, 0}) == 0);
  CHECK(max_relative_error(vec{0, 1e-300}, vec{0, 0}) == infinity);
  CHECK(max_relative_error(vec{1, infinity}, vec{2, infinity}) == 0.5);
  CHECK(max_relative_error(vec{}, vec{}) == 0);
  CHECK_THROWS_AS(max_relative_error(vec{1}, vec{1, 2}), std::invalid_argument);

  CHECK(max_elementwise_error(vec{1e-3, 100}, vec{2e-3, 100}, 0) == 0.5);
  CHECK(max_elementwise_error(vec{1e-3, 100}, vec{2e-3, 100}, 1) == 1e-3);
  CHECK(max_elementwise_error(vec{nan_value}, vec{1}, 1) == infinity);
}

TEST_CASE("numeric: finite differences", "[components][gradients][numeric]") {
  const auto f = [](const std::vector<double>& x) { return std::sin(x[0]) * std::exp(x[1]); };
  const std::vector<double> x{0.7, -0.3};
  const double d0 = std::cos(0.7) * std::exp(-0.3);
  const double d1 = std::sin(0.7) * std::exp(-0.3);
  CHECK(std::abs(finite_difference(f, x, 0, 6e-6, difference::central) - d0) < 1e-9);
  CHECK(std::abs(finite_difference(f, x, 0, 1e-3) - d0) < 1e-11);
  // Richardson's term is what makes the larger step good.
  CHECK(std::abs(finite_difference(f, x, 0, 1e-3, difference::central) - d0) > 1e-8);
  CHECK(max_relative_error(finite_difference_gradient(f, x), std::vector<double>{d0, d1}) < 1e-11);
  CHECK_THROWS_AS(finite_difference(f, x, 2, 1e-3), std::out_of_range);
}

TEST_CASE("numeric: random values are the same everywhere", "[components][numeric]") {
  random_source bits(1234567);  // the generator's published test vector
  CHECK(bits.bits() == 6457827717110365317ULL);
  CHECK(bits.bits() == 3203168211198807973ULL);
  CHECK(random_source(0).uniform() == static_cast<double>(0xE220A8397B1DCDAFULL >> 11U) * 0x1p-53);

  random_source random(7);
  double sum = 0;
  double squares = 0;
  int outside = 0;
  constexpr int count = 20000;
  for (int i = 0; i < count; ++i) {
    const double u = random.uniform(-2, 3);
    outside += u >= -2 && u < 3 ? 0 : 1;
    const double z = random.normal();
    sum += z;
    squares += z * z;
    const std::int64_t k = random.integer(-3, 3);
    outside += k >= -3 && k <= 3 ? 0 : 1;
  }
  CHECK(outside == 0);
  // Four standard deviations of the two estimates (kurtosis 3 - 0.1).
  CHECK(std::abs(sum / count) < 4 / std::sqrt(count));
  CHECK(std::abs(squares / count - 1) < 4 * std::sqrt(1.9 / count));

  CHECK(random_vector<float>(5, 3) == random_vector<float>(5, 3));
  CHECK(random_vector<float>(5, 3) != random_vector<float>(5, 4));
  CHECK(random_normal_vector<Eigen::bfloat16>(4, 3).size() == 4);
}

TEMPLATE_TEST_CASE("numeric: a strided buffer holds its array in every layout",
                   "[components][numeric]", float, double, Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  for (const layout kind : all_layouts) {
    CAPTURE(to_string(kind));
    const auto values = random_vector<T>(2 * 5 * 3, 11);
    strided_buffer<T> buffer({2, 5, 3}, kind, values);
    CHECK(max_relative_error(buffer.values(), values) == 0);
    CHECK(buffer.canaries_intact());

    const auto view = buffer.view();
    CHECK(view.extents() == std::array<std::int64_t, 3>{2, 5, 3});
    std::size_t i = 0;
    std::size_t wrong = 0;
    for (int b = 0; b < 2; ++b) {
      for (int t = 0; t < 5; ++t) {
        for (int c = 0; c < 3; ++c) {
          wrong += static_cast<double>(view(b, t, c)) != static_cast<double>(values[i++]) ? 1 : 0;
        }
      }
    }
    CHECK(wrong == 0);

    // Writing all elements touches no canary, writing behind the last one touches one.
    buffer.fill(T(2));
    CHECK(buffer.canaries_intact());
    CHECK(max_relative_error(buffer.values(), std::vector<T>(30, T(2))) == 0);
    buffer.refill_with_poison();
    CHECK(std::isnan(static_cast<double>(buffer.values()[29])));
    CHECK(buffer.canaries_intact());
    std::int64_t behind = 1;
    for (std::size_t axis = 0; axis < 3; ++axis) {
      behind += std::max<std::int64_t>(0, (view.extent(axis) - 1) * view.stride(axis));
    }
    view.data_handle()[behind] = T(0);
    REQUIRE(buffer.overwritten_canary().has_value());
    CHECK(*buffer.overwritten_canary() == behind);
  }
}

TEST_CASE("numeric: every NaN of a poisoned output counts as an overwrite of a canary",
          "[components][numeric]") {
  strided_buffer<float> buffer({1, 2, 2}, layout::padded);
  const auto view = buffer.view();
  (&view(0, 0, 0))[2] = std::numeric_limits<float>::quiet_NaN();  // in the gap behind row 0
  CHECK(*buffer.overwritten_canary() == 2);
}

TEST_CASE("numeric: strided buffers sit where their layout says", "[components][numeric]") {
  const auto address = [](const auto& view) {
    return reinterpret_cast<std::uintptr_t>(view.data_handle());
  };
  strided_buffer<float> aligned({2, 3, 5}, layout::channel_last);
  CHECK(address(aligned.view()) % 64 == 0);
  CHECK(aligned.view().strides() == std::array<std::int64_t, 3>{15, 5, 1});
  CHECK(aligned.view()(0, 0, 0) != aligned.view()(0, 0, 0));  // poisoned
  strided_buffer<float> unaligned({2, 3, 5}, layout::unaligned);
  CHECK(address(unaligned.view()) % 64 == sizeof(float));
  strided_buffer<double> time_last({2, 3, 5}, layout::time_last);
  CHECK(address(time_last.view()) % 64 == 0);
  CHECK(time_last.view().strides() == std::array<std::int64_t, 3>{15, 1, 3});
  strided_buffer<float> reversed({2, 3, 5}, layout::time_reversed);
  CHECK(reversed.view().strides() == std::array<std::int64_t, 3>{15, -5, 1});

  for (const layout kind : all_layouts) {
    const strided_buffer<float> no_time({2, 0, 5}, kind);
    CHECK(no_time.values().empty());
    CHECK(no_time.view().data_handle() != nullptr);
    const strided_buffer<float> no_batch({0, 4, 5}, kind);
    CHECK(no_batch.canaries_intact());
  }
  CHECK_THROWS_AS(strided_buffer<float>({2, 3, 5}, layout::padded, std::vector<float>(29)),
                  std::invalid_argument);
}
