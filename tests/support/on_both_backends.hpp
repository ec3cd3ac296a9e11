// SPDX-License-Identifier: Apache-2.0
// f(backend) for the reference and for the backend under test: simd in a .cpp file, the GPU in a
// .cu file; on_both_backends goes through each of its scan kernels. A failure says which.
#pragma once

#include <mmrec/backend.hpp>

#include <vector>

#include "catch.hpp"
#if defined(__CUDACC__)
#include "cuda_device.hpp"
#endif

namespace mmrec::testing {

#if defined(__CUDACC__)
using tested = device;
#else
using tested = backend::simd;
#endif

/// The backend under test on several numbers of threads; the GPU, which has none, twice. Results
/// must have the same bits on all of them.
inline std::vector<tested> repeatedly() {
#if defined(__CUDACC__)
  return {tested{}, tested{}};
#else
  return {{.threads = 1}, {.threads = 2}, {.threads = 3}, {.threads = 8}, {}};
#endif
}

/// Does the backend take the steps in the order of the definition?
template <class B>
bool keeps_order(const B&) {
  return true;
}

/// The backend for calls of which the host reads nothing before the last, and what follows the
/// last: for the GPU to wait for once.
template <class B>
const B& in_a_row(const B& backend) {
  return backend;
}
template <class B>
void finish(const B&) {}

/// Values and their error bounds as they hold for this backend's order.
template <class B, class Values>
Values for_order(const B& backend, const Values& v) {
  return keeps_order(backend) ? v : v.any_order();
}

/// The backend under test, on so many threads if it has threads.
inline tested on_threads([[maybe_unused]] unsigned threads) {
#if defined(__CUDACC__)
  return {};
#else
  return {.threads = threads};
#endif
}

/// What a test does around the function under test: on the same backend, or on the reference where
/// the GPU has no kernel for it (it finds the same arrays there).
template <class B>
auto around([[maybe_unused]] const B& backend) {
#if defined(__CUDACC__)
  return backend::reference{};
#else
  return backend;
#endif
}

/// Without scans: the reference, and the backend under test once.
template <class F>
void on_each_backend(const F& f) {
  {
    INFO("reference");
    f(backend::reference{});
  }
  {
    INFO("the backend under test");
    f(tested{});
  }
}

template <class F>
void on_both_backends(const F& f) {
  {
    INFO("reference");
    f(backend::reference{});
  }
#if defined(__CUDACC__)
  {
    INFO("cuda, by the kernel for this shape");
    f(device{regime::chosen});
  }
  {
    INFO("cuda, warps walking time alone");
    f(device{regime::march});
  }
  {
    INFO("cuda, blocks walking time");
    f(device{regime::block});
  }
  {
    INFO("cuda, time in pieces");
    f(device{regime::split});
  }
#else
  {
    INFO("simd");
    f(backend::simd{});
  }
#endif
}

}  // namespace mmrec::testing
