// SPDX-License-Identifier: Apache-2.0
// How the scans are cut into work, and what their kernels are given.
//
// The unit of all of them is the warp: its 32 lanes are 32 recurrences side by side (neighbouring
// channels, then sequences; or neighbouring pieces of time where there are fewer), each with its
// state in registers. A tile is what a warp holds of one stream in shared memory: 32 lanes by
// `tile_rows` steps, 128 bytes to a lane.
#pragma once

#include <mmrec/cuda/elements.cuh>
#include <mmrec/cuda/runtime.cuh>
#include <mmrec/sweep.hpp>

namespace mmrec {
namespace cuda {

/// The one place for what was chosen: estimates so far, to be measured on a GPU.
struct scan_tuning {
  /// A warp that walks time alone moves some 50 GB/s, so about one per multiprocessor saturates
  /// memory; where each step takes an exponential in its dependency chain it is a sixth of that.
  int march_warps_per_multiprocessor = 1;
  int march_warps_costly = 6;
  /// Time up to so many tiles is walked by one warp whatever the number of channels.
  int march_tiles = 2;
  int block_warps = 8;           // of a block that holds all of time
  int split_warps = 4;           // of a block that holds a piece of it
  int split_warps_gradient = 8;  // the same with three streams, whose pieces have fewer tiles
};

/// Tests replace it to send small problems through every kernel.
inline scan_tuning& tuning() {
  static scan_tuning t;
  return t;
}

namespace detail {

inline constexpr int warp = 32;
inline constexpr unsigned all_lanes = 0xffffffffu;
inline constexpr int at_once = 8;        // rows in registers at a time
inline constexpr int window = 64;        // pieces of time between two published entry states
inline constexpr int upload_size = 400;  // offsets per launch, a kernel's 4 KiB of parameters

template <class T>
inline constexpr int tile_rows = 128 / static_cast<int>(sizeof(T));
/// In time order a lane's rows lie together; one vector more keeps the banks of 8 lanes apart.
template <class T>
inline constexpr int tile_pitch = tile_rows<T> + vector_size<T>;
template <class T>
inline constexpr int tile_size = warp * tile_pitch<T>;

/// Tiles of every stream that are on their way while one is worked on; and tiles of a piece of time.
template <std::size_t Inputs>
inline constexpr int stages = Inputs <= 2 ? 4 : 3;
template <std::size_t Inputs>
inline constexpr int piece_tiles = Inputs == 1   ? 4
                                   : Inputs == 2 ? 2
                                                 : 1;

/// How a stream's tiles are fetched and stored. The vector accesses take 16 bytes; they need data,
/// and strides of all other axes, that are multiples of that.
enum class access {
  channels,          // unit stride on channels: a vector is one step of neighbouring lanes
  times,             // unit stride on time: a vector is neighbouring steps of one lane
  channel_elements,  // any strides: an element of every lane
  time_elements      // time is the nearest axis: neighbouring steps of one lane after the other
};

inline __host__ __device__ bool by_time(access how) {
  return how == access::times || how == access::time_elements;
}

template <class T>
struct stream {
  T* data;
  index_t batch, time, channel;  // strides
  access how;
};

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

  // For time in pieces: lanes side by side in channels, the rest are pieces of time; and where
  // blocks tell one another what they know (null: one block has all of time).
  int lanes_across = warp;
  index_t pieces = 1;
  std::uint32_t* board = nullptr;
};

}  // namespace detail
}  // namespace cuda
}  // namespace mmrec
