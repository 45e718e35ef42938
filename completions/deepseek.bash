# Completion for deepseek. Written by `deepseek completion bash`: changes made here are lost.
_deepseek_words() { COMPREPLY=($(compgen -W "$1" -- "$word")); }
_deepseek_files() {
    local IFS=$'\n'
    compopt -o filenames 2>/dev/null
    COMPREPLY=($(compgen -f -- "$word"))
}
_deepseek_models() { # bash ends words at the @ of our names
    local IFS=$'\n' whole="${COMP_LINE:0:COMP_POINT}"
    whole="${whole##* }"
    COMPREPLY=($(compgen -W "$(deepseek list -q 2>/dev/null)" -f -- "$whole"))
    COMPREPLY=("${COMPREPLY[@]#"${whole%"$word"}"}")
}
_deepseek() {
    local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" command="${COMP_WORDS[1]}"
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        _deepseek_words 'pull demo quantize compress deploy run bench profile eval show verify list rm doctor config plugins completion --help --version'
        return
    fi
    case "$command,$before" in
        pull,--revision|pull,--source|pull,--mirror|pull,--include|pull,--exclude|pull,--workers|pull,--max-rate|quantize,--scheme|quantize,--algorithm|quantize,--rule|quantize,--to-bpw|quantize,--to-size|quantize,--tokens|quantize,--threads|quantize,--memory|quantize,--seed|quantize,--address|quantize,--set|compress,--smaller|compress,--to-size|compress,--threads|compress,--memory|deploy,--target|deploy,--threads|deploy,--context|deploy,--memory|deploy,--set|run,--max-tokens|run,--temperature|run,--top-k|run,--top-p|run,--min-p|run,--repetition-penalty|run,--stop|run,--system|run,--sparse-attention|run,--threads|run,--context|run,--memory|run,--seed|run,--set|bench,--prompt-tokens|bench,--new-tokens|bench,--depth|bench,--sparse-attention|bench,--rounds|bench,--threads|bench,--context|bench,--seed|profile,--batch|profile,--scheme|profile,--prompt-tokens|profile,--new-tokens|profile,--max-peak|profile,--max-growth|profile,--threads|profile,--context|profile,--set|eval,--windows|eval,--max-kld|eval,--max-accuracy-loss|eval,--threads|eval,--memory|verify,--threads|verify,--memory) :; return ;;
        pull,-o|pull,--output|demo,-o|demo,--output|quantize,--calibration|quantize,-o|quantize,--output|compress,-o|compress,--output|deploy,-o|deploy,--output|run,-o|run,--output|bench,--save|bench,-o|bench,--output|profile,--html|profile,--save|profile,--baseline|profile,-o|profile,--output|eval,--text|eval,-o|eval,--output|show,-o|show,--output|verify,-o|verify,--output|list,-o|list,--output|rm,-o|rm,--output|doctor,-o|doctor,--output|config,-o|config,--output|plugins,-o|plugins,--output|completion,-o|completion,--output) _deepseek_files; return ;;
        pull,--color|demo,--color|quantize,--color|compress,--color|deploy,--color|run,--color|bench,--color|profile,--color|eval,--color|show,--color|verify,--color|list,--color|rm,--color|doctor,--color|config,--color|plugins,--color|completion,--color) _deepseek_words 'auto always never'; return ;;
        quantize,--group) _deepseek_words '32 64 128 channel'; return ;;
        quantize,--level) _deepseek_words 'fast balanced best'; return ;;
        quantize,--engine) _deepseek_words 'local ray'; return ;;
        compress,--relative-to) _deepseek_words 'fp32 bf16'; return ;;
        deploy,--verify) _deepseek_words 'structure weights logits tokens'; return ;;
        deploy,--kv) _deepseek_words 'fp32 fp16'; return ;;
        run,--device|bench,--device|profile,--device) _deepseek_words 'auto cpu cuda mps'; return ;;
        profile,--kv) _deepseek_words 'fp32 fp16 int8'; return ;;
        eval,--against) _deepseek_models; return ;;
    esac
    case "$command,$word" in
        pull,-*) _deepseek_words '--revision --source --mirror --include --exclude --workers --max-rate -o --output --force --json -q --quiet -v --verbose --offline --color -y --yes -h --help -n --dry-run --strict' ;;
        demo,-*) _deepseek_words '-o --output --force --json -q --quiet -v --verbose --offline --color -y --yes -h --help' ;;
        quantize,-*) _deepseek_words '--int4 --int8 --scheme --group --level --algorithm --rule --qat --to-bpw --to-size --calibration --tokens -o --output --force --json -q --quiet -v --verbose --offline --color -y --yes -h --help -n --dry-run --strict --threads --memory --seed --engine --address --set' ;;
        compress,-*) _deepseek_words '--smaller --to-size --relative-to -o --output --force --json -q --quiet -v --verbose --offline --color -y --yes -h --help -n --dry-run --strict --threads --memory' ;;
        deploy,-*) _deepseek_words '--target --verify --kv --pull --int4 --int8 --list -o --output --force --json -q --quiet -v --verbose --offline --color -y --yes -h --help -n --dry-run --strict --threads --context --memory --set' ;;
        run,-*) _deepseek_words '--max-tokens --temperature --top-k --top-p --min-p --repetition-penalty --stop --system --raw --draft --sparse-attention -o --output --force --json -q --quiet -v --verbose --offline --color -y --yes -h --help --threads --context --memory --seed --device --set' ;;
        bench,-*) _deepseek_words '--prompt-tokens --new-tokens --depth --sparse-attention --rounds --save -o --output --force --json -q --quiet -v --verbose --offline --color -y --yes -h --help --strict --threads --context --seed --device' ;;
        profile,-*) _deepseek_words '--memory-profile --html --save --estimate --batch --kv --scheme --prompt-tokens --new-tokens --max-peak --baseline --max-growth -o --output --force --json -q --quiet -v --verbose --offline --color -y --yes -h --help -n --dry-run --strict --threads --context --device --set' ;;
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
        deploy,*) _deepseek_models ;;
        run,*) _deepseek_models ;;
        bench,*) _deepseek_models ;;
        profile,*) _deepseek_models ;;
        eval,*) _deepseek_models ;;
        show,*) _deepseek_models ;;
        verify,*) _deepseek_models ;;
        rm,*) _deepseek_models ;;
        config,*) _deepseek_words 'show path' ;;
        plugins,*) _deepseek_words 'list check' ;;
        completion,*) _deepseek_words 'bash zsh fish powershell' ;;
    esac
}
complete -F _deepseek deepseek
