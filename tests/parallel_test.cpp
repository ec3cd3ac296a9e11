// SPDX-License-Identifier: Apache-2.0
// The thread pool: every index once, exceptions, calls from within tasks and from many threads, and
// changing numbers of threads from call to call.
#include <mmrec/simd/parallel.hpp>

#include <atomic>
#include <chrono>
#include <numeric>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "support/catch.hpp"

using namespace mmrec;
using simd::parallel_for;

namespace {

// Did a call with these arguments run every index once?
bool every_index_once(unsigned threads, index_t n) {
  std::vector<std::atomic<int>> seen(static_cast<std::size_t>(n));
  parallel_for(threads, n, [&](index_t i) { seen[static_cast<std::size_t>(i)].fetch_add(1); });
  for (const auto& count : seen)
    if (count.load() != 1) return false;
  return true;
}

}  // namespace

TEST_CASE("parallel_for: every index once", "[components][parallel]") {
  for (const unsigned threads : {0u, 1u, 2u, 3u, 8u, 17u})
    for (const index_t n : {0, 1, 2, 3, 7, 8, 100, 10000}) {
      CAPTURE(threads, n);
      CHECK(every_index_once(threads, n));
    }
}

TEST_CASE("parallel_for: other threads take part", "[components][parallel]") {
  // Two tasks that wait for one another: they return only if two threads run them.
  std::atomic<int> arrived{0};
  parallel_for(2, 2, [&](index_t) {
    ++arrived;
    while (arrived.load() < 2) std::this_thread::yield();
  });
  CHECK(arrived.load() == 2);
}

TEST_CASE("parallel_for: what tasks write is there when it returns", "[components][parallel]") {
  for (int round = 0; round < 300; ++round) {
    std::vector<index_t> result(64, -1);
    parallel_for(3, 64, [&](index_t i) { result[static_cast<std::size_t>(i)] = i * round; });
    bool right = true;
    for (index_t i = 0; i < 64; ++i) right &= result[static_cast<std::size_t>(i)] == i * round;
    REQUIRE(right);
  }
}

// A pool whose calls differ in how many threads they want, back to back, so that threads that were
// not wanted for one call are late for the next.
TEST_CASE("parallel_for: the number of threads changes from call to call",
          "[components][parallel]") {
  bool right = true;
  for (int round = 0; round < 3000; ++round) {
    const unsigned threads = round % 3 == 0 ? 2 : round % 3 == 1 ? 5 : 3;
    right &= every_index_once(threads, 5 + round % 4);
  }
  CHECK(right);
}

TEST_CASE("parallel_for: an exception arrives at the caller", "[components][parallel]") {
  for (const unsigned threads : {1u, 2u, 4u})
    for (const index_t culprit : {0, 5, 99}) {
      CAPTURE(threads, culprit);
      std::string caught;
      try {
        parallel_for(threads, 100, [&](index_t i) {
          if (i == culprit) throw std::runtime_error("task " + std::to_string(i));
        });
      } catch (const std::runtime_error& e) {
        caught = e.what();
      }
      CHECK(caught == "task " + std::to_string(culprit));
      // The pool is as good as before.
      CHECK(every_index_once(threads, 100));
    }
  // All tasks throw: one exception arrives.
  CHECK_THROWS_AS(parallel_for(4, 100, [](index_t) { throw std::logic_error("each"); }),
                  std::logic_error);
  CHECK(every_index_once(4, 1000));
}

TEST_CASE("parallel_for: calls from within tasks", "[components][parallel]") {
  std::vector<std::atomic<int>> seen(400);
  std::atomic<int> on_other_threads{0};
  parallel_for(3, 20, [&](index_t outer) {
    const auto me = std::this_thread::get_id();
    parallel_for(3, 20, [&](index_t inner) {
      if (std::this_thread::get_id() != me) ++on_other_threads;
      seen[static_cast<std::size_t>(outer * 20 + inner)].fetch_add(1);
    });
  });
  int wrong = 0;
  for (const auto& count : seen) wrong += count.load() != 1;
  CHECK(wrong == 0);
  CHECK(on_other_threads.load() == 0);
  // An exception from the inner call passes through the outer one.
  CHECK_THROWS_AS(
      parallel_for(
          2, 4,
          [](index_t) { parallel_for(2, 4, [](index_t) { throw std::out_of_range("inner"); }); }),
      std::out_of_range);
}

TEST_CASE("parallel_for: callers on several threads", "[components][parallel]") {
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (unsigned k = 0; k < 4; ++k)
    callers.emplace_back([&wrong, k] {
      for (int round = 0; round < 200; ++round)
        wrong += !every_index_once(1 + (k + static_cast<unsigned>(round)) % 4, 50);
    });
  for (auto& t : callers) t.join();
  CHECK(wrong.load() == 0);
}

TEST_CASE("parallel_for_alike: every index once, and workers that sleep are woken for long tasks",
          "[components][parallel]") {
  using namespace std::chrono_literals;
  parallel_for(3, 3, [](index_t) {});  // there are workers
  for (const auto pause : {0ms, 5ms})  // awake, asleep
    for (const auto length : {0ms, 1ms})
      for (const index_t n : {0, 1, 2, 3, 20}) {
        CAPTURE(pause.count(), length.count(), n);
        std::this_thread::sleep_for(pause);
        std::vector<std::atomic<int>> seen(static_cast<std::size_t>(n));
        std::atomic<int> others{0};
        simd::parallel_for_alike(3, n, [&](index_t i, index_t thread) {
          seen[static_cast<std::size_t>(i)].fetch_add(1);
          others += thread != 0;
          std::this_thread::sleep_for(length);
        });
        for (const auto& count : seen) CHECK(count.load() == 1);
        if (n == 20 && length > 0ms) CHECK(others.load() > 0);
      }
}

TEST_CASE("thread_count: 0 is all cores", "[components][parallel]") {
  CHECK(simd::thread_count(0) >= 1);
  CHECK(simd::thread_count(0) == simd::hardware_threads());
  CHECK(simd::thread_count(3) == 3);
}

TEST_CASE(
    "thread_count: threads that sleep are woken for long calls, and for sequences of short ones",
    "[components][parallel]") {
  using namespace std::chrono_literals;
  const index_t short_call = 3'000, long_call = 10'000'000;  // nanoseconds
  const auto becomes = [&](unsigned count, auto pause) {
    const auto end = std::chrono::steady_clock::now() + 10s;
    while (simd::thread_count(2, short_call) != count) {
      if (std::chrono::steady_clock::now() > end) return false;
      std::this_thread::sleep_for(pause);
    }
    return true;
  };
  parallel_for(2, 2, [](index_t) {});
  CHECK(becomes(1, 2ms));
  CHECK(simd::thread_count(2, long_call) == 2);
  CHECK(becomes(2, 0ms));
  CHECK(simd::thread_count(1, long_call) == 1);
}
