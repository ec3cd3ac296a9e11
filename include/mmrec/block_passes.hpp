// SPDX-License-Identifier: Apache-2.0
// Forward and backward of the block, composed of the primitives for every backend. block.hpp has
// the documentation and the checks.
#pragma once

#include <mmrec/block_pieces.hpp>

namespace mmrec::detail {

/// What a pass reads of the memory, and where it leaves what it remembers.
template <class State, class Memory>
struct pass_memory {
  view<const State, 3> keys, values;             // (batch, slots, D), or one bank for all sequences
  memory_state<State, Memory>* state = nullptr;  // null: new sequences, of which nothing is kept
};

template <class B, element T, class Memory>
recurrence_report forward_pass(const B& backend, const block_config& c,
                               const block_parameters<const T>& w, const view<const T, 3>& x,
                               const view<T, 3>& y,
                               const pass_memory<accumulator_t<T>, Memory>& memory,
                               block_activations<T, Memory>& saved, const block_dropout& drop) {
  using State = accumulator_t<T>;
  auto* const state = memory.state;
  const index_t batch = x.extent(0), time = x.extent(1), d = c.width;
  const block_views<T> at(c, saved, saved.qkvz);
  const auto rows = token_rows(x);
  saved.dropout = drop;
  saved.first_token = state && c.update == update::stream ? state->tokens : 0;
  saved.one_bank = memory.keys.stride(0) == 0;

  rms_norm(backend, rows, w.norm1, saved.n1, c.norm);
  linear(backend, saved.n1, w.qkvz.weight, saved.qkvz, {.bias = w.qkvz.bias});

  const decay_branch_saved<T> decay{saved.decay_pre, saved.decay_hidden, saved.decay_factor};
  if (c.decay == decay_kind::mdi) {
    decay_branch<activation::gelu>(backend, at.z, w.decay, decay);
    decay_branch<activation::gelu>(
        backend, at.k, w.context,
        decay_branch_saved<T>{saved.context_pre, saved.context_hidden, saved.context_factor});
    combine_decay(backend, saved.decay_factor, saved.context_factor, saved.gamma);
  } else {
    decay_branch<activation::relu>(backend, at.z, w.decay, decay);
    combine_decay(backend, saved.decay_factor, {}, saved.gamma);
  }
  if (c.convex) transform(backend, convex_input{}, saved.z, at.z, saved.gamma);

  if (!state || c.update == update::reference)
    fill(backend, saved.initial_view(), 0);
  else
    transform(backend, same_value{}, saved.initial_view(), state->hidden_view());
  const auto h = by_time(saved.h, batch, time);
  const auto report = recurrence(backend, by_time(c.convex ? saved.z : at.z, batch, time),
                                 by_time(saved.gamma, batch, time), w.recurrence(), h,
                                 {.initial = saved.initial_view(),
                                  .final = state ? state->hidden_view() : view<State, 2>{},
                                  .gates = by_time(saved.gates, batch, time),
                                  .form = c.recurrence});

  linear(backend, saved.h, w.attention_query.weight, saved.query, {.bias = w.attention_query.bias});
  transform(backend, add_half{}, saved.query, saved.query, at.q);
  const index_t segments = segment_count(c, saved.first_token, time);
  for (index_t i = 0; i < segments; ++i) {
    const segment s = segment_at(c, saved.first_token, time, i);
    const auto keys = saved.top(i, 0), values = saved.top(i, 1);
    const index_t banks = saved.one_bank ? 1 : batch;
    hds_top(backend, memory.keys.slice(0, 0, banks), keys.slice(0, 0, banks));
    hds_top(backend, memory.values.slice(0, 0, banks), values.slice(0, 0, banks));
    attention(backend, by_time(saved.query, batch, time).slice(1, s.begin, s.count), keys, values,
              c.heads, by_time(saved.read, batch, time).slice(1, s.begin, s.count),
              {.probabilities = probabilities_of(saved.probabilities, s, batch, c.heads)});
    if (state && c.update == update::stream) {
      add_time_sum(backend, view<const T, 3>(h.slice(1, s.begin, s.count)), state->sum_view());
      if (s.writes)
        write_mean(backend, state->keys_view(), state->values_view(), state->sum_view(), c.write,
                   s.block, c.memory_block);
    }
  }

  // r = x + dropout(h or W_out(h o silu(q)), + attention + 0.1 v)
  linear(backend, saved.read, w.attention_out.weight, saved.r, {.bias = w.attention_out.bias});
  view<const T, 2> contribution = saved.h;
  const scratch_for<B, T> space(backend, static_cast<std::size_t>(batch * time * d));
  const view<T, 2> temporary{space.data(), {batch * time, d}};
  if (c.output_gate) {
    transform(backend, gated_output{}, saved.gated, saved.h, at.q);
    linear(backend, saved.gated, w.out.weight, temporary, {.bias = w.out.bias});
    contribution = temporary;
  }
  const auto dropped = dropout_of(c, drop, 0);
  if (dropped.active()) {
    transform(backend, residual{}, saved.r, saved.r, contribution, at.v);
    drop_elements(backend, dropped, saved.r);
    transform(backend, sum{}, saved.r, saved.r, rows);
  } else {
    transform(backend, residual{}, saved.r, saved.r, contribution, at.v, rows);
  }

  rms_norm(backend, saved.r, w.norm2, saved.n2, c.norm);
  const auto out = token_rows(y);
  with_activation(c.activation, [&]<class Activation>() {
    linear<Activation>(backend, saved.n2, w.ffn_in.weight, saved.ffn_hidden,
                       {.bias = w.ffn_in.bias,
                        .preactivation = Activation::saves_output ? view<T, 2>{} : saved.ffn_pre,
                        .dropout = dropout_of(c, drop, 1)});
  });
  linear(backend, saved.ffn_hidden, w.ffn_out.weight, out,
         {.bias = w.ffn_out.bias, .dropout = dropout_of(c, drop, 2)});
  transform(backend, sum{}, out, out, saved.r);

  if (!state) return report;
  if (c.update == update::reference)
    write_reference(backend, view<const T, 3>(y), view<const T, 3>(h), *state);
  state->tokens += time;
  return report;
}

template <class B, element T, class Memory>
recurrence_report forward_pass(const B& backend, const block_config& c,
                               const block_parameters<const T>& w, const view<const T, 3>& x,
                               const view<T, 3>& y, memory_state<accumulator_t<T>, Memory>& state,
                               block_activations<T, Memory>& saved, const block_dropout& drop) {
  return forward_pass(
      backend, c, w, x, y,
      pass_memory<accumulator_t<T>, Memory>{state.keys_view(), state.values_view(), &state}, saved,
      drop);
}

/// Of whole sequences: they begin with `banks`, and nothing of their memory is kept.
template <class B, element T, class Memory>
recurrence_report forward_pass(const B& backend, const block_config& c,
                               const block_parameters<const T>& w, const view<const T, 3>& x,
                               const view<T, 3>& y, const initial_banks<accumulator_t<T>>& banks,
                               block_activations<T, Memory>& saved, const block_dropout& drop) {
  using State = accumulator_t<T>;
  const auto for_all = [&](const view<const State, 2>& bank) {
    return view<const State, 3>{
        bank.data_handle(), {x.extent(0), c.slots, c.width}, {0, bank.stride(0), bank.stride(1)}};
  };
  return forward_pass(backend, c, w, x, y,
                      pass_memory<State, Memory>{for_all(banks.keys), for_all(banks.values)}, saved,
                      drop);
}

template <class B, element T, class Memory>
recurrence_report backward_pass(const B& backend, const block_config& c,
                                const block_parameters<const T>& w, const view<const T, 3>& x,
                                const view<const T, 3>& dy, block_activations<T, Memory>& saved,
                                const block_parameters<T>& dw, const view<T, 3>& dx,
                                const bank_gradients<accumulator_t<T>>& dbanks) {
  using State = accumulator_t<T>;
  const index_t batch = saved.batch(), time = saved.time(), d = c.width, tokens = batch * time;
  const scratch_for<B, T> space(backend, static_cast<std::size_t>(tokens * (10 * d + c.ffn)));
  T* next = space.data();
  const auto array = [&](index_t columns) {
    const view<T, 2> v{next, {tokens, columns}};
    next += tokens * columns;
    return v;
  };
  const auto dqkvz = array(4 * d);
  const view<T, 2> dr = array(d), dsum = array(d), dh = array(d), dread = array(d),
                   dquery = array(d), dgamma = array(d);
  const view<T, 2> dhidden = array(c.ffn);
  const block_views<T> at(c, saved, saved.qkvz), d_at(c, saved, dqkvz);
  const auto drop = [&](std::uint64_t k) { return dropout_of(c, saved.dropout, k); };
  const auto dy_rows = token_rows(dy), x_rows = token_rows(x);
  const auto dx_rows = token_rows(dx);

  // y = r + ffn(norm2(r)); dn2 goes to dsum for the moment.
  linear_backward(backend, dy_rows, saved.ffn_hidden, w.ffn_out.weight,
                  {.dx = dhidden,
                   .dw = dw.ffn_out.weight,
                   .dbias = dw.ffn_out.bias,
                   .accumulate_parameters = true,
                   .dropout = drop(2)});
  with_activation(c.activation, [&]<class Activation>() {
    linear_backward<Activation>(
        backend, dhidden, saved.n2, w.ffn_in.weight,
        {.saved = Activation::saves_output ? saved.ffn_hidden : saved.ffn_pre,
         .dx = dsum,
         .dw = dw.ffn_in.weight,
         .dbias = dw.ffn_in.bias,
         .accumulate_parameters = true,
         .dropout = drop(1)});
  });
  rms_norm_backward(
      backend, dsum, saved.r, w.norm2,
      {.dx = dr, .dw = dw.norm2, .residual = dy_rows, .accumulate_dw = true, .options = c.norm});

  // r = x + dropout(contribution + W_o read + b + 0.1 v): dterm is the gradient within dropout.
  view<T, 2> dterm = dr;
  if (drop(0).active()) {
    dterm = dsum;
    transform(backend, same_value{}, dterm, dr);
    drop_elements(backend, drop(0), dterm);
  }
  transform(backend, residual_gradient{}, std::tuple{dh, d_at.v}, dterm);
  if (c.output_gate) {
    linear_backward(
        backend, dterm, saved.gated, w.out.weight,
        {.dx = dh, .dw = dw.out.weight, .dbias = dw.out.bias, .accumulate_parameters = true});
    transform(backend, gated_output_gradient{}, std::tuple{dh, d_at.q}, dh, saved.h, at.q);
  }
  linear_backward(backend, dterm, saved.read, w.attention_out.weight,
                  {.dx = dread,
                   .dw = dw.attention_out.weight,
                   .dbias = dw.attention_out.bias,
                   .accumulate_parameters = true});

  // Attention, the last segment first: the gradient of the banks runs backwards through what was
  // written.
  const index_t segments = segment_count(c, saved.first_token, time);
  const index_t top = hds_slots(c.slots)[2];
  const bool through_memory = dbanks.keys || dbanks.values || segments > 1;
  const index_t bank = through_memory ? batch * c.slots * d : 1, tops = batch * top * d;
  const scratch_for<B, State> bank_space(backend,
                                         static_cast<std::size_t>(2 * bank + 2 * tops + batch * d));
  fill(backend, view<State, 1>{bank_space.data(), {static_cast<index_t>(bank_space.size())}}, 0);
  const view<State, 3> dkeys{bank_space.data(), {batch, c.slots, d}},
      dvalues{bank_space.data() + bank, {batch, c.slots, d}};
  const view<State, 3> dtop_keys{bank_space.data() + 2 * bank, {batch, top, d}},
      dtop_values{dtop_keys.data_handle() + tops, {batch, top, d}};
  const view<State, 2> dmean{dtop_values.data_handle() + tops, {batch, d}};
  for (index_t i = segments; i-- > 0;) {
    const segment s = segment_at(c, saved.first_token, time, i);
    const auto part = [&](const view<T, 2>& v) {
      return by_time(v, batch, time).slice(1, s.begin, s.count);
    };
    // Nothing after the last segment of this pass reads what it wrote.
    if (s.writes && i + 1 < segments) {
      write_summary_backward(backend, dkeys, dvalues, c.write, s.block, dmean);
      const auto share = static_cast<State>(1.0 / static_cast<double>(c.memory_block));
      const auto dh_part = part(dh);
      const view<const State, 3> mean(dmean.data_handle(), dh_part.extents(), {d, 0, 1});
      transform(backend, add_share<State>{share}, dh_part, dh_part, mean);
    }
    const auto keys = saved.top(i, 0), values = saved.top(i, 1);
    attention_backward(backend, part(dread), part(saved.query), keys, values,
                       probabilities_of(saved.probabilities, s, batch, c.heads), c.heads,
                       {.dq = part(dquery),
                        .dk = through_memory ? dtop_keys : view<State, 3>{},
                        .dv = through_memory ? dtop_values : view<State, 3>{}});
    if (through_memory) {
      hds_top_backward(backend, dtop_keys, dkeys);
      hds_top_backward(backend, dtop_values, dvalues);
    }
  }
  if (dbanks.keys) transform(backend, same_value{}, dbanks.keys, dkeys);
  if (dbanks.values) transform(backend, same_value{}, dbanks.values, dvalues);
  if (c.output_gate)
    transform(backend, add_half{}, d_at.q, d_at.q, dquery);
  else
    transform(backend, half{}, d_at.q, dquery);
  linear_backward(backend, dquery, saved.h, w.attention_query.weight,
                  {.dx = dh,
                   .dw = dw.attention_query.weight,
                   .dbias = dw.attention_query.bias,
                   .accumulate_dx = true,
                   .accumulate_parameters = true});

  const auto recurrent_input = c.convex ? saved.z : at.z;
  const auto three = [&](const view<T, 2>& v) { return by_time(v, batch, time); };
  const auto report = recurrence_backward(backend, three(dh), three(recurrent_input),
                                          three(saved.gamma), three(saved.h), w.recurrence(),
                                          {.gates = three(saved.gates),
                                           .dz = three(d_at.z),
                                           .dgamma = three(dgamma),
                                           .dblock = dw.gate.weight,
                                           .dblock_bias = dw.gate.bias,
                                           .dmix = dw.mix.weight,
                                           .dmix_bias = dw.mix.bias,
                                           .initial = saved.initial_view(),
                                           .accumulate_parameters = true,
                                           .form = c.recurrence});
  if (c.convex)
    transform(backend, convex_input_gradient{}, std::tuple{d_at.z, dgamma}, d_at.z, dgamma, at.z,
              saved.gamma);

  // gamma; the two factors' gradients reuse dread and dquery.
  const decay_branch_saved<T> decay{saved.decay_pre, saved.decay_hidden, saved.decay_factor};
  if (c.decay == decay_kind::mdi) {
    combine_decay_backward(backend, dgamma, saved.decay_factor, saved.context_factor, dread,
                           dquery);
    decay_branch_backward<activation::gelu>(backend, dread, at.z, w.decay, decay, dw.decay, d_at.z,
                                            true);
    decay_branch_backward<activation::gelu>(
        backend, dquery, at.k, w.context,
        decay_branch_saved<T>{saved.context_pre, saved.context_hidden, saved.context_factor},
        dw.context, d_at.k, false);
  } else {
    combine_decay_backward(backend, dgamma, saved.decay_factor, {}, dread, {});
    decay_branch_backward<activation::relu>(backend, dread, at.z, w.decay, decay, dw.decay, d_at.z,
                                            true);
    fill(backend, d_at.k, 0);
  }

  // q, k, v, z and norm1; dn1 goes to dsum.
  linear_backward(
      backend, dqkvz, saved.n1, w.qkvz.weight,
      {.dx = dsum, .dw = dw.qkvz.weight, .dbias = dw.qkvz.bias, .accumulate_parameters = true});
  rms_norm_backward(
      backend, dsum, x_rows, w.norm1,
      {.dx = dx_rows, .dw = dw.norm1, .residual = dr, .accumulate_dw = true, .options = c.norm});
  return report;
}

}  // namespace mmrec::detail
