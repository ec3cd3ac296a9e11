# SPDX-License-Identifier: Apache-2.0
# Compiles ${source} with ${command} and passes only if the compiler refuses it with a message that
# matches the source's line "// expect: <regular expression>".
cmake_minimum_required(VERSION 3.24)

file(STRINGS ${source} expect REGEX "^// expect: " LIMIT_COUNT 1)
string(REGEX REPLACE "^// expect: " "" expect "${expect}")
string(REPLACE "\\;" ";" expect "${expect}")  # file(STRINGS) escapes semicolons
if(expect STREQUAL "")
  message(FATAL_ERROR "${source} has no line '// expect: <regular expression>'")
endif()

execute_process(COMMAND ${command} ${source} OUTPUT_VARIABLE output ERROR_VARIABLE output
  RESULT_VARIABLE code)
if(code EQUAL 0)
  message(FATAL_ERROR "${source} compiles, but must not")
elseif(NOT output MATCHES "${expect}")
  message(FATAL_ERROR "${source} is refused, but not with a message that matches\n  ${expect}\n${output}")
endif()
