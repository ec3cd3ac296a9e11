# SPDX-License-Identifier: Apache-2.0
# Configures ${source} from scratch in ${build} with ${options}. Where ${expect} is set, that must
# fail with a message that matches it; otherwise builds the project and runs its program.
cmake_minimum_required(VERSION 3.24)

file(REMOVE_RECURSE ${build})
execute_process(COMMAND ${CMAKE_COMMAND} -S ${source} -B ${build} ${options}
  OUTPUT_VARIABLE output ERROR_VARIABLE output RESULT_VARIABLE code)
if(expect)
  string(REGEX REPLACE "[ \n]+" " " text "${output}")  # CMake wraps its messages
  if(code EQUAL 0)
    message(FATAL_ERROR "The configuration succeeds, but must not:\n${output}")
  elseif(NOT text MATCHES "${expect}")
    message(FATAL_ERROR "The configuration fails, but no message matches\n  ${expect}\n${output}")
  endif()
  return()
endif()
if(NOT code EQUAL 0)
  message(FATAL_ERROR "The configuration fails:\n${output}")
endif()
execute_process(COMMAND ${CMAKE_COMMAND} --build ${build} COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${build}/consumer COMMAND_ERROR_IS_FATAL ANY)
