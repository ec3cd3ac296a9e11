# SPDX-License-Identifier: Apache-2.0
# What pretrain and generate say and return, run as programs:
#   cmake -D pretrain=... -D generate=... -D dir=<scratch> -P command_line.cmake
cmake_minimum_required(VERSION 3.24)
file(REMOVE_RECURSE ${dir})
file(MAKE_DIRECTORY ${dir}/folder)

# expect(<exit code> <regular expression for the output> <command...>)
function(expect code pattern)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result OUTPUT_VARIABLE output
    ERROR_VARIABLE errors WORKING_DIRECTORY ${dir})
  string(APPEND output "${errors}")
  if(NOT result STREQUAL code OR NOT output MATCHES "${pattern}")
    list(JOIN ARGN " " command)
    message(SEND_ERROR "${command}\nexit code ${result}, expected ${code}; "
      "expected a match of '${pattern}' in:\n${output}")
  endif()
endfunction()

set(smaller --width 16 --layers 1 --heads 2 --ffn 32 --slots 16 --batch 2 --context 8 --warmup 2
  --sample 5)
set(tiny ${smaller} --rate 0.02 --floor 0.01 --steps 4)
string(REPEAT "to be or not to be, that is the question\n" 30 text)
file(WRITE ${dir}/text "${text}")
file(WRITE ${dir}/empty "")
file(WRITE ${dir}/short "abc")

# Command lines that cannot be.
expect(0 "--width.*Channels.*--rate.*Learning rate.*--checkpoint" ${pretrain} --help)
expect(0 "[0-9]+\\.[0-9]+\\.[0-9]+" ${pretrain} --version)
foreach(rate dropout beta1 beta2 rate decay validation)
  foreach(value 1 1.5 -0.1 nan)
    expect(2 "--${rate}: expected a rate in \\[0, 1\\), got '${value}'"
      ${pretrain} --${rate}=${value})
  endforeach()
endforeach()
expect(2 "heads: expected a divisor of width = 128, got 5" ${pretrain} --width 128 --heads 5)
expect(2 "--slots: expected an integer from 16 to" ${pretrain} --slots 15)
expect(2 "--layers: expected an integer from 1 to" ${pretrain} --layers 0)
expect(2 "--steps: expected an integer from 1 to" ${pretrain} --steps 0)
expect(2 "--threads: expected an integer from 0 to" ${pretrain} --threads -1)
expect(2 "--clip: expected a finite number" ${pretrain} --clip inf)
expect(2 "--mode: .*windows" ${pretrain} --mode sideways)
expect(2 "--dtype: .*bfloat16" ${pretrain} --dtype int8)
expect(2 "--unheard-of" ${pretrain} --unheard-of)
expect(2 "--resume requires --checkpoint" ${pretrain} --resume)
expect(2 "--resume excludes --overwrite" ${pretrain} --resume --overwrite --checkpoint c)
expect(2 "--best: expected another file than --checkpoint, got 'c'" ${pretrain} --checkpoint c
  --best c)
expect(2 "--best: expected another file than --checkpoint" ${pretrain} --checkpoint c --best ./c)
expect(2 "--metrics: expected another file than --checkpoint" ${pretrain} --checkpoint c
  --metrics c)
expect(2 "--plot: expected another file than --data" ${pretrain} --data text --plot text)
expect(2 "missing.toml" ${pretrain} --config missing.toml)
expect(2 "--checkpoint is required" ${generate})

# Backends and files that are not there: nothing is started, nothing written.
if(NOT cuda)
  expect(1 "^error: .*'cuda': this build has no CUDA backend.*choose simd.*no fallback"
    ${pretrain} --backend cuda --checkpoint none)
endif()
expect(1 "^error: .*'gpu', which is no backend" ${pretrain} --backend gpu --checkpoint none)
expect(1 "^error: .*--data: expected .*'empty', an empty file"
  ${pretrain} --data empty --checkpoint none)
expect(1 "^error: .*--data: expected .*'missing': No such file"
  ${pretrain} --data missing --checkpoint none)
expect(1 "^error: .*--data: expected .*'folder', a directory"
  ${pretrain} --data folder --checkpoint none)
expect(1 "^error: .*expected more than .* bytes.*got 2" ${pretrain} --data short --checkpoint none)
expect(1 "^error: .*--prompt: expected .*byte 0x51 'Q'"
  ${pretrain} ${tiny} --data text --prompt Q --checkpoint none)
expect(1 "^error: .*--checkpoint: .*no/where"
  ${pretrain} ${tiny} --data text --checkpoint no/where)
expect(1 "^error: .*--best: .*no/where" ${pretrain} ${tiny} --data text --best no/where)
expect(1 "^error: .*--plot: .*no/where" ${pretrain} ${tiny} --data text --plot no/where)
expect(1 "^error: .*--metrics: .*no/where" ${pretrain} ${tiny} --data text --metrics no/where)
expect(1 "^error: .*--checkpoint: .*No such file" ${pretrain} --checkpoint none --resume)
expect(1 "^error: .*--checkpoint: .*No such file" ${generate} --checkpoint none)
expect(1 "^error: .*--checkpoint: expected a valid safetensors file, got 'text'" ${generate}
  --checkpoint text)
if(NOT sanitize)  # AddressSanitizer ends a program that asks for this much
  expect(1 "^error: .*pretrain: not enough memory for this model; .*--width" ${pretrain}
    --width 1048576 --layers 64 --checkpoint none)
  expect(1 "^error: .*pretrain: not enough memory for this model; .*--width" ${pretrain}
    --width 1048576 --layers 1048576 --ffn 1048576 --checkpoint none)
endif()
file(GLOB left RELATIVE ${dir} ${dir}/*)
list(SORT left)
if(NOT left STREQUAL "empty;folder;short;text")
  message(SEND_ERROR "refused command lines left files behind: ${left}")
endif()

# Any bytes are text: this program is anything but UTF-8.
expect(0 "256 byte values.*step 4: validation loss of windows [0-9.]+ nats" ${pretrain} ${tiny}
  --data ${pretrain} --vocabulary bytes --validation 0.0001)

# Output that nobody gets is a failure.
if(EXISTS /dev/full)
  expect(1 "^error: cannot write to standard output" sh -c
    "exec '${pretrain}' --data text --width 16 --layers 1 --heads 2 --ffn 32 --steps 1 --batch 1 \
--context 8 --sample 5 > /dev/full")
endif()

# A sample can be interrupted.
find_program(timeout timeout)
if(timeout)
  expect(124 "^$" sh -c "'${timeout}' -k 20 4 '${pretrain}' --data text --width 16 --layers 1 \
--heads 2 --ffn 32 --steps 1 --batch 1 --context 8 --sample 1000000000 > /dev/null")
endif()

# A run with all its files.
file(WRITE ${dir}/run.toml "width = 24\nconvex = true\nmode = \"streams\"\ndata = \"text\"\n")
set(files --metrics m.csv --plot p.svg --checkpoint c.safetensors)
expect(0 "1 blocks of width 16.*step 4/4  loss .*sample"
  ${pretrain} --config run.toml ${tiny} ${files})
file(READ ${dir}/m.csv metrics)
string(JOIN "," columns step loss validation_windows validation_stream rate gradient_norm
  tokens_per_second)
if(NOT metrics MATCHES "^${columns}\n1,[0-9.]+,,,0.01,")
  message(SEND_ERROR "the metrics are not as expected:\n${metrics}")
endif()
if(NOT metrics MATCHES "\n4,[0-9.]+,[0-9.]+,[0-9.]+,0.01,[0-9.]+,[0-9.]+\n$")
  message(SEND_ERROR "the metrics do not end with a validation:\n${metrics}")
endif()
file(READ ${dir}/p.svg plot)
if(NOT plot MATCHES "^<svg.*training.*validation, windows.*validation, stream.*</svg>")
  message(SEND_ERROR "the plot is not as expected:\n${plot}")
endif()

# What is there is not replaced without a word.
file(SHA256 ${dir}/c.safetensors before)
expect(1 "^error: .*'c.safetensors'; --resume goes on with it, --overwrite replaces it"
  ${pretrain} ${tiny} --data text --checkpoint c.safetensors)
expect(1 "^error: .*--metrics: .*'m.csv'; --overwrite replaces it"
  ${pretrain} ${tiny} --data text --metrics m.csv --checkpoint other)
expect(1 "^error: .*--width: expected '16' as in the checkpoint.*got '32'"
  ${pretrain} --checkpoint c.safetensors --resume --width 32)
expect(1 "^error: .*data.bytes: expected '1230' as in the checkpoint.*got"
  ${pretrain} --checkpoint c.safetensors --resume --data m.csv)
file(WRITE ${dir}/broken "not a checkpoint, but long enough for one")
expect(1 "^error: .*broken.*not a safetensors file" ${pretrain} --checkpoint broken --resume)
file(SHA256 ${dir}/c.safetensors after)
if(NOT before STREQUAL after OR EXISTS ${dir}/other)
  message(SEND_ERROR "a refused run changed the checkpoint or wrote another")
endif()
# The options of the run come back with it: there is nothing left to do.
expect(0 "resumed after step 4" ${pretrain} --checkpoint c.safetensors --resume --metrics m.csv)
expect(0 "step 5/5" ${pretrain} ${smaller} --steps 5 --data text ${files} --overwrite)

# The best of several validations is kept: with an end of the text that is like nothing before it,
# not the last. What is kept is what a run that ends there leaves, and is not replaced without a word.
string(SUBSTRING "${text}" 0 1100 start)
string(REPEAT "#" 130 end)
file(WRITE ${dir}/turned "${start}${end}")
set(validated --eval-every 1 --eval-tokens 0)
set(rising ${smaller} --data turned --rate 0.02 --floor 0.02 --clip 0 ${validated})
expect(0 "lowest validation loss [0-9.]+ nats per byte, after step [1-7]: 'best'" ${pretrain}
  ${rising} --steps 8 --checkpoint last --best best)
execute_process(COMMAND ${pretrain} --checkpoint best --resume ${validated}
  WORKING_DIRECTORY ${dir} OUTPUT_VARIABLE resumed COMMAND_ERROR_IS_FATAL ANY)
if(NOT resumed MATCHES "resumed after step [1-7]\n")
  message(SEND_ERROR "the best checkpoint is not one of before the end:\n${resumed}")
endif()
file(SHA256 ${dir}/last before)
file(SHA256 ${dir}/best after)
if(NOT before STREQUAL after)
  message(SEND_ERROR "a run that goes on from the best checkpoint ends elsewhere")
endif()
expect(1 "^error: .*--best: .*'best'; --overwrite replaces it" ${pretrain} ${rising} --steps 8
  --best best)

# Weights that grow without limit leave the numbers of half: the run stops, its checkpoint stays good.
expect(1 "error: .*pretrain: the .* of step [0-9]+ is .*stopped before this update" ${pretrain}
  ${smaller} --steps 500 --data text --dtype half --rate 0.99 --floor 0.99 --clip 0 --decay 0
  --save-every 1 --checkpoint stopped)
expect(0 "^to be" ${generate} --checkpoint stopped --prompt "to be" --tokens 3)

# The text goes on from the prompt; the same seed writes the same; statistics go elsewhere.
set(generate ${generate} --checkpoint c.safetensors)
expect(0 "^to be$" ${generate} --prompt "to be" --tokens 0)
expect(0 "tokens 1 to 100: [0-9]+ tokens/s, peak memory [0-9.]+ MiB\ntokens 101 to 300: [0-9]+ "
  ${generate} --tokens 300 --stats)
expect(1 "^error: .*byte 0x58 'X'" ${generate} --prompt X)
expect(2 "--temperature" ${generate} --temperature -1)
function(generated variable)
  execute_process(COMMAND ${generate} --prompt "to be" --tokens 40 ${ARGN} OUTPUT_VARIABLE text
    WORKING_DIRECTORY ${dir} COMMAND_ERROR_IS_FATAL ANY)
  set(${variable} "${text}" PARENT_SCOPE)
endfunction()
generated(first --seed 1)
generated(again --seed 1 --threads 2)
generated(other --seed 2)
string(LENGTH "${first}" length)
if(NOT length EQUAL 45 OR NOT first STREQUAL again OR first STREQUAL other)
  message(SEND_ERROR "generated '${first}', '${again}', '${other}'")
endif()
