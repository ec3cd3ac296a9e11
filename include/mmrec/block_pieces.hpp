// SPDX-License-Identifier: Apache-2.0
// What the block's forward and backward (block_passes.hpp) share: views of saved activations, the
// cuts of a pass at memory blocks, what a pass writes to memory.
#pragma once

#include <mmrec/attention.hpp>
#include <mmrec/block_activations.hpp>
#include <mmrec/block_loops.hpp>
#include <mmrec/block_maps.hpp>

namespace mmrec::detail {

/// The tokens of a pass that read one state of the memory: [begin, begin + count) of the pass,
/// memory block `block`; `writes` if the block ends with them.
struct segment {
  index_t begin, count, block;
  bool writes;
};
inline index_t segment_count(const block_config& c, index_t first, index_t time) {
  if (c.update == update::reference) return 1;
  return (first + time - 1) / c.memory_block - first / c.memory_block + 1;
}
/// Segment i of a pass of time > 0 tokens from position `first` on.
inline segment segment_at(const block_config& c, index_t first, index_t time, index_t i) {
  if (c.update == update::reference) return {0, time, 0, false};
  const index_t block = first / c.memory_block + i,
                begin = std::max<index_t>(0, block * c.memory_block - first),
                end = (block + 1) * c.memory_block - first;
  return {begin, std::min(time, end) - begin, block, end <= time};
}

template <class F>
void with_activation(ffn_activation a, const F& f) {
  switch (a) {
    case ffn_activation::gelu:
      return f.template operator()<activation::gelu>();
    case ffn_activation::relu:
      return f.template operator()<activation::relu>();
    case ffn_activation::silu:
      return f.template operator()<activation::silu>();
  }
}

template <class T>
view<T, 3> by_time(const view<T, 2>& rows, index_t batch, index_t time) {
  return {rows.data_handle(),
          {batch, time, rows.extent(1)},
          {time * rows.stride(0), rows.stride(0), rows.stride(1)}};
}

/// A segment's part of the saved probabilities.
template <class T>
view<T, 4> probabilities_of(const view<T, 2>& all, const segment& s, index_t batch, index_t heads) {
  const index_t slots = all.extent(1) / heads;
  return {all.data_handle() + s.begin * batch * heads * slots, {batch, heads, s.count, slots}};
}

/// update::reference: every slot becomes the mean over time of y, the short-term bank the batch
/// mean of h.
template <class B, class T, class State, class Memory>
void write_reference(const B& backend, const view<const T, 3>& y, const view<const T, 3>& h,
                     memory_state<State, Memory>& state) {
  const auto [batch, time, d] = y.extents();
  const scratch_for<B, State> memory(backend, static_cast<std::size_t>(batch * d));
  const view<State, 2> mean{memory.data(), {batch, d}};
  fill(backend, mean, 0);
  add_time_sum(backend, y, mean);
  transform(backend, divide<State>{static_cast<State>(time)}, mean, mean);
  transform(backend, both{}, std::tuple{state.keys_view(), state.values_view()},
            view<const State, 3>(mean.data_handle(), {batch, state.slots, d}, {d, 0, 1}));
  const auto recent = state.recent_view();
  batch_mean(backend, h, recent.slice(0, 0, std::min(time, recent.extent(0))));
}

template <element T>
struct block_views {
  index_t batch, time, d;
  view<T, 2> q, k, v, z;  // columns of qkvz
  template <class Memory>
  block_views(const block_config& c, const block_activations<T, Memory>& a, const view<T, 2>& qkvz)
      : batch(a.batch()),
        time(a.time()),
        d(c.width),
        q(qkvz.slice(1, 0, d)),
        k(qkvz.slice(1, d, d)),
        v(qkvz.slice(1, 2 * d, d)),
        z(qkvz.slice(1, 3 * d, d)) {}
};

/// The k-th of the block's three.
inline dropout dropout_of(const block_config& c, const block_dropout& d, std::uint64_t k) {
  return {d.training ? c.dropout : 0.0, d.seed, d.stream + k, d.offset};
}

template <class T>
void check_tokens(const char* function, const char* argument, const view<T, 3>& x, index_t batch,
                  index_t time, index_t d) {
  check_dense(function, argument, x, {batch, time, d});
  if (batch > 1 && time > 0 && x.stride(0) != time * x.stride(1))
    throw error(function, argument, "rows one stride apart",
                "a batch stride of " + std::to_string(x.stride(0)));
}
template <class T>
view<T, 2> token_rows(const view<T, 3>& x) {
  return {x.data_handle(), {x.extent(0) * x.extent(1), x.extent(2)}, {x.stride(1), x.stride(2)}};
}

/// A pass of `time` tokens can start from this state.
template <class State, class Memory>
void check_state(const char* function, const block_config& c, const memory_state<State, Memory>& s,
                 index_t batch, index_t time) {
  if (s.batch != batch)
    throw error(function, "state", "a batch of " + std::to_string(batch),
                "a state of batch " + std::to_string(s.batch));
  if (s.width != c.width || s.slots != c.slots)
    throw error(function, "state",
                "width " + std::to_string(c.width) + " and " + std::to_string(c.slots) + " slots",
                std::to_string(s.width) + " and " + std::to_string(s.slots));
  const auto row = static_cast<std::size_t>(batch * c.width),
             bank = row * static_cast<std::size_t>(c.slots);
  if (s.hidden.size() != row || s.sum.size() != row || s.keys.size() != bank ||
      s.values.size() != bank)
    throw error(function, "state", "arrays of its batch, width and slots", "other sizes");
  const index_t short_rows = static_cast<index_t>(s.recent.size()) / c.width;
  if (c.update == update::reference && short_rows > 0 && time > short_rows)
    throw error(function, "x",
                "at most " + std::to_string(short_rows) + " tokens (the short-term bank's rows)",
                std::to_string(time));
}

/// A pass's tokens do not lie on the state that it changes.
template <class T, class State, class Memory>
void check_apart(const char* function, const char* argument, const view<T, 3>& tokens,
                 memory_state<State, Memory>& s) {
  check_disjoint(function, argument, tokens, "state.hidden", s.hidden_view());
  check_disjoint(function, argument, tokens, "state.sum", s.sum_view());
  check_disjoint(function, argument, tokens, "state.keys", s.keys_view());
  check_disjoint(function, argument, tokens, "state.values", s.values_view());
  check_disjoint(function, argument, tokens, "state.recent", s.recent_view());
}

}  // namespace mmrec::detail
