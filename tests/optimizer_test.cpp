// SPDX-License-Identifier: Apache-2.0
// AdamW against a scalar loop over many steps, the gradient norm and its thread counts, clipping,
// the schedule, and what is refused.
#include <mmrec/optimizer.hpp>

#include <Eigen/Core>

#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/message_of.hpp"
#include "support/numeric.hpp"
#include "support/on_both_backends.hpp"

using namespace mmrec;
using namespace mmrec::testing;

namespace {

template <class T>
view<T, 1> flat(std::vector<T>& v) {
  return {v.data(), {static_cast<index_t>(v.size())}};
}
template <class T>
view<const T, 1> flat(const std::vector<T>& v) {
  return {v.data(), {static_cast<index_t>(v.size())}};
}

// One parameter in double; `store` rounds what is kept, as the array does.
template <class Store>
void scalar_adamw(double& w, double g, double& m, double& v, const adamw_options& o,
                  const Store& store) {
  g *= o.gradient_scale;
  m = o.beta1 * m + (1 - o.beta1) * g;
  v = o.beta2 * v + (1 - o.beta2) * g * g;
  const double m_hat = m / (1 - std::pow(o.beta1, static_cast<double>(o.step)));
  const double v_hat = v / (1 - std::pow(o.beta2, static_cast<double>(o.step)));
  w = store(w - o.rate * (m_hat / (std::sqrt(v_hat) + o.epsilon) + o.decay * w));
  m = store(m);
  v = store(v);
}

template <class T, class Backend>
void check_adamw(const Backend& backend, index_t n) {
  CAPTURE(n);
  constexpr index_t steps = 50;
  index_t compared = 0;
  auto w = random_vector<T>(n, 1);
  std::vector<T> m(w.size()), v(w.size());
  std::vector<double> we, me(w.size(), 0.0), ve(w.size(), 0.0);
  for (const T x : w) we.push_back(static_cast<double>(x));
  for (index_t step = 1; step <= steps; ++step) {
    const auto g = random_vector<T>(n, static_cast<std::uint64_t>(100 + step), 0.25, 1);
    const adamw_options o{.rate = 0.01 + 1e-4 * static_cast<double>(step),
                          .beta1 = 0.8,
                          .beta2 = 0.95,
                          .epsilon = 1e-3,
                          .decay = 0.1,
                          .gradient_scale = 0.5,
                          .step = step};
    for (std::size_t i = 0; i < w.size(); ++i) {
      // The rounding of a 16-bit store is part of what is computed: each step starts from what is
      // there.
      if (sizeof(T) == 2)
        we[i] = static_cast<double>(w[i]), me[i] = static_cast<double>(m[i]),
        ve[i] = static_cast<double>(v[i]);
      scalar_adamw(we[i], static_cast<double>(g[i]), me[i], ve[i], o, [](double x) { return x; });
    }
    adamw(backend, flat(w), flat(g), flat(m), flat(v), o);
    if (sizeof(T) != 2 && step != 1 && step != steps) continue;
    // Gradients of one sign: m and v are sums of positive terms, off by a few u per step.
    const double u = unit_roundoff<accumulator_t<T>>(),
                 once = sizeof(T) == 2 ? unit_roundoff<T>() : 0;
    const double grown = rounding_growth(6 * static_cast<double>(sizeof(T) == 2 ? 1 : step) + 6, u);
    for (std::size_t i = 0; i < w.size(); ++i) {
      const bool moments =
          std::abs(static_cast<double>(m[i]) - me[i]) <= (grown + once * (1 + grown)) * me[i] &&
          std::abs(static_cast<double>(v[i]) - ve[i]) <= (grown + once * (1 + grown)) * ve[i];
      // A weight of at most 1.5 rounds once more per step; a step is at most about 0.015.
      const double moved =
          static_cast<double>(sizeof(T) == 2 ? 1 : step) * (4 * u * 1.5 + 3 * grown * 0.02);
      const bool weight =
          std::abs(static_cast<double>(w[i]) - we[i]) <= moved + once * (std::abs(we[i]) + moved);
      ++compared;
      if (moments && weight) continue;  // millions of elements: only what is wrong is an assertion
      CAPTURE(step, i, w[i], we[i], m[i], me[i], v[i], ve[i]);
      FAIL("further from the scalar loop than rounding explains");
    }
  }
  CHECK(compared >= 2 * n);  // at the least after the first and the last step
}

}  // namespace

TEMPLATE_TEST_CASE("adamw: fifty steps against a scalar loop", "[components]", float, double,
                   Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  for (const index_t n : {0, 1, 7, 8, 15, 16, 17, 33, 1000}) {
    check_adamw<T>(backend::reference{}, n);
    check_adamw<T>(tested{}, n);
  }
  for (const tested& backend : repeatedly()) check_adamw<T>(backend, 20011);
}

TEST_CASE("adamw: decay is decoupled, and the first step is of size rate", "[components]") {
  const auto run = [](const auto& backend, double w0, double g0, const adamw_options& o) {
    std::vector<double> w{w0}, m{0}, v{0};
    adamw(backend, flat(w), flat(std::vector<double>{g0}), flat(m), flat(v), o);
    return w[0];
  };
  for (const double g : {1e-3, 1.0, 1e6, -5.0}) {
    const adamw_options o{.rate = 0.125, .epsilon = 0, .decay = 0};
    CHECK(std::abs(run(tested{}, 2, g, o) - (2 - std::copysign(0.125, g))) < 1e-12);
    CHECK(std::abs(run(backend::reference{}, 2, g, o) - (2 - std::copysign(0.125, g))) < 1e-12);
  }
  // Without a gradient only the decay moves the weight, by rate times decay.
  CHECK(std::abs(run(tested{}, 2, 0, {.rate = 0.125, .decay = 0.5}) - 2 * (1 - 0.0625)) < 1e-15);
  // NaN stays where it is.
  std::vector<float> w(20, 1.0F), m(20), v(20), g(20, 0.5F);
  g[13] = std::numeric_limits<float>::quiet_NaN();
  adamw(tested{}, flat(w), view<const float, 1>(flat(g)), flat(m), flat(v), {});
  for (std::size_t i = 0; i < 20; ++i) CHECK(std::isnan(w[i]) == (i == 13));
}

TEST_CASE("adamw: the same bits for every thread count", "[components]") {
  const index_t n = 40007;
  const auto g = random_vector<float>(n, 2);
  const auto run = [&](const tested& backend) {
    std::array<std::vector<float>, 3> wmv{random_vector<float>(n, 1), std::vector<float>(g.size()),
                                          std::vector<float>(g.size())};
    for (index_t step = 1; step <= 3; ++step)
      adamw(backend, flat(wmv[0]), flat(g), flat(wmv[1]), flat(wmv[2]), {.step = step});
    return wmv;
  };
  const auto one = run(repeatedly().front());
  for (const tested& backend : repeatedly()) CHECK(run(backend) == one);
}

TEMPLATE_TEST_CASE("norm2: values, bits for every thread count, NaN and infinity", "[components]",
                   float, double, Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  for (const index_t n : {0, 1, 17, 4095, 4096, 4097, 50000, 1100003}) {
    auto g = random_vector<T>(n, 5);
    long double sum = 0;
    for (const T x : g)
      sum += static_cast<long double>(static_cast<double>(x)) * static_cast<double>(x);
    const double exact = static_cast<double>(std::sqrt(sum)),
                 one = norm2(tested{}, flat(std::as_const(g)));
    CAPTURE(n);
    CHECK(std::abs(one - exact) <= rounding_growth(5000, unit_roundoff<double>()) * exact);
    CHECK(norm2(backend::reference{}, flat(std::as_const(g))) == one);
    for (const tested& backend : repeatedly()) CHECK(norm2(backend, flat(std::as_const(g))) == one);
    if (n == 0) continue;
    for (const index_t at : {index_t{0}, n / 2, n - 1}) {
      auto spoilt = g;
      spoilt[static_cast<std::size_t>(at)] = std::numeric_limits<T>::infinity();
      CHECK(norm2(tested{}, flat(std::as_const(spoilt))) ==
            std::numeric_limits<double>::infinity());
      spoilt[static_cast<std::size_t>(at)] = std::numeric_limits<T>::quiet_NaN();
      CHECK(std::isnan(norm2(tested{}, flat(std::as_const(spoilt)))));
      CHECK(std::isnan(norm2(backend::reference{}, flat(std::as_const(spoilt)))));
    }
  }
  // In double, the squares of large floats do not overflow.
  const std::vector<float> large(3, 1e30F);
  CHECK(std::abs(norm2(tested{}, flat(large)) / (std::sqrt(3.0) * static_cast<double>(1e30F)) - 1) <
        1e-15);
}

TEST_CASE("clip_to and adamw's clip: the factor never leaves the backend", "[components]") {
  // The array's memory is the device's too, which the stack's is not.
  std::vector<gradient_clip> clip(1);
  const auto check = [&](const auto& backend) {
    const index_t n = 20011;
    const auto g = random_vector<float>(n, 3);
    const double norm = norm2(backend, flat(g));
    for (const double limit : {0.5, 1e6, 0.0}) {
      clip_to(backend, flat(g), limit, clip.data());
      CHECK(clip[0].norm == norm);
      CHECK(clip[0].factor == clip_factor(norm, limit));
      std::array<std::vector<float>, 3> given{
          random_vector<float>(n, 1), std::vector<float>(g.size()), std::vector<float>(g.size())};
      auto found = given;
      adamw(backend, flat(given[0]), flat(g), flat(given[1]), flat(given[2]),
            {.gradient_scale = 0.5 * clip_factor(norm, limit)});
      adamw(backend, flat(found[0]), flat(g), flat(found[1]), flat(found[2]),
            {.gradient_scale = 0.5, .clip = clip.data()});
      CHECK(given == found);
      for (const double none :
           {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
        clip[0].norm = none;
        adamw(backend, flat(found[0]), flat(g), flat(found[1]), flat(found[2]),
              {.clip = clip.data()});
        CHECK(given == found);
      }
    }
    CHECK(says(message_of<error>([&] { clip_to(backend, flat(g), 1, nullptr); }),
               {"clip_to", ": to:", "null"}));
  };
  check(backend::reference{});
  check(tested{});
}

TEST_CASE("adamw: rates in the backend's memory", "[components]") {
  std::vector<adamw_rates> rates(1);
  const auto check = [&](const auto& backend) {
    const index_t n = 1003;
    const auto g = random_vector<float>(n, 3);
    std::array<std::vector<float>, 3> given{
        random_vector<float>(n, 1), std::vector<float>(g.size()), std::vector<float>(g.size())};
    auto found = given;
    for (index_t step = 1; step <= 3; ++step) {
      const adamw_options o{.rate = 0.1 / static_cast<double>(step), .step = step};
      adamw(backend, flat(given[0]), flat(g), flat(given[1]), flat(given[2]), o);
      rates[0] = rates_of(o);
      adamw(backend, flat(found[0]), flat(g), flat(found[1]), flat(found[2]),
            {.rates = rates.data()});
      CHECK(given == found);
    }
  };
  check(backend::reference{});
  check(tested{});
}

TEST_CASE("clip_factor", "[components]") {
  CHECK(clip_factor(4, 1) == 0.25);
  CHECK(clip_factor(1, 1) == 1);
  CHECK(clip_factor(0.5, 1) == 1);
  CHECK(clip_factor(0, 1) == 1);
  CHECK(clip_factor(100, 0) == 1);
  CHECK(clip_factor(std::numeric_limits<double>::infinity(), 1) == 0);
}

TEST_CASE("cosine_schedule: warm-up, cosine, floor", "[components]") {
  const cosine_schedule rate{.peak = 0.5, .floor = 0.125, .warmup = 10, .total = 110};
  CHECK(rate(1) == 0.05);
  CHECK(rate(5) == 0.25);
  CHECK(rate(10) == 0.5);
  CHECK(std::abs(rate(60) - 0.3125) < 1e-15);
  CHECK(std::abs(rate(35) - (0.125 + 0.375 * 0.5 * (1 + std::sqrt(0.5)))) < 1e-15);
  CHECK(rate(110) == 0.125);
  CHECK(rate(1000000) == 0.125);
  for (index_t step = 1; step < 10; ++step) CHECK(rate(step) < rate(step + 1));
  for (index_t step = 10; step < 110; ++step) CHECK(rate(step) > rate(step + 1));
  // Without warm-up the first step is near the peak; with nothing but warm-up the floor follows.
  CHECK(cosine_schedule{0.5, 0.125, 0, 100}(0) == 0.5);
  CHECK(cosine_schedule{0.5, 0.125, 10, 10}(9) == 0.45);
  CHECK(cosine_schedule{0.5, 0.125, 10, 10}(10) == 0.125);
}

TEST_CASE("optimizer errors", "[errors]") {
  std::vector<float> memory(100, 3.0F);
  const auto before = memory;
  const auto at = [&](index_t offset, index_t n) {
    return view<float, 1>(memory.data() + offset, {n});
  };
  const auto refused = [&](view<float, 1> w, view<const float, 1> g, view<float, 1> m,
                           view<float, 1> v, const adamw_options& o,
                           std::initializer_list<std::string_view> words) {
    CHECK(says(message_of<error>([&] { adamw(backend::reference{}, w, g, m, v, o); }), words));
    CHECK(says(message_of<error>([&] { adamw(tested{}, w, g, m, v, o); }), words));
    CHECK(memory == before);
  };
  const auto w = at(0, 20), m = at(40, 20), v = at(60, 20);
  // A gradient that its owner may write is one.
  CHECK(
      says(message_of<error>([&] { adamw(tested{}, w, at(20, 19), m, v, {}); }), {": g:", "(19)"}));
  const view<const float, 1> g = at(20, 20);
  refused(w, at(20, 19), m, v, {}, {"adamw", ": g:", "(20)", "(19)"});
  refused(w, g, at(40, 21), v, {}, {"adamw", ": m:", "(20)", "(21)"});
  refused(w, g, m, at(60, 10), {}, {"adamw", ": v:", "(20)", "(10)"});
  refused(view<float, 1>(nullptr, {20}), g, m, v, {}, {"adamw", ": w:", "null"});
  refused(w, view<const float, 1>(nullptr, {20}), m, v, {}, {"adamw", ": g:", "null"});
  for (const index_t step : {0, -3})
    refused(w, g, m, v, {.step = step}, {"adamw", ": step:", "1 or more", std::to_string(step)});
  for (const double beta : {-0.1, 1.0, 2.0, std::numeric_limits<double>::quiet_NaN()}) {
    refused(w, g, m, v, {.beta1 = beta}, {"adamw", ": beta1:", "[0, 1)"});
    refused(w, g, m, v, {.beta2 = beta}, {"adamw", ": beta2:", "[0, 1)"});
  }
  for (const double value : {-1e-8, -1.0, std::numeric_limits<double>::quiet_NaN()}) {
    refused(w, g, m, v, {.rate = value}, {"adamw: rate:", "0 or more"});
    refused(w, g, m, v, {.epsilon = value}, {"adamw: epsilon:", "0 or more"});
    refused(w, g, m, v, {.decay = value}, {"adamw: decay:", "0 or more"});
  }
  refused(w, g, m, v, {.epsilon = -1e-8}, {"got -1e-08"});
  refused(w, g, at(19, 20), v, {}, {"adamw: m:", "overlap"});
  refused(w, g, at(0, 20), v, {}, {"adamw: w:", "apart from m", "overlap"});
  refused(w, g, m, m, {}, {"adamw: m:", "apart from v", "overlap"});
  refused(w, at(1, 20), m, v, {}, {"adamw: w:", "apart from g", "overlap"});
  // Not even as the same view: a gradient that the update changes is none.
  refused(w, w, m, v, {}, {"adamw: w:", "apart from g", "overlap"});
  refused(w, m, m, v, {}, {"adamw: m:", "apart from g", "overlap"});
  refused(view<float, 1>(memory.data(), {20}, {0}), g, m, v, {}, {"adamw: w:", "its own place"});
  CHECK(says(message_of<error>([&] { norm2(tested{}, view<const float, 1>(nullptr, {4})); }),
             {"norm2", ": g:", "null"}));
  CHECK(says(
      message_of<error>([&] { norm2(tested{}, view<const float, 1>(memory.data(), {4}, {2})); }),
      {"norm2", ": g:", "unit stride"}));
}
