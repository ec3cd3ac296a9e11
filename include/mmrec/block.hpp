// SPDX-License-Identifier: Apache-2.0
// The MM-Rec block: forward over a stretch of tokens, exact backward, and, as a stretch of one, the
// one-token step. The same calls serve training, evaluation and generation.
//
//   n = norm1(x);  q, k, v, z = W n + b;  gamma = decay(z, context k);  h = recurrence(z, gamma)
//   r = x + dropout( h + attention(query = W_a h + b + 0.5 q) + 0.1 v );   y = r + ffn(norm2(r))
//   ffn = dropout(W_2 dropout(act(W_1 . + b)) + b)
//
//   x, y, dy, dx (batch, time, D), rows one stride apart (row-major)
//
// Elements are float, double or 16-bit storage; the state and the gradients of the banks are of the
// arithmetic type.
//
// With update::stream the state carries h, the banks and the position, and the result does not
// depend on how tokens are cut into calls (to rounding); with update::reference every call starts h
// at 0. Gradients reach the parameters, x, the banks as they were at the start, and through memory
// written within the call; what earlier calls left behind is data.
//
//   block_activations<float> saved(config, batch, time);   // one allocation for all steps
//   block_forward(backend::simd{}, config, weights, x, y, state, saved);
//   block_backward(backend::simd{}, config, weights, x, dy, saved, gradients, dx);
//
// Whole sequences, whose memory nobody asks for afterwards, need no state: given the banks that
// they begin with, one for all, the pass reads them where they lie and writes none. Such a pass is
// not longer than a memory block (update::stream).
//
//   block_forward(backend::simd{}, config, weights, x, y, initial_banks<float>{keys, values},
//                 saved);
//
// On the GPU all arrays are device memory, those of the state and the activations too: their second
// template argument is device_memory. No pass waits for the device. Where a pass cuts time, and
// which slots it writes, follows from the state's position, which the host keeps: a captured graph
// repeats the pass from the position it was captured at, so sequences must begin anew in it.
//
//   memory_state<float, device_memory> state = ...;
//   block_activations<float, device_memory> saved(config, batch, time);
//   block_forward(backend::cuda{stream}, config, weights, x, y, state, saved);
//
// Errors: a configuration that cannot be, shapes, null data, parameters, gradients or activations
// of another configuration, overlap, a state of another batch size, width or bank, more tokens in a
// pass than the short-term bank has rows (update::reference) or, without a state, than a memory
// block (update::stream).
#pragma once

#include <mmrec/block_passes.hpp>
#include <mmrec/check_outputs.hpp>

namespace mmrec {
namespace detail {

/// The checks that do not ask where the memory is; whether there is anything to do.
template <element T, class Memory>
bool check_forward(const block_config& c, const block_parameters<const T>& w,
                   const view<const T, 3>& x, const view<T, 3>& y,
                   const block_activations<T, Memory>& saved) {
  const char* function = "block_forward";
  check_config(function, c);
  const index_t batch = x.extent(0), time = x.extent(1), d = c.width;
  check_tokens(function, "x", x, batch, time, d);
  check_tokens(function, "y", y, batch, time, d);
  check_disjoint(function, "y", y, "x", x);
  if (saved.batch() != batch || saved.time() != time)
    throw error(function, "saved",
                "activations for " + std::to_string(batch) + " x " + std::to_string(time),
                std::to_string(saved.batch()) + " x " + std::to_string(saved.time()));
  saved.check(function, c);
  saved.check_apart(function, "x", x);
  saved.check_apart(function, "y", y);
  check_parameters("block_forward: w", c, w, [&](const char* name, const auto& part) {
    check_disjoint(function, "y", y, name, part);
  });
  return batch > 0 && time > 0;
}

}  // namespace detail

template <backend_tag B, readable_array<3> X, writable_array<3> Y, class Memory>
recurrence_report block_forward(const B& backend, const block_config& c,
                                const block_parameters<const element_of<Y>>& w, const X& x,
                                const Y& y,
                                memory_state<accumulator_t<element_of<Y>>, Memory>& state,
                                block_activations<element_of<Y>, Memory>& saved,
                                const block_dropout& drop = {}) {
  using T = element_of<Y>;
  detail::require_one_type<element_of<X>, T>();
  require_built<B>();
  require_memory<B, Memory>();
  const view<const T, 3> in = as_view(x);
  const view<T, 3> out = as_view(y);
  const bool any = detail::check_forward(c, w, in, out, saved);
  detail::check_state("block_forward", c, state, in.extent(0), in.extent(1));
  detail::check_apart("block_forward", "x", in, state);
  detail::check_apart("block_forward", "y", out, state);
  if (!any) return {};
  using detail::forward_pass;
  return forward_pass(backend, c, w, in, out, state, saved, drop);
}

/// The same for whole sequences, which need no state.
template <backend_tag B, readable_array<3> X, writable_array<3> Y, class Memory>
recurrence_report block_forward(const B& backend, const block_config& c,
                                const block_parameters<const element_of<Y>>& w, const X& x,
                                const Y& y,
                                const initial_banks<accumulator_t<element_of<Y>>>& banks,
                                block_activations<element_of<Y>, Memory>& saved,
                                const block_dropout& drop = {}) {
  using T = element_of<Y>;
  detail::require_one_type<element_of<X>, T>();
  require_built<B>();
  require_memory<B, Memory>();
  const char* function = "block_forward";
  const view<const T, 3> in = as_view(x);
  const view<T, 3> out = as_view(y);
  const bool any = detail::check_forward(c, w, in, out, saved);
  check_dense(function, "banks.keys", banks.keys, {c.slots, c.width});
  check_dense(function, "banks.values", banks.values, {c.slots, c.width});
  check_disjoint(function, "y", out, "banks.keys", banks.keys);
  check_disjoint(function, "y", out, "banks.values", banks.values);
  if (c.update == update::stream && in.extent(1) > c.memory_block)
    throw error(function, "x",
                "at most " + std::to_string(c.memory_block) +
                    " tokens (a memory block) where there is no state",
                std::to_string(in.extent(1)));
  if (!any) return {};
  using detail::forward_pass;
  return forward_pass(backend, c, w, in, out, banks, saved, drop);
}

/// Parameter gradients accumulate; dx and the bank gradients are overwritten.
template <backend_tag B, readable_array<3> X, readable_array<3> G, writable_array<3> D,
          class Memory>
recurrence_report block_backward(const B& backend, const block_config& c,
                                 const block_parameters<const element_of<D>>& w, const X& x,
                                 const G& dy, block_activations<element_of<D>, Memory>& saved,
                                 const block_parameters<element_of<D>>& dw, const D& dx,
                                 const bank_gradients<accumulator_t<element_of<D>>>& dbanks = {}) {
  using T = element_of<D>;
  detail::require_one_type<element_of<X>, element_of<G>, T>();
  require_built<B>();
  require_memory<B, Memory>();
  const char* function = "block_backward";
  const view<const T, 3> in = as_view(x), g = as_view(dy);
  const view<T, 3> out = as_view(dx);
  check_config(function, c);
  saved.check(function, c);
  const index_t batch = saved.batch(), time = saved.time(), d = c.width, tokens = batch * time;
  detail::check_tokens(function, "x", in, batch, time, d);
  detail::check_tokens(function, "dy", g, batch, time, d);
  detail::check_tokens(function, "dx", out, batch, time, d);
  check_optional_dense(function, "dbanks.keys", dbanks.keys, {batch, c.slots, d});
  check_optional_dense(function, "dbanks.values", dbanks.values, {batch, c.slots, d});
  check_outputs(function,
                std::tuple{argument{"dx", out}, argument{"dbanks.keys", dbanks.keys},
                           argument{"dbanks.values", dbanks.values}},
                std::tuple{argument{"x", in}, argument{"dy", g}});
  saved.check_apart(function, "dx", out);
  saved.check_apart(function, "dbanks.keys", dbanks.keys);
  saved.check_apart(function, "dbanks.values", dbanks.values);
  check_parameters("block_backward: w", c, w, [&](const char* name, const auto& part) {
    check_disjoint(function, "dx", out, name, part);
  });
  const char* parameters = "block_backward: dw";
  check_parameters(parameters, c, dw, [&](const char* name, const auto& part) {
    check_distinct(parameters, name, part);
    check_disjoint(parameters, name, part, "x", in);
    check_disjoint(parameters, name, part, "dy", g);
    check_disjoint(parameters, name, part, "dx", out);
    saved.check_apart(parameters, name, part);
    const auto apart_from = [&](const char* other, const auto& read) {
      check_disjoint(parameters, name, part, other, read);
    };
    w.for_each(
        c,
        [&](std::initializer_list<const char*> names, const auto& weight, const auto& bias, index_t,
            index_t) {
          apart_from(*names.begin(), weight);
          apart_from(*names.begin(), bias);
        },
        [&](const char* other, const auto& weight, index_t) { apart_from(other, weight); });
  });
  if (tokens == 0) {
    if (dbanks.keys) fill(backend, dbanks.keys, 0);
    if (dbanks.values) fill(backend, dbanks.values, 0);
    return {};
  }
  using detail::backward_pass;
  return backward_pass(backend, c, w, in, g, saved, dw, out, dbanks);
}

}  // namespace mmrec
