// SPDX-License-Identifier: Apache-2.0
// Runs a sweep on the device, by the kernels that are asked for, and waits for it unless the host
// need not yet.
#pragma once

#include <Eigen/Core>

#include "cuda_device.hpp"
#include "own_operator.hpp"

namespace mmrec::testing {

inline cuda::scan_tuning tuning_of(regime how) {
  using cuda::scan_kernel;
  switch (how) {
    case regime::march:
      return {scan_kernel::walk, 1, 32};
    case regime::block:
      return {scan_kernel::walk, 4, 0};
    case regime::split:  // two warps, two lanes deep: even short arrays are several pieces
      return {scan_kernel::split, 2, 16};
    default:
      return {};
  }
}

template <class Op, element T, class State, std::size_t NI, std::size_t NO, std::size_t NS>
void sweep(const device& on, const Op& op, const sweep_args<T, State, NI, NO, NS>& args) {
  cuda::tuning() = tuning_of(on.how);
  const backend::cuda gpu{};
  sweep(gpu, op, args);
  cuda::tuning() = {};
  if (!on.waits) return;
  cuda::check(args.function, "cudaStreamSynchronize", cudaStreamSynchronize(cuda::stream_of(gpu)));
}

/// Takes the address of every sweep of the library's operators, and of the tests' own, on one
/// element type. Whoever
/// instantiates a member compiles them (CMakeLists.txt of tests/cuda).
template <class T, class State>
struct all_sweeps {
  template <class Op, std::size_t NO, std::size_t NS>
  static const void* of() {
    using sweep_type =
        void (*)(const device&, const Op&, const sweep_args<T, State, Op::inputs, NO, NS>&);
    const sweep_type f = &sweep<Op, T, State, Op::inputs, NO, NS>;
    return reinterpret_cast<const void*>(f);
  }
  template <class Op>
  static const void* either(bool exclusive) {
    return exclusive ? of<scan_ops::forward<Op, true>, 1, 0>()
                     : of<scan_ops::forward<Op, false>, 1, 0>();
  }
  template <class Inclusive, class Exclusive = Inclusive>
  static const void* gradient(bool exclusive) {
    using inclusive = scan_ops::adjoint<Inclusive, false>;
    using before = scan_ops::adjoint<Exclusive, true>;
    return exclusive ? of<before, before::outputs, before::shifted>()
                     : of<inclusive, inclusive::outputs, inclusive::shifted>();
  }
  static const void* own(int i, bool exclusive) {
    return i == 0 ? either<scan_ops::user<own_operator>>(exclusive)
                  : gradient<scan_ops::user_partials<own_partials>>(exclusive);
  }
  static const void* products(int, bool exclusive) { return either<scan_ops::cumprod>(exclusive); }
  static const void* forward(int i, bool exclusive) {
    switch (i) {
      case 0:
        return either<scan_ops::cumsum>(exclusive);
      case 1:
        return either<scan_ops::cumprod>(exclusive);
      case 2:
        return either<scan_ops::log_cumprod>(exclusive);
      case 3:
        return either<scan_ops::logcumsumexp>(exclusive);
      case 4:
        return either<scan_ops::linear<false>>(exclusive);
      case 5:
        return either<scan_ops::linear<true>>(exclusive);
      default:
        return either<scan_ops::log_linear>(exclusive);
    }
  }
  static const void* backward(int i, bool exclusive) {
    switch (i) {
      case 0:
        return gradient<scan_ops::cumsum_partials>(exclusive);
      case 1:
        return gradient<scan_ops::cumprod_partials>(exclusive);
      case 2:
        return gradient<scan_ops::log_cumprod_partials>(exclusive);
      case 3:
        return gradient<scan_ops::logcumsumexp_partials<false>,
                        scan_ops::logcumsumexp_partials<true>>(exclusive);
      case 4:
        return gradient<scan_ops::linear_partials<false>>(exclusive);
      case 5:
        return gradient<scan_ops::linear_partials<true>>(exclusive);
      case 6:
        return gradient<scan_ops::log_linear_partials<false>, scan_ops::log_linear_partials<true>>(
            exclusive);
      default:
        return exclusive ? of<scan_ops::linear_double_forward, 1, 1>()
                         : of<scan_ops::linear_double_reverse, 2, 2>();
    }
  }
};

}  // namespace mmrec::testing
