// SPDX-License-Identifier: Apache-2.0
// main() of the CUDA tests: where there is no device it says so and exits with 77, which CTest
// reports as skipped, or with 1 where MMREC_REQUIRE_GPU is set. It never passes silently.
#define CATCH_CONFIG_RUNNER
#if __has_include(<catch2/catch_session.hpp>)
#include <catch2/catch_session.hpp>
#else
#include <catch2/catch.hpp>
#endif

#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

int main(int argc, char** argv) {
  bool listing = false;
  for (int i = 1; i < argc; ++i) listing = listing || std::strncmp(argv[i], "--list", 6) == 0;
  int devices = 0;
  if (!listing) {
    const cudaError_t code = cudaGetDeviceCount(&devices);
    if (code != cudaSuccess || devices == 0) {
      std::fprintf(stderr, "CUDA tests were not run: there is no GPU (%s).\n",
                   cudaGetErrorString(code));
      return std::getenv("MMREC_REQUIRE_GPU") ? 1 : 77;
    }
  }
  return Catch::Session().run(argc, argv);
}
