// SPDX-License-Identifier: Apache-2.0
// Attention over memory slots on the GPU: a block to 64 steps of one head. Their scores, a row of
// all slots each, live in shared memory (or, for very many slots, in scratch of the block); products
// with the memory are block_product's, rows of scores are a warp's.
//
// Backward: a block takes several tiles of time one after the other and keeps its own sums of dK and
// dV in scratch; a second kernel adds them up. There are as many such pieces as occupy a GPU, by the
// shape alone, so the bits are the same in every run and on every device.
#pragma once

#include <mmrec/attention.hpp>
#include <mmrec/cuda/block_product.cuh>
#include <mmrec/cuda/reduce.cuh>

#include <algorithm>
#include <cmath>

namespace mmrec {
namespace cuda::kernels {

inline constexpr index_t attention_pieces = 1024;  // of the backward, together
inline constexpr index_t attention_blocks = 512;   // whose scores are in scratch

struct attention_shape {
  index_t batch, time, slots, heads, width;
  index_t tiles_to_piece = 1;  // of time
  __host__ __device__ index_t head_width() const { return width / heads; }
  index_t tiles() const { return (time + product_tile - 1) / product_tile; }
  index_t pieces() const { return (tiles() + tiles_to_piece - 1) / tiles_to_piece; }
  index_t tasks() const { return batch * heads * pieces(); }
  /// Of a row of scores; 8 banks from the next row's.
  __host__ __device__ index_t pitch() const { return (slots + 31) / 32 * 32 + 8; }
  template <class Acc>
  std::size_t score_bytes() const {
    return static_cast<std::size_t>(product_tile * pitch()) * sizeof(Acc);
  }
};

/// Heads are nearest, then pieces of time, so that neighbours read the same rows.
struct attention_task {
  index_t batch, head, piece;
  __device__ attention_task(index_t task, const attention_shape& s, index_t pieces)
      : batch(task / s.heads / pieces), head(task % s.heads), piece(task / s.heads % pieces) {}
};

/// Where a block keeps its scores and tiles.
template <class Acc>
struct attention_memory {
  product_tiles<Acc>* tiles;
  Acc* scores;
  __device__ attention_memory(uint4* shared, Acc* scratch, const attention_shape& s)
      : tiles(reinterpret_cast<product_tiles<Acc>*>(shared)),
        scores(scratch ? scratch + blockIdx.x * product_tile * s.pitch()
                       : reinterpret_cast<Acc*>(tiles + 1)) {}
};

template <class T, class S>
struct attention_arrays {
  view<const T, 3> q;
  view<const S, 3> k, v;
  view<T, 3> o;
  view<T, 4> p;
  accumulator_t<T> scale;
  accumulator_t<T>* scratch;  // scores; null: shared memory
};

template <class T, class S>
__global__ void __launch_bounds__(product_threads)
    attention_kernel(attention_arrays<T, S> a, attention_shape s, index_t tasks, index_t pieces) {
  using Acc = accumulator_t<T>;
  extern __shared__ uint4 mmrec_shared[];
  const attention_memory<Acc> memory(mmrec_shared, a.scratch, s);
  const index_t d = s.head_width(), pitch = s.pitch();
  const team warp(team_shape{32});
  for (index_t task = blockIdx.x; task < tasks; task += gridDim.x) {
    const auto [b, head, piece] = attention_task(task, s, pieces);
    const index_t t0 = piece * product_tile, c0 = head * d;
    const index_t rows = min(index_t{product_tile}, s.time - t0);
    block_product(*memory.tiles, along_depth<T>{&a.q(b, t0, c0), a.q.stride(1)},
                  along_depth<S>{&a.k(b, 0, c0), a.k.stride(1)}, rows, s.slots, d,
                  [&](index_t i, index_t m, Acc x) { memory.scores[i * pitch + m] = x * a.scale; });
    __syncthreads();
    for (index_t i = warp.number; i < rows; i += product_threads / 32) {
      Acc* const row = memory.scores + i * pitch;
      Acc most[1] = {-std::numeric_limits<Acc>::infinity()}, total[1] = {Acc(0)};
      for (index_t m = warp.rank; m < s.slots; m += 32) most[0] = larger{}(most[0], row[m]);
      all_reduce(warp, most, larger{});
      for (index_t m = warp.rank; m < s.slots; m += 32)
        total[0] += row[m] = math::exp(row[m] - most[0]);
      all_reduce(warp, total, plus{});
      const Acc inverse = Acc(1) / total[0];
      for (index_t m = warp.rank; m < s.slots; m += 32) {
        row[m] *= inverse;
        if (a.p) a.p(b, head, t0 + i, m) = narrow<T>(row[m]);
      }
    }
    block_product(*memory.tiles, along_depth<Acc>{memory.scores, pitch},
                  along_outer<S>{&a.v(b, 0, c0), a.v.stride(1)}, rows, d, s.slots,
                  [&](index_t i, index_t c, Acc x) { a.o(b, t0 + i, c0 + c) = narrow<T>(x); });
  }
}

template <class T, class S>
struct attention_backward_arrays {
  view<const T, 3> d_o, q;
  view<const S, 3> k, v;
  view<const T, 4> p;
  view<T, 3> dq;
  accumulator_t<T>*dk, *dv;  // (pieces, batch, slots, width), or null
  accumulator_t<T> scale;
  accumulator_t<T>* scratch;
};

template <class T, class S>
__global__ void __launch_bounds__(product_threads)
    attention_backward_kernel(attention_backward_arrays<T, S> a, attention_shape s, index_t tasks,
                              index_t pieces) {
  using Acc = accumulator_t<T>;
  extern __shared__ uint4 mmrec_shared[];
  const attention_memory<Acc> memory(mmrec_shared, a.scratch, s);
  const index_t d = s.head_width(), pitch = s.pitch();
  const team warp(team_shape{32});
  for (index_t task = blockIdx.x; task < tasks; task += gridDim.x) {
    const auto [b, head, piece] = attention_task(task, s, pieces);
    const index_t c0 = head * d, first = piece * s.tiles_to_piece * product_tile;
    const index_t last = min(s.time, first + s.tiles_to_piece * product_tile);
    for (index_t t0 = first; t0 < last; t0 += product_tile) {
      const index_t rows = min(index_t{product_tile}, last - t0);
      const auto add_to = [&](Acc* sums) {
        Acc* const mine = sums + (piece * s.batch + b) * s.slots * s.width + c0;
        return [&s, mine, start = t0 == first](index_t m, index_t c, Acc x) {
          Acc& sum = mine[m * s.width + c];
          sum = start ? x : sum + x;
        };
      };
      const T* const d_o = &a.d_o(b, t0, c0);
      if (a.dv)
        block_product(*memory.tiles, along_outer<T>{&a.p(b, head, t0, 0), a.p.stride(2)},
                      along_outer<T>{d_o, a.d_o.stride(1)}, s.slots, d, rows, add_to(a.dv));
      if (!a.dq && !a.dk) continue;
      block_product(*memory.tiles, along_depth<T>{d_o, a.d_o.stride(1)},
                    along_depth<S>{&a.v(b, 0, c0), a.v.stride(1)}, rows, s.slots, d,
                    [&](index_t i, index_t m, Acc x) { memory.scores[i * pitch + m] = x; });
      __syncthreads();
      for (index_t i = warp.number; i < rows; i += product_threads / 32) {
        Acc* const row = memory.scores + i * pitch;
        const T* const p = &a.p(b, head, t0 + i, 0);
        Acc mean[1] = {Acc(0)};
        for (index_t m = warp.rank; m < s.slots; m += 32) mean[0] += row[m] * widen<Acc>(p[m]);
        all_reduce(warp, mean, plus{});
        for (index_t m = warp.rank; m < s.slots; m += 32)
          row[m] = widen<Acc>(p[m]) * (row[m] - mean[0]) * a.scale;
      }
      if (a.dq)
        block_product(*memory.tiles, along_depth<Acc>{memory.scores, pitch},
                      along_outer<S>{&a.k(b, 0, c0), a.k.stride(1)}, rows, d, s.slots,
                      [&](index_t i, index_t c, Acc x) { a.dq(b, t0 + i, c0 + c) = narrow<T>(x); });
      if (a.dk)
        block_product(*memory.tiles, along_outer<Acc>{memory.scores, pitch},
                      along_outer<T>{&a.q(b, t0, c0), a.q.stride(1)}, s.slots, d, rows,
                      add_to(a.dk));
      __syncthreads();  // the scores have been read
    }
  }
}

/// How the kernels are launched: scores in shared memory if the device has that much.
template <class Acc>
struct attention_launch {
  launch_shape shape;
  std::size_t scratch_bytes = 0;
  attention_launch(const char* function, const attention_shape& s)
      : shape{s.tasks(), product_threads, sizeof(product_tiles<Acc>) + s.score_bytes<Acc>()} {
    if (shape.shared_bytes <= static_cast<std::size_t>(current_device(function).shared_bytes))
      return;
    shape.blocks = std::min(shape.blocks, attention_blocks);
    shape.shared_bytes = sizeof(product_tiles<Acc>);
    scratch_bytes = static_cast<std::size_t>(shape.blocks) * s.score_bytes<Acc>();
  }
};

}  // namespace cuda::kernels

template <element T, element S>
void attention_heads(const backend::cuda& backend, const view<const T, 3>& q,
                     const view<const S, 3>& k, const view<const S, 3>& v, index_t heads,
                     const view<T, 3>& o, const attention_options<T>& options) {
  namespace ks = cuda::kernels;
  using Acc = accumulator_t<T>;
  const char* function = "attention";
  const ks::attention_shape s{q.extent(0), q.extent(1), k.extent(1), heads, q.extent(2)};
  if (s.tasks() == 0) return;
  const ks::attention_launch<Acc> how(function, s);
  const cuda::stream_scratch scratch(backend, function, how.scratch_bytes);
  const ks::attention_arrays<cuda::stored<T>, cuda::stored<S>> arrays{
      cuda::stored_view(q),
      cuda::stored_view(k),
      cuda::stored_view(v),
      cuda::stored_view(o),
      cuda::stored_view(options.probabilities),
      Acc(1) / std::sqrt(static_cast<Acc>(s.head_width())),
      reinterpret_cast<Acc*>(scratch.data())};
  cuda::launch(backend, function, how.shape, ks::attention_kernel<cuda::stored<T>, cuda::stored<S>>,
               arrays, s, s.tasks(), s.pieces());
}

template <element T, element S>
void attention_backward_heads(const backend::cuda& backend, const view<const T, 3>& d_o,
                              const view<const T, 3>& q, const view<const S, 3>& k,
                              const view<const S, 3>& v, const view<const T, 4>& p, index_t heads,
                              const attention_gradients<T, S>& gradients) {
  namespace ks = cuda::kernels;
  using Acc = accumulator_t<T>;
  const char* function = "attention_backward";
  ks::attention_shape s{q.extent(0), q.extent(1), k.extent(1), heads, q.extent(2)};
  const index_t most =
      std::max<index_t>(1, ks::attention_pieces / std::max<index_t>(1, s.batch * s.heads));
  s.tiles_to_piece = std::max<index_t>(2, (s.tiles() + most - 1) / most);
  const index_t pieces = s.pieces(), bank = s.batch * s.slots * s.width;
  const auto sum_bytes = static_cast<std::size_t>(pieces * bank) * sizeof(Acc);
  const cuda::stream_scratch dk(backend, function, gradients.dk ? sum_bytes : 0);
  const cuda::stream_scratch dv(backend, function, gradients.dv ? sum_bytes : 0);
  auto *const dk_sums = reinterpret_cast<Acc*>(dk.data()), *const dv_sums =
                                                               reinterpret_cast<Acc*>(dv.data());
  if (s.tasks() > 0) {
    const ks::attention_launch<Acc> how(function, s);
    const cuda::stream_scratch scratch(backend, function, how.scratch_bytes);
    const ks::attention_backward_arrays<cuda::stored<T>, cuda::stored<S>> arrays{
        cuda::stored_view(d_o),
        cuda::stored_view(q),
        cuda::stored_view(k),
        cuda::stored_view(v),
        cuda::stored_view(p),
        cuda::stored_view(gradients.dq),
        dk_sums,
        dv_sums,
        Acc(1) / std::sqrt(static_cast<Acc>(s.head_width())),
        reinterpret_cast<Acc*>(scratch.data())};
    cuda::launch(backend, function, how.shape,
                 ks::attention_backward_kernel<cuda::stored<T>, cuda::stored<S>>, arrays, s,
                 s.tasks(), pieces);
  }
  if (gradients.dk)
    cuda::sum_rows(backend, function, dk_sums, pieces, gradients.dk, gradients.accumulate_memory);
  if (gradients.dv)
    cuda::sum_rows(backend, function, dv_sums, pieces, gradients.dv, gradients.accumulate_memory);
}

}  // namespace mmrec
