// SPDX-License-Identifier: Apache-2.0
// More than 2^31 elements to an array: a scan, its gradients and a map of 16-bit numbers, whose
// results are small integers and exact. Arrays here are device memory; the scans' kernels are those
// of the other tests.
#include <mmrec/scan.hpp>
#include <mmrec/transform.hpp>

#include <Eigen/Core>

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "support/catch.hpp"
#include "support/cuda_device.hpp"
#include "support/cuda_objects.hpp"

using namespace mmrec;
using namespace mmrec::testing;

namespace {

constexpr index_t channels = 64, steps = (index_t{1} << 31) / channels + 4096;
constexpr std::size_t n = static_cast<std::size_t>(steps * channels), bytes = 2 * n;  // 4.3 GB

// Is there memory for so many arrays? A device that has not enough is no failure; one that has, and
// must be tested, is.
bool room_for(std::size_t arrays) {
  std::size_t available = 0, total = 0;
  require(cudaMemGetInfo(&available, &total));
  if (available > arrays * bytes) return true;
  WARN("not run: needs " << arrays * bytes << " bytes of device memory, of which " << available
                         << " are free and " << total << " exist");
  CHECK_FALSE(
      (std::getenv("MMREC_REQUIRE_GPU") && total > arrays * bytes + (std::size_t{4} << 30)));
  return false;
}

/// Fills the array with f(t, c), which has period 2 in time.
template <class F>
void fill_pairs(const device_array<Eigen::half>& to, const F& f) {
  std::vector<Eigen::half> pair(2 * channels);
  for (index_t i = 0; i < 2 * channels; ++i)
    pair[static_cast<std::size_t>(i)] = static_cast<Eigen::half>(f(i / channels, i % channels));
  require(cudaMemcpy(to.get(), pair.data(), pair.size() * 2, cudaMemcpyHostToDevice));
  for (std::size_t filled = pair.size(); filled < n; filled *= 2)
    require(cudaMemcpyAsync(to.get() + filled, to.get(), std::min(filled, n - filled) * 2,
                            cudaMemcpyDeviceToDevice));
  require(cudaDeviceSynchronize());
}

/// How many of the first steps, of the last, and of those about element 2^31 are not f(t, c).
template <class F>
index_t wrong_steps(const device_array<Eigen::half>& from, const F& f) {
  constexpr index_t rows = 64;
  std::vector<Eigen::half> part(rows * channels);
  index_t wrong = 0;
  for (const index_t first : {index_t{0}, (index_t{1} << 31) / channels - 32, steps - rows}) {
    require(cudaMemcpy(part.data(), from.get() + first * channels, part.size() * 2,
                       cudaMemcpyDeviceToHost));
    for (index_t i = 0; i < rows * channels; ++i)
      wrong += static_cast<float>(part[static_cast<std::size_t>(i)]) !=
               f(first + i / channels, i % channels);
  }
  return wrong;
}

view<Eigen::half, 3> all_of(const device_array<Eigen::half>& a) {
  return a.as<3>({1, steps, channels});
}
view<const Eigen::half, 3> in(const device_array<Eigen::half>& a) { return all_of(a); }

// c at even steps, -c at odd ones.
float swinging(index_t t, index_t c) {
  return t % 2 == 0 ? static_cast<float>(c % 8) : -static_cast<float>(c % 8);
}

struct one_more_than_twice {
  template <class V>
  MMREC_HD V operator()(const V& x) const {
    return x + x + math::constant<V>(1);
  }
};

}  // namespace

TEST_CASE("cuda: more than 2^31 elements, forward", "[long][scan]") {
  if (!room_for(2)) return;
  const device_array<Eigen::half> x(n);
  device_array<Eigen::half> y(n);
  fill_pairs(x, swinging);
  for (const regime how : {regime::march, regime::block, regime::chosen}) {
    y.poison();
    cumsum(device{how}, in(x), all_of(y));
    CHECK(wrong_steps(y, [](index_t t, index_t c) { return t % 2 == 0 ? swinging(t, c) : 0.0F; }) ==
          0);
  }
  y.poison();
  transform(device{}, one_more_than_twice{}, all_of(y), in(x));
  CHECK(wrong_steps(y, [](index_t t, index_t c) { return 2 * swinging(t, c) + 1; }) == 0);
}

// Gates of 1 and an even number of steps: db, the sum of dh from its step on, is 0 at even steps
// and dh at odd ones; da is that times h of the step before.
TEST_CASE("cuda: more than 2^31 elements, backward", "[long][scan][gradients]") {
  if (!room_for(4)) return;
  static_assert(steps % 2 == 0);
  const device_array<Eigen::half> x(n), ones(n);
  device_array<Eigen::half> da(n), db(n);
  fill_pairs(x, swinging);
  fill_pairs(ones, [](index_t, index_t) { return 1.0F; });
  da.poison();
  db.poison();
  linear_scan_backward(device{}, in(x), in(ones), in(x), {.da = all_of(da), .db = all_of(db)});
  const auto g = [](index_t t, index_t c) { return t % 2 == 0 ? 0.0F : swinging(t, c); };
  CHECK(wrong_steps(db, g) == 0);
  CHECK(wrong_steps(da, [&](index_t t, index_t c) { return g(t, c) * swinging(t + 1, c); }) == 0);
}
