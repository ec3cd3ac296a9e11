// SPDX-License-Identifier: Apache-2.0
// How the scans are cut into work, and what their kernels are given.
//
// The 32 lanes of a warp are `across` recurrences side by side (neighbouring channels, then
// sequences) by `deep` consecutive places in time; a place is `steps` consecutive steps, which a
// lane takes at once. Where channels are nearest in memory a warp is 32 across; where time is,
// it is 32 deep, and a lane's steps are one or two 16-byte accesses. The warps of a block follow
// one another in time: a tile is what a block holds at once.
#pragma once

#include <mmrec/cuda/element.cuh>
#include <mmrec/cuda/runtime.cuh>
#include <mmrec/sweep.hpp>

#include <array>

namespace mmrec::cuda {

enum class scan_kernel { chosen, walk, split };

/// How a scan is cut into work. 0 or `chosen`: as the shape says.
struct scan_tuning {
  scan_kernel kernel = scan_kernel::chosen;
  int warps = 0;       // of a block
  int across = 0;      // lanes side by side
  int neighbours = 0;  // warps that walk alone side by side, in one block
};

/// Tests replace it to send small problems through every kernel.
inline scan_tuning& tuning() {
  static scan_tuning t;
  return t;
}

namespace detail {

inline constexpr int most_warps = 8;
inline constexpr int upload_size = 400;  // offsets per launch, a kernel's 4 KiB of parameters

/// Consecutive steps of a lane, as many as registers allow.
template <class T, std::size_t Inputs>
inline constexpr int steps = (Inputs == 1 ? 16 : 8) / (sizeof(T) == 8 ? 2 : 1);

/// Tiles of every stream that are on their way while one is worked on, with that one.
inline constexpr int stages = 3;
/// Places in time that a lane of a piece has: 12 to 16 KiB of shared memory to a warp.
template <class T, std::size_t Inputs>
inline constexpr int held = (Inputs < 3 ? 8 : 4) * (sizeof(T) == 2 ? 2 : 1);
/// Warps of a piece that does not hold all of time: three of them share a multiprocessor.
inline constexpr int piece_warps = 4;

/// Pieces, to two multiprocessors, that may be fetched at once when a scan begins: half of three
/// that are resident; where a scan has few recurrences, of as many as shared memory has room for.
inline constexpr int first_turn_x2(bool few, int room) { return few && room > 3 ? 4 : 3; }

/// How a stream's steps are fetched and stored. The vector accesses take 16 bytes; they need data,
/// and strides of all other axes, that are multiples of that.
enum class access {
  channels,  // unit stride on channels: a vector is one step of neighbouring lanes
  times,     // unit stride on time: a vector is neighbouring steps of one lane
  elements   // any strides
};

template <class T>
struct stream {
  T* data;
  index_t batch, time, channel;  // strides
  access how;
};

/// Kinds of notes on a board.
inline constexpr int board_kinds = 4;

/// States of (sequence, channel); null where absent.
template <class State>
struct states {
  State* data;
  index_t sequence, channel;
  __device__ State* at(index_t s, index_t c) const { return data + s * sequence + c * channel; }
};

template <std::size_t N>
inline constexpr std::size_t at_least_one = N > 0 ? N : 1;

template <class Operator, class Element, class StateType, std::size_t Inputs, std::size_t Outputs,
          std::size_t Shifted>
struct sweep_parameters {
  using op_type = Operator;
  using T = Element;
  using State = StateType;
  static constexpr std::size_t NI = Inputs, NO = Outputs, NS = Shifted;

  Operator op;
  stream<const T> in[NI] = {};
  stream<T> out[NO] = {};
  bool accumulate[NO] = {};
  states<const State> carry_in = {};
  states<State> carry_out = {};
  bool add_carry_out = false;
  states<const State> edge[at_least_one<NS>] = {};
  State edge_default[at_least_one<NS>] = {};
  State identity = {};
  index_t time = 0, sequences = 0, channels = 0;
  const index_t* offsets = nullptr;  // device memory; null: none

  access how = access::elements;  // of all streams, if no lane stands for nothing; else `elements`
  bool turned = false;  // of a stream: lanes of 16-bit elements stand as in lane_steps.cuh
  int across = warp;
  index_t groups = 1;      // of `across` recurrences
  index_t pieces = 1;      // of time, one to a block
  uint4* board = nullptr;  // where their blocks tell one another what they know (scan/board.cuh),
  std::array<unsigned, board_kinds> board_starts = {};  // and where on it
  unsigned first_turn = 0;  // the first blocks, behind which as many fetch
};

}  // namespace detail
}  // namespace mmrec::cuda
