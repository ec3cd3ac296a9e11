// SPDX-License-Identifier: Apache-2.0
// Loops over tasks on the threads of the simd backend.
//
// parallel_for(threads, n, f) calls f(i) once for every i in [0, n), on up to `threads` threads,
// the calling one included; or f(i, k), k < threads telling them apart. Tasks are claimed one by
// one; kernels make each task's result independent of who runs it, which is why results have the
// same bits for every thread count. Each thread begins with a part of the tasks, the same one in
// every call, for it may find there in its caches what it wrote in the call before; then it helps
// the others. A call from inside a task, or while another thread uses the pool, runs its tasks on
// the calling thread.
//
// Workers spin for a while before they sleep, because a training step is a sequence of short
// parallel calls. To wake them takes longer than such a call: thread_count(threads, work) is for
// kernels that leave it to long calls, and to short ones between which workers would not fall
// asleep; parallel_for_alike is for those that cannot tell.
#pragma once

#include <mmrec/simd/thread_pool.hpp>

namespace mmrec::simd {

/// `threads` as in the tag: 0 is all cores.
template <class Arch = default_simd_arch>
MMREC_INLINE void parallel_for(unsigned threads, index_t n, const task_ref& f) {
  if (n == 1 || threads == 1) {
    for (index_t i = 0; i < n; ++i) f(i, 0);
  } else if (n > 1) {
    thread_pool<Arch>::instance().run(threads, n, f);
  }
}

/// How many threads a tag's call may use.
MMREC_INLINE unsigned thread_count(unsigned threads) {
  return threads ? threads : hardware_threads();
}
/// How many of them gain where one would work for about so many nanoseconds.
template <class Arch = default_simd_arch>
MMREC_INLINE unsigned thread_count(unsigned threads, index_t work) {
  const unsigned most = thread_count(threads);
  return most > 1 && thread_pool<Arch>::instance().pays(work) ? most : 1;
}
/// For tasks that are alike, of unknown work: where workers sleep the first task is timed.
template <class Arch = default_simd_arch>
MMREC_INLINE void parallel_for_alike(unsigned threads, index_t n, const task_ref& f) {
  if (n < 2 || thread_count(threads) == 1 || inside_task || !thread_pool<Arch>::instance().sleeps())
    return parallel_for<Arch>(threads, n, f);
  const index_t begin = clock();
  {
    const task_scope inside;
    f(0, 0);
  }
  threads = thread_count<Arch>(threads, (clock() - begin) * (n - 1));
  parallel_for<Arch>(threads, n - 1, [&](index_t task, index_t thread) { f(task + 1, thread); });
}

}  // namespace mmrec::simd
