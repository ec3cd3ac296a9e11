// SPDX-License-Identifier: Apache-2.0
// Device memory as memory.hpp has the host's: arrays that outlive a call, and scratch of a scope.
//
// Arrays are for set-up: making, copying and assigning one waits for the device. Scratch comes from
// the stream-ordered pool and waits for nothing.
#pragma once

#include <mmrec/cuda/runtime.cuh>

#include <atomic>
#include <utility>
#include <vector>

namespace mmrec {
namespace cuda {

namespace detail {
inline std::atomic<std::size_t> held_by_arrays{0};
}

/// Bytes that this program's arrays hold, on all devices. Scratch is another matter:
/// reserved_bytes().
inline std::size_t array_bytes() { return detail::held_by_arrays; }

/// Elements in the memory of the device that is current when it is made.
template <class T>
class array {
 public:
  array() = default;
  /// All bits 0.
  explicit array(std::size_t n) {
    allocate(n);
    if (n_ > 0) check("array", "cudaMemset", cudaMemset(data_, 0, n_ * sizeof(T)));
    wait();
  }
  explicit array(const std::vector<T>& values) {
    allocate(values.size());
    copy(values.data(), cudaMemcpyHostToDevice);
  }
  array(const array& other) {
    allocate(other.n_);
    copy(other.data_, cudaMemcpyDeviceToDevice);
  }
  array(array&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), n_(std::exchange(other.n_, 0)) {}
  /// Keeps its address if the sizes are equal.
  array& operator=(const array& other) {
    if (this == &other) return *this;
    if (n_ != other.n_)
      *this = array(other);
    else
      copy(other.data_, cudaMemcpyDeviceToDevice);
    return *this;
  }
  array& operator=(array&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(n_, other.n_);
    return *this;
  }
  ~array() {
    if (!data_) return;
    cudaFree(data_);
    detail::held_by_arrays -= n_ * sizeof(T);
  }

  T* data() { return data_; }
  const T* data() const { return data_; }
  std::size_t size() const { return n_; }
  bool empty() const { return n_ == 0; }

  friend std::vector<T> on_host(const array& a) {
    std::vector<T> values(a.n_);
    a.wait();
    if (a.n_ > 0)
      check("on_host", "cudaMemcpy",
            cudaMemcpy(values.data(), a.data_, a.n_ * sizeof(T), cudaMemcpyDeviceToHost));
    return values;
  }
  friend void assign(array& to, const std::vector<T>& values) {
    if (values.size() != to.n_)
      throw error("assign", "values", std::to_string(to.n_) + " elements",
                  std::to_string(values.size()));
    to.wait();
    to.copy(values.data(), cudaMemcpyHostToDevice);
  }

 private:
  void allocate(std::size_t n) {
    if (n > 0) check("array", "cudaMalloc", cudaMalloc(&data_, n * sizeof(T)));
    n_ = n;
    detail::held_by_arrays += n * sizeof(T);
  }
  void copy(const T* from, cudaMemcpyKind kind) {
    if (kind == cudaMemcpyDeviceToDevice) wait();
    if (n_ > 0) check("array", "cudaMemcpy", cudaMemcpy(data_, from, n_ * sizeof(T), kind));
    wait();
  }
  /// For streams that do not wait for the default one.
  void wait() const { check("array", "cudaDeviceSynchronize", cudaDeviceSynchronize()); }

  T* data_ = nullptr;
  std::size_t n_ = 0;
};

}  // namespace cuda

struct device_memory {
  template <class T>
  using array = cuda::array<T>;
};

template <class T>
class scratch_for<backend::cuda, T> {
 public:
  scratch_for(const backend::cuda& b, std::size_t n)
      : memory_(b, "scratch_for", n * sizeof(T)), n_(n) {}
  T* data() const { return reinterpret_cast<T*>(memory_.data()); }
  std::size_t size() const { return n_; }

 private:
  cuda::stream_scratch memory_;
  std::size_t n_;
};

}  // namespace mmrec
