// SPDX-License-Identifier: Apache-2.0
// The GPU as the suite sees it: backend::cuda on arrays in host memory that the device reads and
// writes itself (tests/cuda/main.cpp has operator new hand out pinned memory), waiting after every
// call. The tests then are the same for every backend. Only .cu files include this.
#pragma once

#include <mmrec/scan.hpp>
#include <mmrec/transform.hpp>

#include <exception>
#include <tuple>

namespace mmrec::testing {

/// Which of the scan kernels is sent to: as the shape says, or one of them whatever the shape.
enum class regime { chosen, march, block, split };

struct device {
  regime how = regime::chosen;
};

/// The steps are taken in the order of the definition, so that chunks give the bits of one call.
inline bool keeps_order(const device& d) { return d.how == regime::march; }

/// Defined for the library's own operators in tests/cuda/sweeps_*.cu, so that their kernels are
/// compiled once; cuda_sweep.hpp has the definition for other operators.
template <class Op, element T, class State, std::size_t NI, std::size_t NO, std::size_t NS>
void sweep(const device& on, const Op& op, const sweep_args<T, State, NI, NO, NS>& args);

/// f(backend::cuda) on the default stream, and the host waits for it.
template <class F>
auto on_the_device(const char* function, const F& f) {
  struct wait {
    const char* function;
    ~wait() noexcept(false) {
      const cudaError_t code = cudaDeviceSynchronize();
      if (std::uncaught_exceptions() == 0) cuda::check(function, "cudaDeviceSynchronize", code);
    }
  } at_the_end{function};
  return f(backend::cuda{});
}

template <class F, class... Out, class... In>
void transform_kernel(const device&, const F& f, const std::tuple<Out...>& outputs,
                      const std::tuple<In...>& inputs) {
  on_the_device("transform",
                [&](const backend::cuda& gpu) { transform_kernel(gpu, f, outputs, inputs); });
}
template <class Out>
void fill(const device&, const Out& out, double value) {
  on_the_device("fill", [&](const backend::cuda& gpu) { fill(gpu, out, value); });
}

}  // namespace mmrec::testing

template <>
inline constexpr bool mmrec::is_backend<mmrec::testing::device> = true;
