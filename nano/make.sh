#!/bin/sh
# Makes deepseek-nano from nothing: corpus, tokenizer, training and tuning, export, evaluation, card.
set -eu
cd "$(dirname "$0")/.."
folder=${1:-build/nano}
python=${PYTHON:-python3}
mkdir -p "$folder"
$python -m nano.corpus --folder "$folder"
$python -m nano.tokenizer --folder "$folder"
$python -m nano.train --folder "$folder"
$python -m nano.export --folder "$folder"
$python -m nano.evaluate --folder "$folder"
$python -m nano.card --folder "$folder"
