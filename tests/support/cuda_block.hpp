// SPDX-License-Identifier: Apache-2.0
// Memory state, block and model on testing::device: what backend::cuda enqueues, a whole pass at a
// time, waited for. The tests in tests/cuda include this before the suite of the same name.
#pragma once

#include <mmrec/model.hpp>

#include "cuda_modules.hpp"

template <class T>
class mmrec::scratch_for<mmrec::testing::device, T>
    : public mmrec::scratch_for<mmrec::backend::cuda, T> {
 public:
  scratch_for(const mmrec::testing::device&, std::size_t n)
      : mmrec::scratch_for<mmrec::backend::cuda, T>(backend::cuda{}, n) {}
};

namespace mmrec::testing {

template <class... A>
void pool_slots(const device&, const A&... a) {
  wait_for([&](const backend::cuda& gpu) { pool_slots(gpu, a...); });
}
template <class... A>
void pool_slots_backward(const device&, const A&... a) {
  wait_for([&](const backend::cuda& gpu) { pool_slots_backward(gpu, a...); });
}
template <class... A>
void write_mean(const device&, const A&... a) {
  wait_for([&](const backend::cuda& gpu) { write_mean(gpu, a...); });
}
template <class... A>
void write_mean_backward(const device&, const A&... a) {
  wait_for([&](const backend::cuda& gpu) { write_mean_backward(gpu, a...); });
}

template <element T, class Memory>
recurrence_report forward_pass(const device&, const block_config& c,
                               const block_parameters<const T>& w, const view<const T, 3>& x,
                               const view<T, 3>& y, memory_state<accumulator_t<T>, Memory>& state,
                               block_activations<T, Memory>& saved, const block_dropout& drop) {
  return on_the_device("block_forward", [&](const backend::cuda& gpu) {
    return mmrec::detail::forward_pass(gpu, c, w, x, y, state, saved, drop);
  });
}
template <element T, class Memory>
recurrence_report forward_pass(const device&, const block_config& c,
                               const block_parameters<const T>& w, const view<const T, 3>& x,
                               const view<T, 3>& y, const initial_banks<accumulator_t<T>>& banks,
                               block_activations<T, Memory>& saved, const block_dropout& drop) {
  return on_the_device("block_forward", [&](const backend::cuda& gpu) {
    return mmrec::detail::forward_pass(gpu, c, w, x, y, banks, saved, drop);
  });
}
template <element T, class Memory>
recurrence_report backward_pass(const device&, const block_config& c,
                                const block_parameters<const T>& w, const view<const T, 3>& x,
                                const view<const T, 3>& dy, block_activations<T, Memory>& saved,
                                const block_parameters<T>& dw, const view<T, 3>& dx,
                                const bank_gradients<accumulator_t<T>>& dbanks) {
  return on_the_device("block_backward", [&](const backend::cuda& gpu) {
    return mmrec::detail::backward_pass(gpu, c, w, x, dy, saved, dw, dx, dbanks);
  });
}

}  // namespace mmrec::testing
