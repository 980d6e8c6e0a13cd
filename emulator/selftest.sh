#!/bin/bash
# Tests the emulator in every mode. `build.sh` comes first.
set -e
cd "$(dirname "$0")"
libraries=$(realpath "${1:-../target/emulator}")
${CXX:-g++} -std=c++17 -O1 -Wall -Wno-unused -o "$libraries/selftest" selftest.cpp -L"$libraries" -l:libcuda.so.1 -l:libcublasLt.so.13 -l:libnvrtc.so.13
export LD_LIBRARY_PATH="$libraries"
for mode in EMU_ORDER=forward EMU_ORDER=reverse EMU_ORDER=random EMU_COPIES=early EMU_CHECK=1 "EMU_CHECK=1 EMU_ORDER=random EMU_SEED=7"; do
    echo "== $mode"
    env $mode "$libraries/selftest"
done
