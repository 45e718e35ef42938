#!/usr/bin/env bash
# Rebuild a deployed model, and switch to the new one only if it is as good and as fast as it has to be.
#
#     examples/nightly.sh hf:deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B /srv/models
#
# The folder then holds one bundle a day, their benchmark figures, and `current`, which points at the last good one.
set -euo pipefail

model=${1:?usage: nightly.sh MODEL FOLDER}
folder=${2:?usage: nightly.sh MODEL FOLDER}
today=$(date +%F)
mkdir -p "$folder"

source=$(deepseek pull "$model" -q)
small=$(deepseek quantize "$source" --int4 -q)
bundle=$(deepseek deploy "$small" --target cpu --output "$folder/$today" -q)

# Each of these ends with exit code 1 where the answer is no, which ends this script: `current` stays as it was.
deepseek verify "$bundle"
deepseek eval "$bundle" --against "$source" --max-kld 0.5
if [ -f "$folder/figures.json" ]; then
    deepseek bench "$bundle" --save "$folder/$today.json" --baseline "$folder/figures.json" --max-slowdown 10%
else
    deepseek bench "$bundle" --save "$folder/$today.json"
fi

ln -sfn "$today" "$folder/current"
cp "$folder/$today.json" "$folder/figures.json"
echo "$folder/current is now $today"
