// SPDX-License-Identifier: Apache-2.0
// CUDA's objects as tests of what only the GPU has hold them: device memory and streams.
#pragma once

#include <mmrec/view.hpp>

#include <cuda_runtime.h>

#include <array>
#include <concepts>
#include <cstddef>
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

}  // namespace mmrec::testing
