// SPDX-License-Identifier: Apache-2.0
// Pieces of work that do not depend on one another, side by side in a CUDA graph.
//
// Small products do not fill a device, and in a stream each waits for the one before. Where the
// stream is being captured, every branch begins behind what was captured before the first one, and
// what comes after `join`, or after the object's end, is behind all of them; a graph runs them
// together. Otherwise they follow one another, as they do where nothing was captured before.
// Results are the same. What a branch obtains (stream_scratch) must end in it or be declared before
// the branches are.
//
//   branches side_by_side(on, "linear_backward");
//   first(), side_by_side.next(), second(), side_by_side.join();
#pragma once

#include <mmrec/cuda/runtime.cuh>

#include <algorithm>
#include <vector>

namespace mmrec::cuda {

class branches {
 public:
  branches(const backend::cuda& on, const char* function)
      : stream_(stream_of(on)), function_(function) {
    const cudaError_t code = last_captured(begin_);
#if CUDART_VERSION >= 12030
    // Edges that carry data, from a caller's own launches, stay as they are.
    if (code == cudaErrorLossyQuery) {
      cudaGetLastError();
      begin_.clear();
      return;
    }
#endif
    check(function_, "cudaStreamGetCaptureInfo", code);
  }
  branches(const branches&) = delete;
  branches& operator=(const branches&) = delete;
  /// Joins, if an exception came first: what the caller captures next is behind all of this, too.
  ~branches() {
    try {
      join();
    } catch (...) {
    }
  }

  /// The end of a branch, and the beginning of the next one.
  void next() {
    if (begin_.empty()) return;
    end_branch();
    follow(begin_);
  }
  /// The end of the last branch.
  void join() {
    if (begin_.empty()) return;
    end_branch();
    follow(ends_.empty() ? begin_ : ends_);
    begin_.clear();
  }

 private:
  using nodes = std::vector<cudaGraphNode_t>;

  /// What is enqueued next would follow these; none where the stream is not being captured. (An
  /// early launch marks the edge from the kernel before it; those that leave it carry no data.)
  cudaError_t last_captured(nodes& last) const {
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
    last.clear();
    if (code == cudaSuccess && status == cudaStreamCaptureStatusActive)
      last.assign(first, first + count);
    return code;
  }
  void follow(nodes& last) const {
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
    nodes last;
    check(function_, "cudaStreamGetCaptureInfo", last_captured(last));
    if (!std::is_permutation(last.begin(), last.end(), begin_.begin(), begin_.end()))
      ends_.insert(ends_.end(), last.begin(), last.end());
  }

  cudaStream_t stream_;
  const char* function_;
  nodes begin_, ends_;  // begin: empty where branches follow one another
};

}  // namespace mmrec::cuda
