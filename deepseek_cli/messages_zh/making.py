"""What makes, checks and shows results: quantize, compress, verify, show, demo."""

MAKING: dict[str, str] = {
    # schemes
    "There is no scheme named {scheme!r}.": "没有名为 {scheme!r} 的方案。",
    "Schemes are: {grammar}.": "方案有：{grammar}。",
    "int{bits} needs groups: one scale for a whole row loses too much.": "int{bits} 需要分组：整行共用一个缩放系数损失太大。",
    "Use int{bits}-g32, int{bits}-g64 or int{bits}-g128.": "请用 int{bits}-g32、int{bits}-g64 或 int{bits}-g128。",
    "{scheme}: -pos is for symmetric schemes.": "{scheme}：-pos 只用于对称方案。",
    "Leave -asym or -pos out.": "请去掉 -asym 或 -pos。",
    # quantize
    "4-bit weights in groups (the default)": "4 位权重，分组（默认）",
    "8-bit weights, in groups; from 1 B parameters on one scale per row": "8 位权重，分组；参数达到 10 亿时每行一个缩放系数",
    "a scheme by name, such as int4-g64-asym or bf16": "按名称指定方案，例如 int4-g64-asym 或 bf16",
    "inputs per scale; 32 below 1 B parameters, else 64": "每个缩放系数对应的输入数；参数少于 10 亿时为 32，否则为 64",
    "how much work to spend: seconds, minutes, or more": "花多少工夫：几秒、几分钟或其数倍",
    "a scheme for the tensors a pattern names, such as lm_head=int4": "为名称符合模式的张量指定方案，例如 lm_head=int4",
    "scheme of embedding and output head beside an int4 body": "主体为 int4 时词嵌入和输出层的方案",
    "measure quality against the source when that takes under two minutes": "所需时间不到两分钟时，与来源比较以测量质量",
    "{flags} exclude each other.": "{flags} 不能同时使用。",
    "Give one of them.": "请只给出其中一个。",
    "--group and --scheme exclude each other.": "--group 和 --scheme 不能同时使用。",
    "Write the group into the scheme: int4-g64.": "请把分组写进方案：int4-g64。",
    "No scheme is named: --int4.": "没有指定方案，采用 --int4。",
    "--rule {rule} is not of the form PATTERN=SCHEME.": "--rule {rule} 不是 PATTERN=SCHEME 的形式。",
    "For example: --rule lm_head=int4": "例如：--rule lm_head=int4",
    "--rule {rule} matches no weight of {model}.": "--rule {rule} 与 {model} 的任何权重都不匹配。",
    "See the names with: deepseek show {model}": "查看名称：deepseek show {model}",
    "--rule {rule} gives {first} and {other} different schemes, but one product computes them together.": (
        "--rule {rule} 给 {first} 和 {other} 指定了不同的方案，但它们由一次乘积一起计算。"
    ),
    "Give them one scheme, with a pattern that matches all of them.": "请用一个匹配它们全部的模式，给它们同一个方案。",
    "{name}: {before} MB to {scheme}, {after} MB ({bpw:.2f} bits per weight).": (
        "{name}：{before} MB 量化为 {scheme}，{after} MB（每个权重 {bpw:.2f} 位）。"
    ),
    "{name} is quantized already; this works from its dequantized values.": "{name} 已经量化过；这里从它反量化后的值出发。",
    "Measuring quality would take about {minutes:.0f} minutes: deepseek eval {name}": (
        "测量质量大约需要 {minutes:.0f} 分钟：deepseek eval {name}"
    ),
    "{model}: tensor {tensor} holds a NaN or an infinity.": "{model}：张量 {tensor} 中有 NaN 或无穷大。",
    "Pull the model again; if it stays, the model is damaged.": "请重新取回模型；如果仍然如此，就是模型已损坏。",
    "quantize": "量化",
    "scheme": "方案",
    "tensors": "张量数",
    "mean error": "平均误差",
    "first": "第一个",
    "{name} is up to date, at {path}.": "{name} 已是最新，位于 {path}。",
    "{name}: {mb} MB, at {path}.": "{name}：{mb} MB，位于 {path}。",
    "weights learn to be quantized: minutes to hours more, for int4 and int8": "让权重学会被量化：多花几分钟到几小时，用于 int4 和 int8",
    "steps of distillation, of --qat or behind any other way": "蒸馏的步数，用于 --qat，或接在其他方式之后",
    "rank of a low-rank correction beside the codes of each weight, such as 16": "每个权重的编码旁边低秩修正的秩，例如 16",
    "--set rank={rank} is not between 0 and {most}.": "--set rank={rank} 不在 0 与 {most} 之间。",
    "For example: --set rank=16": "例如：--set rank=16",
    "--set rank={rank} does not go with {scheme}.": "--set rank={rank} 不能与 {scheme} 一起使用。",
    "Give it to int3, int4 or int8: once, so or in the name of the scheme.": "只用于 int3、int4 或 int8：这样给出，或写在方案名称里，二者取一。",
    "--set steps={count} is less than zero.": "--set steps={count} 小于零。",
    "0 leaves distillation out.": "0 表示不做蒸馏。",
    "{steps} steps of distillation are in that; they need {needed} MB of memory, and {free} MB are free.": (
        "其中包括 {steps} 步蒸馏；需要 {needed} MB 内存，现有 {free} MB 可用。"
    ),
    "Distilling {model} needs {needed} MB, and {free} MB are free.": "蒸馏 {model} 需要 {needed} MB，而可用的只有 {free} MB。",
    "Use --level balanced, or leave this step out: --set steps=0.": "请用 --level balanced，或者不做这一步：--set steps=0。",
    "Distillation did not help: KL divergence {before:.4g} → {after:.4g}. Left out.": (
        "蒸馏没有帮助：KL 散度 {before:.4g} → {after:.4g}。不采用。"
    ),
    "Distillation: KL divergence {before:.4g} → {after:.4g} on held-out text.": "蒸馏：在留出的文本上，KL 散度 {before:.4g} → {after:.4g}。",
    "distill": "蒸馏",
    "Recovery did not help: KL divergence {before:.4g} → {after:.4g}. Left out.": (
        "恢复训练没有帮助：KL 散度 {before:.4g} → {after:.4g}。不采用。"
    ),
    "Recovery: KL divergence {before:.4g} → {after:.4g} on held-out text.": "恢复训练：在留出的文本上，KL 散度 {before:.4g} → {after:.4g}。",
    "Zeros make no file smaller: GPUs with sparse tensor cores multiply 2:4 faster, in TensorRT.": (
        "零不会让文件变小：带稀疏张量核心的 GPU 用 TensorRT 做 2:4 乘法更快。"
    ),
    "--steps sparsity={text}: of such runs, hardware knows 2:4 alone.": "--steps sparsity={text}：这类结构中，硬件只支持 2:4。",
    "Use sparsity=2:4, or a share such as 50%.": "请用 sparsity=2:4，或 50% 这样的比例。",
    "{tensor} has {inputs} inputs, which are no runs of four.": "{tensor} 有 {inputs} 个输入，不是四的倍数。",
    "Use a share, such as sparsity=50%.": "请用比例，例如 sparsity=50%。",
    "prune": "剪枝",
    "--steps recover={text} is no time, with +loraRANK or +hiddenWEIGHT behind it.": (
        "--steps recover={text}：这不是时间，也不是后面带 +lora秩 或 +hidden权重 的时间。"
    ),
    "For example: --steps depth=20%,recover=20m, or recover=20m+lora16 to learn with less memory.": (
        "例如：--steps depth=20%,recover=20m；或 recover=20m+lora16，学习时占用较少内存。"
    ),
    "--steps recover needs {needed} MB, and {free} MB are free.": "--steps recover 需要 {needed} MB，而可用的只有 {free} MB。",
    "Learn by adapters, as in recover=20m+lora16, or leave it out.": "请用适配器学习，例如 recover=20m+lora16；或者不做这一步。",
    "Recovery, {percent:.0f} % of the time: KL divergence {before:.4g} → {now:.4g} on held-out text.": (
        "恢复训练，时间已用 {percent:.0f} %：在留出的文本上，KL 散度 {before:.4g} → {now:.4g}。"
    ),
    # quantize to a size
    "bits per weight of the whole result, such as 4.2: more where they matter most": (
        "整个结果的平均每权重位数，例如 4.2：越重要的权重位数越多"
    ),
    "the same as the bytes of all tensors, such as 900MB": "同上，但以全部张量的字节数表示，例如 900MB",
    "--to-bpw {bits} is not between 0 and 16.": "--to-bpw {bits} 不在 0 到 16 之间。",
    "For example: --to-bpw 4.5": "例如：--to-bpw 4.5",
    "{flag} holds what {goal} is to choose.": "{flag} 固定了要由 {goal} 来选择的内容。",
    "Leave it out, or hold single weights with --rule; --scheme may say int4-asym or int4-pos.": (
        "请去掉它，或用 --rule 固定个别权重；--scheme 可以是 int4-asym 或 int4-pos。"
    ),
    "{goal}: every weight has its scheme by a rule, or stays dense.": "{goal}：每个权重的方案都已由规则指定，或保持未量化。",
    "Leave a rule out.": "请去掉一条规则。",
    "{goal} cannot be reached: from {least:.3f} bits per weight ({least_size}) to {most:.3f} ({most_size}) can.": (
        "{goal} 无法达到：可达到的范围是每个权重 {least:.3f} 位（{least_size}）到 {most:.3f} 位（{most_size}）。"
    ),
    "Choose a goal between them, or free weights that a rule holds.": "请在此范围内选择目标，或放开由规则固定的权重。",
    "Measuring what each weight matters would take about {hours:.1f} hours.": "测量每个权重的重要程度大约需要 {hours:.1f} 小时。",
    "Agree with --yes, or name one scheme for all, such as --scheme int4-g64.": (
        "请用 --yes 同意，或为全部权重指定同一个方案，例如 --scheme int4-g64。"
    ),
    "Measuring what each of {units} units matters, on {tokens} tokens: about {minutes:.1f} minutes.": (
        "在 {tokens} 个词元上测量 {units} 组权重各自的重要程度：约 {minutes:.1f} 分钟。"
    ),
    "measure": "测量",
    "bits per weight": "每权重位数",
    "predicted KL": "预计 KL",
    "chosen": "选用",
    # compress
    "how long it may take, such as 2h or 30min": "最多可用多长时间，例如 2h 或 30min",
    "--time {value} is not a duration.": "--time {value} 不是时长。",
    "For example: --time 2h, or 30min": "例如：--time 2h，或 30min",
    "measured KL": "实测 KL",
    "minutes": "分钟",
    "Measuring what each weight matters: about {minutes:.1f} minutes.": "测量每个权重的重要程度：约 {minutes:.1f} 分钟。",
    "Measuring what each weight matters would take about {hours:.1f} hours; one scheme is chosen for all.": (
        "测量每个权重的重要程度约需 {hours:.1f} 小时；因此为全部权重选用同一方案。"
    ),
    "how much smaller, such as 85%": "缩小多少，例如 85%",
    "the size to reach, such as 900MB": "要达到的大小，例如 900MB",
    "what --smaller counts from": "--smaller 以什么为基准",
    "how much work rounding is worth, as of quantize": "舍入值得花多少工夫，与 quantize 相同",
    "how to round, instead of the level's way, as of quantize": "如何舍入，代替级别的做法，与 quantize 相同",
    "whether a mixture may have them, which vLLM does not load": "混合方案可否带零点；vLLM 不能加载带零点的权重",
    "compress needs a goal: --smaller or --to-size or --fit, one of them.": (
        "compress 需要一个目标：--smaller、--to-size 或 --fit，三者取一。"
    ),
    "the device it is to run on with an everyday context, or how much memory it has": "要以日常上下文运行的设备，或其内存大小",
    "what to leave out before rounding: mtp, vocabulary, experts, depth, width, heads, sparsity; "
    "recover=20m lets the rest learn; for example experts=50%,mtp": (
        "舍入之前去掉什么：mtp、vocabulary、experts、depth、width、heads、sparsity；recover=20m 让其余部分再学习；例如 experts=50%,mtp"
    ),
    "left out": "去掉的部分",
    "Goal {goal} MB: {steps}, then {scheme}, embeddings {embeddings}.": "目标 {goal} MB：{steps}，然后 {scheme}，词嵌入 {embeddings}。",
    "{device} leaves {usable} to a model, and {model} needs {other} beside its weights.": (
        "{device} 留给模型 {usable}，而 {model} 在权重之外还需要 {other}。"
    ),
    "Choose a larger device.": "请选择更大的设备。",
    "rank layers": "为层排序",
    "try experts": "逐个试去专家",
    "fit experts": "重新拟合专家",
    "Experts that stay were fitted: KL divergence {before:.4g} → {after:.4g} on held-out text.": (
        "留下的专家已重新拟合：留出文本上的 KL 散度 {before:.4g} → {after:.4g}。"
    ),
    "Fitting the experts that stay did not help: KL divergence {before:.4g} → {after:.4g}. Left out.": (
        "重新拟合留下的专家没有帮助：KL 散度 {before:.4g} → {after:.4g}。未采用。"
    ),
    "rank experts": "为专家排序",
    "rank channels": "为通道排序",
    "rank heads": "为注意力头排序",
    "There is no step named {name!r}.": "没有名为 {name!r} 的步骤。",
    "--steps names {name} twice.": "--steps 两次写了 {name}。",
    "Name each step once.": "每个步骤只写一次。",
    "--steps {step}={text}: how much of it goes is a percentage between 0 and 100.": (
        "--steps {step}={text}：去掉多少应是 0 到 100 之间的百分比。"
    ),
    "For example: --steps {step}=25%": "例如：--steps {step}=25%",
    "--steps depth={amount}: at most {most} of the layers can go.": "--steps depth={amount}：最多可以去掉 {most} 的层。",
    "Choose less; other steps can make the rest smaller.": "请少选一些；其他步骤可以继续缩小。",
    "{model} has only one layer.": "{model} 只有一层。",
    "Leave depth out of --steps.": "请从 --steps 中去掉 depth。",
    "{model} has no experts.": "{model} 没有专家。",
    "Leave experts out of --steps.": "请从 --steps 中去掉 experts。",
    "{model} has no group of attention heads that could go.": "{model} 没有可以去掉的注意力头组。",
    "Leave heads out of --steps.": "请从 --steps 中去掉 heads。",
    "{model} has no layer that drafts tokens ahead.": "{model} 没有用于预先起草词元的层。",
    "Leave mtp out of --steps.": "请从 --steps 中去掉 mtp。",
    "The tokenizer of {model} is of the type {kind}, from which tokens cannot be taken.": (
        "{model} 的分词器类型为 {kind}，无法从中去掉词元。"
    ),
    "Leave vocabulary out of --steps.": "请从 --steps 中去掉 vocabulary。",
    "The calibration text has {count} tokens, too few to say which ones are used.": (
        "校准文本只有 {count} 个词元，不足以判断哪些词元会被用到。"
    ),
    "Give a longer text with --calibration, one that looks like what the model will read and write.": (
        "请用 --calibration 给出更长的文本，内容应接近模型将要读写的文本。"
    ),
    "{model} has no MLP beside its experts.": "{model} 除专家外没有 MLP。",
    "Leave width out of --steps.": "请从 --steps 中去掉 width。",
    "For example: --smaller 85%": "例如：--smaller 85%",
    "--smaller {value} is not a percentage between 0 and 100.": "--smaller {value} 不是 0 到 100 之间的百分比。",
    "Goal {goal} MB: {scheme}, embeddings {embeddings}.": "目标 {goal} MB：{scheme}，词嵌入 {embeddings}。",
    "embeddings": "词嵌入",
    "fits": "符合",
    "{name}: {mb} MB, within the goal of {goal} MB.": "{name}：{mb} MB，达到 {goal} MB 的目标。",
    "{name}: {mb} MB is the closest, and above the goal of {goal} MB.": "{name}：最接近的是 {mb} MB，仍超出 {goal} MB 的目标。",
    # verify
    "verify": "验证",
    "only the files' bytes, for a bundle too": "对部署包也只检查文件的字节",
    "{name} has no manifest to verify against.": "{name} 没有可供验证的清单。",
    "Pull it first: deepseek pull {root}": "请先收入仓库：deepseek pull {root}",
    "state": "状态",
    "{name}: all {count} files are as they were written; verified to {level}.": (
        "{name}：全部 {count} 个文件与写出时一致；验证到 {level}。"
    ),
    "{name}: {bad} of {count} files are not as they were written.": "{name}：{count} 个文件中有 {bad} 个与写出时不一致。",
    "{name}: the files are as they were written, but what they compute is not: verified to {level} only.": (
        "{name}：文件与写出时一致，但计算的结果不对：只验证到 {level}。"
    ),
    # show
    "field": "字段",
    "step": "步骤",
    "options": "选项",
    "stored as": "存储格式",
    "Verified to {level} in {runtime}.": "在 {runtime} 中验证到 {level}。",
    # demo
    "This needs {mb} MB under {folder} and about {minutes} minutes; nothing is written elsewhere.": (
        "需要 {folder} 下的 {mb} MB 和大约 {minutes} 分钟；不会写到别处。"
    ),
    "Next:": "下一步：",
    "The step {command} ended with exit code {code} and said nothing.": "步骤 {command} 以退出码 {code} 结束，没有给出说明。",
    "The step {command} failed: {reason}": "步骤 {command} 失败：{reason}",
    # calibration
    "There is no algorithm named {name!r}.": "没有名为 {name!r} 的算法。",
    "There are {known}; a plug-in can add more.": "已有：{known}；插件可以增加。",
    "calibrate": "校准",
    "{file} is not in the language {language}.": "{file} 的语言不是 {language}。",
    "Give another text, or leave the language out.": "请换一份文本，或不指定语言。",
    "{file} gives {count} windows of {length} tokens, and calibration needs {least}.": (
        "{file} 只能切出 {count} 个 {length} 词元的窗口，而校准需要 {least} 个。"
    ),
    "Give a longer text, or use --algorithm search, which needs none.": "请给出更长的文本，或用不需要文本的 --algorithm search。",
    "{file} is not UTF-8 text.": "{file} 不是 UTF-8 文本。",
    "{file} is empty.": "{file} 是空的。",
    "Give a text.": "请给出一份文本。",
    "Check the path.": "请检查路径。",
    "{folder}: what was kept of the unfinished work is damaged.": "{folder}：为未完成的工作保留的内容已损坏。",
    "Start anew with --force.": "请用 --force 重新开始。",
    "{folder} holds unfinished work that differs in {fields}.": "{folder} 中有未完成的工作，其 {fields} 与现在不同。",
    "Give what was given then to continue it, or --force to start anew.": "请用当时的选项继续，或用 --force 重新开始。",
    "This would take about {hours:.1f} hours.": "这大约需要 {hours:.1f} 小时。",
    "Agree with --yes, or use --level fast, or --algorithm rtn, which looks at no text.": (
        "请用 --yes 同意，或改用 --level fast，或不看文本的 --algorithm rtn。"
    ),
    "{algorithm} on {tokens} tokens of {text}: about {minutes:.1f} minutes.": (
        "用 {text} 的 {tokens} 个词元运行 {algorithm}：约 {minutes:.1f} 分钟。"
    ),
    "{flag} is for algorithms that look at text, and {algorithm} needs none.": "{flag} 用于需要文本的算法，而 {algorithm} 不需要。",
    "Leave it out, or use --level balanced.": "请去掉它，或用 --level balanced。",
    "how to round, instead of the level's way: rtn, search, hqq, imatrix, awq, gptq, gptaq, refine, autoround": (
        "舍入方法，代替级别所定的：rtn、search、hqq、imatrix、awq、gptq、gptaq、refine、autoround"
    ),
    "a text file to calibrate on, instead of the built-in text": "用于校准的文本文件，代替内置文本",
    "tokens of it to look at": "使用其中多少词元",
    "what the calibration text is in, to be checked": "校准文本的语言，会加以检查",
    "--tokens {count} is less than one.": "--tokens {count} 小于 1。",
    "Give at least 4096.": "请至少给出 4096。",
    "{tensor}: {algorithm} gives up ({reason}).": "{tensor}：{algorithm} 无法完成（{reason}）。",
    "There is no engine named {name!r}.": "没有名为 {name!r} 的引擎。",
    "There are local and ray.": "有 local 和 ray。",
    "--engine ray needs {package}, which is not installed.": "--engine ray 需要 {package}，而它尚未安装。",
    "Install it: pip install {extra}": "安装：pip install {extra}",
    "Ray: {tasks} tasks at once, of {threads} threads.": "Ray：同时 {tasks} 个任务，每个 {threads} 个线程。",
    "No Ray cluster answers at {address}: {reason}.": "{address} 处没有 Ray 集群应答：{reason}。",
    "Check --address, or RAY_ADDRESS; `ray start --head` starts one.": "请检查 --address 或 RAY_ADDRESS；`ray start --head` 可启动一个。",
    "Ray cannot use the address {address}: {reason}": "Ray 不能使用地址 {address}：{reason}",
    "Write it as HOST:PORT, or leave it out.": "请写成 HOST:PORT，或省略。",
    "No machine of the Ray cluster has {threads} processors for a task; the largest has {most}.": (
        "Ray 集群中没有哪台机器能给一个任务 {threads} 个处理器；最大的有 {most} 个。"
    ),
    "Say how many threads a task should have: --threads {most}": "请指定每个任务的线程数：--threads {most}",
    "A worker of the Ray cluster has deepseek-cli {found}, and this is {version}.": (
        "Ray 集群中有一个工作进程的 deepseek-cli 是 {found}，而这里是 {version}。"
    ),
    "Install the same version on all machines.": "请在所有机器上安装同一版本。",
    "Ray could not finish a task: {reason}": "Ray 未能完成一个任务：{reason}",
    "Its workers need deepseek-cli, and memory: more --threads for each task make fewer at once.": (
        "工作进程需要装有 deepseek-cli，也需要内存：每个任务的 --threads 越多，同时进行的就越少。"
    ),
    "{model}: on the calibration text, the inputs of tensor {tensor} are not finite.": (
        "{model}：在校准文本上，张量 {tensor} 的输入含有非有限值。"
    ),
    "Check the model: deepseek eval; or use --algorithm search, which looks at no text.": (
        "请用 deepseek eval 检查模型，或用不看文本的 --algorithm search。"
    ),
    "{tensor} was not met by calibration; it is rounded by itself.": "校准没有遇到 {tensor}；它被单独舍入。",
    "{folder} is where unfinished work would be kept, and it holds something else.": (
        "{folder} 本应存放未完成的工作，但其中有别的内容。"
    ),
    "Move that away, or use another -o.": "请把它移开，或换一个 -o。",
    "Process {pid} is at work on {folder}.": "进程 {pid} 正在处理 {folder}。",
    "Wait for it, or use another -o.": "请等它完成，或换一个 -o。",
    "export": "导出",
    "{distribution} {version} is installed, and its files differ from those of {needed}.": (
        "已安装 {distribution} {version}，它的文件与 {needed} 的不同。"
    ),
    "{model}: programs for ExecuTorch are not written for the architecture {family} yet.": (
        "{model}：尚不能为架构 {family} 写出 ExecuTorch 程序。"
    ),
    "Exporting {model} for ExecuTorch needs {needed} MB, and {free} MB are free.": (
        "为 ExecuTorch 导出 {model} 需要 {needed} MB 内存，可用 {free} MB。"
    ),
    "Use a smaller model, or --target cpu, which streams.": "请用更小的模型，或改用逐块处理的 --target cpu。",
    "{model} cannot be carried to ExecuTorch as it is: {tensor}: {reason}.": (
        "{model} 无法原样用于 ExecuTorch：{tensor}：{reason}。"
    ),
    "Round it anew, and deploy the result: deepseek quantize {source} --scheme int4-g32-pos": (
        "请重新量化，再部署结果：deepseek quantize {source} --scheme int4-g32-pos"
    ),
    "{count} tokens do not fit in the {context} that the bundle's cache holds.": (
        "{count} 个词元超出了部署包缓存所能容纳的 {context} 个。"
    ),
    "Deploy it again with a larger --context, or use a shorter prompt.": "请用更大的 --context 重新部署，或缩短提示。",
    "transformers.js keeps its own cache.": "transformers.js 使用自己的缓存。",
    "Web bundles hold {known}; {name} is {family}.": "web 部署包支持 {known}；{name} 是 {family}。",
    "Use --target cpu.": "请使用 --target cpu。",
    "{tensor} would be {size} GB, and browsers take {most} GB at once.": "{tensor} 将有 {size} GB，而浏览器一次最多接受 {most} GB。",
    "Make it smaller first: deepseek quantize {name} --int4. Or use --target cpu.": (
        "请先缩小它：deepseek quantize {name} --int4；或使用 --target cpu。"
    ),
    "{name} would be {size} GB, and a browser's WebAssembly holds {most} GB of weights.": (
        "{name} 将有 {size} GB，而浏览器的 WebAssembly 最多容纳 {most} GB 权重。"
    ),
    "Make it smaller first: deepseek quantize {name} --int4, or deepseek compress. Or use --target cpu.": (
        "请先缩小它：deepseek quantize {name} --int4，或 deepseek compress；或使用 --target cpu。"
    ),
    "The page will load {package} from {server}: it is not installed here.": "网页将从 {server} 加载 {package}：这里没有安装它。",
    "{package} {version} is not installed{instead}.": "{package} {version} 未安装{instead}。",
    "Install it: {command}. A bundle can be written without: deploy --verify weights": (
        "请安装：{command}。没有它也能写出部署包：deploy --verify weights"
    ),
    "Node is not installed.": "Node 未安装。",
    "Node is {found}, which is too old.": "Node 的版本是 {found}，太旧了。",
    "Install Node {oldest} or newer: https://nodejs.org": "请安装 Node {oldest} 或更新的版本：https://nodejs.org",
    "{file} names no graph and its number of data files.": "{file} 没有写明计算图及其数据文件的数量。",
    "{file} cannot be run: {reason}": "{file} 无法运行：{reason}",
}
