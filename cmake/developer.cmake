# SPDX-License-Identifier: Apache-2.0
# What the tests, examples and benchmarks share: how they are compiled, what they need, and how
# one program per source file is made. Users of the library never see this file.
include(CheckCXXCompilerFlag)
include(${CMAKE_CURRENT_LIST_DIR}/build_info.cmake)
include(${CMAKE_CURRENT_LIST_DIR}/embed_sources.cmake)

set(CMAKE_CXX_EXTENSIONS OFF)

set(mmrec_warnings -Wall -Wextra -Wpedantic -Wshadow -Wconversion)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # False alarms of GCC 12: bug 105651 ("text" + std::string) and bug 105593 (its own AVX-512
  # intrinsics, which initialise a value with itself). The build with clang looks for the real ones.
  list(APPEND mmrec_warnings_off -Wno-restrict -Wno-uninitialized -Wno-maybe-uninitialized)
endif()

add_library(mmrec_developer INTERFACE)
target_link_libraries(mmrec_developer INTERFACE mmrec::mmrec)
target_compile_options(mmrec_developer INTERFACE ${mmrec_warnings} ${mmrec_warnings_off})
if(MMREC_WERROR)
  target_compile_options(mmrec_developer INTERFACE -Werror)
endif()
if(MMREC_NATIVE)
  check_cxx_compiler_flag(-march=native mmrec_has_march_native)
  if(mmrec_has_march_native)
    target_compile_options(mmrec_developer INTERFACE -march=native)
  endif()
endif()
if(MMREC_SANITIZE)
  set(sanitize -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_compile_options(mmrec_developer INTERFACE ${sanitize})
  target_link_options(mmrec_developer INTERFACE ${sanitize})
endif()

# mmrec_require(<package> <minimum> <Debian package> <option>): finds a package, or says how to
# get it and which option does without. No version in the request: the version files of Catch2
# and Eigen accept their own major version only, and mmrec works with several.
macro(mmrec_require package minimum debian option)
  find_package(${package} QUIET)
  if(NOT ${package}_FOUND)
    message(FATAL_ERROR
      "mmrec: ${option} needs ${package} ${minimum} or newer, which was not found.\n"
      "Debian, Ubuntu: apt-get install ${debian}. Installed elsewhere: add its prefix to "
      "CMAKE_PREFIX_PATH. To do without: -D${option}=OFF.")
  elseif(${package}_VERSION VERSION_LESS ${minimum})
    message(FATAL_ERROR
      "mmrec: ${option} needs ${package} ${minimum} or newer; ${${package}_VERSION} was found at "
      "${${package}_DIR}. To do without: -D${option}=OFF.")
  endif()
endmacro()

# mmrec_programs(<prefix> <label> <libraries...>): every .cpp of this directory becomes a program
# of its own name (target: prefix_name), by glob, so that a new file needs no edit of CMake. A line
#   // smoke: <arguments>
# in the source also makes it a test, run with these arguments (prefix.name, under that label).
function(mmrec_programs prefix label)
  file(GLOB sources CONFIGURE_DEPENDS *.cpp)
  foreach(source IN LISTS sources)
    cmake_path(GET source STEM name)
    add_executable(${prefix}_${name} ${source})
    set_target_properties(${prefix}_${name} PROPERTIES OUTPUT_NAME ${name})
    target_include_directories(${prefix}_${name} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
    target_link_libraries(${prefix}_${name} PRIVATE mmrec_developer ${ARGN})
    file(STRINGS ${source} smoke REGEX "^// smoke:" LIMIT_COUNT 1)
    if(smoke)
      string(REGEX REPLACE "^// smoke:" "" smoke "${smoke}")
      separate_arguments(smoke UNIX_COMMAND "${smoke}")
      add_test(NAME ${prefix}.${name} COMMAND ${prefix}_${name} ${smoke})
      set_tests_properties(${prefix}.${name} PROPERTIES LABELS ${label})
    endif()
  endforeach()
endfunction()
