// SPDX-License-Identifier: Apache-2.0
// softmax(q K^T / sqrt(d)) V: a warp has the scores of its rows in registers, and they are a factor
// of the second product as they are.
//
// Where the slots are several chunks, a first pass over the scores finds each row's maximum and sum,
// and the second computes them again.
#pragma once

#include <mmrec/cuda/attention/memory_chunk.cuh>
#include <mmrec/cuda/reduce.cuh>
#include <mmrec/math.hpp>

#include <limits>

namespace mmrec::cuda::kernels {

template <class T, class S>
struct attention_arrays {
  view<const T, 3> q;
  view<const S, 3> k, v;
  view<T, 3> o;
  view<T, 4> p;
  accumulator_t<T> scale;
};

template <class T, class S, int Slots>
struct attention_chunks {
  using keys = memory_chunk<T, S, Slots, false, true>;
  using values = memory_chunk<T, S, Slots, true, true>;
};

/// Of a multiprocessor, by the registers of a warp's tiles.
template <class T, int Slots>
inline constexpr int attention_blocks =
    is_narrow<T> || (Slots == few_slots && std::is_same_v<T, float>) ? 4 : 3;

/// Several: the slots are several chunks.
template <class T, class S, int Slots, bool Several>
__global__ void __launch_bounds__(attention_threads, attention_blocks<T, Slots>)
    attention_kernel(attention_arrays<T, S> a, attention_shape s) {
  using tile = attention_tile<T, Slots>;
  using Acc = typename tile::Acc;
  using chunks = attention_chunks<T, S, Slots>;
  constexpr summing how = summing_of<T, summing::small_apart>;
  constexpr Acc minus_infinity = -std::numeric_limits<Acc>::infinity();
  extern __shared__ uint4 mmrec_shared[];
  const attention_task task(s);
  const index_t d = s.head_width(), c0 = task.head * d;
  const int slot_chunks = Several ? chunks_of<Slots>(s.slots) : 1,
            column_chunks = chunks_of<tile::columns>(d);
  auto* const held = reinterpret_cast<typename chunks::keys*>(mmrec_shared);
  memory_chunks<typename chunks::keys, S> keys(held, &a.k(task.batch, 0, c0), a.k.stride(1),
                                               s.slots, d, s.all_held);
  memory_chunks<typename chunks::values, S> values(
      reinterpret_cast<typename chunks::values*>(held +
                                                 (s.all_held ? slot_chunks * column_chunks : 1)),
      &a.v(task.batch, 0, c0), a.v.stride(1), s.slots, d, s.all_held);
  __syncthreads();

  for (index_t t0 = task.first; t0 < task.last; t0 += attention_rows) {
    const index_t t = t0 + index_t(threadIdx.x / warp) * fragment_rows, live = task.last - t;
    warp_tile<Acc, tile::slot_tiles> p;
    const auto for_scores = [&](const auto& f) { for_elements<tile::slot_pack>(p, f); };
    const auto find_scores = [&](int chunk) {
      p = {};
      for (int j = 0; j < column_chunks; ++j) {
        const auto& k = keys(chunk, j);
        const index_t c = j * tile::columns;
        warp_tile<Acc, tile::column_tiles> q;
        load_tile<tile::column_pack>(
            q, rows_from(&a.q(task.batch, 0, c0 + c) + t * a.q.stride(1), a.q.stride(1)), live,
            d - c);
        multiply_chunk<how, is_narrow<T>>(p, q, k);
      }
      const index_t slots = s.slots - chunk * Slots;
      for_scores([&](int, Acc& x, int) { x *= a.scale; });
      if (slots < Slots)
        for_scores([&](int, Acc& x, int slot) {
          if (slot >= slots) x = minus_infinity;
        });
    };

    // p = exp(score - most) factor, for each of the lane's two rows.
    Acc most[2] = {minus_infinity, minus_infinity}, factor[2] = {};
    const auto find_most = [&](Acc(&largest)[2]) {
      for_scores([&](int h, Acc& x, int) { largest[h] = larger{}(largest[h], x); });
      for (Acc& x : largest) x = over_row(x, larger{});
    };
    if constexpr (!Several) {
      find_scores(0);
      find_most(most);
      for_scores([&](int h, Acc& x, int) { factor[h] += x = math::exp_minus(most[h] - x); });
      for (Acc& x : factor) x = Acc(1) / over_row(x, plus{});
      for_scores([&](int h, Acc& x, int) { x *= factor[h]; });
    } else {
      for (int chunk = 0; chunk < slot_chunks; ++chunk) {
        find_scores(chunk);
        Acc next[2] = {most[0], most[1]}, total[2] = {};
        find_most(next);
        for_scores([&](int h, Acc& x, int) { total[h] += math::exp_difference(x, next[h]); });
        for (int h = 0; h < 2; ++h) {
          factor[h] =
              factor[h] * math::exp_difference(most[h], next[h]) + over_row(total[h], plus{});
          most[h] = next[h];
        }
      }
      for (Acc& x : factor) x = Acc(1) / x;
    }

    for (int j = 0; j < column_chunks; ++j) {
      const index_t c = j * tile::columns;
      warp_tile<Acc, tile::column_tiles> o;
      for (int chunk = 0; chunk < slot_chunks; ++chunk) {
        if constexpr (Several) {
          find_scores(chunk);
          for_scores([&](int h, Acc& x, int) { x = math::exp_minus(most[h] - x) * factor[h]; });
        }
        if (j == 0 && a.p)
          store_tile<tile::slot_pack>(
              p,
              rows_from(&a.p(task.batch, task.head, 0, chunk * Slots) + t * a.p.stride(2),
                        a.p.stride(2)),
              live, s.slots - chunk * Slots);
        multiply_chunk<how, false>(o, p, values(chunk, j));
      }
      store_tile<tile::column_pack>(
          o, rows_from(&a.o(task.batch, 0, c0 + c) + t * a.o.stride(1), a.o.stride(1)), live,
          d - c);
    }
  }
}

}  // namespace mmrec::cuda::kernels
