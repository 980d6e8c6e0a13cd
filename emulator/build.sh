#!/bin/bash
# Builds the emulated libraries into a folder (../target/emulator unless one is given). They are found through LD_LIBRARY_PATH.
set -e
to=$(realpath -m "${1:-$(dirname "$0")/../target/emulator}")
cd "$(dirname "$0")"
mkdir -p "$to"
compile="${CXX:-g++} -std=c++17 -O2 -march=native -fPIC -shared -Wall -Wextra -Wno-unused-parameter"
$compile -o "$to/libcuda.so.1" -Wl,-soname,libcuda.so.1 machine.cpp memory.cpp driver.cpp checks.cpp
$compile -O3 -fno-math-errno -fno-trapping-math -o "$to/libcublasLt.so.13" -Wl,-soname,libcublasLt.so.13 cublaslt.cpp -L"$to" -l:libcuda.so.1 -Wl,-rpath,'$ORIGIN'
$compile -o "$to/libnvrtc.so.13" -Wl,-soname,libnvrtc.so.13 nvrtc.cpp -ldl
