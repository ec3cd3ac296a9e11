// SPDX-License-Identifier: Apache-2.0
// host_place.hpp for arrays in the memory of the GPU, with a stream of its own. Work that repeats
// is captured in a CUDA graph the second time, when all scratch and library state is there.
#pragma once

#include <mmrec/cuda/memory.cuh>

#include <array>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

namespace mmrec::examples {

class device_place {
 public:
  using memory = device_memory;

  device_place() {
    check("cudaStreamCreateWithFlags", cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  }
  ~device_place() {
    forget_graph();
    for (const buffer& b : slots_) cudaFree(b.data);
    cudaStreamDestroy(stream_);
  }
  device_place(const device_place&) = delete;
  device_place& operator=(const device_place&) = delete;
  void* stream() const { return stream_; }

  template <class Value>
  const Value* put(std::span<const Value> values, int slot) {
    buffer& to = slots_[static_cast<std::size_t>(slot)];
    if (to.bytes < values.size_bytes()) {
      // A graph that was captured reads the old one.
      forget_graph();
      check("cudaFree", cudaFree(to.data));
      to = {};
      check("cudaMalloc", cudaMalloc(&to.data, values.size_bytes()));
      to.bytes = values.size_bytes();
    }
    check("cudaMemcpyAsync", cudaMemcpyAsync(to.data, values.data(), values.size_bytes(),
                                             cudaMemcpyHostToDevice, stream_));
    return static_cast<const Value*>(to.data);
  }
  template <class Value>
  const Value* get(std::span<const Value> values) {
    got_.resize(values.size_bytes());
    check("cudaMemcpyAsync", cudaMemcpyAsync(got_.data(), values.data(), got_.size(),
                                             cudaMemcpyDeviceToHost, stream_));
    check("cudaStreamSynchronize", cudaStreamSynchronize(stream_));
    return reinterpret_cast<const Value*>(got_.data());
  }
  template <class Value>
  Value* show(memory::array<Value>& array) {
    const auto values = std::make_shared<std::vector<Value>>(on_host(array));
    shown_.push_back([&array, values] { assign(array, *values); });
    return values->data();
  }
  void hide() { shown_.clear(); }
  void take_back() {
    for (const auto& fill : shown_) fill();
    hide();
  }

  template <class Work>
  void repeat(double key, const Work& work) {
    if (program_ && key == key_) {
      check("cudaGraphLaunch", cudaGraphLaunch(program_, stream_));
      return;
    }
    if (key_ != key) {  // the first time
      forget_graph();
      key_ = key;
      work();
      return;
    }
    check("cudaStreamBeginCapture",
          cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
    cudaGraph_t graph = nullptr;
    try {
      work();
    } catch (...) {
      if (cudaStreamEndCapture(stream_, &graph) == cudaSuccess) cudaGraphDestroy(graph);
      throw;
    }
    check("cudaStreamEndCapture", cudaStreamEndCapture(stream_, &graph));
    const cudaError_t code = cudaGraphInstantiate(&program_, graph, 0);
    cudaGraphDestroy(graph);
    check("cudaGraphInstantiate", code);
    check("cudaGraphLaunch", cudaGraphLaunch(program_, stream_));
  }

 private:
  struct buffer {
    void* data = nullptr;
    std::size_t bytes = 0;
  };

  static void check(const char* call, cudaError_t code) { cuda::check("network", call, code); }
  void forget_graph() {
    if (program_) cudaGraphExecDestroy(program_);
    program_ = nullptr;
    key_.reset();
  }

  cudaStream_t stream_ = nullptr;
  std::array<buffer, 3> slots_{};
  std::vector<std::byte> got_;
  std::vector<std::function<void()>> shown_;
  cudaGraphExec_t program_ = nullptr;
  std::optional<double> key_;  // of the work that has run plainly
};

}  // namespace mmrec::examples
