// SPDX-License-Identifier: Apache-2.0
// f(backend) for the reference and for the backend under test: simd in a .cpp file; in a .cu file
// the GPU, by each of its scan kernels. A failure says which.
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

/// Values and their error bounds as they hold for this backend's order.
template <class B, class Values>
Values for_order(const B& backend, const Values& v) {
  return keeps_order(backend) ? v : v.any_order();
}

template <class F>
void on_both_backends(const F& f) {
  {
    INFO("reference");
    f(backend::reference{});
  }
#if defined(__CUDACC__)
  {
    INFO("cuda, walking time");
    f(device{regime::march});
  }
  {
    INFO("cuda, time in one block");
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
