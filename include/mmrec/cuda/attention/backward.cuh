// SPDX-License-Identifier: Apache-2.0
// The backward of attention: a block takes 64 steps after the other of its piece of time. dS of a
// warp's rows stays in registers, for dq, and goes through shared memory for dK, as P does for dV;
// their sums over the piece are in registers, too. Of a wide head a block has a part of the columns
// of dq, dK and dV.
//
// Slots that are several chunks take two kernels: one has all of the slots, finds each row's sum of
// P o do V^T and then dq; the next has a block for every chunk of dK and dV. Both compute do V^T.
#pragma once

#include <mmrec/cuda/attention/memory_chunk.cuh>
#include <mmrec/cuda/attention/time_product.cuh>
#include <mmrec/cuda/reduce.cuh>

namespace mmrec::cuda::kernels {

template <class T, class S>
struct attention_backward_arrays {
  view<const T, 3> d_o, q;
  view<const S, 3> k, v;
  view<const T, 4> p;
  view<T, 3> dq;
  accumulator_t<T>*dk, *dv;  // (pieces, batch, slots, width), or null
  accumulator_t<T>* means;   // the rows' sums, (batch, heads, time); only between two kernels
  accumulator_t<T> scale;
};

template <class T, class S, int Slots>
struct attention_backward_chunks {
  using keys = memory_chunk<T, S, Slots, true, gradient_factor<T, S>, true>;
  using values =
      memory_chunk<T, S, Slots, false, common_factor<T, S>, false>;  // or 99 KiB would not do
};

/// Of a multiprocessor; they leave registers for the sums.
template <int Slots>
inline constexpr int attention_backward_blocks = Slots == few_slots ? 3 : 2;

/// What a kernel computes: everything, or with several chunks of slots its part of that.
enum class attention_pass { whole, of_rows, of_memory };

template <class T, class S, int Slots, attention_pass Pass>
__global__ void __launch_bounds__(attention_threads, attention_backward_blocks<Slots>)
    attention_backward_kernel(attention_backward_arrays<T, S> a, attention_shape s) {
  using tile = attention_tile<T, Slots>;
  using exchange = time_exchange<T, Slots>;
  using Acc = typename tile::Acc;
  using chunks = attention_backward_chunks<T, S, Slots>;
  constexpr bool narrow_rows = is_narrow<T>, all_slots = Pass == attention_pass::of_rows,
                 for_rows = Pass != attention_pass::of_memory,
                 for_memory = Pass != attention_pass::of_rows;
  constexpr summing how = summing_of<T, summing::by_pack>;
  extern __shared__ uint4 mmrec_shared[];
  const attention_task task(s);
  const index_t d = s.head_width(), c0 = task.head * d,
                own = index_t(task.columns) * tile::columns,  // first of the block's columns
      columns = min(index_t{tile::columns}, d - own), slot0 = index_t(task.slots) * Slots,
                slots = all_slots ? s.slots : min(index_t{Slots}, s.slots - slot0);
  const int slot_chunks = all_slots ? chunks_of<Slots>(slots) : 1;
  const bool score_gradients = all_slots || a.dq || a.dk;
  warp_rows<const T> d_o_rows(&a.d_o(task.batch, task.first, c0), a.d_o.stride(1)),
      q_rows(&a.q(task.batch, task.first, c0), a.q.stride(1)),
      p_rows(&a.p(task.batch, task.head, task.first, slot0), a.p.stride(2));
  warp_rows<T> dq_rows(&a.dq(task.batch, task.first, c0), a.dq.stride(1));
  index_t left = task.rows_of_warp();
  using column_rows = row_packs<T, tile::column_pack, tile::column_tiles>;
  exchange* const between = reinterpret_cast<exchange*>(mmrec_shared);
  auto* const held = reinterpret_cast<typename chunks::keys*>(between + exchange::buffers);
  memory_chunks<typename chunks::keys, S, false> keys(held, &a.k(task.batch, slot0, c0 + own),
                                                      a.k.stride(1), a.dq ? slots : 0, columns,
                                                      s.all_held);
  memory_chunks<typename chunks::values, S, false> values(
      reinterpret_cast<typename chunks::values*>(held + (!for_rows    ? 0
                                                         : s.all_held ? slot_chunks
                                                                      : 1)),
      &a.v(task.batch, slot0, c0), a.v.stride(1), score_gradients ? slots : 0, d, s.all_held);
  __syncthreads();
  time_sum<T, Slots> dk, dv;
  int turn = 0;
  const auto put = [&](const auto& of_slots, const auto& of_columns) {
    if constexpr (exchange::buffers > 1) turn ^= 1;
    between[turn].put(of_slots, of_columns);
  };

  for (index_t t = task.first; t < task.last; t += exchange::rows, left -= exchange::rows) {
    // Empty, or the compiler would keep them from one turn to the next.
    row_packs<T, tile::slot_pack, tile::slot_tiles> p = {};
    column_rows d_o = {}, q = {};
    const auto load_columns = [&](column_rows& to, const warp_rows<const T>& from, index_t c) {
      to.load(from.from(c), live_of(left, fragment_rows), live_of(d - c, tile::columns));
    };
    const auto load_weights = [&](int chunk) {
      p.load(p_rows.from(chunk * Slots), live_of(left, fragment_rows),
             live_of(s.slots - slot0 - chunk * Slots, Slots));
    };
    warp_tile<Acc, tile::slot_tiles> ds;
    const auto find_dp = [&](int chunk) {  // do V^T, in ds
      ds = {};
      for (int j = 0; j < s.column_blocks; ++j) {
        const auto& v = values(chunk, j);
        load_columns(d_o, d_o_rows, j * tile::columns);
        multiply_chunk<how>(ds, d_o, v);
      }
    };
    const auto for_weights = [&](const auto& f) {
#pragma unroll
      for (int k = 0; k < tile::slot_tiles; ++k)
#pragma unroll
        for (int i = 0; i < 4; ++i) f(i / 2, p.at(i / 2, k, i % 2), ds.of[k].of[i]);
    };
    Acc mean[2] = {};
    Acc* const means = a.means ? a.means + (task.batch * s.heads + task.head) * s.time + task.last -
                                     left + fragment_lane().row
                               : nullptr;
    const auto for_means = [&](const auto& f) {
      for (int h = 0; h < 2; ++h)
        if (fragment_lane().row + 8 * h < left) f(mean[h], means[8 * h]);
    };

    if (score_gradients)
      for (int chunk = 0; chunk < slot_chunks; ++chunk) {
        load_weights(chunk);
        find_dp(chunk);
        if constexpr (for_rows) for_weights([&](int h, Acc w, Acc x) { mean[h] += w * x; });
      }
    else
      load_weights(0);
    if constexpr (for_rows)
      for (Acc& x : mean) x = over_row(x, plus{});
    if constexpr (Pass == attention_pass::of_rows) {
      if (task.columns == 0 && fragment_lane().place == 0)
        for_means([](Acc x, Acc& to) { to = x; });
    } else if constexpr (Pass == attention_pass::of_memory) {
      if (a.dk) for_means([](Acc& x, Acc from) { x = from; });
    }

    warp_tile<Acc, tile::column_tiles> dq;
    for (int chunk = 0; (!all_slots || a.dq) && chunk < slot_chunks; ++chunk) {
      if constexpr (all_slots) {
        load_weights(chunk);
        find_dp(chunk);
      }
      if constexpr (for_memory) {
        if (a.dv) {
          if (s.column_blocks > 1 || !score_gradients) load_columns(d_o, d_o_rows, own);
          put(p, d_o);
        }
      }
      for_weights([&](int h, Acc w, Acc& x) { x = w * (x - mean[h]) * a.scale; });
      if constexpr (for_memory) {
        if (a.dv) dv.template add<narrow_rows, narrow_rows>(between[turn]);
      }
      if constexpr (for_memory) {
        if (a.dk) load_columns(q, q_rows, own);
      }
      if constexpr (for_rows) {
        if (a.dq) multiply_chunk<how>(dq, ds, keys(chunk, 0));
      }
      if constexpr (for_memory) {
        if (a.dk) {
          put(ds, q);
          dk.template add<false, narrow_rows>(between[turn]);
        }
      }
    }
    if (for_rows && a.dq)
      store_tile<tile::column_pack>(dq, dq_rows.from(own), live_of(left, fragment_rows),
                                    live_of(columns, tile::columns));
    d_o_rows.next(), q_rows.next(), p_rows.next(), dq_rows.next();
  }
  if constexpr (for_memory) {
    const index_t at = ((task.piece * s.batch + task.batch) * s.slots + slot0) * s.width + c0 + own;
    if (a.dk) dk.store(a.dk + at, s.width, slots, columns);
    if (a.dv) dv.store(a.dv + at, s.width, slots, columns);
  }
}

}  // namespace mmrec::cuda::kernels
