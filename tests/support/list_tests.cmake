# SPDX-License-Identifier: Apache-2.0
# Run after a test program is linked: writes ${list_file}, which registers each of its test cases
# with CTest under those of ${labels} that it has as tags, and under ${add_label}; or up to
# ${cases_per_test} of them together, which then share a process. Asks for bare names, once per
# label, because that listing is the only one that neither Catch2 2 nor 3 wraps at the console's
# width.
cmake_minimum_required(VERSION 3.24)

if(catch_version VERSION_LESS 3)
  set(list --list-test-names-only)
else()
  set(list --list-tests --verbosity quiet)
endif()

# Square brackets glue the elements of a CMake list together and semicolons part them, so the names
# are kept under these marks until they are written.
function(list_names filter result)
  execute_process(COMMAND ${program} ${filter} ${list} OUTPUT_VARIABLE output RESULT_VARIABLE code)
  # Catch2 2 exits with the number of tests; there, only a text ("Segmentation fault") is a failure.
  if(NOT code MATCHES "^[0-9]+$" OR (code GREATER 0 AND catch_version VERSION_GREATER_EQUAL 3))
    message(FATAL_ERROR "${program} ${filter} ${list}: ${code}\n${output}")
  endif()
  string(REPLACE ";" "<semicolon>" output "${output}")
  string(REPLACE "[" "<open>" output "${output}")
  string(REPLACE "]" "<close>" output "${output}")
  string(REGEX REPLACE "\n+" ";" output "${output}")
  list(REMOVE_ITEM output "")
  set(${result} "${output}" PARENT_SCOPE)
endfunction()

list_names("" names)
if(NOT names)
  message(FATAL_ERROR "${program} contains no test case")
endif()
foreach(label IN LISTS labels)
  list_names("[${label}]" names_${label})
endforeach()

if(NOT cases_per_test)
  set(cases_per_test 1)
endif()
list(LENGTH names count)
math(EXPR tests "(${count} + ${cases_per_test} - 1) / ${cases_per_test}")
math(EXPR last "${tests} - 1")
foreach(i RANGE ${last})
  set(specification_${i} "")
  set(tags_${i} ${add_label})
endforeach()

cmake_path(GET program STEM stem)
set(turn 0)
foreach(name IN LISTS names)
  # Neighbours, which are often one case for several types and take equally long, are parted.
  math(EXPR i "${turn} % ${tests}")
  math(EXPR turn "${turn} + 1")
  foreach(label IN LISTS labels)
    if(name IN_LIST names_${label} AND NOT label IN_LIST tags_${i})
      list(APPEND tags_${i} ${label})
    endif()
  endforeach()
  string(REPLACE "<semicolon>" ";" name "${name}")
  string(REPLACE "<open>" "[" name "${name}")
  string(REPLACE "<close>" "]" name "${name}")
  # A name is a test specification for Catch2, where these four characters have a meaning.
  string(REGEX REPLACE "([][,\\])" "\\\\\\1" specification "${name}")
  if(specification_${i})
    string(APPEND specification_${i} ",")  # or
  endif()
  string(APPEND specification_${i} "${specification}")
  set(name_${i} "${name}")
endforeach()

set(script "")
foreach(i RANGE ${last})
  set(name "${name_${i}}")
  if(cases_per_test GREATER 1 AND tests LESS count)
    math(EXPR number "${i} + 1")
    set(name "${number} of ${tests}")
  endif()
  # A case without an assertion fails, and so does a specification that matches nothing.
  string(APPEND script
    "add_test([==[${stem}: ${name}]==] [==[${program}]==] [==[${specification_${i}}]==] -w NoAssertions)\n"
    "set_tests_properties([==[${stem}: ${name}]==] PROPERTIES LABELS [==[${tags_${i}}]==]\n"
    "  SKIP_RETURN_CODE 77 FAIL_REGULAR_EXPRESSION [==[No test cases matched|No tests ran]==])\n")
  if(cost)
    string(APPEND script "set_tests_properties([==[${stem}: ${name}]==] PROPERTIES COST ${cost})\n")
  endif()
endforeach()
file(WRITE ${list_file} "${script}")
