// SPDX-License-Identifier: Apache-2.0
// The arena: alignment, reuse in any order of release, and that a repeated call obtains nothing.
#include <mmrec/backend.hpp>
#include <mmrec/memory.hpp>

#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <thread>
#include <vector>

#include "support/catch.hpp"
#include "support/numeric.hpp"

using namespace mmrec;

namespace {

bool aligned(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % arena::alignment == 0; }

}  // namespace

TEST_CASE("arena: memory is aligned, apart and writable", "[components][memory]") {
  arena a;
  CHECK(a.capacity() == 0);
  CHECK(a.used() == 0);
  std::vector<std::pair<unsigned char*, std::size_t>> taken;
  for (const std::size_t bytes : {1u, 63u, 64u, 65u, 1000u, 70000u, 3u, 200000u, 5u}) {
    auto* p = static_cast<unsigned char*>(a.allocate(bytes, arena::alignment));
    CHECK(aligned(p));
    std::memset(p, static_cast<int>(taken.size() + 1), bytes);
    taken.emplace_back(p, bytes);
  }
  for (std::size_t i = 0; i < taken.size(); ++i)
    for (std::size_t k = 0; k < taken[i].second; ++k) REQUIRE(taken[i].first[k] == i + 1);
  CHECK(a.used() >= 271000);
  CHECK(a.capacity() >= a.used());
  while (!taken.empty()) {
    a.deallocate(taken.back().first, taken.back().second, arena::alignment);
    taken.pop_back();
  }
  CHECK(a.used() == 0);
}

TEST_CASE("arena: no bytes are still an address of their own", "[components][memory]") {
  arena a;
  void* p = a.allocate(0, 8);
  void* q = a.allocate(0, 8);
  CHECK(p != q);
  a.deallocate(q, 0, 8);
  a.deallocate(p, 0, 8);
  CHECK(a.used() == 0);
  CHECK_THROWS_AS(a.allocate(8, 2 * arena::alignment), std::bad_alloc);
}

TEST_CASE("arena: the second of two identical calls obtains nothing", "[components][memory]") {
  testing::random_source random(281);
  for (int round = 0; round < 200; ++round) {
    arena a;
    const std::uint64_t seed = random.bits();
    // Scratch of random sizes in nested scopes, as a call would take it.
    const auto call = [&a](auto& self, testing::random_source& r, int depth) -> void {
      const auto parts = r.integer(1, 3);
      for (std::int64_t i = 0; i < parts; ++i) {
        const auto size = static_cast<std::size_t>(r.integer(1, 100000));
        const scratch<char> s(&a, size);
        s[0] = s[size - 1] = 1;
        if (depth > 0) self(self, r, depth - 1);
      }
    };
    testing::random_source first(seed), second(seed);
    call(call, first, 3);
    CHECK(a.used() == 0);
    const std::size_t capacity = a.capacity();
    // The second time, addresses are all within what there is: one block more would show here.
    call(call, second, 3);
    CHECK(a.capacity() == capacity);
    CHECK(a.used() == 0);
  }
}

TEST_CASE("arena: a larger call after a smaller one is one block, and stays",
          "[components][memory]") {
  arena a;
  const auto call = [&a](std::size_t n) {
    const scratch<char> s(&a, n);
    const scratch<char> t(&a, n);
    CHECK(static_cast<void*>(s.data()) != static_cast<void*>(t.data()));
  };
  call(100);
  const std::size_t small = a.capacity();
  call(1 << 20);
  const std::size_t large = a.capacity();
  CHECK(large > small);
  for (int i = 0; i < 5; ++i) {
    call(1 << 20);
    call(100);
  }
  CHECK(a.capacity() == large);
}

TEST_CASE("arena: memory returned out of order is reused", "[components][memory]") {
  arena a;
  void* p = a.allocate(1000, 64);
  void* q = a.allocate(1000, 64);
  a.deallocate(p, 1000, 64);
  a.deallocate(q, 1000, 64);
  CHECK(a.used() == 0);
  CHECK(a.allocate(1000, 64) == p);
  a.deallocate(p, 1000, 64);
  // Whatever the order, a thousand rounds need no more than the first.
  const std::size_t capacity = a.capacity();
  testing::random_source random(283);
  for (int i = 0; i < 1000; ++i) {
    void* parts[3] = {a.allocate(3000, 64), a.allocate(5000, 64), a.allocate(2000, 64)};
    const std::size_t sizes[3] = {3000, 5000, 2000};
    const auto first = static_cast<std::size_t>(random.integer(0, 2));
    for (std::size_t k = 0; k < 3; ++k)
      a.deallocate(parts[(first + k) % 3], sizes[(first + k) % 3], 64);
    REQUIRE(a.used() == 0);
  }
  CHECK(a.capacity() == capacity);
}

TEST_CASE("arena: one per thread, unless a tag names another resource", "[components][memory]") {
  arena* here = thread_arena();
  CHECK(thread_arena() == here);
  arena* there = nullptr;
  std::thread([&] { there = thread_arena(); }).join();
  CHECK(there != here);
  CHECK(scratch_of(backend::reference{}) == here);
  arena mine;
  CHECK(scratch_of(backend::reference{.memory = &mine}) == &mine);
  CHECK(scratch_of(backend::simd{.threads = 1, .memory = &mine}) == &mine);
  CHECK(mine.is_equal(mine));
  CHECK_FALSE(mine.is_equal(*here));
}

TEST_CASE("scratch: elements, aligned, returned at the end of the scope", "[components][memory]") {
  arena a;
  {
    const scratch<double> s(&a, 77);
    CHECK(s.size() == 77);
    CHECK(aligned(s.data()));
    for (std::size_t i = 0; i < s.size(); ++i) s[i] = static_cast<double>(i);
    const scratch<float> none(&a, 0);
    CHECK(none.size() == 0);
    CHECK(s[76] == 76);
    CHECK(a.used() >= 77 * sizeof(double));
  }
  CHECK(a.used() == 0);
}
