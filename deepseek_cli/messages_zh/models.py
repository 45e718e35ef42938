"""Where models come from, how they lie on disk, and what in them can be wrong: pull, the store, formats, architectures."""

MODELS: dict[str, str] = {
    # pull
    "branch, tag or commit": "分支、标签或提交",
    "hf, modelscope, or the address of a hub like hf": "hf、modelscope，或使用同一协议的模型站的地址",
    "where to go on when the source fails, in order": "来源失败时依次改用的其他来源",
    "also these files of the repository": "另外也取仓库中的这些文件",
    "but not these": "但不取这些",
    "ranges of files to fetch at once, at most": "最多同时取多少个文件分段",
    "most bytes to fetch in a second, such as 5MB": "每秒最多取的字节数，例如 5MB",
    "--workers is at least 1.": "--workers 至少为 1。",
    "Leave it out for 8.": "不写即为 8。",
    "--max-rate is at least 1 byte a second.": "--max-rate 至少为每秒 1 字节。",
    "Leave it out for no limit.": "不写即不限速。",
    "{missing} are to be fetched, and the disk has {free} free.": "需要取回 {missing}，磁盘剩余 {free}。",
    "Going on with {mb} MB that were fetched before.": "接着上次已取回的 {mb} MB 继续。",
    "Another process is fetching {id}.": "另一个进程正在取回 hf:{id}。",
    "Wait for it.": "请等它完成。",
    "{file} is damaged: looking for the chunks to fetch again.": "{file} 已损坏：正在查找需要重新取回的分块。",
    "{file} is whole again.": "{file} 已恢复完整。",
    "fetch again what is wrong in a model that was pulled": "重新取回已拉取的模型中出错的部分",
    "--repair fetches, and --offline forbids it.": "--repair 需要联网，而 --offline 禁止联网。",
    "Leave one of them out.": "请去掉其中一个。",
    "{name} cannot be repaired.": "{name} 无法修复。",
    "Only what was pulled from a hub can be fetched again: make this one anew.": "只有从模型站取回的才能重新取回：请重新制作它。",
    "file": "文件",
    "bytes": "字节",
    "fetch": "取回",
    "sha256": "sha256",
    "{mb} MB in all.": "共 {mb} MB。",
    "{name} is up to date: {mb} MB, at {root}.": "{name} 已是最新：{mb} MB，位于 {root}。",
    "{name}: {mb} MB, {parameters} M parameters, at {root}.": "{name}：{mb} MB，{parameters} M 个参数，位于 {root}。",
    "Fetching {ref} from {endpoint}.": "正在从 {endpoint} 取回 {ref}。",
    "There is no file or folder {path}.": "没有 {path} 这个文件或文件夹。",
    "Name a path, an alias, hf:ORG/NAME or pkg:PACKAGE.": "请写出路径、别名、hf:ORG/NAME 或 pkg:PACKAGE。",
    "-o wants a model folder, and {file} is one file.": "-o 需要模型文件夹，而 {file} 是单个文件。",
    "Leave -o out, or quantize it into a folder.": "请去掉 -o，或把它量化成文件夹。",
    # names
    "There is no model {ref}, neither as a path nor in the store nor in the catalogue.": "没有模型 {ref}：没有这个路径，仓库和目录中也没有。",
    "See: deepseek list, deepseek search": "参见：deepseek list、deepseek search",
    "See: deepseek list": "参见：deepseek list",
    "{path} is neither a model folder nor a GGUF file.": "{path} 既不是模型文件夹，也不是 GGUF 文件。",
    "Name a folder or a .gguf file.": "请写出文件夹或 .gguf 文件。",
    "{ref} is not on this machine.": "{ref} 不在本机上。",
    "Fetch it: deepseek pull {named}": "请取回：deepseek pull {named}",
    "{path} is a pickle, which can run code when it is opened.": "{path} 是 pickle，打开时可能执行代码。",
    "{folder} holds its weights as pickles ({files}), which can run code when they are opened.": (
        "{folder} 的权重是 pickle（{files}），打开时可能执行代码。"
    ),
    "Use a safetensors or GGUF version of the model.": "请使用该模型的 safetensors 或 GGUF 版本。",
    "{name} points at {path}, which is gone.": "{name} 指向 {path}，而它已经不在了。",
    "Pull it again: deepseek pull {ref}": "请重新取回：deepseek pull {ref}",
    "{ref} is not of the form ORG/NAME.": "{ref} 不是 ORG/NAME 的形式。",
    "For example: hf:deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": "例如：hf:deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
    "{ref} is a bundle for the target {target}.": "{ref} 是为目标 {target} 生成的部署包。",
    "Name the model it was made from.": "请写出生成它的模型。",
    "{ref} is read as {path}.": "{ref} 视为 {path}。",
    "Using {name}, the newest result of {model}.": "使用 {name}，它是 {model} 的最新结果。",
    "{text} could be any of {names}.": "{text} 可能是其中任何一个：{names}。",
    "Write more of the name.": "请把名称写得更完整。",
    # the catalogue
    "Find a model in the catalogue, also by what fits a device.": "在目录中查找模型，也可按设备能否容纳来找。",
    "only models for this, such as code or edge": "只列出用于此项的模型，例如 code 或 edge",
    "only what fits this machine, a device or a size, quantized if need be": "只列出本机、某设备或某大小能容纳的模型，必要时量化",
    "only what every command works with": "只列出所有命令都支持的模型",
    "Nothing in the catalogue is like that.": "目录中没有这样的模型。",
    "Ask for less: leave an option out.": "请放宽条件：去掉一个选项。",
    "deepseek search lists everything. What is not in it can be pulled as hf:ORG/NAME.": (
        "deepseek search 列出全部。目录中没有的模型可用 hf:ORG/NAME 取回。"
    ),
    "alias": "别名",
    "model": "模型",
    "for": "用途",
    "parameters": "参数量",
    "context": "上下文",
    "licence": "许可证",
    "fits as": "可容纳的形式",
    "pulled": "已取回",
    "works": "支持",
    "not yet": "尚未支持",
    "not pinned": "未固定",
    "its architecture is not supported yet": "其架构尚未支持",
    "it gives vectors, and only text is supported yet": "它输出向量，而目前只支持文本",
    "its weights are pickles, which are refused": "其权重是 pickle，不予接受",
    "No command works with it: {obstacle}.": "没有命令支持它：{obstacle}。",
    "It is not on this machine.": "它不在本机上。",
    "{alias} is {ref} in the catalogue.": "{alias} 是目录中的 {ref}。",
    "{alias} is {ref} at {revision}.": "{alias} 是 {ref}，版本 {revision}。",
    "{alias} is {ref}, not pinned to a commit.": "{alias} 是 {ref}，未固定到某个提交。",
    "{text!r} is neither a device nor a size.": "{text!r} 既不是设备，也不是大小。",
    "A size is like 8GB. Known are: {names}.": "大小的写法如 8GB。已知的设备有：{names}。",
    "{file} is damaged: {reason}.": "{file} 已损坏：{reason}。",
    "Install deepseek-cli again.": "请重新安装 deepseek-cli。",
    # the store
    "The store at {home} is empty.": "位于 {home} 的仓库是空的。",
    "{path} exists and holds something else.": "{path} 已经存在，而且内容不同。",
    "{path} needs {needed} MB, its disk has {free} MB free.": "{path} 需要 {needed} MB，而该磁盘只剩 {free} MB。",
    "Use another -o.": "请换一个 -o。",
    "The disk of {path} is full.": "{path} 所在的磁盘已满。",
    "kind": "类型",
    "MB": "MB",
    "KL": "KL",
    "verified": "验证",
    "Delete {name}?": "删除 {name}？",
    "The store holds nothing named {name}.": "仓库中没有名为 {name} 的内容。",
    "Its files stay at {root}.": "它的文件保留在 {root}。",
    "{name} is deleted.": "{name} 已删除。",
    # files of a model
    "{file} does not hold a JSON object.": "{file} 中不是一个 JSON 对象。",
    "Pull the model again.": "请重新取回模型。",
    "{file}: {field} must be {wanted}, not {value}.": "{file}：{field} 应为 {wanted}，而不是 {value}。",
    "Pull the model again, or check where it comes from.": "请重新取回模型，或查明它的来源。",
    "{file} is larger than any real configuration.": "{file} 比任何真实的配置文件都大。",
    "Look at where it comes from.": "请查明它的来源。",
    "{file} is missing.": "缺少 {file}。",
    "Pull the model again, or name another folder.": "请重新取回模型，或换一个文件夹。",
    "{file} is not valid JSON: {reason}.": "{file} 不是有效的 JSON：{reason}。",
    "{file} lacks the field {field}.": "{file} 缺少字段 {field}。",
    "{file} has schema {schema}.": "{file} 的 schema 是 {schema}。",
    "This version reads {known}.": "本版本能读 {known}。",
    "{file}: kind is neither model nor bundle.": "{file}：kind 既不是 model 也不是 bundle。",
    "Make the folder again.": "请重新生成该文件夹。",
    "{file}: {field} has the wrong type.": "{file}：{field} 的类型不对。",
    # safetensors
    "{file}: its header claims {length} bytes, the file has {size}.": "{file}：文件头声称有 {length} 字节，而文件共有 {size} 字节。",
    "{file}: its header is not valid JSON.": "{file}：文件头不是有效的 JSON。",
    "{file}: its header is not a JSON object.": "{file}：文件头不是 JSON 对象。",
    "{file}: tensor {tensor} has a damaged header entry.": "{file}：张量 {tensor} 在文件头中的条目已损坏。",
    "{file}: tensor {tensor} has dtype {dtype}.": "{file}：张量 {tensor} 的 dtype 是 {dtype}。",
    "{file}: tensor {tensor} has {size} bytes, its shape {shape} needs others.": (
        "{file}：张量 {tensor} 有 {size} 字节，与它的形状 {shape} 不符。"
    ),
    "{file}: tensor {tensor} overlaps its neighbour or leaves a gap.": "{file}：张量 {tensor} 与相邻张量重叠，或留有空隙。",
    "{file}: tensor {tensor} ends at byte {end}, but the file holds {size}.": (
        "{file}：张量 {tensor} 结束于第 {end} 字节，而文件只有 {size} 字节。"
    ),
    "{file} has {extra} bytes behind its last tensor.": "{file} 在最后一个张量之后还有 {extra} 字节。",
    "{folder} holds no model.safetensors and no {index}.": "{folder} 中既没有 model.safetensors，也没有 {index}。",
    "{file}: weight_map does not map tensors to files.": "{file}：weight_map 没有把张量对应到文件。",
    "{file}: {shard} points outside the folder.": "{file}：{shard} 指向文件夹之外。",
    "{file}: the file {shard} is missing.": "{file}：缺少文件 {shard}。",
    "{file}: tensor {tensor} is not in {shard}.": "{file}：张量 {tensor} 不在 {shard} 中。",
    "{file}: tensor {tensor} is missing.": "{file}：缺少张量 {tensor}。",
    "{file}: tensor {tensor} has shape {found}, its config wants {wanted}.": (
        "{file}：张量 {tensor} 的形状是 {found}，而配置要求 {wanted}。"
    ),
    "Pull the model again, or check config.json.": "请重新取回模型，或检查 config.json。",
    "Supported are {known}.": "支持的有：{known}。",
    # quantized checkpoints
    "{file}: quantization {method} is not supported.": "{file}：不支持量化方式 {method}。",
    "{file}: tensor {tensor} lacks its other parts ({parts}).": "{file}：张量 {tensor} 缺少它的其他部分（{parts}）。",
    "{file}: tensor {tensor} does not put its inputs into groups of {group}.": (
        "{file}：张量 {tensor} 没有把输入分成每组 {group} 个。"
    ),
    "{file}: tensor {tensor} of dtype {dtype} and shape {shape} is no part of a quantized weight.": (
        "{file}：张量 {tensor} 的 dtype 是 {dtype}、形状是 {shape}，不可能是量化权重的一部分。"
    ),
    "{file}: tensor {tensor} of shape {shape} is no stack of experts.": "{file}：形状为 {shape} 的张量 {tensor} 不是专家的堆叠。",
    "{file}: tensor {tensor} is a quantized part of kv_b_proj, which is read only whole.": (
        "{file}：张量 {tensor} 是 kv_b_proj 的已量化部分，而 kv_b_proj 只能整体读取。"
    ),
    "Use the model that this one was converted from.": "请使用转换前的原模型。",
    "{file}: {target} in config_groups is no regular expression.": "{file}：config_groups 中的 {target} 不是正则表达式。",
    "{file}: tensor {tensor} is FP8 and has no {scale}, or quantization_config does not say fp8.": (
        "{file}：张量 {tensor} 是 FP8，却没有 {scale}，或者 quantization_config 未写明 fp8。"
    ),
    "{file}: tensor {tensor} scales a weight that is missing or not FP8.": (
        "{file}：张量 {tensor} 所缩放的权重缺失，或者不是 FP8。"
    ),
    "{file}: tensor {tensor} has shape {found}; blocks of {block} over {weight} want {wanted}.": (
        "{file}：张量 {tensor} 的形状是 {found}；{weight} 按 {block} 分块应为 {wanted}。"
    ),
    "{file}: quantization_config has no sound config_groups.": "{file}：quantization_config 中没有完好的 config_groups。",
    "{file}: tensor {tensor} lacks its scale or its shape.": "{file}：张量 {tensor} 缺少缩放系数或形状。",
    "{file}: the parts of tensor {tensor} do not fit each other.": "{file}：张量 {tensor} 的各部分互不相符。",
    # GGUF
    "{file} is too short for a GGUF file.": "{file} 太短，不可能是 GGUF 文件。",
    "{file} is not a GGUF file.": "{file} 不是 GGUF 文件。",
    "{file} has GGUF version {version}.": "{file} 的 GGUF 版本是 {version}。",
    "Versions 2 and 3 are read.": "能读的是版本 2 和 3。",
    "{file} ends inside its header, at byte {position}.": "{file} 在文件头中间就结束了，位于第 {position} 字节。",
    "{file} claims {count} {what}, more than fit in it.": "{file} 声称的数量超出它的容量：{count}（{what}）。",
    "{file} holds a string that is not UTF-8, before byte {position}.": "{file} 在第 {position} 字节之前有非 UTF-8 的字符串。",
    "{file} has a value of unknown type {kind}, before byte {position}.": "{file} 在第 {position} 字节之前有类型未知（{kind}）的值。",
    "{file}: tensor {tensor} has {count} dimensions.": "{file}：张量 {tensor} 有 {count} 维。",
    "{file}: tensor {tensor} of shape {shape} holds nothing.": "{file}：形状为 {shape} 的张量 {tensor} 是空的。",
    "{file}: tensor {tensor} of shape {shape} cannot be {format}.": "{file}：形状为 {shape} 的张量 {tensor} 不可能是 {format}。",
    "{file}: general.alignment is {alignment}, not a power of two.": "{file}：general.alignment 是 {alignment}，不是 2 的幂。",
    "{file} has two tensors named {tensor}.": "{file} 中有两个名为 {tensor} 的张量。",
    "{file}: tensor {tensor} overlaps its neighbour or is misplaced.": "{file}：张量 {tensor} 与相邻张量重叠，或位置不对。",
    "{file}: tensor {tensor} has ggml type {kind}.": "{file}：张量 {tensor} 的 ggml 类型是 {kind}。",
    "Read are F32, F16, BF16 and {known}.": "能读的是 F32、F16、BF16 和 {known}。",
    "{file}: the architecture {name} is not supported.": "{file}：不支持架构 {name}。",
    "{file} has two values for {key}.": "{file} 中 {key} 有两个值。",
    "{file} is one part of a split model.": "{file} 是拆分模型的一部分。",
    "Merge its parts with llama-gguf-split --merge.": "请用 llama-gguf-split --merge 合并各部分。",
    "{file}: a mixture of experts in the architecture {family} is not supported.": "{file}：不支持 {family} 架构的混合专家模型。",
    "{file}: keys and values of different lengths are not supported.": "{file}：不支持长度不同的键和值。",
    "{file}: biases on {parts} do not fit the architecture {family}.": "{file}：{parts} 上的偏置不符合 {family} 架构。",
    "{file}: tensor {tensor} has no place in the architecture {family}.": "{file}：张量 {tensor} 在 {family} 架构中没有位置。",
    "Read are dense models of the architectures {known}, as llama.cpp converts them.": (
        "能读的是由 llama.cpp 转换的稠密模型，架构为 {known}。"
    ),
    "{file}: tensor {tensor} has {rows} rows for {heads} heads.": "{file}：张量 {tensor} 有 {rows} 行，与 {heads} 个头不符。",
    # architectures
    "The architecture {name} is not supported yet: {missing} are missing.": "尚不支持架构 {name}：缺少 {missing}。",
    "{file}: {field} {value} is not supported.": "{file}：不支持 {field} 为 {value}。",
    "{file}: tensor {tensor} belongs to a drafting layer, and the config has none there (num_nextn_predict_layers).": (
        "{file}：张量 {tensor} 属于多词元预测层，而配置在那里没有这样的层（num_nextn_predict_layers）。"
    ),
    "Guesses are checked several at once, for which sparse attention would choose other keys.": (
        "草稿要几个词元一起检查，而稀疏注意力此时会选取不同的键。"
    ),
    "Leave out --draft or --sparse-attention.": "请去掉 --draft 或 --sparse-attention。",
    "{model} has no layer for multi-token prediction, so it cannot draft.": "{model} 没有多词元预测层，因此不能预测草稿。",
    "Run it without --draft.": "运行时请去掉 --draft。",
    "guess ahead, from the text or the model's own prediction; each token is still its choice": (
        "从已有文本或用模型自带的多词元预测提前猜测词元；每个词元仍由模型选定"
    ),
    "attend to N keys a query, to the most active heads: tokens=N,heads=SHARE": (
        "每个查询只关注 N 个键，只计算最活跃的注意力头：tokens=N,heads=比例"
    ),
    "Queries attended to {some:.0f} of {all:.0f} keys, in the mean over heads and layers.": (
        "按注意力头和层平均，每个查询关注了 {all:.0f} 个键中的 {some:.0f} 个。"
    ),
    "--sparse-attention cannot be {text!r}.": "--sparse-attention 不能是 {text!r}。",
    "Write it like tokens=256, heads=0.75, or tokens=256,heads=0.75.": "请写成 tokens=256、heads=0.75 或 tokens=256,heads=0.75。",
    "--sparse-attention tokens={tokens} is too few.": "--sparse-attention tokens={tokens} 太少。",
    "Use at least {least}.": "至少用 {least}。",
    "--sparse-attention heads={heads} is no share of the heads.": "--sparse-attention heads={heads} 不是注意力头的比例。",
    "Use more than 0, and 1 at most.": "应大于 0，至多为 1。",
    "{model} keeps all its heads: they share one latent.": "{model} 保留所有注意力头：它们共用一个潜向量。",
    "Use --sparse-attention tokens=N.": "请用 --sparse-attention tokens=N。",
    "Bundles compute every head.": "部署包计算所有注意力头。",
    "Bundles made with latent_cache=gqa attend to every key.": "用 latent_cache=gqa 生成的部署包关注所有的键。",
    "Bundles made with --kv fp16 or int8 attend to every key.": "用 --kv fp16 或 int8 生成的部署包关注所有的键。",
    "Leave --sparse-attention out, or deploy the model without --kv.": "请去掉 --sparse-attention，或不加 --kv 重新部署模型。",
    "Leave --sparse-attention out, or deploy the model without latent_cache=gqa.": (
        "请去掉 --sparse-attention，或不加 latent_cache=gqa 重新部署模型。"
    ),
    "{accepted} of {drafted} guesses were right.": "{drafted} 次猜测中有 {accepted} 次正确。",
    "The architecture {name} is not supported.": "不支持架构 {name}。",
    "Supported are {known}; a plug-in can add more.": "支持的有：{known}；插件可以增加。",
    "{file}: sliding-window attention is not supported.": "{file}：不支持滑动窗口注意力。",
    "Use a model with full attention.": "请使用全注意力的模型。",
    "{file}: partial rotary embeddings are not supported.": "{file}：不支持部分旋转位置编码。",
    "Use another model.": "请换一个模型。",
    # tokenizers and chat templates
    "The model's chat template fails: {reason}.": "模型的对话模板出错：{reason}。",
    "Use --raw to continue a prompt without it.": "请用 --raw，不经模板直接续写提示。",
    "The model's chat template has no switch for thinking.": "模型的对话模板没有思考开关。",
    "Leave think at auto: the model decides by itself.": "请让 think 保持 auto，由模型自己决定。",
    "{file} has a tokenizer of kind {kind} with splitting {pre}.": "{file} 的分词器种类是 {kind}，切分方式是 {pre}。",
    "Byte-level BPE with one of {known} is read; use the model's safetensors version.": (
        "能读的是字节级 BPE，切分方式为 {known} 之一；请使用该模型的 safetensors 版本。"
    ),
    "{file}: its tokens repeat, or a merge is not a pair.": "{file}：词元有重复，或有的合并规则不是一对。",
    "{file}: tokenizer.{key} is not a list of strings.": "{file}：tokenizer.{key} 不是字符串列表。",
    "{file} is not a tokenizer: {reason}.": "{file} 不是分词器：{reason}。",
    "{file} is missing, or larger than any real tokenizer.": "缺少 {file}，或它比任何真实的分词器都大。",
    "{file} does not round-trip: {text} came back as {decoded}.": "{file} 不能还原文本：{text} 变成了 {decoded}。",
    "Pull the tokenizer again, or use another copy of the model.": "请重新取回分词器，或换用该模型的另一份副本。",
}
