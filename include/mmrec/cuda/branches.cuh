// SPDX-License-Identifier: Apache-2.0
// Work that does not depend on one another, side by side in a CUDA graph.
//
// Small products do not fill a device, and in a stream each waits for the one before. Where the
// stream is being captured, every branch begins behind what was captured before the first one, and
// what comes after `join` is behind all of them; a graph runs them together. Otherwise they follow
// one another. Results are the same. What a branch obtains (stream_scratch) must end in it or
// outlive `join`.
//
//   branches side_by_side(on, "linear_backward");
//   first(), side_by_side.next(), second(), side_by_side.join();
#pragma once

#include <mmrec/cuda/runtime.cuh>

#include <vector>

namespace mmrec::cuda {

class branches {
 public:
  branches(const backend::cuda& on, const char* function)
      : stream_(stream_of(on)), function_(function) {
    begin_ = last_captured();
  }
  branches(const branches&) = delete;
  branches& operator=(const branches&) = delete;

  /// The end of a branch, and the beginning of the next one.
  void next() {
    if (!captured_) return;
    end_branch();
    follow(begin_);
  }
  /// The end of the last branch.
  void join() {
    if (!captured_) return;
    end_branch();
    follow(ends_.empty() ? begin_ : ends_);
  }

 private:
  using nodes = std::vector<cudaGraphNode_t>;

  /// What is enqueued next would follow these. (Launches leave edges of no special kind here.)
  nodes last_captured() {
    cudaStreamCaptureStatus status{};
    const cudaGraphNode_t* first = nullptr;
    std::size_t count = 0;
#if CUDART_VERSION >= 13000
    const cudaError_t code =
        cudaStreamGetCaptureInfo(stream_, &status, nullptr, nullptr, &first, nullptr, &count);
#else
    const cudaError_t code =
        cudaStreamGetCaptureInfo_v2(stream_, &status, nullptr, nullptr, &first, &count);
#endif
    check(function_, "cudaStreamGetCaptureInfo", code);
    captured_ = status == cudaStreamCaptureStatusActive;
    return captured_ ? nodes(first, first + count) : nodes();
  }
  void follow(nodes& last) {
#if CUDART_VERSION >= 13000
    const cudaError_t code = cudaStreamUpdateCaptureDependencies(
        stream_, last.data(), nullptr, last.size(), cudaStreamSetCaptureDependencies);
#else
    const cudaError_t code = cudaStreamUpdateCaptureDependencies(stream_, last.data(), last.size(),
                                                                 cudaStreamSetCaptureDependencies);
#endif
    check(function_, "cudaStreamUpdateCaptureDependencies", code);
  }
  void end_branch() {
    const nodes last = last_captured();
    if (last != begin_) ends_.insert(ends_.end(), last.begin(), last.end());
  }

  cudaStream_t stream_;
  const char* function_;
  bool captured_ = false;
  nodes begin_, ends_;
};

}  // namespace mmrec::cuda
