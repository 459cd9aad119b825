#!/bin/sh
# What a machine with a CUDA card does, in one command: benchmarks/gpu.sh --data FOLDER (or --data FOLDER --download).
# It needs a checkout and its packages; PYTHON says which Python has them.
cd "$(dirname "$0")/.." || exit 2
exec "${PYTHON:-python3}" -m benchmarks.gpu "$@"
