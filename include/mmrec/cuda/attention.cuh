// SPDX-License-Identifier: Apache-2.0
// Attention over memory slots on the GPU: a block to a piece of the time of one head, K and V of
// which it has in shared memory; all products on the tensor cores. Numbers of 16 bits are factors
// as they are, and weights or dS beside them two such numbers, 17 bits of bfloat16 or 22 of
// binary16 (digits.cuh); all others go in the accuracy of the arithmetic type (fragments.cuh). Read
// and written are q, o and P, once; a slot costs a product of 2 flops for every element of these.
//
// Backward: a second kernel adds up what the pieces have of dK and dV. There are as many pieces as
// occupy a GPU, by the shape alone, so the bits are the same in every run and on every device.
#pragma once

#include <mmrec/attention.hpp>
#include <mmrec/cuda/attention/backward.cuh>
#include <mmrec/cuda/attention/forward.cuh>

#include <cmath>

namespace mmrec {
namespace cuda::kernels {

/// Blocks that occupy a GPU, so many of each multiprocessor.
constexpr index_t blocks_of_gpu(int of_multiprocessor) { return index_t{128} * of_multiprocessor; }

/// f(the slots that a warp takes at once, are there more?), both as constants.
template <class Acc, class F>
void by_slots(index_t slots, const F& f) {
  constexpr int many = many_slots<Acc>;
  if (slots <= few_slots)
    f(std::integral_constant<int, few_slots>(), std::false_type());
  else if (slots <= many)
    f(std::integral_constant<int, many>(), std::false_type());
  else
    f(std::integral_constant<int, many>(), std::true_type());
}

/// All that a block reads of K and V is in shared memory if the device has that much: so many
/// chunks of each, besides some bytes.
template <class Chunks>
launch_shape attention_launch(const char* function, attention_shape& s, int keys, int values,
                              std::size_t beside) {
  const auto bytes = [&](int k, int v) {
    return beside + static_cast<std::size_t>(k) * sizeof(typename Chunks::keys) +
           static_cast<std::size_t>(v) * sizeof(typename Chunks::values);
  };
  s.all_held =
      bytes(keys, values) <= static_cast<std::size_t>(current_device(function).shared_bytes);
  return {s.tasks(), attention_threads,
          s.all_held ? bytes(keys, values) : bytes(std::min(keys, 1), std::min(values, 1))};
}

/// One kernel of the backward.
template <attention_pass Pass, class T, class S, int Slots>
void launch_backward(const backend::cuda& backend, const char* function,
                     attention_backward_arrays<T, S> a, attention_shape s) {
  if constexpr (Pass == attention_pass::of_rows) a.dk = a.dv = nullptr;
  if constexpr (Pass == attention_pass::of_memory) {
    a.dq = {};
    s.slot_blocks = chunks_of<Slots>(s.slots);
  }
  const int chunks = Pass == attention_pass::of_rows ? chunks_of<Slots>(s.slots) : 1,
            keys = Pass == attention_pass::of_memory ? 0 : chunks;
  using exchange = time_exchange<T, Slots>;
  const auto shape = attention_launch<attention_backward_chunks<T, S, Slots>>(
      function, s, keys, chunks * s.column_blocks, exchange::buffers * sizeof(exchange));
  launch(backend, function, shape, attention_backward_kernel<T, S, Slots, Pass>, a, s);
}

}  // namespace cuda::kernels

template <element T, element S>
void attention_heads(const backend::cuda& backend, const view<const T, 3>& q,
                     const view<const S, 3>& k, const view<const S, 3>& v, index_t heads,
                     const view<T, 3>& o, const attention_options<T>& options) {
  namespace ks = cuda::kernels;
  using cuda::stored, cuda::stored_view;
  using Acc = accumulator_t<T>;
  const char* function = "attention";
  ks::attention_shape s{q.extent(0), q.extent(1), k.extent(1), heads, q.extent(2)};
  if (q.empty()) return;
  const ks::attention_arrays<stored<T>, stored<S>> arrays{
      stored_view(q),
      stored_view(k),
      stored_view(v),
      stored_view(o),
      stored_view(options.probabilities),
      Acc(1) / std::sqrt(static_cast<Acc>(s.head_width()))};
  ks::by_slots<Acc>(s.slots, [&](auto slots, auto several) {
    s.divide(ks::blocks_of_gpu(ks::attention_blocks<stored<T>, stored<S>, slots()>), 1);
    using tile = ks::attention_tile<stored<T>, slots()>;
    const int chunks =
        ks::chunks_of<slots()>(s.slots) * ks::chunks_of<tile::columns>(s.head_width());
    const auto shape = ks::attention_launch<ks::attention_chunks<stored<T>, stored<S>, slots()>>(
        function, s, chunks, chunks, 0);
    const auto run = [&](auto simple) {
      cuda::launch(backend, function, shape,
                   ks::attention_kernel<stored<T>, stored<S>, slots(), simple()>, arrays, s);
    };
    if (several() || !s.all_held)
      run(std::false_type());
    else if constexpr (!several())
      run(std::true_type());
  });
}

template <element T, element S>
void attention_backward_heads(const backend::cuda& backend, const view<const T, 3>& d_o,
                              const view<const T, 3>& q, const view<const S, 3>& k,
                              const view<const S, 3>& v, const view<const T, 4>& p, index_t heads,
                              const attention_gradients<T, S>& gradients) {
  namespace ks = cuda::kernels;
  using cuda::stored, cuda::stored_view;
  using Acc = accumulator_t<T>;
  const char* function = "attention_backward";
  ks::attention_shape s{q.extent(0), q.extent(1), k.extent(1), heads, q.extent(2)};
  s.column_blocks = ks::chunks_of<ks::attention_tile<stored<T>, 1>::columns>(s.head_width());
  s.divide(ks::blocks_of_gpu(s.slots <= ks::few_slots
                                 ? ks::attention_backward_blocks<ks::few_slots>
                                 : ks::attention_backward_blocks<ks::many_slots<Acc>>),
           2);
  const index_t pieces = s.pieces();
  const auto sums = [&](const view<S, 3>& of) {
    return of ? static_cast<std::size_t>(pieces * s.batch * s.slots * s.width) * sizeof(Acc) : 0;
  };
  const bool several = s.slots > ks::many_slots<Acc>;
  const cuda::stream_scratch dk(backend, function, sums(gradients.dk)),
      dv(backend, function, sums(gradients.dv)),
      means(backend, function,
            several ? static_cast<std::size_t>(s.batch * heads * s.time) * sizeof(Acc) : 0);
  auto *const dk_sums = reinterpret_cast<Acc*>(dk.data()), *const dv_sums =
                                                               reinterpret_cast<Acc*>(dv.data());
  if (s.tasks() > 0) {
    const ks::attention_backward_arrays<stored<T>, stored<S>> arrays{
        stored_view(d_o),
        stored_view(q),
        stored_view(k),
        stored_view(v),
        stored_view(p),
        stored_view(gradients.dq),
        dk_sums,
        dv_sums,
        reinterpret_cast<Acc*>(means.data()),
        Acc(1) / std::sqrt(static_cast<Acc>(s.head_width()))};
    ks::by_slots<Acc>(s.slots, [&](auto slots, auto more) {
      const auto pass = [&](auto which) {
        ks::launch_backward<which(), stored<T>, stored<S>, slots()>(backend, function, arrays, s);
      };
      using kind = ks::attention_pass;
      if constexpr (!more()) {
        pass(std::integral_constant<kind, kind::whole>());
      } else {
        if (arrays.dq || arrays.dk) pass(std::integral_constant<kind, kind::of_rows>());
        if (arrays.dk || arrays.dv) pass(std::integral_constant<kind, kind::of_memory>());
      }
    });
  }
  if (gradients.dk)
    cuda::sum_rows(backend, function, dk_sums, pieces, gradients.dk, gradients.accumulate_memory);
  if (gradients.dv)
    cuda::sum_rows(backend, function, dv_sums, pieces, gradients.dv, gradients.accumulate_memory);
}

}  // namespace mmrec
