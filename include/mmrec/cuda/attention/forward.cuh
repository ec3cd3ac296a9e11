// SPDX-License-Identifier: Apache-2.0
// softmax(q K^T / sqrt(d)) V: a warp has the scores of its rows in registers, and they are a factor
// of the second product as they are.
//
// Where the slots are several chunks, a first pass over the scores finds each row's maximum and
// sum, and the second computes them again.
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
  using factor = common_factor<T, S>;
  using keys = memory_chunk<T, S, Slots, false, factor, true>;
  using values = memory_chunk<T, S, Slots, true, factor, true>;
};

/// The next rows come while a warp works on these, where they leave registers for that.
template <class T, class S>
inline constexpr bool rows_ahead = is_narrow<common_factor<T, S>>;
/// Of a multiprocessor, by the registers of a warp's tiles.
template <class T, class S, int Slots>
inline constexpr int attention_blocks =
    !rows_ahead<T, S> && (is_narrow<T> || (Slots == few_slots && std::is_same_v<T, float>)) ? 4 : 3;

/// Simple: the slots are one chunk, and K and V of a head are in shared memory.
template <class T, class S, int Slots, bool Simple>
__global__ void __launch_bounds__(attention_threads, attention_blocks<T, S, Slots>)
    attention_kernel(attention_arrays<T, S> a, attention_shape s) {
  using tile = attention_tile<T, Slots>;
  using Acc = typename tile::Acc;
  using chunks = attention_chunks<T, S, Slots>;
  constexpr summing how = summing_of<T, summing::small_apart>;
  constexpr auto weight_scale = digit_scale<typename chunks::factor>;
  constexpr bool ahead = Simple && rows_ahead<T, S>;
  constexpr Acc minus_infinity = -std::numeric_limits<Acc>::infinity();
  extern __shared__ uint4 mmrec_shared[];
  const attention_task task(s);
  const index_t d = s.head_width(), c0 = task.head * d;
  warp_rows<const T> q_rows(&a.q(task.batch, task.first, c0), a.q.stride(1));
  warp_rows<T> o_rows(&a.o(task.batch, task.first, c0), a.o.stride(1)),
      p_rows(&a.p(task.batch, task.head, task.first, 0), a.p.stride(2));
  index_t left = task.rows_of_warp();
  row_packs<T, tile::column_pack, tile::column_tiles> q;
  const auto load_query = [&](index_t rows, int j) {
    const index_t c = j * tile::columns;
    q.load(q_rows.from(c), live_of(rows, fragment_rows), live_of(d - c, tile::columns));
  };
  if constexpr (ahead) load_query(left, 0);
  const int slot_chunks = Simple ? 1 : chunks_of<Slots>(s.slots),
            column_chunks = chunks_of<tile::columns>(d);
  auto* const held = reinterpret_cast<typename chunks::keys*>(mmrec_shared);
  memory_chunks<typename chunks::keys, S, Simple> keys(held, &a.k(task.batch, 0, c0), a.k.stride(1),
                                                       s.slots, d, s.all_held);
  memory_chunks<typename chunks::values, S, Simple> values(
      reinterpret_cast<typename chunks::values*>(held +
                                                 (s.all_held ? slot_chunks * column_chunks : 1)),
      &a.v(task.batch, 0, c0), a.v.stride(1), s.slots, d, s.all_held);
  __syncthreads();

  for (index_t t = task.first; t < task.last; t += attention_rows, left -= attention_rows) {
    const int live = live_of(left, fragment_rows);
    warp_tile<Acc, tile::slot_tiles> p;
    const auto for_scores = [&](const auto& f) { for_elements<tile::slot_pack>(p, f); };
    const auto find_scores = [&](int chunk) {
      p = {};
      for (int j = 0; j < column_chunks; ++j) {
        const auto& k = keys(chunk, j);
        if constexpr (!ahead) load_query(left, j);
        multiply_chunk<how>(p, q, k);
        if constexpr (ahead) {
          const bool next = j + 1 == column_chunks;
          if (next) q_rows.next();
          load_query(next ? left - attention_rows : left, next ? 0 : j + 1);
        }
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
    if (Simple || slot_chunks == 1) {
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
        if (!Simple && slot_chunks > 1) {
          find_scores(chunk);
          for_scores([&](int h, Acc& x, int) { x = math::exp_minus(most[h] - x) * factor[h]; });
        }
        if (j == 0 && a.p)
          store_tile<tile::slot_pack>(p, p_rows.from(chunk * Slots), live,
                                      live_of(s.slots - chunk * Slots, Slots));
        multiply_chunk<how>(o, p, values(chunk, j));
      }
      if constexpr (weight_scale != 1)
        for_elements<tile::column_pack>(o, [](int, Acc& x, int) { x *= 1 / weight_scale; });
      store_tile<tile::column_pack>(o, o_rows.from(c), live, live_of(d - c, tile::columns));
    }
    if constexpr (!ahead) q_rows.next();
    o_rows.next(), p_rows.next();
  }
}

}  // namespace mmrec::cuda::kernels
