#!/usr/bin/env bash
# Rebuild a deployed model, and switch to the new one only if it is as good and as small as it has to be.
#
#     examples/nightly.sh hf:deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B /srv/models
#
# The folder then holds one bundle a day, its figures, and `current`, which points at the last good one.
set -euo pipefail

model=${1:?usage: nightly.sh MODEL FOLDER}
folder=${2:?usage: nightly.sh MODEL FOLDER}
today=$(date +%F)
mkdir -p "$folder"

deepseek pull "$model"
small=$(deepseek quantize "$model" --int4 -q)
bundle=$(deepseek deploy "$small" --target cpu --output "$folder/$today" -q)

# Each of these ends with exit code 1 where the answer is no, which ends this script: `current` stays as it was.
deepseek verify "$bundle"
deepseek eval "$bundle" --against "$model" --max-kld 0.5
deepseek profile "$bundle" --save "$folder/$today-memory.json" --max-peak 2GiB
deepseek bench "$bundle" --save "$folder/$today-speed.json"

ln -sfn "$today" "$folder/current"
echo "$folder/current is now $today"
