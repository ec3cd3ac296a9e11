// SPDX-License-Identifier: Apache-2.0
// The pool behind parallel_for (parallel.hpp). It lives as long as the program, sees a call's f as
// a task_ref, so that its code is compiled once and not for every kernel, and runs one call at a
// time: tasks are claimed one by one, by each thread first from its own part of them.
//
// Nothing here is a plain inline function of which the linker would keep one copy: in a program
// whose files are compiled for different architectures, that copy could have instructions that this
// CPU lacks. The pool is a template of the file's architecture (such a program has one for each
// that it runs), and the rest vanishes in its callers.
#pragma once

#include <mmrec/backend.hpp>
#include <mmrec/simd/batch.hpp>
#include <mmrec/view.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <concepts>
#include <cstdint>
#include <exception>
#include <memory>
#include <thread>

namespace mmrec::simd {

MMREC_INLINE void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#else
  std::atomic_signal_fence(std::memory_order_seq_cst);
#endif
}

/// A reference to anything that is called with a task's number, and may ask for the thread's.
class task_ref {
 public:
  template <class F>
    requires(!std::same_as<F, task_ref>)
  MMREC_INLINE task_ref(const F& f)
      : context_(&f), call_([](const void* context, index_t i, [[maybe_unused]] index_t thread) {
          if constexpr (std::invocable<const F&, index_t, index_t>)
            (*static_cast<const F*>(context))(i, thread);
          else
            (*static_cast<const F*>(context))(i);
        }) {}
  MMREC_INLINE void operator()(index_t i, index_t thread) const { call_(context_, i, thread); }

 private:
  const void* context_;
  void (*call_)(const void*, index_t, index_t);
};

MMREC_INLINE unsigned hardware_threads() {
  static const unsigned n = std::max(1u, std::thread::hardware_concurrency());
  return n;
}

/// In nanoseconds.
MMREC_INLINE index_t clock() {
  const std::chrono::nanoseconds now = std::chrono::steady_clock::now().time_since_epoch();
  return now.count();
}

/// Is this thread inside a task of whichever pool?
inline constinit thread_local bool inside_task = false;
struct task_scope {
  MMREC_INLINE task_scope() { inside_task = true; }
  MMREC_INLINE ~task_scope() { inside_task = false; }
  task_scope(const task_scope&) = delete;
  task_scope& operator=(const task_scope&) = delete;
};

template <class Arch>
class thread_pool {
 public:
  static thread_pool& instance() {
    static thread_pool pool;
    return pool;
  }

  /// Does a call that one thread would finish in about `work` nanoseconds gain by others? Where
  /// they sleep, a short one does only as one of many between which they would stay awake.
  bool pays(index_t work) {
    if (work >= worth_waking || !sleeps()) return true;
    const index_t now = clock();
    if (now > sequence_end_.load(std::memory_order_relaxed))
      sequence_begin_.store(now, std::memory_order_relaxed);
    sequence_end_.store(now + 2 * work + sleepless, std::memory_order_relaxed);
    return now - sequence_begin_.load(std::memory_order_relaxed) > long_sequence;
  }

  bool sleeps() const { return asleep_.load(std::memory_order_relaxed) != 0; }

  void run(unsigned threads, index_t n, const task_ref& f) {
    if (threads == 0) threads = hardware_threads();
    threads = std::min(threads, most_workers + 1);
    if (static_cast<index_t>(threads) > n) threads = static_cast<unsigned>(n);
    if (threads <= 1 || inside_task || busy_.exchange(true, std::memory_order_acquire)) {
      for (index_t i = 0; i < n; ++i) f(i, 0);
      return;
    }
    const free_again when_done{busy_};
    grow(threads - 1);
    task_ = &f;
    n_ = n;
    failure_ = nullptr;
    failed_.store(false, std::memory_order_relaxed);
    parts_ = index_t(threads);
    for (index_t k = 0; k < parts_; ++k)
      next_.get()[k].task.store(begin_of(k, n, parts_), std::memory_order_relaxed);
    announce(threads - 1);
    work(0);
    // All tasks are claimed, or one of this thread's threw. Only workers that came in are waited
    // for, not those that still wake up.
    gate_.fetch_and(~open, std::memory_order_acq_rel);
    for (unsigned spins = 0; (gate_.load(std::memory_order_acquire) & most_workers) != 0; ++spins) {
      if (spins < spin_limit)
        pause();
      else
        std::this_thread::yield();
    }
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  static constexpr unsigned spin_limit = 4000;
  // Nanoseconds: of a call for which workers are woken, of short calls one after the other for
  // which they are, and until they sleep again. Waking takes the caller ten microseconds, and the
  // worker begins after thirty with nothing in its caches: a call of 50 us neither gains nor loses,
  // if there is a free core.
  static constexpr index_t worth_waking = 70'000, long_sequence = 50'000, sleepless = 100'000;
  static constexpr unsigned most_workers = 0xffff;
  static constexpr std::size_t line = 64;  // of the cache
  static constexpr std::uint64_t open = most_workers + 1;

  struct worker {
    std::thread thread;
    worker* next;
  };
  struct alignas(line) next_task {  // of a part of the tasks; no two on one line
    std::atomic<index_t> task{0};
  };
  struct free_again {
    std::atomic<bool>& busy;
    ~free_again() { busy.store(false, std::memory_order_release); }
  };

  thread_pool() = default;
  MMREC_COLD ~thread_pool() {
    stop_.store(true, std::memory_order_relaxed);
    announce(0);
    call_word_.notify_all();
    while (worker* w = workers_) {
      w->thread.join();
      workers_ = w->next;
      delete w;
    }
  }

  /// One word says that there is a call and for how many workers. Were the two read one after the
  /// other, a worker that slept in between could join a later call twice.
  void announce(unsigned wanted) {
    const std::uint64_t count = (call_word_.load(std::memory_order_relaxed) >> 16) + 1;
    gate_.store(count << 17 | open, std::memory_order_release);
    // To notify takes a microsecond, and who was notified may wait for a core through many calls:
    // it is done once. The count is taken before the word is written: a worker that counts itself
    // later either sees the word or is there for the next call to wake.
    const bool wake = asleep_.load(std::memory_order_relaxed) != 0 && asleep_.exchange(0) != 0;
    call_word_.store(count << 16 | wanted);
    if (wake) call_word_.notify_all();
  }

  MMREC_COLD void grow(unsigned count) {
    if (size_ < count) next_ = std::make_unique<next_task[]>(count + 1);  // nobody works
    for (; size_ < count; ++size_) {
      const std::uint64_t seen = call_word_.load(std::memory_order_relaxed);
      workers_ = new worker{std::thread([this, id = size_, seen] { serve(id, seen); }), workers_};
    }
  }

  void serve(unsigned id, std::uint64_t seen) {
    for (;;) {
      const index_t sleep_at = clock() + sleepless;
      for (unsigned spins = 1; call_word_.load(std::memory_order_acquire) == seen; ++spins) {
        if (spins % 64 != 0 || clock() < sleep_at) {
          pause();
        } else {
          asleep_.fetch_add(1);
          call_word_.wait(seen);
        }
      }
      seen = call_word_.load(std::memory_order_acquire);
      if (stop_.load(std::memory_order_relaxed)) return;
      if (id >= (seen & most_workers)) continue;
      if (!enter(seen >> 16)) continue;
      work(index_t(id) + 1);
      gate_.fetch_sub(1, std::memory_order_release);
    }
  }

  /// Comes in if that call is still open. While a worker is inside, the caller does not return.
  bool enter(std::uint64_t call) {
    std::uint64_t gate = gate_.load(std::memory_order_acquire);
    while (gate >> 17 == call && (gate & open))
      if (gate_.compare_exchange_weak(gate, gate + 1, std::memory_order_acq_rel)) return true;
    return false;
  }

  static index_t begin_of(index_t part, index_t n, index_t parts) { return part * n / parts; }

  void work(index_t thread) {
    const task_scope inside;
    try {
      const task_ref task = *task_;
      const index_t n = n_, parts = parts_;
      next_task* const parts_next = next_.get();
      for (index_t k = 0; k < parts; ++k) {
        const index_t part = (thread + k) % parts, end = begin_of(part + 1, n, parts);
        auto& next = parts_next[part].task;
        for (index_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < end;) task(i, thread);
      }
    } catch (...) {
      if (!failed_.exchange(true, std::memory_order_relaxed)) failure_ = std::current_exception();
    }
  }

  std::atomic<bool> busy_{false};  // by a call
  worker* workers_ = nullptr;
  unsigned size_ = 0;                // how many workers there are
  std::atomic<unsigned> asleep_{0};  // how many of them sleep and have not been woken
  // Of short calls, while workers sleep: nanoseconds on the clock.
  std::atomic<index_t> sequence_begin_{0}, sequence_end_{0};
  std::atomic<bool> stop_{false};
  // What workers look at while they wait has a line of its own: were anything else there, they
  // would take the line away from whoever writes to it. What they need next comes as one line.
  // Calls so far << 16 | workers that the last one wants.
  alignas(line) std::atomic<std::uint64_t> call_word_{0};
  // Call << 17 | may workers come in | how many are inside.
  alignas(line) std::atomic<std::uint64_t> gate_{0};
  const task_ref* task_ = nullptr;
  index_t n_ = 0, parts_ = 1;
  std::unique_ptr<next_task[]> next_;
  std::atomic<bool> failed_{false};
  std::exception_ptr failure_;  // of the task that failed first
};

}  // namespace mmrec::simd
