# Completion for deepseek. Written by `deepseek completion bash`: changes made here are lost.
_deepseek_words() { COMPREPLY=($(compgen -W "$1" -- "$word")); }
_deepseek_files() {
    local IFS=$'\n'
    compopt -o filenames 2>/dev/null
    COMPREPLY=($(compgen -f -- "$word"))
}
_deepseek_names() { # and the words of $1; bash ends words at the @ of our names
    local IFS=$'\n' whole="${COMP_LINE:0:COMP_POINT}"
    whole="${whole##* }"
    COMPREPLY=($(compgen -W "$(deepseek list -q 2>/dev/null)"$'\n'"${1// /$'\n'}" -f -- "$whole"))
    COMPREPLY=("${COMPREPLY[@]#"${whole%"$word"}"}")
}
_deepseek_models() { _deepseek_names 'v4.1-flash v4-pro v4-pro-base v4-pro-0813 v4-pro-dspark v4-flash v4-flash-base v4-flash-0731 v4-flash-dspark v3.2 v3.2-speciale v3.2-exp v3.2-exp-base math-v2 v3.1-terminus v3.1 v3.1-base r1-0528 v3-0324 r1 r1-zero v3 v3-base r1-distill-1.5b r1-distill-7b r1-distill-8b r1-distill-14b r1-distill-32b r1-distill-70b r1-0528-8b v2.5-1210 v2.5 v2-chat-0628 v2-chat v2 v2-lite-chat v2-lite coder-v2 coder-v2-0724 coder-v2-base coder-v2-lite coder-v2-lite-base coder-1.3b coder-1.3b-base coder-5.7b-base coder-6.7b coder-6.7b-base coder-7b-v1.5 coder-7b-v1.5-base coder-33b coder-33b-base llm-7b llm-7b-base llm-67b llm-67b-base moe-16b moe-16b-base math-7b math-7b-base math-7b-rl prover-v1.5 prover-v1.5-sft prover-v1.5-base prover-v2-7b prover-v2-671b ocr-2 ocr vl2 vl2-small vl2-tiny vl-7b vl-7b-base vl-1.3b vl-1.3b-base janus-pro-7b janus-pro-1b janusflow-1.3b janus-1.3b smolvlm-256m smollm2-135m smollm2-360m smollm2-1.7b tinyllama-1.1b qwen2.5-0.5b qwen2.5-1.5b qwen2.5-7b qwen2.5-coder-0.5b qwen2.5-coder-1.5b qwen2.5-math-1.5b qwen3-0.6b qwen3-1.7b qwen3-4b qwen3-4b-2507 qwen3-embedding-0.6b bge-m3 bge-small-en minilm-l6'; }
_deepseek() {
    local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" command="${COMP_WORDS[1]}"
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        _deepseek_words 'pull search demo quantize compress tune deploy run serve bench profile eval show verify list rm doctor config plugins completion --help --version'
        return
    fi
    case "$command,$before" in
        pull,--revision|pull,--source|pull,--mirror|pull,--include|pull,--exclude|pull,--workers|pull,--max-rate|pull,--set|search,--domain|search,--fits|quantize,--scheme|quantize,--algorithm|quantize,--rule|quantize,--to-bpw|quantize,--to-size|quantize,--tokens|quantize,--threads|quantize,--memory|quantize,--seed|quantize,--address|quantize,--set|compress,--smaller|compress,--to-size|compress,--fit|compress,--steps|compress,--time|compress,--max-kld|compress,--max-accuracy-loss|compress,--threads|compress,--memory|compress,--set|tune,--objective|tune,--trials|tune,--time|tune,--workers|tune,--windows|tune,--apply|tune,--threads|tune,--memory|tune,--seed|tune,--set|deploy,--target|deploy,--threads|deploy,--context|deploy,--memory|deploy,--set|run,--max-tokens|run,--temperature|run,--top-k|run,--top-p|run,--min-p|run,--repetition-penalty|run,--stop|run,--system|run,--sparse-attention|run,--threads|run,--context|run,--memory|run,--seed|run,--set|serve,--host|serve,--port|serve,--slots|serve,--replicas|serve,--threads|serve,--context|serve,--memory|serve,--address|serve,--set|bench,--prompt-tokens|bench,--new-tokens|bench,--depth|bench,--sparse-attention|bench,--rounds|bench,--max-slowdown|bench,--serve|bench,--load|bench,--threads|bench,--context|bench,--memory|bench,--seed|bench,--set|profile,--batch|profile,--scheme|profile,--prompt-tokens|profile,--new-tokens|profile,--max-peak|profile,--max-growth|profile,--leak|profile,--threads|profile,--context|profile,--set|eval,--windows|eval,--max-kld|eval,--max-accuracy-loss|eval,--threads|eval,--memory|verify,--threads|verify,--memory) :; return ;;
        pull,--lock|pull,-o|pull,--output|search,-o|search,--output|demo,-o|demo,--output|quantize,--calibration|quantize,-o|quantize,--output|compress,--calibration|compress,--text|compress,--html|compress,-o|compress,--output|tune,--space|tune,--study|tune,--html|tune,-o|tune,--output|deploy,-o|deploy,--output|run,-o|run,--output|serve,--api-key-file|serve,--log|serve,-o|serve,--output|bench,--baseline|bench,--save|bench,-o|bench,--output|profile,--html|profile,--save|profile,--baseline|profile,-o|profile,--output|eval,--text|eval,-o|eval,--output|show,-o|show,--output|verify,-o|verify,--output|list,-o|list,--output|rm,-o|rm,--output|doctor,-o|doctor,--output|config,-o|config,--output|plugins,-o|plugins,--output|completion,-o|completion,--output) _deepseek_files; return ;;
        pull,--color|search,--color|demo,--color|quantize,--color|compress,--color|tune,--color|deploy,--color|run,--color|serve,--color|bench,--color|profile,--color|eval,--color|show,--color|verify,--color|list,--color|rm,--color|doctor,--color|config,--color|plugins,--color|completion,--color) _deepseek_words 'auto always never'; return ;;
        quantize,--group) _deepseek_words '32 64 128 channel'; return ;;
        quantize,--level|compress,--level) _deepseek_words 'fast balanced best'; return ;;
        quantize,--engine|serve,--engine) _deepseek_words 'local ray'; return ;;
        compress,--relative-to) _deepseek_words 'fp32 bf16'; return ;;
        tune,--sampler) _deepseek_words 'auto tpe cmaes nsga2'; return ;;
        deploy,--verify) _deepseek_words 'structure weights logits tokens'; return ;;
        deploy,--kv|profile,--kv) _deepseek_words 'fp32 fp16 int8'; return ;;
        deploy,--precision) _deepseek_words 'fp32 fp16 bf16'; return ;;
        run,--device|bench,--device|profile,--device) _deepseek_words 'auto cpu cuda mps'; return ;;
        eval,--against) _deepseek_models; return ;;
    esac
    case "$command,$word" in
        pull,-*) _deepseek_words '--revision --source --mirror --include --exclude --lock --locked --allow-pickle --workers --max-rate -o --output --force --json -q --quiet -v --verbose --offline --color -y --yes -h --help -n --dry-run --strict --set' ;;
        search,-*) _deepseek_words '--domain --fits --supported -o --output --force --json -q --quiet -v --verbose --offline --color -y --yes -h --help' ;;
        demo,-*) _deepseek_words '-o --output --force --json -q --quiet -v --verbose --offline --color -y --yes -h --help' ;;
        quantize,-*) _deepseek_words '--int4 --int8 --scheme --group --level --algorithm --rule --qat --to-bpw --to-size --calibration --tokens -o --output --force --json -q --quiet -v --verbose --offline --color -y --yes -h --help -n --dry-run --strict --threads --memory --seed --engine --address --memory-profile --set' ;;
        compress,-*) _deepseek_words '--smaller --to-size --fit --relative-to --steps --time --level --max-kld --max-accuracy-loss --calibration --text --html -o --output --force --json -q --quiet -v --verbose --offline --color -y --yes -h --help -n --dry-run --strict --threads --memory --set' ;;
        tune,-*) _deepseek_words '--objective --space --trials --time --workers --study --sampler --windows --html --apply -o --output --force --json -q --quiet -v --verbose --offline --color -y --yes -h --help -n --dry-run --strict --threads --memory --seed --set' ;;
        deploy,-*) _deepseek_words '--target --verify --kv --precision --pull --int4 --int8 --list -o --output --force --json -q --quiet -v --verbose --offline --color -y --yes -h --help -n --dry-run --strict --threads --context --memory --memory-profile --optimize-memory --set' ;;
        run,-*) _deepseek_words '--max-tokens --temperature --top-k --top-p --min-p --repetition-penalty --stop --system --raw --draft --sparse-attention --fast-prefill -o --output --force --json -q --quiet -v --verbose --offline --color -y --yes -h --help --threads --context --memory --seed --device --memory-profile --optimize-memory --set' ;;
        serve,-*) _deepseek_words '--host --port --api-key-file --slots --replicas --log -o --output --force --json -q --quiet -v --verbose --offline --color -y --yes -h --help --threads --context --memory --engine --address --memory-profile --set' ;;
        bench,-*) _deepseek_words '--prompt-tokens --new-tokens --depth --sparse-attention --fast-prefill --rounds --quality --baseline --max-slowdown --save --serve --load -o --output --force --json -q --quiet -v --verbose --offline --color -y --yes -h --help --strict --threads --context --memory --seed --device --memory-profile --optimize-memory --set' ;;
        profile,-*) _deepseek_words '--memory-profile --html --save --estimate --batch --kv --scheme --prompt-tokens --new-tokens --max-peak --baseline --max-growth --leak -o --output --force --json -q --quiet -v --verbose --offline --color -y --yes -h --help -n --dry-run --strict --threads --context --device --set' ;;
        eval,-*) _deepseek_words '--against --text --windows --max-kld --max-accuracy-loss -o --output --force --json -q --quiet -v --verbose --offline --color -y --yes -h --help --threads --memory' ;;
        show,-*) _deepseek_words '-o --output --force --json -q --quiet -v --verbose --offline --color -y --yes -h --help' ;;
        verify,-*) _deepseek_words '--quick --repair -o --output --force --json -q --quiet -v --verbose --offline --color -y --yes -h --help --threads --memory' ;;
        list,-*) _deepseek_words '-o --output --force --json -q --quiet -v --verbose --offline --color -y --yes -h --help' ;;
        rm,-*) _deepseek_words '-o --output --force --json -q --quiet -v --verbose --offline --color -y --yes -h --help' ;;
        doctor,-*) _deepseek_words '-o --output --force --json -q --quiet -v --verbose --offline --color -y --yes -h --help' ;;
        config,-*) _deepseek_words '--origin --all -o --output --force --json -q --quiet -v --verbose --offline --color -y --yes -h --help' ;;
        plugins,-*) _deepseek_words '-o --output --force --json -q --quiet -v --verbose --offline --color -y --yes -h --help' ;;
        completion,-*) _deepseek_words '-o --output --force --json -q --quiet -v --verbose --offline --color -y --yes -h --help' ;;
        pull,*) _deepseek_models ;;
        demo,*) _deepseek_models ;;
        quantize,*) _deepseek_models ;;
        compress,*) _deepseek_models ;;
        tune,*) _deepseek_models ;;
        deploy,*) _deepseek_models ;;
        run,*) _deepseek_models ;;
        serve,*) _deepseek_models ;;
        bench,*) _deepseek_models ;;
        profile,*) _deepseek_models ;;
        eval,*) _deepseek_models ;;
        show,*) _deepseek_models ;;
        verify,*) _deepseek_models ;;
        rm,*) _deepseek_names ;;
        config,*) _deepseek_words 'show path' ;;
        plugins,*) _deepseek_words 'list check' ;;
        completion,*) _deepseek_words 'bash zsh fish powershell' ;;
    esac
}
complete -F _deepseek deepseek
