#!/bin/sh
# VGG16 on CIFAR-10 on the card for some minutes, and the digits on the processor's cores beside it (16 of them):
#   studies/on_a_card.sh DATA OUT [MINUTES]
# DATA is the folder of CIFAR-10, OUT where results go; PYTHON says which Python has torch and torch-pruning.
set -u
cd "$(dirname "$0")/.." || exit 2
python="${PYTHON:-python3}"
data="$1" out="$2" minutes="${3:-7}"
"$python" -m orchestrator.evidence studies/digits.yaml --out "$out/digits" --workers 6 --threads 6 --minutes "$minutes" \
    > "$out/digits.log" 2>&1 &
digits=$!
"$python" -m orchestrator.evidence studies/vgg16_cifar10_gpu_more.yaml --set "data.path=$data" --out "$out/vgg16" \
    --device cuda --workers 9 --threads 9 --minutes "$minutes" 2>&1 | tee "$out/vgg16.log"
wait "$digits"
tail -n 3 "$out/digits.log"
