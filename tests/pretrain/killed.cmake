# SPDX-License-Identifier: Apache-2.0
# A run that is killed (SIGKILL, at arbitrary moments) and resumed until it is done ends with the
# same checkpoint as one that was not:
#   cmake -D pretrain=... -D dir=<scratch> -P killed.cmake
cmake_minimum_required(VERSION 3.24)
file(REMOVE_RECURSE ${dir})
file(MAKE_DIRECTORY ${dir})
string(REPEAT "the quick brown fox jumps over the lazy dog\n" 400 text)
file(WRITE ${dir}/text "${text}")
set(run ${pretrain} --data text --mode streams --dropout 0.1 --accumulate 2 --width 32 --layers 2
  --heads 2 --ffn 64 --slots 16 --batch 4 --context 32 --steps 400 --warmup 20 --save-every 7
  --eval-every 50 --sample 0)
execute_process(COMMAND ${run} --checkpoint whole --metrics whole.csv WORKING_DIRECTORY ${dir}
  OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY)

set(killed 0)
set(result unstarted)
foreach(attempt RANGE 1 60)
  # Long enough to get somewhere, and longer each time, so that slow machines finish as well.
  math(EXPR tenths "3 + ${attempt} * ${attempt} / 4")
  math(EXPR seconds "${tenths} / 10")
  math(EXPR tenths "${tenths} % 10")
  set(resume)
  if(EXISTS ${dir}/pieces)
    set(resume --resume)
  endif()
  execute_process(COMMAND ${run} --checkpoint pieces --metrics pieces.csv ${resume}
    WORKING_DIRECTORY ${dir} TIMEOUT ${seconds}.${tenths} RESULT_VARIABLE result
    OUTPUT_QUIET ERROR_VARIABLE message)
  if(result EQUAL 0)
    break()
  elseif(NOT result MATCHES "timeout")
    message(FATAL_ERROR "attempt ${attempt}: ${result}\n${message}")
  endif()
  math(EXPR killed "${killed} + 1")
endforeach()
if(NOT result EQUAL 0 OR killed EQUAL 0)
  message(FATAL_ERROR "killed ${killed} times, then ${result}: this shows nothing")
endif()

foreach(name whole pieces)
  file(SHA256 ${dir}/${name} digest_${name})
  # All columns but the last, which is a speed.
  file(STRINGS ${dir}/${name}.csv rows_${name})
  list(TRANSFORM rows_${name} REPLACE ",[^,]*$" "")
endforeach()
if(NOT digest_whole STREQUAL digest_pieces)
  message(FATAL_ERROR "after ${killed} kills the checkpoint differs")
endif()
if(NOT rows_whole STREQUAL rows_pieces)
  message(FATAL_ERROR "after ${killed} kills the metrics differ")
endif()
message(STATUS "the same after ${killed} kills")
