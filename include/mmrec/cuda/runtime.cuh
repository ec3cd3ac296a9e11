// SPDX-License-Identifier: Apache-2.0
// What every CUDA kernel of mmrec is launched with: errors that name the call and its code, scratch
// from a stream-ordered pool, the device's properties, and the launch itself.
//
// Nothing here waits for the device, and everything can be captured in a CUDA graph. A call works
// on the device that is current, which must be the one its stream belongs to.
#pragma once

#include <mmrec/backend.hpp>
#include <mmrec/error.hpp>

#include <cuda_runtime.h>

#include <array>
#include <cstdint>
#include <mutex>
#include <string>

#if defined(__NVCC__) && !defined(__CUDACC_RELAXED_CONSTEXPR__)
#error \
    "mmrec: CUDA files need nvcc's option --expt-relaxed-constexpr; the target mmrec::cuda sets it"
#endif
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#error "mmrec: backend::cuda needs sm_80 or newer (CMAKE_CUDA_ARCHITECTURES, nvcc -arch)"
#endif

namespace mmrec {

/// A CUDA call that failed. An error that CUDA reports without breaking the context (no device, out
/// of memory, no code for this device) is cleared, and the next call starts afresh.
class cuda_error : public runtime_failure {
 public:
  cuda_error(const char* function, const char* call, cudaError_t code)
      : runtime_failure(function, describe(call, code)), code_(code) {}
  cudaError_t code() const { return code_; }

 private:
  static std::string describe(const char* call, cudaError_t code) {
    std::string s = std::string(call) + " failed: " + cudaGetErrorString(code) + " (" +
                    cudaGetErrorName(code) + ", " + std::to_string(static_cast<int>(code)) + ")";
    if (code == cudaErrorNoKernelImageForDevice || code == cudaErrorInvalidDeviceFunction)
      s += "; this program holds no code for the current device: add its architecture to "
           "CMAKE_CUDA_ARCHITECTURES (nvcc -arch)";
    if (code == cudaErrorMemoryAllocation)
      s += "; scratch comes from backend::cuda's memory, by default a pool of mmrec's own";
    return s;
  }
  cudaError_t code_;
};

namespace cuda {

/// Throws cuda_error unless `code` is success. `function` is mmrec's, `call` is CUDA's.
inline void check(const char* function, const char* call, cudaError_t code) {
  if (code == cudaSuccess) return;
  cudaGetLastError();  // an error that does not break the context is forgotten
  throw cuda_error(function, call, code);
}

inline cudaStream_t stream_of(const backend::cuda& b) {
  return static_cast<cudaStream_t>(b.stream);
}

/// What kernels are chosen and sized by.
struct device_properties {
  int index = 0;
  int multiprocessors = 0;
  int shared_bytes = 0;  // that one block may have
  int capability = 0;    // compute capability's major number
  /// Kernels may start before the one before them has ended.
  bool early() const { return capability >= 9; }
  /// Blocks may be launched in clusters.
  bool clusters() const { return capability >= 9; }
};

namespace detail {

inline constexpr int max_devices = 64;

struct device_state {
  std::once_flag queried, pooled;
  device_properties properties;
  cudaMemPool_t pool = nullptr;
};

inline device_state& state_of(int device) {
  static std::array<device_state, max_devices> states;
  return states[static_cast<std::size_t>(device)];
}

inline int device_number(const char* function) {
  int device = 0;
  check(function, "cudaGetDevice", cudaGetDevice(&device));
  if (device >= max_devices)
    throw runtime_failure(
        function, "device numbers from " + std::to_string(max_devices) + " on are not supported");
  return device;
}

}  // namespace detail

/// The current device, asked once.
inline const device_properties& current_device(const char* function) {
  const int device = detail::device_number(function);
  auto& state = detail::state_of(device);
  std::call_once(state.queried, [&] {
    device_properties p;
    p.index = device;
    const auto attribute = [&](int* value, cudaDeviceAttr which) {
      check(function, "cudaDeviceGetAttribute", cudaDeviceGetAttribute(value, which, device));
    };
    attribute(&p.multiprocessors, cudaDevAttrMultiProcessorCount);
    attribute(&p.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin);
    attribute(&p.capability, cudaDevAttrComputeCapabilityMajor);
    state.properties = p;
  });
  return state.properties;
}

/// Where a tag's scratch comes from: its own pool, or one of mmrec's per device, which keeps what
/// it has obtained, so that the second of two identical calls obtains nothing.
inline cudaMemPool_t pool_of(const backend::cuda& b, const char* function) {
  if (b.memory) return static_cast<cudaMemPool_t>(b.memory);
  const int device = detail::device_number(function);
  auto& state = detail::state_of(device);
  std::call_once(state.pooled, [&] {
    cudaMemPoolProps props{};
    props.allocType = cudaMemAllocationTypePinned;
    props.location.type = cudaMemLocationTypeDevice;
    props.location.id = device;
    cudaMemPool_t pool = nullptr;
    check(function, "cudaMemPoolCreate", cudaMemPoolCreate(&pool, &props));
    std::uint64_t keep = UINT64_MAX;
    check(function, "cudaMemPoolSetAttribute",
          cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep));
    state.pool = pool;
  });
  return state.pool;
}

/// Bytes that the tag's pool holds of the device's memory, in use or not.
inline std::size_t reserved_bytes(const backend::cuda& b) {
  std::uint64_t bytes = 0;
  check("reserved_bytes", "cudaMemPoolGetAttribute",
        cudaMemPoolGetAttribute(pool_of(b, "reserved_bytes"), cudaMemPoolAttrReservedMemCurrent,
                                &bytes));
  return static_cast<std::size_t>(bytes);
}

/// Uninitialised device memory for what is enqueued during a scope. Zero bytes obtain nothing.
class stream_scratch {
 public:
  stream_scratch(const backend::cuda& b, const char* function, std::size_t bytes)
      : stream_(stream_of(b)) {
    if (bytes > 0)
      check(function, "cudaMallocFromPoolAsync",
            cudaMallocFromPoolAsync(&data_, bytes, pool_of(b, function), stream_));
  }
  ~stream_scratch() {
    if (data_) cudaFreeAsync(data_, stream_);
  }
  stream_scratch(const stream_scratch&) = delete;
  stream_scratch& operator=(const stream_scratch&) = delete;
  std::byte* data() const { return static_cast<std::byte*>(data_); }

 private:
  cudaStream_t stream_;
  void* data_ = nullptr;
};

struct launch_shape {
  std::int64_t blocks = 1;
  unsigned threads = 32;
  std::size_t shared_bytes = 0;  // dynamic
  bool cooperative = false;      // all blocks are on the device together
  unsigned cluster = 1;          // blocks that reach each other's shared memory
  bool early = false;  // may start before the kernel before it has ended (where a device can)
};

/// The next kernel, if it is early, may start as soon as all blocks of this one have said so.
__device__ __forceinline__ void let_next_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
/// In an early kernel: until those before it have ended.
__device__ __forceinline__ void wait_for_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// Enqueues a kernel.
template <class... Parameters, class... Arguments>
void launch(const backend::cuda& b, const char* function, const launch_shape& shape,
            void (*kernel)(Parameters...), const Arguments&... arguments) {
  if (shape.shared_bytes > 48 * 1024)
    check(function, "cudaFuncSetAttribute",
          cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shape.shared_bytes)));
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(shape.blocks));
  config.blockDim = dim3(shape.threads);
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream_of(b);
  cudaLaunchAttribute attributes[3]{};
  config.attrs = attributes;
  if (shape.cooperative) {
    auto& together = attributes[config.numAttrs++];
    together.id = cudaLaunchAttributeCooperative;
    together.val.cooperative = 1;
  }
  if (shape.cluster > 1) {
    auto& cluster = attributes[config.numAttrs++];
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim = {shape.cluster, 1, 1};
  }
  if (shape.early && current_device(function).early()) {
    auto& early = attributes[config.numAttrs++];
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
  }
  check(function, "cudaLaunchKernelEx", cudaLaunchKernelEx(&config, kernel, arguments...));
}

}  // namespace cuda
}  // namespace mmrec
