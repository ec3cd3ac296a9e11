// SPDX-License-Identifier: Apache-2.0
// AdamW with decoupled weight decay (Loshchilov and Hutter, 2019), gradient norm and clipping, and
// the warm-up and cosine schedule. A model's parameters are one flat array and so are its gradients
// and moments: each of these is one call.
//
//   m = b1 m + (1 - b1) g;   v = b2 v + (1 - b2) g^2
//   w = w - rate (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + decay w)
//
//   w, g, m, v (n)
//
// All four are of one element type: float, double or 16-bit storage. The norm is a double. On the
// GPU root and quotient in float are within two units in the last place. Errors: shapes, null data,
// overlap, a step below 1, betas outside [0, 1), a rate, epsilon or decay that is negative or NaN,
// for the norm another stride than 1.
//
//   const double norm = norm2(backend::simd{}, g);
//   adamw(backend::simd{}, w, g, m, v,
//         {.rate = schedule(t), .gradient_scale = clip_factor(norm, 1.0), .step = t});
//
// On the GPU norm2 waits for its value. Clipping without that, as a captured step needs it:
//
//   clip_to(backend::cuda{stream}, g, 1.0, clip);            // clip: a gradient_clip on the device
//   adamw(backend::cuda{stream}, w, g, m, v, {.clip = clip, .rates = rates});   // likewise
#pragma once

#include <mmrec/check_outputs.hpp>
#include <mmrec/loops.hpp>
#include <mmrec/transform.hpp>

#include <cmath>
#include <limits>

namespace mmrec {

/// A gradient's norm, and the factor that clips it.
struct gradient_clip {
  double norm = 0, factor = 1;
};

/// What changes from step to step of a schedule.
struct adamw_rates {
  double rate = 1e-3;
  double correction1 = 1, correction2 = 1;  ///< 1 / (1 - beta^t)
};

struct adamw_options {
  double rate = 1e-3;
  double beta1 = 0.9, beta2 = 0.999;
  double epsilon = 1e-8;
  double decay = 0.01;
  double gradient_scale =
      1;  ///< multiplies every gradient first: clipping without a pass of its own
  /// If not null, its factor too multiplies every gradient, and the update changes nothing if its
  /// norm is not finite: memory that the backend reads when the update runs (backend::cuda: the
  /// device's), where clip_to left it.
  const gradient_clip* clip = nullptr;
  /// If not null, memory of the same kind that stands in for rate and step: a captured update then
  /// follows its schedule (rates_of gives the values).
  const adamw_rates* rates = nullptr;
  index_t step = 1;  ///< t, counted from 1
};

/// The rate and corrections of o.step.
inline adamw_rates rates_of(const adamw_options& o) {
  return {o.rate, 1 / (1 - std::pow(o.beta1, static_cast<double>(o.step))),
          1 / (1 - std::pow(o.beta2, static_cast<double>(o.step)))};
}

namespace detail {

/// New w, m and v from w, g, m and v. The constants are in the accumulator: on a GPU it would take
/// as long to convert them for every element as to move it.
template <class Acc>
struct adamw_update {
  Acc gradient_scale, beta1, rest1, beta2, rest2, epsilon, decay;
  Acc rate, correction1, correction2;

  adamw_update(const adamw_options& o, const adamw_rates& at)
      : gradient_scale(static_cast<Acc>(o.gradient_scale)),
        beta1(static_cast<Acc>(o.beta1)),
        rest1(static_cast<Acc>(1 - o.beta1)),
        beta2(static_cast<Acc>(o.beta2)),
        rest2(static_cast<Acc>(1 - o.beta2)),
        epsilon(static_cast<Acc>(o.epsilon)),
        decay(static_cast<Acc>(o.decay)) {
    follow(at);
  }
  MMREC_HD void follow(const adamw_rates& at) {
    rate = static_cast<Acc>(at.rate);
    correction1 = static_cast<Acc>(at.correction1);
    correction2 = static_cast<Acc>(at.correction2);
  }

  template <class V>
  MMREC_HD std::array<V, 3> operator()(const V& w0, const V& g0, const V& m0, const V& v0) const {
    const V gradient = g0 * V(gradient_scale);
    const V m1 = m0 * V(beta1) + gradient * V(rest1);
    const V v1 = v0 * V(beta2) + gradient * gradient * V(rest2);
    const V direction =
        math::near_quotient(m1 * V(correction1), math::near_sqrt(v1 * V(correction2)) + V(epsilon));
    return {w0 - V(rate) * (direction + V(decay) * w0), m1, v1};
  }
};

/// An update that may be left out.
template <class Acc>
struct adamw_update_if {
  adamw_update<Acc> update;
  bool wanted = true;

  template <class V>
  MMREC_HD std::array<V, 3> operator()(const V& w0, const V& g0, const V& m0, const V& v0) const {
    return wanted ? update(w0, g0, m0, v0) : std::array<V, 3>{w0, m0, v0};
  }
};

/// The same with what lies in the backend's memory.
template <class Acc>
struct adamw_update_from_memory {
  adamw_update<Acc> update;
  double gradient_scale;
  const gradient_clip* clip;
  const adamw_rates* rates;

  MMREC_HD adamw_update_if<Acc> prepare() const {
    adamw_update_if<Acc> now{update};
    if (rates) now.update.follow(*rates);
    if (clip) {
      now.update.gradient_scale = static_cast<Acc>(gradient_scale * clip->factor);
      now.wanted = clip->norm <= std::numeric_limits<double>::max();  // false for NaN
    }
    return now;
  }
};

}  // namespace detail

/// One update of a flat array, in place.
template <backend_tag B, writable_array<1> W, readable_array<1> G, writable_array<1> M,
          writable_array<1> V>
void adamw(const B& backend, const W& w, const G& g, const M& m, const V& v,
           const adamw_options& o) {
  using T = element_of<W>;
  detail::require_one_type<T, element_of<G>, element_of<M>, element_of<V>>();
  require_built<B>();
  const view<T, 1> weights = as_view(w), first = as_view(m), second = as_view(v);
  const view<const T, 1> gradient = as_view(g);
  check_view("adamw", "w", weights, weights.extents());
  check_view("adamw", "g", gradient, weights.extents());
  check_view("adamw", "m", first, weights.extents());
  check_view("adamw", "v", second, weights.extents());
  if (o.step < 1) throw error("adamw", "step", "1 or more", std::to_string(o.step));
  check_rate("adamw", "beta1", o.beta1);
  check_rate("adamw", "beta2", o.beta2);
  check_not_negative("adamw", "rate", o.rate);
  check_not_negative("adamw", "epsilon", o.epsilon);
  check_not_negative("adamw", "decay", o.decay);
  check_outputs("adamw",
                std::tuple{argument{"w", weights}, argument{"m", first}, argument{"v", second}},
                std::tuple{argument{"g", gradient}});
  const detail::adamw_update<accumulator_t<T>> update(o, rates_of(o));
  const std::tuple outputs{weights, first, second};
  if (o.clip || o.rates)
    transform(backend, detail::adamw_update_from_memory{update, o.gradient_scale, o.clip, o.rates},
              outputs, weights, gradient, first, second);
  else
    transform(backend, update, outputs, weights, gradient, first, second);
}

namespace detail {

/// How the norm's sum of squares is cut on every backend and architecture, so that its bits are the
/// same: blocks with interleaved sums in each, and interleaved sums of the blocks.
inline constexpr index_t norm_block = 4096;
inline constexpr int norm_lanes = 16, norm_block_lanes = 256;
inline index_t norm_blocks(index_t n) { return (n + norm_block - 1) / norm_block; }

}  // namespace detail

/// What norm2 does once its argument is checked.
template <loop_backend B, element T>
double root_of_squares(const B& backend, const view<const T, 1>& g) {
  constexpr index_t block = detail::norm_block;
  constexpr std::size_t lanes = detail::norm_lanes;
  const index_t blocks = detail::norm_blocks(g.size());
  scratch<double> partial(scratch_of(backend),
                          static_cast<std::size_t>(std::max<index_t>(1, blocks)));
  for_each_row(backend, blocks, block, [&](index_t i) {
    std::array<double, lanes> sums{};
    const T* from = g.data_handle() + i * block;
    const auto n = static_cast<std::size_t>(std::min(block, g.size() - i * block));
    const auto add = [&](std::size_t lane, const T* x) {
      const auto value = static_cast<double>(load_element<accumulator_t<T>>(x));
      sums[lane] += value * value;
    };
    std::size_t j = 0;
    for (; j + lanes <= n; j += lanes)
      for (std::size_t lane = 0; lane < lanes; ++lane) add(lane, from + j + lane);
    for (; j < n; ++j) add(j % lanes, from + j);
    double& total = partial[static_cast<std::size_t>(i)];
    total = 0;
    for (const double sum : sums) total += sum;
  });
  std::array<double, detail::norm_block_lanes> sums{};
  for (std::size_t i = 0; i < static_cast<std::size_t>(blocks); ++i)
    sums[i % sums.size()] += partial[i];
  double total = 0;
  for (const double sum : sums) total += sum;
  return std::sqrt(total);
}

/// Euclidean norm of a flat array, summed in double. NaN if any element is.
template <backend_tag B, readable_array<1> G>
double norm2(const B& backend, const G& g) {
  require_built<B>();
  const view<const element_of<G>, 1> gradient = as_view(g);
  check_dense("norm2", "g", gradient, gradient.extents());
  return root_of_squares(backend, gradient);
}

/// The factor that brings a gradient of this norm down to `limit` (0: no limit).
MMREC_HD inline double clip_factor(double norm, double limit) {
  return limit > 0 && norm > limit ? limit / norm : 1.0;
}

/// What clip_to does once its arguments are checked.
template <loop_backend B, element T>
void write_clip(const B& backend, const view<const T, 1>& g, double limit, gradient_clip* to) {
  const double norm = root_of_squares(backend, g);
  *to = {norm, clip_factor(norm, limit)};
}

/// The norm and the factor for this limit, left where the backend can read them.
template <backend_tag B, readable_array<1> G>
void clip_to(const B& backend, const G& g, double limit, gradient_clip* to) {
  require_built<B>();
  const view<const element_of<G>, 1> gradient = as_view(g);
  check_dense("clip_to", "g", gradient, gradient.extents());
  if (!to) throw error("clip_to", "to", "memory for the result", "a null pointer");
  write_clip(backend, gradient, limit, to);
}

/// Linear warm-up from 0 to `peak` over `warmup` steps, then a cosine down to `floor` at step
/// `total`. Where the warm-up takes all steps the floor follows it at once, without the peak.
struct cosine_schedule {
  double peak = 1e-3, floor = 1e-4;
  index_t warmup = 100, total = 2000;
  double operator()(index_t step) const {  // step counted from 1
    if (step < warmup) return peak * static_cast<double>(step) / static_cast<double>(warmup);
    if (step >= total || total <= warmup) return floor;
    const double progress =
        static_cast<double>(step - warmup) / static_cast<double>(total - warmup);
    return floor + (peak - floor) * 0.5 * (1 + std::cos(3.14159265358979323846 * progress));
  }
};

}  // namespace mmrec

#if defined(__CUDACC__)
#include <mmrec/cuda/optimizer.cuh>
#endif
