#!/bin/sh
# The whole way in a script, each command's output naming the next one's input.
set -eu
model=$(deepseek pull "$1" -q)
quantized=$(deepseek quantize "$model" --int4 -q)
compressed=$(deepseek compress "$quantized" --to-size 1MB -q)
bundle=$(deepseek deploy "$compressed" --target cpu -q)
text=$(deepseek run "$bundle" "Hello" --max-tokens 8 -q)
[ -n "$text" ]
saved=$(deepseek bench "$bundle" --prompt-tokens 16 --new-tokens 4 --depth 0 --rounds 1 --save bench.json -q)
page=$(deepseek profile "$bundle" --memory-profile -q)
printf '%s\n' "$model" "$quantized" "$compressed" "$bundle" "$saved" "$page"
