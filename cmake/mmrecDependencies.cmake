# SPDX-License-Identifier: Apache-2.0
# What mmrec::mmrec links to. Shared by the build and by the installed package, so that both find
# it, and explain its absence, in the same way: mmrec_NOT_FOUND_MESSAGE is set when it is missing.
unset(mmrec_NOT_FOUND_MESSAGE)

find_package(Threads QUIET)
if(NOT TARGET Threads::Threads)
  string(CONCAT mmrec_NOT_FOUND_MESSAGE
    "mmrec needs a threads library, and CMake's FindThreads found none. "
    "Enable the language C or CXX in project() before looking for mmrec.")
endif()

# No version in the request: xsimd's version files accept their own major version only, and no
# range at all, while every xsimd from 8.1 to 14 is fine. The version is compared here instead.
if(NOT TARGET xsimd AND NOT mmrec_without_simd)
  find_package(xsimd CONFIG QUIET)
  if(NOT TARGET xsimd)
    string(CONCAT mmrec_NOT_FOUND_MESSAGE
      "mmrec needs xsimd 8.1 or newer, which was not found. "
      "Debian, Ubuntu: apt-get install libxsimd-dev. Conan: xsimd/[>=8.1 <15]. "
      "Installed elsewhere: add its prefix to CMAKE_PREFIX_PATH or set xsimd_DIR.")
  elseif(xsimd_VERSION AND xsimd_VERSION VERSION_LESS 8.1)
    string(CONCAT mmrec_NOT_FOUND_MESSAGE
      "mmrec needs xsimd 8.1 or newer; version ${xsimd_VERSION} was found at ${xsimd_DIR}.")
  endif()
endif()

# xsimd 8.1 as packaged by Debian 12 links to "xtl" without finding it: every user would get -lxtl.
if(TARGET xsimd)
  get_target_property(mmrec_xsimd_links xsimd INTERFACE_LINK_LIBRARIES)
  if(mmrec_xsimd_links STREQUAL "xtl" AND NOT TARGET xtl)
    set_target_properties(xsimd PROPERTIES INTERFACE_LINK_LIBRARIES "")
  endif()
  unset(mmrec_xsimd_links)
endif()
