# SPDX-License-Identifier: Apache-2.0
# What many tests instantiate, compiled once for all of them (compiled_linear.hpp,
# compiled_solvers.hpp, compiled_passes.hpp), on the CPU and on the GPU.

# Adds a library with a file for each type, named *.<extension>, of what `list` in `header` names.
function(mmrec_compile_once library extension header namespace list)
  set(sources)
  foreach(type IN LISTS ARGN)
    string(MAKE_C_IDENTIFIER ${type} name)
    set(source ${CMAKE_CURRENT_BINARY_DIR}/${library}/${name}.${extension})
    set(instances "MMREC_TEST_COMPILED(${list}, , ${type})")
    file(CONFIGURE OUTPUT ${source} CONTENT
      "#include \"support/${header}\"\n\nnamespace ${namespace} {\n${instances}\n}\n")
    list(APPEND sources ${source})
  endforeach()
  add_library(${library} STATIC EXCLUDE_FROM_ALL ${sources})
  target_include_directories(${library} PRIVATE ${PROJECT_SOURCE_DIR}/tests)
endfunction()

# The libraries <prefix>_<...>, which link to the other arguments.
function(mmrec_add_compiled_tests prefix extension)
  mmrec_compile_once(${prefix}_linear ${extension} compiled_linear.hpp mmrec MMREC_TEST_LINEAR
    float double Eigen::half Eigen::bfloat16)
  target_link_libraries(${prefix}_linear PUBLIC ${ARGN})
  mmrec_compile_once(${prefix}_solvers ${extension} compiled_solvers.hpp mmrec MMREC_TEST_SOLVERS
    float double Eigen::half Eigen::bfloat16)
  target_link_libraries(${prefix}_solvers PUBLIC ${ARGN})
  foreach(type float double)
    mmrec_compile_once(${prefix}_passes_${type} ${extension} compiled_passes.hpp mmrec::detail
      MMREC_TEST_PASSES ${type})
    target_link_libraries(${prefix}_passes_${type} PUBLIC ${prefix}_solvers)
  endforeach()
endfunction()

# Links a test to those it needs.
function(mmrec_link_compiled_tests prefix test name)
  if(name MATCHES "^linear")
    target_link_libraries(${test} PRIVATE ${prefix}_linear)
  elseif(name MATCHES "^recurrence")
    target_link_libraries(${test} PRIVATE ${prefix}_solvers)
  elseif(name MATCHES
      "^(block|block_error|block_fixtures|gradient_flow|model_fixtures|mutable_inputs)_test$")
    target_link_libraries(${test} PRIVATE ${prefix}_passes_double)
  elseif(name MATCHES "^(model|model_memory|model_stream)_test$")
    target_link_libraries(${test} PRIVATE ${prefix}_passes_float ${prefix}_passes_double)
  elseif(name MATCHES "(^model|_model|^block|^gradient_flow).*_test$")
    target_link_libraries(${test} PRIVATE ${prefix}_passes_float)
  endif()
endfunction()
