// SPDX-License-Identifier: Apache-2.0
// The CUDA backend's ground floor: errors that name call and code and leave the library usable,
// scratch that is reused, branches of a graph.
#include <mmrec/cuda/branches.cuh>

#include <string>
#include <vector>

#include "support/catch.hpp"

using namespace mmrec;

namespace {

__global__ void write_index(int* out) { out[blockIdx.x * blockDim.x + threadIdx.x] = 1; }

std::string message(cudaError_t code) {
  try {
    cuda::check("cumprod", "cudaMallocFromPoolAsync", code);
  } catch (const cuda_error& e) {
    CHECK(e.code() == code);
    return e.what();
  }
  return {};
}

}  // namespace

TEST_CASE("cuda: an error names the call, its code and what to do", "[components][errors]") {
  const std::string memory = message(cudaErrorMemoryAllocation);
  for (const char* word : {"mmrec: cumprod: ", "cudaMallocFromPoolAsync failed",
                           "cudaErrorMemoryAllocation, 2", "backend::cuda's memory"})
    CHECK(memory.find(word) != std::string::npos);
  CHECK(message(cudaErrorNoKernelImageForDevice).find("CMAKE_CUDA_ARCHITECTURES") !=
        std::string::npos);
  CHECK(message(cudaErrorNoDevice).find("cudaErrorNoDevice, 100") != std::string::npos);
  CHECK(message(cudaSuccess).empty());
}

TEST_CASE("cuda: the library is usable after an error", "[components][errors]") {
  const backend::cuda on{};
  // More memory than any device has.
  CHECK_THROWS_AS(cuda::stream_scratch(on, "cumprod", std::size_t{1} << 50), cuda_error);
  // A block larger than any device takes.
  CHECK_THROWS_AS(cuda::launch(on, "cumprod", {1, 1 << 20, 0}, write_index, (int*)nullptr),
                  cuda_error);
  CHECK(cudaGetLastError() == cudaSuccess);
  const cuda::stream_scratch memory(on, "cumprod", 64 * sizeof(int));
  int* const p = reinterpret_cast<int*>(memory.data());
  cuda::launch(on, "cumprod", {2, 32, 0}, write_index, p);
  int last = 0;
  REQUIRE(cudaMemcpy(&last, p + 63, sizeof last, cudaMemcpyDeviceToHost) == cudaSuccess);
  CHECK(last == 1);
}

TEST_CASE("cuda: scratch is obtained once", "[components]") {
  cudaStream_t stream;
  REQUIRE(cudaStreamCreate(&stream) == cudaSuccess);
  const backend::cuda on{stream};
  {
    const cuda::stream_scratch first(on, "cumprod", 1 << 20);
  }
  const std::size_t reserved = cuda::reserved_bytes(on);
  CHECK(reserved >= (1 << 20));
  for (int i = 0; i < 10; ++i) const cuda::stream_scratch again(on, "cumprod", 1 << 20);
  CHECK(cuda::reserved_bytes(on) == reserved);
  const cuda::stream_scratch none(on, "cumprod", 0);
  CHECK(none.data() == nullptr);
  CHECK(cudaStreamDestroy(stream) == cudaSuccess);
}

TEST_CASE("cuda: branches of a captured stream are side by side", "[components]") {
  cudaStream_t stream;
  REQUIRE(cudaStreamCreate(&stream) == cudaSuccess);
  const backend::cuda on{stream};
  const cuda::stream_scratch memory({}, "cumprod", 5 * 32 * sizeof(int));  // outlives the stream
  int* const p = reinterpret_cast<int*>(memory.data());
  const auto write = [&](int i) {
    cuda::launch(on, "cumprod", {1, 32, 0}, write_index, p + 32 * i);
  };
  const auto all_written = [&] {
    std::vector<int> values(5 * 32);
    REQUIRE(cudaMemcpyAsync(values.data(), p, values.size() * sizeof(int), cudaMemcpyDeviceToHost,
                            stream) == cudaSuccess);
    REQUIRE(cudaStreamSynchronize(stream) == cudaSuccess);
    return values == std::vector<int>(values.size(), 1);
  };
  const auto clear = [&] {
    REQUIRE(cudaMemsetAsync(p, 0, 5 * 32 * sizeof(int), stream) == cudaSuccess);
  };
  const auto captured = [&](const auto& work, std::size_t nodes, std::size_t edges) {
    cudaGraph_t graph;
    REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    work();
    REQUIRE(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
    std::size_t has_nodes = 0, has_edges = 0;
    REQUIRE(cudaGraphGetNodes(graph, nullptr, &has_nodes) == cudaSuccess);
#if CUDART_VERSION >= 13000
    REQUIRE(cudaGraphGetEdges(graph, nullptr, nullptr, nullptr, &has_edges) == cudaSuccess);
#else
    REQUIRE(cudaGraphGetEdges(graph, nullptr, nullptr, &has_edges) == cudaSuccess);
#endif
    CHECK(has_nodes == nodes);
    CHECK(has_edges == edges);
    return graph;
  };

  const auto work = [&] {
    write(0);
    cuda::branches side_by_side(on, "cumprod");
    write(1);
    side_by_side.next();
    write(2), write(3);
    side_by_side.next();  // nothing is in the third
    side_by_side.join();
    write(4);
  };
  clear();
  work();
  CHECK(all_written());
  clear();
  const cudaGraph_t graph = captured(work, 5, 5);  // 0 -> 1 -> 4 and 0 -> 2 -> 3 -> 4
  cudaGraphExec_t executable;
  REQUIRE(cudaGraphInstantiate(&executable, graph, 0) == cudaSuccess);
  REQUIRE(cudaGraphLaunch(executable, stream) == cudaSuccess);
  CHECK(all_written());
  REQUIRE(cudaGraphExecDestroy(executable) == cudaSuccess);
  REQUIRE(cudaGraphDestroy(graph) == cudaSuccess);

  // An exception in the second branch: 0 -> 1 -> 4 and 0 -> 2 -> 4.
  const auto fails = [&] {
    write(0);
    try {
      cuda::branches side_by_side(on, "cumprod");
      write(1);
      side_by_side.next();
      write(2);
      throw runtime_failure("cumprod", "out of memory");
    } catch (const runtime_failure&) {
    }
    write(4);
  };
  REQUIRE(cudaGraphDestroy(captured(fails, 4, 4)) == cudaSuccess);
  // Nothing was captured before: one after the other.
  const auto first = [&] {
    cuda::branches side_by_side(on, "cumprod");
    write(0);
    side_by_side.next();
    write(1);
    side_by_side.join();
  };
  REQUIRE(cudaGraphDestroy(captured(first, 2, 1)) == cudaSuccess);
  REQUIRE(cudaStreamDestroy(stream) == cudaSuccess);
}
