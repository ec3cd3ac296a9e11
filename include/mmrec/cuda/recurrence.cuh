// SPDX-License-Identifier: Apache-2.0
// The gated recurrence on the GPU: two solvers, each one kernel that stays on the device.
//
//   sequential   a step costs one exchange through L2; weights stay in registers         walk.cuh
//   parallel     a window of time: sweeps until nothing moves, decided on the device   sweeps.cuh
//
// recurrence_tuning says which of them `solver::automatic` means. What does not wait for a step is
// a product over all of them, before (the z half of the mix gate) or after (the gradients of
// weights and of z). Nothing waits for the device, and all of it can be captured.
//
// Scratch, in elements of the arithmetic type: forward 2 tokens x D, adjoint 7 tokens x D (with the
// mix gate; what steps hand over counts the batch in eights from eight on), plus copies of what
// products cannot read as it lies, and the two parts of a few tokens and of the weights
// (linear/split_product.cuh). The bits are the same in every run.
#pragma once

#include <mmrec/cuda/linear/split_product.cuh>
#include <mmrec/cuda/recurrence/gradients.cuh>
#include <mmrec/cuda/recurrence/sweeps.cuh>
#include <mmrec/cuda/recurrence/walk.cuh>
#include <mmrec/cuda/reduce.cuh>
#include <mmrec/recurrence_types.hpp>

#include <algorithm>
#include <cstddef>

namespace mmrec {
namespace cuda {

/// The rule behind solver::automatic, in microseconds as they were measured in float: the walk's on
/// an H100, the sweeps' on an H200.
struct recurrence_tuning {
  double step = 1.15;                ///< of the walk: one exchange, and the block's own latencies
  double step_per_megaflop = 0.023;  ///< of a step's products
  double sweeps = 10, sweep = 55;  ///< how many a contracting system takes; what one costs a window
  double sweep_per_megaflop = 0.09;

  enum solver pick(index_t batch, index_t time, index_t d, index_t window) const {
    const double flops = 4e-6 * static_cast<double>(batch) * static_cast<double>(d * d),
                 steps = static_cast<double>(time),
                 windows = static_cast<double>((time + window - 1) / window);
    const double walk = steps * (step + step_per_megaflop * flops),
                 swept = sweeps * (windows * sweep + steps * sweep_per_megaflop * flops);
    return swept < walk ? solver::parallel : solver::sequential;
  }
};
inline recurrence_tuning& tuning_of_recurrence() {
  static recurrence_tuning t;
  return t;
}

namespace detail {

/// Unwritten words, zero where there is no unit (of `pitch`, only d are); slot 0 holds `initial`
/// (absent: zero) if it is the state before the first step.
template <class Acc>
__global__ void __launch_bounds__(256)
    begin_exchange_kernel(const __grid_constant__ exchanged<Acc> x, index_t batch, index_t pitch,
                          index_t d, bool starts, view<const Acc, 2> initial) {
  const unsigned words = static_cast<unsigned>(x.way(0, 1)), depth = static_cast<unsigned>(x.depth),
                 stride = static_cast<unsigned>(x.stride());
  for (index_t slot = blockIdx.x; slot < x.tiles(batch) * x.slots; slot += gridDim.x)
    for (unsigned k = threadIdx.x; k < words; k += blockDim.x) {
      const index_t b = slot / x.slots * x.rows + k % stride / depth,
                    j = (k / stride * depth + k % depth) % static_cast<unsigned>(pitch);
      Acc value(0);
      if (j < d && b < batch) {
        if (!starts || slot % x.slots > 0)
          value = std::bit_cast<Acc>(not_written<Acc>);
        else if (initial)
          value = sendable(initial(b, j));
      }
      x.data[slot * words + k] = value;
    }
}
template <class Acc>
void begin_exchange(const backend::cuda& on, const char* function, const exchanged<Acc>& x,
                    index_t batch, index_t pitch, index_t d, bool starts,
                    const view<const Acc, 2>& initial) {
  launch(on, function, {std::min<index_t>(x.tiles(batch) * x.slots, 4096), 256, 0},
         begin_exchange_kernel<Acc>, x, batch, pitch, d, starts, initial);
}

template <class Acc>
__global__ void last_states_kernel(const __grid_constant__ exchanged<Acc> x, view<Acc, 2> to) {
  for (index_t j = threadIdx.x; j < to.extent(1); j += blockDim.x)
    to(blockIdx.x, j) = x(blockIdx.x, x.slots - 1)[x.place(j)];
}

template <class V>
__global__ void store_kernel(V* to, const __grid_constant__ V value) {
  *to = value;
}

/// (batch, time, n) as the rows of a matrix; false: no one stride leads from row to row.
template <class E>
bool one_matrix(const view<E, 3>& v, view<E, 2>& m) {
  const index_t batch = v.extent(0), time = v.extent(1);
  const bool regular = batch == 1 || time == 1 || v.stride(0) == time * v.stride(1);
  m = {v.data_handle(), {batch * time, v.extent(2)}, {v.stride(time == 1 ? 0 : 1), v.stride(2)}};
  return regular;
}

/// mixed = W_m[:, :D] z for every token.
template <class S, class Acc>
void mix_of_tokens(const backend::cuda& on, const char* function, const view<const S, 3>& z,
                   const view<const S, 2>& weights, Acc* mixed) {
  const index_t d = z.extent(2), time = z.extent(1);
  const auto to = [&](index_t b, index_t rows) {
    return view<Acc, 2>(mixed + b * time * d, {rows, d});
  };
  view<const S, 2> all;
  if (one_matrix(z, all))
    return multiply_split(on, function, all, weights.permuted({1, 0}), to(0, all.extent(0)), false);
  for (index_t b = 0; b < z.extent(0); ++b)
    multiply_split(on, function, z.select(0, b), weights.permuted({1, 0}), to(b, time), false);
}

/// Where the device writes what it did, and what is known before.
struct report_place {
  recurrence_report known;
  recurrence_report* to;
  report_place(const backend::cuda& on, const char* function, const recurrence_form& form,
               index_t batch, index_t time, index_t d, recurrence_report* report)
      : known{form.solver == solver::automatic
                  ? tuning_of_recurrence().pick(batch, time, d, form.window)
                  : form.solver},
        to(report) {
    if (to) launch(on, function, {1, 1, 0}, store_kernel<recurrence_report>, to, known);
  }
  bool in_sweeps() const { return known.solver == solver::parallel; }
  recurrence_report returned(const recurrence_form& form, index_t time) const {
    if (!in_sweeps()) return known;
    return {solver::parallel, (time + form.window - 1) / form.window, unknown_yet, unknown_yet};
  }
};

/// All steps by one walk, or window by window (from the last one on: Backwards) by sweeps, with a
/// walk behind each for the steps that its sweeps have left.
template <bool Backwards, class Steps>
void solve(const backend::cuda& on, const char* function, const Steps& steps,
           const recurrence_form& form, const report_place& report) {
  using Acc = typename Steps::Acc;
  const index_t time = steps.r.time, batch = steps.r.batch, d = steps.r.d;
  if (!report.in_sweeps()) return enqueue_walk(on, function, steps, {0, time});
  const index_t window = std::min(form.window, time);
  const stream_scratch source(on, function, bytes_of<Acc>(batch * window * d)),
      memory(on, function, sizeof(sweep_memory<Acc>));
  auto* const left = scratch_array<sweep_memory<Acc>>(memory);
  for (index_t done = 0; done < time; done += window) {
    const index_t count = std::min(window, time - done);
    sweep_window<Acc> w{};
    w.from = Backwards ? time - done - count : done, w.steps = count;
    w.limit = std::min(form.max_sweeps, count + 1);
    w.tolerance = mmrec::detail::solver_tolerance<Acc>(form);
    w.source = scratch_array<Acc>(source);
    w.memory = left, w.report = report.to;
    enqueue_sweeps(on, function, steps, w);
    if (form.max_sweeps <= count)  // more sweeps than steps leave nothing
      enqueue_walk(on, function, steps, {}, &left->remaining);
  }
}

}  // namespace detail
}  // namespace cuda

template <element T>
recurrence_report solve_recurrence(const backend::cuda& on, const view<const T, 3>& z,
                                   const view<const T, 3>& gamma, const recurrence_weights<T>& w,
                                   const view<T, 3>& h, const recurrence_options<T>& options) {
  using namespace cuda::detail;
  using S = cuda::stored<T>;
  using Acc = accumulator_t<T>;
  const char* const function = "recurrence";
  const auto& form = options.form;
  const auto [batch, time, d] = z.extents();
  const report_place report(on, function, form, batch, time, d, options.report);
  if (batch == 0) return report.returned(form, time);

  forward_steps<S> steps;
  steps.r = {z, gamma, w, form};
  steps.h = cuda::stored_view(h), steps.gates = cuda::stored_view(options.gates);
  steps.x = {batch, time + 1, steps.r.pitch};
  const cuda::stream_scratch states(on, function, bytes_of<Acc>(steps.x.words(batch))),
      mixed(on, function, bytes_of<Acc>(form.mix_gate ? batch * time * d : 0));
  steps.x.data = scratch_array<Acc>(states), steps.mixed = scratch_array<Acc>(mixed);
  begin_exchange(on, function, steps.x, batch, steps.r.pitch, d, true, options.initial);
  if (time > 0) {
    if (form.mix_gate)
      mix_of_tokens(on, function, steps.r.z, cuda::stored_view(w.mix.slice(1, 0, d)),
                    scratch_array<Acc>(mixed));
    solve<false>(on, function, steps, form, report);
  }
  if (options.final)
    cuda::launch(on, function, {batch, 256, 0}, last_states_kernel<Acc>, steps.x, options.final);
  return report.returned(form, time);
}

template <element T>
recurrence_report solve_adjoint(const backend::cuda& on, const view<const T, 3>& g,
                                const view<const T, 3>& z, const view<const T, 3>& gamma,
                                const view<const T, 3>& h, const recurrence_weights<T>& w,
                                const recurrence_gradients<T>& out) {
  using namespace cuda::detail;
  using S = cuda::stored<T>;
  using Acc = accumulator_t<T>;
  const char* const function = "recurrence_backward";
  const auto& form = out.form;
  const auto [batch, time, d] = z.extents();
  const index_t tokens = batch * time;
  const report_place report(on, function, form, batch, time, d, out.report);

  adjoint_steps<S> steps;
  steps.r = {z, gamma, w, form};
  steps.g = cuda::stored_view(g), steps.gates = cuda::stored_view(out.gates);
  const index_t pitch = steps.r.pitch, width = steps.r.gates * pitch;
  steps.x = {batch, time, width};
  const cuda::stream_scratch before(on, function, bytes_of<Acc>(tokens * d)),
      e(on, function, bytes_of<Acc>(tokens * d)), a(on, function, bytes_of<Acc>(tokens * width)),
      sent(on, function, bytes_of<Acc>(steps.x.words(batch))),
      carry(on, function, bytes_of<Acc>(batch * d));
  Acc* const p = scratch_array<Acc>(before);
  steps.p = p, steps.e = scratch_array<Acc>(e), steps.a = scratch_array<Acc>(a);
  steps.x.data = scratch_array<Acc>(sent), steps.carry = scratch_array<Acc>(carry);
  const auto fill = [&](const view<Acc, 2>& to, const view<const Acc, 2>& from) {
    if (to.empty()) return;
    if (from)
      enqueue_transform(on, function, same_value{}, std::tuple{to}, std::tuple{from});
    else
      enqueue_transform(on, function, constant_value<Acc>{Acc(0)}, std::tuple{to}, std::tuple{});
  };
  fill({steps.carry, {batch, d}}, out.dfinal);
  if (tokens > 0) {
    const view<Acc, 3> states(p, {batch, time, d});
    fill(states.select(1, 0), out.initial);
    if (time > 1)
      enqueue_transform(on, function, same_value{}, std::tuple{states.slice(1, 1, time - 1)},
                        std::tuple{h.slice(1, 0, time - 1)});
    begin_exchange(on, function, steps.x, batch, pitch, d, false, {});
    if (pitch > d)  // a's padding takes part in products whose results nobody reads
      cuda::check(function, "cudaMemsetAsync",
                  cudaMemsetAsync(steps.a, 0, bytes_of<Acc>(tokens * width), cuda::stream_of(on)));
    solve<true>(on, function, steps, form, report);
  }
  gradients_of_tokens(on, function, steps, w, out);
  if (out.dinitial) fill(out.dinitial, view<const Acc, 2>(steps.carry, {batch, d}));
  return report.returned(form, time);
}

}  // namespace mmrec
