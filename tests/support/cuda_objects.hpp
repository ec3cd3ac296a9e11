// SPDX-License-Identifier: Apache-2.0
// CUDA's objects as tests of what only the GPU has hold them: device memory, scratch that is not
// left at what it was, and streams.
#pragma once

#include <mmrec/cuda/runtime.cuh>
#include <mmrec/view.hpp>

#include <cuda_runtime.h>

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

#include "catch.hpp"

namespace mmrec::testing {

inline void require(cudaError_t code) { REQUIRE(code == cudaSuccess); }

/// Device memory, zero unless it is copied from somewhere.
template <class T>
class device_array {
 public:
  explicit device_array(std::integral auto n) : n_(static_cast<std::size_t>(n)) {
    require(cudaMalloc(&data_, n_ * sizeof(T)));
    require(cudaMemset(data_, 0, n_ * sizeof(T)));
    require(cudaStreamSynchronize(nullptr));
  }
  explicit device_array(const std::vector<T>& values) : device_array(values.size()) {
    require(cudaMemcpy(data_, values.data(), n_ * sizeof(T), cudaMemcpyHostToDevice));
  }
  ~device_array() { cudaFree(data_); }
  device_array(const device_array&) = delete;
  device_array& operator=(const device_array&) = delete;
  T* get() const { return data_; }
  template <std::size_t Rank>
  view<T, Rank> as(const std::array<index_t, Rank>& extents) const {
    return {data_, extents};
  }
  std::vector<T> values() const {
    std::vector<T> v(n_);
    require(cudaMemcpy(v.data(), data_, n_ * sizeof(T), cudaMemcpyDeviceToHost));
    return v;
  }
  /// Every byte 0xff: NaN in all element types. Waits: streams that are not the default one do not
  /// wait for the default one, which writes here.
  void poison() {
    require(cudaMemset(data_, 0xff, n_ * sizeof(T)));
    require(cudaStreamSynchronize(nullptr));
  }

 private:
  std::size_t n_;
  T* data_ = nullptr;
};

template <class = void>
__global__ void fill_words(std::uint32_t* words, std::uint32_t value) {
  words[blockIdx.x * blockDim.x + threadIdx.x] = value;
}

/// The scratch that the next calls get: NaN in all element types, but not all bits 1, which says
/// "not yet written" where the recurrence's blocks exchange words. In small pieces, all that the
/// pool holds and no more: it is in several parts, and would grow for one large piece.
inline void poison_scratch(const backend::cuda& on) {
  require(cudaDeviceSynchronize());  // all of it is free
  constexpr std::size_t piece = std::size_t{1} << 20;
  {
    std::deque<cuda::stream_scratch> all;
    for (std::size_t left = cuda::reserved_bytes(on); left >= piece; left -= piece) {
      std::byte* const data = all.emplace_back(on, "poison_scratch", piece).data();
      cuda::launch(on, "poison_scratch", {piece / 1024, 256, 0}, fill_words<>,
                   reinterpret_cast<std::uint32_t*>(data), std::uint32_t{0xfffefffe});
    }
  }
  require(cudaStreamSynchronize(cuda::stream_of(on)));
}

class stream {
 public:
  stream() { require(cudaStreamCreateWithFlags(&s_, cudaStreamNonBlocking)); }
  ~stream() { cudaStreamDestroy(s_); }
  stream(const stream&) = delete;
  stream& operator=(const stream&) = delete;
  cudaStream_t get() const { return s_; }
  void wait() const { require(cudaStreamSynchronize(s_)); }

 private:
  cudaStream_t s_ = nullptr;
};

/// Two problems on two streams at once, 20 times, give the bits that each gives alone. make(0) and
/// make(1) return them: run(on) enqueues one, results() are what it has written so far.
template <class Make>
void check_two_streams_at_once(const Make& make) {
  constexpr int runs = 20;
  const stream streams[2];
  const backend::cuda on[2]{{streams[0].get()}, {streams[1].get()}};
  const auto alone = [&](int i) {
    auto p = make(i);
    for (int run = 0; run < runs; ++run) p.run(on[i]);
    streams[i].wait();
    return p.results();
  };
  const auto first = alone(0), second = alone(1);
  CHECK(first != second);
  auto p = make(0), q = make(1);
  for (const auto& stream : on) poison_scratch(stream);
  for (int run = 0; run < runs; ++run) {
    p.run(on[0]);
    q.run(on[1]);
  }
  for (const stream& s : streams) s.wait();
  CHECK(p.results() == first);
  CHECK(q.results() == second);
}

}  // namespace mmrec::testing
