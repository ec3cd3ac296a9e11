// SPDX-License-Identifier: Apache-2.0
// RMSNorm on the GPU: a team of threads to each row (reduce.cuh), which reads it once.
//
// Bytes per element, beside w: forward 1 read and 1 write; backward 2 reads and 1 write. The
// gradient of w is summed in registers over the rows that a team takes in turn, then over teams by
// a second kernel; teams are at most `gradient_threads` threads, so that their sums are few.
#pragma once

#include <mmrec/cuda/reduce.cuh>
#include <mmrec/norm.hpp>

namespace mmrec {
namespace cuda::kernels {

inline constexpr int norm_kept = 4, norm_backward_kept = 2;  // packs
inline constexpr index_t gradient_threads = index_t{1} << 17;
inline constexpr index_t gradient_rows = 4;  // that a team takes at least, where there are enough

template <class T>
__global__ void __launch_bounds__(max_team)
    rms_norm_kernel(row_matrix<const T> x, row_matrix<const T> w, row_matrix<T> y, index_t rows,
                    index_t n, team_shape shape, rms_norm_options options) {
  using Acc = accumulator_t<T>;
  constexpr int kept = norm_kept;
  const team t(shape);
  const index_t i = t.row();
  if (i >= rows) return;  // all of a warp, or none of a block
  const T* const xi = x.row(i);
  T* const yi = y.row(i);
  kept_row<T, kept> xs(t, n, xi, x.aligned), ws(t, n, w.data, w.aligned);
  Acc squares[1] = {Acc(0)};
  for_packs<T, kept>(t, n, [&](int k, index_t j, index_t live) {
    if (k == kept) xs.packs[k] = load_pack(xi + j, live, x.aligned);
#pragma unroll
    for (const T& v : xs.packs[k].element) squares[0] += widen<Acc>(v) * widen<Acc>(v);
  });
  all_reduce(t, squares, plus{});
  const Acc inverse = mmrec::detail::rms_scale(squares[0], n, options).inverse;
  for_packs<T, kept>(t, n, [&](int k, index_t j, index_t live) {
    if (k == kept) {
      xs.packs[k] = load_pack(xi + j, live, x.aligned);
      ws.packs[k] = load_pack(w.data + j, live, w.aligned);
    }
    pack<T> ys;
#pragma unroll
    for (int e = 0; e < pack_size<T>; ++e)
      ys.element[e] = narrow<T>(widen<Acc>(ws.packs[k].element[e]) *
                                widen<Acc>(xs.packs[k].element[e]) * inverse);
    store_pack(yi + j, ys, live, y.aligned);
  });
}

template <class T>
struct rms_norm_arrays {
  row_matrix<const T> dy, x, w, residual;
  row_matrix<T> dx;
  accumulator_t<T>* dw;  // (blocks, n), or null
};

template <class T>
__global__ void __launch_bounds__(max_team)
    rms_norm_backward_kernel(rms_norm_arrays<T> a, index_t rows, index_t n, team_shape shape,
                             rms_norm_options options) {
  using Acc = accumulator_t<T>;
  constexpr int size = pack_size<T>, kept = norm_backward_kept;
  const team t(shape);
  const index_t teams = blockDim.x / static_cast<unsigned>(shape.threads);
  Acc* const dw = a.dw + static_cast<index_t>(blockIdx.x) * n;
  Acc sums[kept][size] = {};
  const index_t start = blockIdx.x * teams + t.number;
  if (start < rows) {
    kept_row<T, kept> ws(t, n, a.w.data, a.w.aligned);
    for (index_t i = start; i < rows; i += gridDim.x * teams) {
      const T *const xi = a.x.row(i), *const gi = a.dy.row(i);
      kept_row<T, kept> xs(t, n, xi, a.x.aligned), gs(t, n, gi, a.dy.aligned);
      const auto read_again = [&](int k, index_t j, index_t live) {
        if (k < kept) return;
        ws.packs[k] = load_pack(a.w.data + j, live, a.w.aligned);
        xs.packs[k] = load_pack(xi + j, live, a.x.aligned);
        gs.packs[k] = load_pack(gi + j, live, a.dy.aligned);
      };
      Acc total[2] = {};  // of x^2, of w dy x
      for_packs<T, kept>(t, n, [&](int k, index_t j, index_t live) {
        read_again(k, j, live);
#pragma unroll
        for (int e = 0; e < size; ++e) {
          const Acc v = widen<Acc>(xs.packs[k].element[e]);
          total[0] += v * v;
          total[1] += widen<Acc>(ws.packs[k].element[e]) * widen<Acc>(gs.packs[k].element[e]) * v;
        }
      });
      all_reduce(t, total, plus{});
      const auto s = mmrec::detail::rms_scale(total[0], n, options);
      const Acc along = total[1] * s.slope;
      for_packs<T, kept>(t, n, [&](int k, index_t j, index_t live) {
        read_again(k, j, live);
        pack<T> past{};
        if (a.residual) past = load_pack(a.residual.row(i) + j, live, a.residual.aligned);
        pack<T> ds;
#pragma unroll
        for (int e = 0; e < size; ++e) {
          const Acc v = widen<Acc>(xs.packs[k].element[e]), g = widen<Acc>(gs.packs[k].element[e]);
          const Acc share = g * v * s.inverse;
          if (k < kept)
            sums[k % kept][e] += share;
          else if (a.dw && e < live)  // the team is all of its block
            dw[j + e] = i == start ? share : dw[j + e] + share;
          Acc d = widen<Acc>(ws.packs[k].element[e]) * g * s.inverse - v * along;
          if (a.residual) d += widen<Acc>(past.element[e]);
          ds.element[e] = narrow<T>(d);
        }
        if (a.dx) store_pack(a.dx.row(i) + j, ds, live, a.dx.aligned);
      });
    }
  }
  if (!a.dw) return;
  // The teams of a block add up one after the other.
  __shared__ Acc block_sums[32 * kept * size];
  for (int turn = 0; turn < teams; ++turn) {
    if (t.number == turn)
      for_packs<T, kept>(t, n, [&](int k, index_t j, index_t live) {
        if (k == kept) return;
#pragma unroll
        for (int e = 0; e < size; ++e) {
          if (e >= live) continue;
          const Acc before = turn == 0 ? Acc(0) : block_sums[j + e];
          if (turn + 1 < teams)
            block_sums[j + e] = before + sums[k % kept][e];
          else
            dw[j + e] = before + sums[k % kept][e];
        }
      });
    __syncthreads();
  }
}

}  // namespace cuda::kernels

template <element T>
void rms_norm_rows(const backend::cuda& backend, const view<const T, 2>& x,
                   const view<const T, 1>& w, const view<T, 2>& y,
                   const rms_norm_options& options) {
  using S = cuda::stored<T>;
  const index_t rows = x.extent(0), n = x.extent(1);
  const auto shape = cuda::team_shape::of<S, cuda::kernels::norm_kept>(n);
  cuda::launch(backend, "rms_norm", {shape.blocks_for(rows), shape.block(), 0},
               cuda::kernels::rms_norm_kernel<S>, cuda::rows_of(x), cuda::rows_of(w),
               cuda::rows_of(y), rows, n, shape, options);
}

template <element T>
void rms_norm_backward_rows(const backend::cuda& backend, const view<const T, 2>& dy,
                            const view<const T, 2>& x, const view<const T, 1>& w,
                            const rms_norm_gradients<T>& gradients,
                            const view<const T, 2>& residual) {
  using S = cuda::stored<T>;
  using Acc = accumulator_t<T>;
  const char* function = "rms_norm_backward";
  const index_t rows = x.extent(0), n = x.extent(1);
  const auto shape = cuda::team_shape::of<S, cuda::kernels::norm_backward_kept>(n);
  // As many as one after the other take several rows each; the shape alone decides.
  const index_t blocks = std::min(
      cuda::kernels::gradient_threads / shape.block(),
      shape.blocks_for((rows + cuda::kernels::gradient_rows - 1) / cuda::kernels::gradient_rows));
  const auto bytes = static_cast<std::size_t>(gradients.dw ? blocks * n : 0) * sizeof(Acc);
  const cuda::stream_scratch partial(backend, function, bytes);
  auto* const sums = reinterpret_cast<Acc*>(partial.data());
  if (rows > 0)
    cuda::launch(backend, function, {blocks, shape.block(), 0},
                 cuda::kernels::rms_norm_backward_kernel<S>,
                 cuda::kernels::rms_norm_arrays<S>{cuda::rows_of(dy), cuda::rows_of(x),
                                                   cuda::rows_of(w), cuda::rows_of(residual),
                                                   cuda::rows_of(gradients.dx), sums},
                 rows, n, shape, gradients.options);
  if (gradients.dw)
    cuda::sum_rows(backend, function, sums, blocks,
                   view<T, 3>{gradients.dw.data_handle(), {1, 1, n}}, gradients.accumulate_dw);
}

}  // namespace mmrec
