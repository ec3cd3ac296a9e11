// SPDX-License-Identifier: Apache-2.0
// backend::cuda::autotune: of the algorithms that cuBLASLt's heuristic names for a product the one
// that is fastest when it is replayed.
//
// Each candidate is captured in a graph, as often in a row as takes about replay_ms, and replays
// are timed in turns, on a stream that nothing else waits for. (Timed as calls, those win that cost
// the host least, and in a graph they may take a fifth longer.) An untimed replay goes ahead of
// each timed one, so that the device works while the host enqueues. Of equals the one with the
// least workspace is taken: small calls wait for its allocation.
#pragma once

#include <mmrec/cuda/cublas.cuh>

#include <algorithm>
#include <array>
#include <cstddef>
#include <limits>
#include <memory>
#include <span>
#include <type_traits>

namespace mmrec::cuda::detail {

inline constexpr float never = std::numeric_limits<float>::infinity();

/// A candidate: the time of a replay, infinite where it does not run, and the bytes that it needs.
struct timed_algorithm {
  float ms = never;
  std::size_t workspace = 0;
};

/// Which to take of candidates in the heuristic's order: of those that take at most 3 % longer than
/// the fastest the first of those with the least workspace.
inline std::size_t best_of(std::span<const timed_algorithm> named) {
  constexpr float tie = 1.03F;
  float fastest = never;
  for (const timed_algorithm& a : named) fastest = std::min(fastest, a.ms);
  std::size_t best = 0;
  if (fastest == never) return best;
  const auto ties = [&](const timed_algorithm& a) { return a.ms <= tie * fastest; };
  for (std::size_t i = 1; i < named.size(); ++i)
    if (ties(named[i]) && (!ties(named[best]) || named[i].workspace < named[best].workspace))
      best = i;
  return best;
}

struct destroy {
  // Its work is waited for: what that used goes back to others.
  void operator()(cudaStream_t stream) const {
    cudaStreamSynchronize(stream);
    cudaStreamDestroy(stream);
  }
  void operator()(cudaEvent_t event) const { cudaEventDestroy(event); }
  void operator()(cudaGraph_t graph) const { cudaGraphDestroy(graph); }
  void operator()(cudaGraphExec_t graph) const { cudaGraphExecDestroy(graph); }
};
template <class Handle>
using owned = std::unique_ptr<std::remove_pointer_t<Handle>, destroy>;

/// During its scope this thread may wait and load kernels though a capture of another stream goes
/// on, here or in another thread.
class beside_captures {
 public:
  explicit beside_captures(const char* function) {
    check(function, "cudaThreadExchangeStreamCaptureMode",
          cudaThreadExchangeStreamCaptureMode(&mode_));
  }
  ~beside_captures() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  beside_captures(const beside_captures&) = delete;
  beside_captures& operator=(const beside_captures&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;  // then the one that was before
};

class stopwatch {
 public:
  stopwatch(const char* function, cudaStream_t stream) : function_(function), stream_(stream) {
    for (auto* const event : {&from_, &to_}) {
      cudaEvent_t made = nullptr;
      check(function, "cudaEventCreate", cudaEventCreate(&made));
      event->reset(made);
    }
  }
  /// Milliseconds of what f enqueues; waits for it.
  template <class F>
  float operator()(const F& f) {
    check(function_, "cudaEventRecord", cudaEventRecord(from_.get(), stream_));
    f();
    check(function_, "cudaEventRecord", cudaEventRecord(to_.get(), stream_));
    check(function_, "cudaEventSynchronize", cudaEventSynchronize(to_.get()));
    float ms = 0;
    check(function_, "cudaEventElapsedTime", cudaEventElapsedTime(&ms, from_.get(), to_.get()));
    return ms;
  }

 private:
  const char* function_;
  cudaStream_t stream_;
  owned<cudaEvent_t> from_, to_;
};

/// What `enqueue` enqueues on the stream; null where that says false, which is all it may do: an
/// exception would leave the capture open.
template <class F>
owned<cudaGraphExec_t> captured(const char* function, cudaStream_t stream, const F& enqueue) {
  check(function, "cudaStreamBeginCapture",
        cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
  const bool whole = enqueue();
  cudaGraph_t made = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(stream, &made);
  const owned<cudaGraph_t> graph(made);
  if (!whole) {
    cudaGetLastError();
    return nullptr;
  }
  check(function, "cudaStreamEndCapture", ended);
  cudaGraphExec_t executable = nullptr;
  check(function, "cudaGraphInstantiate", cudaGraphInstantiate(&executable, made, 0));
  return owned<cudaGraphExec_t>(executable);
}

/// The medians of the graphs' replays. Graphs without hope are destroyed on the way.
inline void time_in_turns(const char* function, cudaStream_t stream, stopwatch& time,
                          std::span<owned<cudaGraphExec_t>> graphs,
                          std::span<timed_algorithm> timed) {
  constexpr std::size_t least_rounds = 3, most_rounds = 7;
  constexpr float enough_ms = 200, hopeless = 1.5F;  // so many times as long as the fastest
  std::array<std::array<float, most_rounds>, most_named> ms{};
  std::size_t rounds = 0;
  for (float all = 0; rounds < least_rounds || (rounds < most_rounds && all < enough_ms);
       ++rounds) {
    float fastest = never;
    for (std::size_t i = 0; i < graphs.size(); ++i) {
      if (!graphs[i]) continue;
      const auto replay = [&] {
        check(function, "cudaGraphLaunch", cudaGraphLaunch(graphs[i].get(), stream));
      };
      replay();
      ms[i][rounds] = time(replay);
      fastest = std::min(fastest, ms[i][rounds]), all += ms[i][rounds];
    }
    if (rounds == 1)  // by round 0 the clocks have risen
      for (std::size_t i = 0; i < graphs.size(); ++i)
        if (ms[i][rounds] > hopeless * fastest) graphs[i].reset();
  }
  for (std::size_t i = 0; i < graphs.size(); ++i) {
    if (!graphs[i]) continue;
    const auto median = ms[i].begin() + rounds / 2;
    std::nth_element(ms[i].begin(), median, ms[i].begin() + rounds);
    timed[i].ms = *median;
  }
}

/// Gives a plan the best of its algorithms. What the operands lie in must be ready, not only
/// enqueued. What is added to d goes to scratch meanwhile; else d has the product several times.
inline void take_fastest(product_plan& plan, const backend::cuda& on, const char* function,
                         cublasLtHandle_t handle, const product_key& key, product_operands x,
                         const named_algorithms& named) {
  constexpr float replay_ms = 0.2F;
  constexpr int most_launches = 50;
  cudaStream_t made = nullptr;
  check(function, "cudaStreamCreateWithFlags",
        cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking));
  const owned<cudaStream_t> stream(made);
  backend::cuda aside = on;
  aside.stream = stream.get();

  const auto n = static_cast<std::size_t>(named.count);
  std::array<timed_algorithm, most_named> timed;
  std::size_t bytes = 0;
  for (std::size_t i = 0; i < n; ++i)
    bytes = std::max(bytes, timed[i].workspace = named.all[i].workspaceSize);
  const stream_scratch workspace(aside, function, bytes);
  const std::size_t element = key.result == CUDA_R_64F ? 8 : key.result == CUDA_R_32F ? 4 : 2;
  const stream_scratch sum(
      aside, function,
      x.accumulate ? static_cast<std::size_t>(key.leading_d * key.n) * element : 0);
  if (x.accumulate) x.d = sum.data(), x.accumulate = false;

  const auto enqueue = [&](std::size_t i, int launches) {
    plan.take(named.all[i]);
    bool done = true;
    for (int launch = 0; done && launch < launches; ++launch)
      done = run(plan, handle, key, x, workspace.data(), stream.get()) == CUBLAS_STATUS_SUCCESS;
    return done;
  };
  stopwatch time(function, stream.get());
  int launches = 0;
  std::array<owned<cudaGraphExec_t>, most_named> graphs;
  for (std::size_t i = 0; i < n; ++i) {
    if (!enqueue(i, 1)) {  // loads its kernel
      cudaGetLastError();
      continue;
    }
    if (launches == 0) {
      const float once = time([&] { enqueue(i, 1); });
      launches = std::clamp(static_cast<int>(replay_ms / std::max(once, 1e-3F)), 1, most_launches);
    }
    graphs[i] = captured(function, stream.get(), [&] { return enqueue(i, launches); });
  }

  time_in_turns(function, stream.get(), time, {graphs.data(), n}, {timed.data(), n});
  plan.take(named.all[best_of({timed.data(), n})]);
}

}  // namespace mmrec::cuda::detail
