"""What compress says of its search, its gates and its page."""

COMPRESSING: dict[str, str] = {
    "Accuracy over {tokens} tokens of {text}: {before:.2%} → {after:.2%}, a relative loss of {least:.2%} to {most:.2%}.": (
        "{text} 的 {tokens} 个词元上的准确率：{before:.2%} → {after:.2%}，相对损失 {least:.2%} 到 {most:.2%}。"
    ),
    "Of {count} answers {end} come to an end (the original's: {end_before}), {repeat} repeat themselves ({repeat_before}).": (
        "{count} 个回答中 {end} 个自行结束（原模型：{end_before}），{repeat} 个重复自身（{repeat_before}）。"
    ),
    "Accuracy is measured over {tokens} tokens, all there are; over {wanted} its bound is tighter: --text FILE": (
        "准确率在现有的全部 {tokens} 个词元上测量；若有 {wanted} 个，界限会更紧：--text FILE"
    ),
    "accuracy": "准确率",
    "answer": "回答",
    "{after} of {count} answers repeat themselves, and {before} of the original's.": (
        "{count} 个回答中有 {after} 个重复自身，原模型为 {before} 个。"
    ),
    "{after} of {count} answers come to an end, and {before} of the original's.": (
        "{count} 个回答中有 {after} 个自行结束，原模型为 {before} 个。"
    ),
    "{after} of {count} answers hold special tokens, and {before} of the original's.": (
        "{count} 个回答中有 {after} 个含有特殊词元，原模型为 {before} 个。"
    ),
    "{after} of {count} prompts are the same text again behind their tokens, and {before} with the original's.": (
        "{count} 个提示中有 {after} 个经词元还原后不变，原模型为 {before} 个。"
    ),
    "Level {level} would take about {minutes:.0f} minutes, and {left:.0f} are left: left out.": "级别 {level} 约需 {minutes:.0f} 分钟，只剩 {left:.0f} 分钟：略过。",
    "For {minutes:.1f} minutes, recipes around the best plan are tried.": "用 {minutes:.1f} 分钟尝试最佳方案附近的配方。",
    "search": "搜索",
    "No distribution of schemes is that small.": "没有哪种方案分配能这么小。",
    "Allow more bytes.": "请允许更多字节。",
    "Time is left to search for a better recipe, which needs: pip install 'deepseek-cli[tune]'": (
        "还有时间搜索更好的配方，但需要先运行：pip install 'deepseek-cli[tune]'"
    ),
    "write frontier, decisions, memory and answers as one offline page": "把前沿、决定、内存和回答写成一个离线网页",
    "--text and --calibration are the same file: a model is not judged by what it was fitted to.": (
        "--text 与 --calibration 是同一个文件：不能用拟合过的文本来评判模型。"
    ),
    "Give another text to measure on.": "请给另一个用于测量的文本。",
    "Made from {name}: {before} MB to {after} MB.": "由 {name} 制成：{before} MB 变为 {after} MB。",
    "That is within the goal of {goal} MB.": "在 {goal} MB 的目标之内。",
    "That is the closest, and above the goal of {goal} MB.": "这是最接近的结果，超出 {goal} MB 的目标。",
    "Contents": "目录",
    "Size and quality": "大小与质量",
    "Report card": "成绩单",
    "Layer by layer": "逐层",
    "Memory": "内存",
    "Answers": "回答",
    "KL divergence against size; each point leads to its row in the table below": "KL 散度与大小；每个点都链接到下表中的对应行",
    "goal": "目标",
    "size, MB": "大小，MB",
    "KL divergence (logarithmic)": "KL 散度（对数）",
    "predicted": "预测",
    "measured": "实测",
    "a line joins what was predicted of a plan with what it came to": "连线把方案的预测与实测连在一起",
    "Candidates": "候选",
    "yes": "是",
    "no": "否",
    "original": "原模型",
    "KL divergence (p99)": "KL 散度（p99）",
    "top-1 agreement": "首选一致率",
    "perplexity": "困惑度",
    "next-token accuracy": "下一词元准确率",
    "next-token accuracy over {tokens} tokens": "{tokens} 个词元上的下一词元准确率",
    "a relative loss of {least} % to {most} %": "相对损失 {least} % 到 {most} %",
    "Over {tokens} tokens of {text}.": "基于 {text} 的 {tokens} 个词元。",
    "What the steps left out": "各步骤去掉了什么",
    "layer": "层",
    "The scheme of each matrix": "每个矩阵的方案",
    "Above the original, below the result.": "上为原模型，下为结果。",
    "What weights, cache, activations and runtime are estimated to take with {tokens} tokens in the cache, of {usable} MB that the device leaves them.": (
        "缓存中有 {tokens} 个词元时，权重、缓存、激活值和运行时估计占用的内存；设备可供使用的为 {usable} MB。"
    ),
    "Memory before and after; the table below holds the figures": "前后内存对比；数字见下表",
    "verdict": "结论",
    "longest context, tokens": "最长上下文，词元",
    "Greedy answers of at most {tokens} tokens; where a model has no chat template, it continues the text.": (
        "贪心生成的回答，最多 {tokens} 个词元；没有对话模板的模型续写文本。"
    ),
    "of {count} answers": "共 {count} 个回答",
    "come to an end": "自行结束",
    "repeat themselves": "重复自身",
    "hold special tokens": "含有特殊词元",
    "distinct runs of four tokens": "不重复的四词元片段",
    "No answers were compared: {reason}.": "没有比较回答：{reason}。",
}
