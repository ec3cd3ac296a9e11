# SPDX-License-Identifier: Apache-2.0
# Defines mmrec::cuda, which a .cu file links, where the CUDA toolkit is: for the installed package's
# component cuda, and in the scope ${mmrec_cuda_scope} (GLOBAL, or empty) for subprojects. It does
# not enable the language, which is the consumer's choice.
find_package(CUDAToolkit 12.0 QUIET)
if(TARGET CUDA::cudart AND TARGET CUDA::cublasLt AND NOT TARGET mmrec::cuda)
  add_library(mmrec::cuda INTERFACE IMPORTED ${mmrec_cuda_scope})
  target_link_libraries(mmrec::cuda INTERFACE mmrec::mmrec CUDA::cudart CUDA::cublasLt)
  # std::array in kernels; and C++20, unless the target says which standard it wants: as an option,
  # since CMake 3.25 does not know that nvcc 13 has it.
  target_compile_options(mmrec::cuda INTERFACE
    $<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr>
    $<$<AND:$<COMPILE_LANGUAGE:CUDA>,$<NOT:$<BOOL:$<TARGET_PROPERTY:CUDA_STANDARD>>>>:-std=c++20>)
endif()
