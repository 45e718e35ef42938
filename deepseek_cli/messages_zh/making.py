"""What makes, checks and shows results: quantize, compress, deploy, verify, show, demo."""

MAKING: dict[str, str] = {
    # schemes
    "There is no scheme named {scheme!r}.": "没有名为 {scheme!r} 的方案。",
    "Schemes are: {grammar}.": "方案有：{grammar}。",
    "int4 needs groups: one scale for a whole row loses too much.": "int4 需要分组：整行共用一个缩放系数损失太大。",
    "Use int4-g32, int4-g64 or int4-g128.": "请用 int4-g32、int4-g64 或 int4-g128。",
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
    "how much smaller, such as 85%": "缩小多少，例如 85%",
    "the size to reach, such as 900MB": "要达到的大小，例如 900MB",
    "what --smaller counts from": "--smaller 以什么为基准",
    "compress needs a goal: --smaller or --to-size, one of them.": "compress 需要一个目标：--smaller 或 --to-size，二者取一。",
    "For example: --smaller 85%": "例如：--smaller 85%",
    "--smaller {value} is not a percentage between 0 and 100.": "--smaller {value} 不是 0 到 100 之间的百分比。",
    "Goal {goal} MB: {scheme}, embeddings {embeddings}.": "目标 {goal} MB：{scheme}，词嵌入 {embeddings}。",
    "embeddings": "词嵌入",
    "fits": "符合",
    "{name}: {mb} MB, within the goal of {goal} MB.": "{name}：{mb} MB，达到 {goal} MB 的目标。",
    "{name}: {mb} MB is the closest, and above the goal of {goal} MB.": "{name}：最接近的是 {mb} MB，仍超出 {goal} MB 的目标。",
    # deploy
    "what to build for; auto is this machine": "为什么目标生成；auto 即本机",
    "how wide latent attention's cache is: fp16 is half the memory, and slower": "潜注意力缓存的位宽：fp16 内存减半，但更慢",
    "gqa for GroupQueryAttention: rows of a batch may differ in length, and onnxruntime-genai runs it": (
        "gqa 即 GroupQueryAttention：批内各行长度可以不同，onnxruntime-genai 也能运行"
    ),
    "Leave --kv and latent_cache out.": "请去掉 --kv 和 latent_cache。",
    "{name} has no latent attention, whose cache kv and latent_cache describe.": (
        "{name} 没有潜注意力，而 kv 和 latent_cache 描述的是它的缓存。"
    ),
    "The bundle holds at most {context} tokens: beyond them {name} chooses keys, which bundles cannot do yet.": (
        "该部署包最多容纳 {context} 个词元：超出后 {name} 会挑选键，而部署包尚不支持。"
    ),
    "GroupQueryAttention wants latents of a multiple of {multiple} channels; this model's have {channels}.": (
        "GroupQueryAttention 要求潜向量的通道数是 {multiple} 的倍数；该模型是 {channels}。"
    ),
    "Leave latent_cache=gqa out.": "请去掉 latent_cache=gqa。",
    "how far to verify; by default as far as memory and two minutes go": "验证到哪一级；默认在内存和两分钟之内尽量深入",
    "list the targets": "列出目标",
    "There is no target named {name!r}.": "没有名为 {name!r} 的目标。",
    "Targets are: {known}.": "目标有：{known}。",
    "{model}: GGUF files of the architecture {family} are not written yet.": "{model}：尚不能写出 {family} 架构的 GGUF 文件。",
    "Written are {known}. Deploy it with --target cpu.": "可以写出的有 {known}。请用 --target cpu 部署。",
    "{model}: a GGUF file of the architecture {family} does not hold its rotary scaling.": (
        "{model}：{family} 架构的 GGUF 文件存不下它的旋转位置缩放。"
    ),
    "{model}: llama.cpp's models of DeepSeek's families have {reason}.": "{model}：llama.cpp 的 DeepSeek 系列模型要求 {reason}。",
    "The tokenizer of {model} cannot be written to GGUF: it {reason}.": "{model} 的分词器无法写入 GGUF：{reason}。",
    "Deploy it with --target cpu.": "请用 --target cpu 部署。",
    "{distribution} {version} exports no C interface of llama.cpp here.": "{distribution} {version} 在此系统上没有导出 llama.cpp 的 C 接口。",
    "{distribution} {version} has another C interface than the one we know.": "{distribution} {version} 的 C 接口与我们所知的不同。",
    "{tensor} becomes {format}: {reason}.": "{tensor} 改用 {format}：{reason}。",
    "{flag} is for int4 and int8: ggml's blocks have a search of their own.": "{flag} 用于 int4 和 int8：ggml 的块格式有自己的搜索方法。",
    "Leave it out, or name one of {known}.": "请去掉它，或从 {known} 中选一个。",
    "{coded} would be {codes}, and {blocked} {blocks}: a model holds codes or ggml's blocks, not both.": (
        "{coded} 将是 {codes}，{blocked} 将是 {blocks}：一个模型要么用编码，要么用 ggml 的块，不能两者并用。"
    ),
    "Give all weights schemes of one kind; blocks are {known}.": "请让所有权重用同一类方案；块格式有 {known}。",
    "{tensor} stays dense: {reason}.": "{tensor} 保持未量化的形式：{reason}。",
    "{count} of {all} packed weights, such as {tensor}, need another kernel than Marlin: it takes {size} inputs at once.": (
        "{all} 个打包的权重中有 {count} 个（例如 {tensor}）不能用 Marlin 内核，它要求输入数是 {size} 的倍数。"
    ),
    "{unrun} itself has not run it.": "{unrun} 本身没有运行过它。",
    "{unrun} itself has not run it: {runtime} stood in.": "{unrun} 本身没有运行过它，由 {runtime} 代为运行。",
    "vLLM keeps its own cache, which kv and latent_cache do not describe.": "vLLM 有自己的缓存，kv 和 latent_cache 与它无关。",
    "Leave them out.": "请去掉它们。",
    "{model} cannot be carried to vLLM as it is: {tensor}: {reason}.": "{model} 不能原样带到 vLLM：{tensor}：{reason}。",
    "Round it anew, and deploy the result: deepseek quantize {model} --int4": "请重新量化，再部署其结果：deepseek quantize {model} --int4",
    "transformers has no model for {folder}.": "transformers 没有适用于 {folder} 的模型。",
    "Deploy with --verify weights, and run it in vLLM.": "请用 --verify weights 部署，并在 vLLM 中运行。",
    "The bundle holds no folder for vLLM. {reason}": "部署包中没有供 vLLM 用的文件夹。{reason}",
    "The bundle holds no file for llama.cpp. {reason}": "部署包中没有供 llama.cpp 用的文件。{reason}",
    "{model}: graphs of the architecture {family} are not written for {target} yet.": (
        "{model}：目标 {target} 还不能写出架构 {family} 的图。"
    ),
    "Deploy it with --target vllm.": "请用 --target vllm 部署。",
    "The cache of a {target} bundle is float16.": "{target} 部署包的缓存是 float16。",
    "{model} cannot be carried to TensorRT as it is: {tensor}: {reason}.": "{model} 不能原样带到 TensorRT：{tensor}：{reason}。",
    "Round it anew, and deploy the result: deepseek quantize {model} --scheme int4-g128-pos": (
        "请重新舍入，再部署其结果：deepseek quantize {model} --scheme int4-g128-pos"
    ),
    "{tensor} holds values that float16 does not.": "{tensor} 中有 float16 无法表示的值。",
    "Deploy the model with --target vllm: it keeps them in bfloat16.": "请用 --target vllm 部署：它以 bfloat16 保存这些值。",
    "{name} for {target}, up to {context} tokens.": "{name}，目标 {target}，最多 {context} 个词元。",
    "The output {path} lies inside the model's own folder.": "输出 {path} 位于模型自己的文件夹之内。",
    "Choose another -o.": "请换一个 -o。",
    "--context {context} is more than the {longest} tokens of {model}.": "--context {context} 超过了 {model} 的 {longest} 个词元。",
    "Use at most {longest}.": "最多 {longest}。",
    "ONNX Runtime's attention wants a head_dim that is a multiple of {multiple}; this model's is {head_dim}.": (
        "ONNX Runtime 的注意力算子要求 head_dim 是 {multiple} 的倍数；该模型是 {head_dim}。"
    ),
    "Run the model's own folder instead.": "请改为直接运行模型文件夹。",
    "write": "写出",
    "level": "级别",
    "check": "检查",
    "result": "结果",
    "target": "目标",
    "carries bit for bit": "逐位保留",
    "verified here by": "本机验证方式",
    "Target {target}: {reason}.": "目标 {target}：{reason}。",
    "fetch the model first, where it is not on this machine": "模型不在本机时先下载",
    "quantize a dense model first, as `quantize --int4` does": "先把未量化的模型量化，与 `quantize --int4` 相同",
    "the same with 8 bits": "同上，用 8 比特",
    "{name} is quantized already.": "{name} 已经量化。",
    "Leave --{scheme} out.": "请去掉 --{scheme}。",
    "{count} files to fetch, {mb} MB.": "需要下载 {count} 个文件，{mb} MB。",
    "The plan: {steps}.": "计划：{steps}。",
    "Fetch, quantize and deploy it: deepseek deploy {ref} --int4 --pull": "下载、量化并部署：deepseek deploy {ref} --int4 --pull",
    "{ref} is not on this machine. Fetch, quantize (int4) and deploy it now? [y/N]": (
        "{ref} 不在本机。现在下载、量化（int4）并部署吗？[y/N]"
    ),
    "{model} rotates halves, and in latent attention vLLM rotates pairs.": "{model} 按前后两半旋转，而 vLLM 在潜在注意力中按相邻一对旋转。",
    "Deploy it with --target metal, gguf or cpu.": "请用 --target metal、gguf 或 cpu 部署。",
    "{distribution} is not installed.": "{distribution} 未安装。",
    "{distribution} {found} is installed, and {needed} is needed.": "已安装 {distribution} {found}，但需要 {needed}。",
    "Install it: pip install 'deepseek-cli[{extra}]'": "请安装：pip install 'deepseek-cli[{extra}]'",
    "mlx-lm cannot compute {name}: {reason}.": "mlx-lm 无法计算 {name}：{reason}。",
    "mlx-lm chooses its own cache.": "mlx-lm 自行决定其缓存。",
    "OpenVINO chooses its own cache.": "OpenVINO 自行决定其缓存。",
    "OpenVINO bundles cannot hold {what} yet.": "OpenVINO 部署包尚不支持 {what}。",
    "The tokenizer of {model} cannot be carried to OpenVINO: {reason}.": "{model} 的分词器无法带到 OpenVINO：{reason}。",
    "Install it: pip install 'deepseek-cli[{extra}]'. A bundle can be written without: deploy --verify weights": (
        "请安装：pip install 'deepseek-cli[{extra}]'。不安装也能生成部署包：deploy --verify weights"
    ),
    "{folder} is a bundle for {target}, which nothing here can run.": "{folder} 是为 {target} 生成的部署包，这里没有能运行它的程序。",
    "Install what made it, or run the model it was made from.": "请安装生成它的软件，或运行它的来源模型。",
    "Bundles for {target} attend to all tokens.": "为 {target} 生成的部署包会关注所有词元。",
    "Use --sparse-attention on a cpu bundle.": "请在 cpu 部署包上使用 --sparse-attention。",
    "emits": "产物",
    "{name} is up to date: {mb} MB, verified to {level}, at {path}.": "{name} 已是最新：{mb} MB，验证到 {level}，位于 {path}。",
    "{name}: {mb} MB, verified to {level}, at {path}.": "{name}：{mb} MB，验证到 {level}，位于 {path}。",
    "{name} would be written to {path}.": "{name} 将写到 {path}。",
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
    "--engine ray needs Ray, which is not installed.": "--engine ray 需要 Ray，而它尚未安装。",
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
