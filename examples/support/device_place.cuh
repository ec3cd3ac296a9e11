// SPDX-License-Identifier: Apache-2.0
// host_place.hpp for arrays in the memory of the GPU, with a stream of its own. Work that repeats
// is captured in a CUDA graph the second time, when all scratch and library state is there.
#pragma once

#include <mmrec/cuda/memory.cuh>

#include "host_place.hpp"
#include "network.hpp"

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
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
    forget_graphs();
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
      forget_graphs();
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

  /// The peak is the data sheets' rate of dense products (multiply-adds count twice), per
  /// multiprocessor and clock; architectures that are not listed have none.
  template <class T>
  device_figures figures() const {
    int device = 0, major = 0, minor = 0, processors = 0, kilohertz = 0;
    check("cudaGetDevice", cudaGetDevice(&device));
    const auto ask = [&](int& to, cudaDeviceAttr what) {
      check("cudaDeviceGetAttribute", cudaDeviceGetAttribute(&to, what, device));
    };
    ask(major, cudaDevAttrComputeCapabilityMajor);
    ask(minor, cudaDevAttrComputeCapabilityMinor);
    ask(processors, cudaDevAttrMultiProcessorCount);
    ask(kilohertz, cudaDevAttrClockRate);
    struct rate {
      int capability;
      double half, single, wide;
    };
    constexpr rate rates[] = {{80, 2048, 128, 128}, {90, 4096, 256, 256}, {100, 8192, 256, 128}};
    double per_clock = 0;
    for (const rate& r : rates)
      if (r.capability == 10 * major + minor)
        per_clock = storage16<T> ? r.half : std::same_as<T, float> ? r.single : r.wide;
    std::size_t unused = 0, all = 0;
    check("cudaMemGetInfo", cudaMemGetInfo(&unused, &all));
    std::uint64_t graphs = 0;
    check("cudaDeviceGetGraphMemAttribute",
          cudaDeviceGetGraphMemAttribute(device, cudaGraphMemAttrReservedMemCurrent, &graphs));
    std::size_t held = cuda::array_bytes() + cuda::reserved_bytes({}) + graphs;
    for (const buffer& b : slots_) held += b.bytes;
    return {per_clock * processors * kilohertz * 1e3, static_cast<double>(all - unused),
            static_cast<double>(held)};
  }

  template <class Work>
  void repeat(repeated which, const repeat_key& key, const Work& work) {
    program& p = programs_[static_cast<std::size_t>(which)];
    if (p.graph && key == p.key) {
      check("cudaGraphLaunch", cudaGraphLaunch(p.graph, stream_));
      return;
    }
    if (p.key != key) {  // the first time
      forget(p);
      p.key = key;
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
    const cudaError_t code = cudaGraphInstantiate(&p.graph, graph, 0);
    cudaGraphDestroy(graph);
    check("cudaGraphInstantiate", code);
    check("cudaGraphLaunch", cudaGraphLaunch(p.graph, stream_));
  }

 private:
  struct buffer {
    void* data = nullptr;
    std::size_t bytes = 0;
  };

  static void check(const char* call, cudaError_t code) { cuda::check("network", call, code); }
  struct program {
    cudaGraphExec_t graph = nullptr;
    repeat_key key;  // of the work that has run plainly
  };
  static void forget(program& p) {
    if (p.graph) cudaGraphExecDestroy(p.graph);
    p = {};
  }
  void forget_graphs() {
    for (program& p : programs_) forget(p);
  }

  cudaStream_t stream_ = nullptr;
  std::array<buffer, 5> slots_{};
  std::vector<std::byte> got_;
  std::vector<std::function<void()>> shown_;
  std::array<program, 2> programs_{};
};

}  // namespace mmrec::examples
