// SPDX-License-Identifier: Apache-2.0
// What a call costs beside its result: the same bits on any number of threads, and no allocation.
#include <mmrec/scan.hpp>

#include <atomic>
#include <cstdlib>
#include <new>
#include <vector>

#include "support/catch.hpp"
#include "support/scan_harness.hpp"

namespace {
std::atomic<long> allocations{0};

void* counted(std::size_t bytes, std::size_t alignment) {
  ++allocations;
  void* p =
      std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment + alignment);
  if (!p) throw std::bad_alloc();
  return p;
}
}  // namespace

void* operator new(std::size_t n) { return counted(n, alignof(std::max_align_t)); }
void* operator new[](std::size_t n) { return counted(n, alignof(std::max_align_t)); }
void* operator new(std::size_t n, std::align_val_t a) {
  return counted(n, static_cast<std::size_t>(a));
}
void* operator new[](std::size_t n, std::align_val_t a) {
  return counted(n, static_cast<std::size_t>(a));
}
void* operator new(std::size_t n, const std::nothrow_t&) noexcept {
  ++allocations;
  return std::malloc(n);
}
void* operator new[](std::size_t n, const std::nothrow_t&) noexcept {
  ++allocations;
  return std::malloc(n);
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, const std::nothrow_t&) noexcept { std::free(p); }
void operator delete[](void* p, const std::nothrow_t&) noexcept { std::free(p); }
void operator delete[](void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }
void operator delete[](void* p, std::size_t) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete[](void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }
void operator delete[](void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }

using namespace mmrec;
using namespace mmrec::testing;

TEMPLATE_TEST_CASE("scan: the same bits on 1, 2, 3 and 8 threads", "[components][scan]", float,
                   double, Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  // All above the size below which one thread does the work.
  const std::array<std::array<index_t, 3>, 6> shapes{
      {{1, 40, 2085}, {5, 300, 40}, {1, 2500, 17}, {70, 500, 1}, {17, 700, 4}, {31, 500, 3}}};
  for (const auto& shape : shapes)
    for (const layout kind :
         {layout::channel_last, layout::time_last, layout::padded, layout::time_reversed})
      for (const scan_op op : all_scan_ops) {
        CAPTURE(to_string(op), shape, to_string(kind));
        const auto p = random_problem<T>(op, shape, false, true, {}, 29);
        const auto one = run_scan<T>(backend::simd{.threads = 1}, p, {kind, kind, kind});
        for (const unsigned threads : {2u, 3u, 8u, 0u}) {
          const auto many = run_scan<T>(backend::simd{.threads = threads}, p, {kind, kind, kind});
          CHECK(same_bits(many.y, one.y));
          CHECK(same_bits(many.final, one.final));
          CHECK(many.canaries_intact);
        }
      }
  const auto p = random_problem<T>(scan_op::linear_scan, {1, 3000, 23}, true, true,
                                   {0, 5, 5, 1000, 2999, 3000}, 31);
  const auto one = run_scan<T>(backend::simd{.threads = 1}, p);
  for (const unsigned threads : {2u, 3u, 8u})
    CHECK(same_bits(run_scan<T>(backend::simd{.threads = threads}, p).y, one.y));
}

TEMPLATE_TEST_CASE("scan: no call allocates", "[components][scan]", float, double, Eigen::half,
                   Eigen::bfloat16) {
  using T = TestType;
  using State = accumulator_t<T>;
  const auto check = [](const auto& backend) {
    for (const scan_op op : all_scan_ops)
      for (const layout kind : {layout::channel_last, layout::time_last, layout::batch_last}) {
        const auto p = random_problem<T>(op, {2, 60, 400}, false, true, {}, 37);
        scan_arrays<T> m(p, kind);
        std::vector<State> state(800, State(0.5));
        const view<State, 2> s{state.data(), {2, 400}};
        const auto call = [&] {
          call_scan<void>(backend, op, m.in_a(), m.in_b(), m.y.view(),
                          scan_options<State>{s, s, false, {}});
        };
        call();  // starts the pool's threads
        const long before = allocations.load();
        call();
        const long after = allocations.load();
        CAPTURE(to_string(op), to_string(kind));
        CHECK(after == before);
      }
  };
  check(backend::reference{});
  check(backend::simd{.threads = 1});
  check(backend::simd{.threads = 2});
}
