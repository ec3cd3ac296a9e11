// SPDX-License-Identifier: Apache-2.0
// Problems for the scans, and the library's scans behind one call: an operator chosen at run time,
// arrays of any layout, every result checked against the oracle and every canary looked at.
#pragma once

#include "scan_oracle.hpp"

#include <Eigen/Core>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "strided_buffer.hpp"

namespace mmrec::testing {

// Values that T can represent, in double.
template <class T>
std::vector<double> random_values(std::int64_t n, std::uint64_t seed, double low, double high) {
  const auto stored = random_vector<T>(n, seed, low, high);
  std::vector<double> result;
  for (const T v : stored) result.push_back(static_cast<double>(v));
  return result;
}

template <class T>
std::vector<T> rounded(const std::vector<double>& values) {
  std::vector<T> result;
  for (const double v : values) result.push_back(static_cast<T>(static_cast<accumulator_t<T>>(v)));
  return result;
}

template <class T>
std::vector<double> widened(const std::vector<T>& values) {
  std::vector<double> result;
  for (const T v : values) result.push_back(static_cast<double>(v));
  return result;
}

// Inputs whose scan neither overflows nor vanishes within some hundred steps, of both signs where
// the operator takes both.
template <class T>
scan_problem random_problem(scan_op op, std::array<index_t, 3> shape, bool exclusive,
                            bool with_initial, std::vector<index_t> offsets, std::uint64_t seed) {
  scan_problem p;
  p.op = op;
  p.batch = shape[0], p.time = shape[1], p.channels = shape[2];
  p.exclusive = exclusive;
  p.offsets = std::move(offsets);
  const auto n = p.batch * p.time * p.channels;
  double low = -1, high = 1;
  if (op == scan_op::log_cumprod) low = 0.25, high = 2;
  if (op == scan_op::logcumsumexp) low = -4, high = 4;
  if (op == scan_op::linear_scan_logs || op == scan_op::log_linear_scan) low = -1, high = 0;
  p.a = random_values<T>(n, seed, low, high);
  // A product stays near 1 in size when its factors' logarithms average 0.
  if (op == scan_op::cumprod)
    for (double& v : p.a)
      v = static_cast<double>(T(static_cast<float>(std::copysign(std::exp2(0.2 * v), v))));
  if (has_two_inputs(op)) p.b = random_values<T>(n, seed + 1, -2, 2);
  if (with_initial)
    p.initial = random_values<accumulator_t<T>>(p.sequences() * p.channels, seed + 2, -1.5, 1.5);
  return p;
}

// A (sequence, channel) array of the state type, laid out like the streams.
template <class State>
class state_buffer {
 public:
  state_buffer(std::int64_t sequences, std::int64_t channels, layout kind)
      : buffer_({1, sequences, channels}, kind) {}
  state_buffer(std::int64_t sequences, std::int64_t channels, layout kind,
               const std::vector<double>& values)
      : state_buffer(sequences, channels, kind) {
    std::vector<State> states;
    for (const double v : values) states.push_back(static_cast<State>(v));
    buffer_.assign(states);
  }
  view<State, 2> get() { return buffer_.view().select(0, 0); }
  std::vector<State> values() const { return buffer_.values(); }
  bool canaries_intact() const { return buffer_.canaries_intact(); }

 private:
  strided_buffer<State> buffer_;
};

// The public functions by operator, compiled once for all tests (scan_calls.hpp): for every element
// type, on both backends. Acc = void: the element type's own accumulator.
template <class Acc, class B, class T, class State>
void call_scan(const B& backend, scan_op op, const view<const T, 3>& a, const view<const T, 3>& b,
               const view<T, 3>& y, const scan_options<State>& o, const log_domain& domain = {});

// The gradient of `a` goes to gradients.da, also for the operators of one input.
template <class Acc, class B, class T, class State>
void call_backward(const B& backend, scan_op op, const view<const T, 3>& dy,
                   const view<const T, 3>& a, const view<const T, 3>& b, const view<const T, 3>& y,
                   linear_scan_gradients<T, State> gradients, const log_domain& domain = {});

struct scan_layouts {
  layout a = layout::channel_last, b = layout::channel_last, y = layout::channel_last;
  layout states = layout::channel_last;
};

template <class T, class State = accumulator_t<T>>
struct scan_outcome {
  std::vector<T> y;
  std::vector<State> final;
  bool canaries_intact = false;
};

template <class T, class Acc = void, class B>
auto run_scan(const B& backend, const scan_problem& p, const scan_layouts& kinds = {},
              bool with_final = true) {
  using State = mmrec::detail::state_t<Acc, T>;
  strided_buffer<T> a(p.shape(), kinds.a, rounded<T>(p.a));
  strided_buffer<T> b(p.shape(), kinds.b);
  if (has_two_inputs(p.op)) b.assign(rounded<T>(p.b));
  strided_buffer<T> y(p.shape(), kinds.y);
  state_buffer<State> initial(p.sequences(), p.channels, kinds.states);
  state_buffer<State> final(p.sequences(), p.channels, kinds.states);
  scan_options<State> options{.exclusive = p.exclusive, .offsets = p.offsets};
  if (!p.initial.empty()) {
    initial = state_buffer<State>(p.sequences(), p.channels, kinds.states, p.initial);
    options.initial = initial.get();
  }
  if (with_final) options.final = final.get();
  call_scan<Acc>(backend, p.op, view<const T, 3>(a.view()), view<const T, 3>(b.view()), y.view(),
                 options, p.domain);
  return scan_outcome<T, State>{y.values(), final.values(),
                                a.canaries_intact() && b.canaries_intact() && y.canaries_intact() &&
                                    initial.canaries_intact() && final.canaries_intact()};
}

// The arrays of a problem, for tests that make the call themselves.
template <class T>
struct scan_arrays {
  strided_buffer<T> a, b, y;
  scan_arrays(const scan_problem& p, layout kind)
      : a(p.shape(), kind, rounded<T>(p.a)),
        b(p.shape(), kind, rounded<T>(has_two_inputs(p.op) ? p.b : p.a)),
        y(p.shape(), kind) {}
  view<const T, 3> in_a() { return a.view(); }
  view<const T, 3> in_b() { return b.view(); }
};

template <class T>
struct gradient_outcome {
  std::vector<T> da, db;
  std::vector<accumulator_t<T>> dinitial;
  bool canaries_intact = false;
};

struct gradient_request {
  layout dy = layout::channel_last, a = layout::channel_last, b = layout::channel_last;
  layout y = layout::channel_last, out = layout::channel_last, states = layout::channel_last;
  bool da = true, db = true, dinitial = true;  // false: left out
  double accumulate_onto = 0;                  // not 0: outputs hold this before, and accumulate
};

template <class T, class B>
gradient_outcome<T> run_backward(const B& backend, const scan_problem& p,
                                 const std::vector<double>& y, const std::vector<double>& dy,
                                 const std::vector<double>& dfinal,
                                 const gradient_request& ask = {}) {
  using State = accumulator_t<T>;
  strided_buffer<T> g(p.shape(), ask.dy, rounded<T>(dy)), a(p.shape(), ask.a, rounded<T>(p.a));
  strided_buffer<T> b(p.shape(), ask.b), saved(p.shape(), ask.y, rounded<T>(y));
  if (has_two_inputs(p.op)) b.assign(rounded<T>(p.b));
  strided_buffer<T> da(p.shape(), ask.out), db(p.shape(), ask.out);
  state_buffer<State> initial(p.sequences(), p.channels, ask.states),
      gradient_in = state_buffer<State>(p.sequences(), p.channels, ask.states),
      dinitial(p.sequences(), p.channels, ask.states);
  linear_scan_gradients<T, State> o{.exclusive = p.exclusive, .offsets = p.offsets};
  if (ask.accumulate_onto != 0) {
    o.accumulate = true;
    da.fill(static_cast<T>(static_cast<State>(ask.accumulate_onto)));
    db.fill(static_cast<T>(static_cast<State>(ask.accumulate_onto)));
    dinitial = state_buffer<State>(
        p.sequences(), p.channels, ask.states,
        std::vector<double>(static_cast<std::size_t>(p.sequences() * p.channels),
                            ask.accumulate_onto));
  }
  if (ask.da) o.da = da.view();
  if (ask.db && has_two_inputs(p.op)) o.db = db.view();
  if (!p.initial.empty()) {
    initial = state_buffer<State>(p.sequences(), p.channels, ask.states, p.initial);
    o.initial = initial.get();
  }
  if (!dfinal.empty()) {
    gradient_in = state_buffer<State>(p.sequences(), p.channels, ask.states, dfinal);
    o.dfinal = gradient_in.get();
  }
  if (ask.dinitial) o.dinitial = dinitial.get();
  call_backward<void>(backend, p.op, view<const T, 3>(g.view()), view<const T, 3>(a.view()),
                      view<const T, 3>(b.view()), view<const T, 3>(saved.view()), o, p.domain);
  return {da.values(), db.values(), dinitial.values(),
          g.canaries_intact() && a.canaries_intact() && b.canaries_intact() &&
              saved.canaries_intact() && da.canaries_intact() && db.canaries_intact() &&
              initial.canaries_intact() && gradient_in.canaries_intact() &&
              dinitial.canaries_intact()};
}

template <class T>
bool same_bits(const std::vector<T>& x, const std::vector<T>& y) {
  return x.size() == y.size() &&
         (x.empty() || std::memcmp(x.data(), y.data(), x.size() * sizeof(T)) == 0);
}

// Channel counts around one register, half a block and a block of the simd backend; around the
// lanes of a warp.
template <class T>
std::vector<index_t> ragged_channels() {
#if defined(__CUDACC__)
  return {1, 2, 8, 31, 32, 35, 65};
#else
  constexpr auto w =
      static_cast<index_t>(simd::lanes<simd::batch<accumulator_t<T>, default_simd_arch>>);
  return {1, w / 2, 3 * w / 4, w - 1, w, w + 1, 4 * w + 3, 8 * w + 1};
#endif
}

// Shapes whose channels are a block of the simd backend, and more sequences than a task has.
template <class T>
std::vector<std::array<index_t, 3>> whole_block_shapes() {
#if defined(__CUDACC__)
  return {{19, 9, 32}, {35, 5, 64}};
#else
  constexpr auto w =
      static_cast<index_t>(simd::lanes<simd::batch<accumulator_t<T>, default_simd_arch>>);
  constexpr index_t most = simd::scan_tuning::task_channels / (8 * w);
  return {{2 * most + 3, 5, 4 * w}, {most + 1, 1, 8 * w}, {5, 9, w}, {5, 300, 8 * w}};
#endif
}

}  // namespace mmrec::testing
