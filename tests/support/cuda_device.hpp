// SPDX-License-Identifier: Apache-2.0
// The GPU as the suite sees it: backend::cuda on arrays in host memory that the device reads and
// writes itself (tests/cuda/main.cpp has operator new hand out pinned memory), waiting after every
// call or, where many follow one another, after the last. The tests then are the same for every
// backend. Only .cu files include this.
#pragma once

#include <mmrec/linear.hpp>
#include <mmrec/optimizer.hpp>
#include <mmrec/scan.hpp>
#include <mmrec/transform.hpp>

#include <exception>
#include <tuple>

// The long double of the oracles is the host's: no kernel computes with it.
#pragma nv_diag_suppress 20208

namespace mmrec::testing {
struct device;
}

template <mmrec::element T>
struct mmrec::detail::weight_storage<mmrec::testing::device, T> {
  weight_storage<backend::cuda, T> storage;
  weight_storage(const mmrec::testing::device&, const view<const T, 2>& from)
      : storage(backend::cuda{}, from) {
    cuda::check("packed_weights", "cudaDeviceSynchronize", cudaDeviceSynchronize());
  }
};

namespace mmrec::testing {

/// Which of the scan kernels is sent to: as the shape says; or, whatever the shape, warps that walk
/// time alone, blocks that walk it, or pieces of time.
enum class regime { chosen, march, block, split };

struct device {
  regime how = regime::chosen;
  bool waits = true;
};

/// Scans that follow each other on the device, of which the host reads nothing before the last: the
/// host waits once, in `finish`.
inline device in_a_row(device d) {
  d.waits = false;
  return d;
}
inline void finish(const device&) {
  cuda::check("finish", "cudaDeviceSynchronize", cudaDeviceSynchronize());
}

/// The steps are taken in the order of the definition, so that chunks give the bits of one call.
inline bool keeps_order(const device& d) { return d.how == regime::march; }

/// Compiled once for all operators that tests use: all_sweeps in cuda_sweep.hpp.
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

template <element T>
double root_of_squares(const device&, const view<const T, 1>& g) {
  return root_of_squares(backend::cuda{}, g);
}
template <element T>
void write_clip(const device&, const view<const T, 1>& g, double limit, gradient_clip* to) {
  on_the_device("clip_to", [&](const backend::cuda& gpu) { write_clip(gpu, g, limit, to); });
}

template <class Activation, element T>
void linear_kernel(const device&, const view<const T, 2>& x, const view<const T, 2>& w,
                   const view<T, 2>& y, const linear_options<T>& options) {
  on_the_device("linear", [&](const backend::cuda& gpu) {
    linear_kernel<Activation>(gpu, x, w, y, options);
  });
}
template <class Activation, element T>
void linear_kernel(const device& on, const view<const T, 2>& x,
                   const mmrec::detail::weight_storage<device, T>& w, const view<T, 2>& y,
                   const linear_options<T>& options) {
  linear_kernel<Activation>(on, x, w.storage.w, y, options);
}
template <class Activation, element T>
void linear_backward_kernel(const device&, const view<const T, 2>& dy, const view<const T, 2>& x,
                            const view<const T, 2>& w, const linear_gradients<T>& gradients) {
  on_the_device("linear_backward", [&](const backend::cuda& gpu) {
    linear_backward_kernel<Activation>(gpu, dy, x, w, gradients);
  });
}

}  // namespace mmrec::testing

template <>
inline constexpr bool mmrec::is_backend<mmrec::testing::device> = true;
