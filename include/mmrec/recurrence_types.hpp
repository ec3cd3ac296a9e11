// SPDX-License-Identifier: Apache-2.0
// Weights, options and results of the gated recurrence (recurrence.hpp says what it computes).
#pragma once

#include <mmrec/view.hpp>

namespace mmrec {

/// automatic: what the backend's measured rule says for these shapes; on a CPU that is sequential.
enum class solver { sequential, parallel, automatic };

template <element T>
struct recurrence_weights {
  view<const T, 2> block{};       ///< W_b (D, D)
  view<const T, 1> block_bias{};  ///< b_b (D)
  view<const T, 2> mix{};         ///< W_m (D, 2D), z first
  view<const T, 1> mix_bias{};    ///< b_m (D)
};

struct recurrence_form {
  double mix = 0.1;
  bool mix_gate = true;
  enum solver solver = solver::sequential;
  double tolerance = 0;  ///< of the parallel solver, relative; 0: 4 epsilon of the arithmetic type
  index_t max_sweeps = 64;  ///< per window
  index_t window = 512;     ///< steps solved together
};

/// What the solver did: never `automatic`. A direct sequential solve reports no sweeps.
///
/// A call on backend::cuda returns before the device has solved anything: then `sweeps` and
/// `sequential_steps` of a parallel solve are `unknown_yet`. Give the call a `report` in device
/// memory (or pinned host memory) and read it when the stream has come there.
inline constexpr index_t unknown_yet = -1;
struct recurrence_report {
  enum solver solver = solver::sequential;
  index_t windows = 0;
  index_t sweeps = 0;            ///< the most any window took
  index_t sequential_steps = 0;  ///< steps the parallel solver had to finish sequentially
};

template <element T>
struct recurrence_options {
  using State = accumulator_t<T>;
  view<const State, 2> initial{};  ///< (batch, D); absent: 0
  view<State, 2> final{};
  view<T, 3> gates{};  ///< (batch, time, 2D): s and m, which the backward needs
  recurrence_form form{};
  recurrence_report* report = nullptr;  ///< in the backend's memory: what is also returned
};

template <element T>
struct recurrence_gradients {
  using State = accumulator_t<T>;
  view<const T, 3> gates{};  ///< as the forward saved them
  view<T, 3> dz{};
  view<T, 3> dgamma{};
  view<T, 2> dblock{};
  view<T, 1> dblock_bias{};
  view<T, 2> dmix{};
  view<T, 1> dmix_bias{};
  view<const State, 2> initial{};
  view<const State, 2> dfinal{};
  view<State, 2> dinitial{};
  // Without a mix gate dmix and dmix_bias are not written.
  bool accumulate_parameters =
      false;  ///< of the four weight gradients; dz, dgamma, dinitial are overwritten
  recurrence_form form{};
  recurrence_report* report = nullptr;  ///< as in the options
};

}  // namespace mmrec
