# SPDX-License-Identifier: Apache-2.0
# What the .cu tests, benchmarks and examples share. Included only with MMREC_CUDA, so that nothing
# else looks for nvcc. They need Catch2 and Eigen, and none of the CPU suite's other packages.
if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  # nvcc is often installed where no PATH leads.
  find_program(MMREC_NVCC nvcc HINTS $ENV{CUDA_HOME}/bin $ENV{CUDA_PATH}/bin /usr/local/cuda/bin)
  if(NOT MMREC_NVCC)
    message(FATAL_ERROR "mmrec: MMREC_CUDA needs nvcc 12.0 or newer, which was not found; set "
      "CUDACXX or CUDA_HOME. To do without: -DMMREC_CUDA=OFF.")
  endif()
  set(CMAKE_CUDA_COMPILER ${MMREC_NVCC})
endif()
if(NOT CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 90)
endif()
enable_language(CUDA)
set(CMAKE_CUDA_EXTENSIONS OFF)

find_package(CUDAToolkit REQUIRED)
add_library(mmrec_cuda_developer INTERFACE)
target_link_libraries(mmrec_cuda_developer INTERFACE mmrec::mmrec CUDA::cublasLt)
# The dialect as a plain option: CMake 3.25 does not know that nvcc 13 has C++20.
# 20012: Eigen marks defaulted functions for host and device.
target_compile_options(mmrec_cuda_developer INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:
  -std=c++20 --extended-lambda -Wno-deprecated-gpu-targets --expt-relaxed-constexpr -diag-suppress=20012
  -Xcompiler=-Wall,-Wextra,-Wshadow>)
if(MMREC_WERROR)
  target_compile_options(mmrec_cuda_developer INTERFACE
    $<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings>)
endif()
