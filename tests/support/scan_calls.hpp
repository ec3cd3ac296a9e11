// SPDX-License-Identifier: Apache-2.0
// The bodies of call_scan and call_backward. Only the files scan_calls_*.cpp include this, one for
// each element type, so that the kernels are compiled once and not in every test.
#pragma once

#include "scan_harness.hpp"
#include "wake_threads.hpp"

namespace mmrec::testing {

template <class Acc, class B, class T, class State>
void call_scan(const B& backend, scan_op op, const view<const T, 3>& a, const view<const T, 3>& b,
               const view<T, 3>& y, const scan_options<State>& o, const log_domain& domain) {
  wake_threads(backend);
  switch (op) {
    case scan_op::cumsum:
      return cumsum<Acc>(backend, a, y, o);
    case scan_op::cumprod:
      return cumprod<Acc>(backend, a, y, o);
    case scan_op::log_cumprod:
      return log_cumprod<Acc>(backend, a, y, {o.initial, o.final, o.exclusive, o.offsets, domain});
    case scan_op::logcumsumexp:
      return logcumsumexp<Acc>(backend, a, y, o);
    case scan_op::linear_scan:
      return linear_scan<Acc>(backend, a, b, y,
                              {o.initial, o.final, o.exclusive, o.offsets, gates::values});
    case scan_op::linear_scan_logs:
      return linear_scan<Acc>(backend, a, b, y,
                              {o.initial, o.final, o.exclusive, o.offsets, gates::logs});
    case scan_op::log_linear_scan:
      return log_linear_scan<Acc>(backend, a, b, y, o);
  }
}

template <class Acc, class B, class T, class State>
void call_backward(const B& backend, scan_op op, const view<const T, 3>& dy,
                   const view<const T, 3>& a, const view<const T, 3>& b, const view<const T, 3>& y,
                   linear_scan_gradients<T, State> gradients, const log_domain& domain) {
  const auto& g = gradients;
  const scan_backward_options<State> o = g.common();
  wake_threads(backend);
  switch (op) {
    case scan_op::cumsum:
      return cumsum_backward<Acc>(backend, dy, g.da, o);
    case scan_op::cumprod:
      return cumprod_backward<Acc>(backend, dy, a, y, g.da, o);
    case scan_op::log_cumprod:
      return log_cumprod_backward<Acc>(
          backend, dy, a, g.da,
          {o.initial, o.dfinal, o.dinitial, o.exclusive, o.accumulate, o.offsets, domain});
    case scan_op::logcumsumexp:
      return logcumsumexp_backward<Acc>(backend, dy, a, y, g.da, o);
    case scan_op::linear_scan_logs:
      gradients.gates = gates::logs;
      [[fallthrough]];
    case scan_op::linear_scan:
      return linear_scan_backward<Acc>(backend, dy, a, y, gradients);
    case scan_op::log_linear_scan:
      return log_linear_scan_backward<Acc>(backend, dy, a, b, y, gradients);
  }
}

// Compiles both for element type T on backend B.
#define MMREC_TEST_SCANS(Acc, B, T, State)                                              \
  template void call_scan<Acc, B, T, State>(const B&, scan_op, const view<const T, 3>&, \
                                            const view<const T, 3>&, const view<T, 3>&, \
                                            const scan_options<State>&, const log_domain&);
#define MMREC_TEST_SCAN_GRADIENTS(B, T, State)                                           \
  template void call_backward<void, B, T, State>(                                        \
      const B&, scan_op, const view<const T, 3>&, const view<const T, 3>&,               \
      const view<const T, 3>&, const view<const T, 3>&, linear_scan_gradients<T, State>, \
      const log_domain&);

}  // namespace mmrec::testing
