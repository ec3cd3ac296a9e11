# SPDX-License-Identifier: Apache-2.0
# Fails when two object files define the same function of mmrec::simd, of which the linker would
# keep either: -D nm=... -D first=... -D second=...
cmake_minimum_required(VERSION 3.25)

function(shared_code object result)
  execute_process(COMMAND ${nm} --demangle --defined-only ${object}
    OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
  string(REPLACE ";" "," symbols "${symbols}")
  string(REGEX MATCHALL "[0-9a-f]+ W [^\n]*mmrec::simd::[^\n]*" symbols "${symbols}")
  list(TRANSFORM symbols REPLACE "^[0-9a-f]+ W " "")
  if(NOT symbols)
    message(FATAL_ERROR "${object} has no function of mmrec::simd at all")
  endif()
  set(${result} "${symbols}" PARENT_SCOPE)
endfunction()

shared_code(${first} ours)
shared_code(${second} theirs)
foreach(symbol IN LISTS ours)
  if(symbol IN_LIST theirs)
    message(SEND_ERROR "in both: ${symbol}")
  endif()
endforeach()
