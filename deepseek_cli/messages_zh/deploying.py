"""What `deploy` says."""

DEPLOYING: dict[str, str] = {
    "what to build for; auto is this machine": "为什么目标生成；auto 即本机",
    "how wide the KV cache is: fp16 is half the memory, and slower; int8 a quarter, rounded by channel": (
        "KV 缓存的位宽：fp16 内存减半，但更慢；int8 为四分之一，按通道取整"
    ),
    "what is not quantized becomes this; by default it stays, as far as the target has it": (
        "未量化的部分转为此类型；默认在目标支持的范围内保持不变"
    ),
    "measure keys and values": "测量键和值",
    "What is dense in a bundle for {target} has one type.": "{target} 的部署包中，未量化的部分只有一种类型。",
    "Leave --precision out.": "请去掉 --precision。",
    "What is dense in a bundle for {target} can be {known}, not {precision}.": (
        "{target} 的部署包中，未量化的部分可以是 {known}，不能是 {precision}。"
    ),
    "Choose one of these, or leave --precision out.": "请选择其中之一，或去掉 --precision。",
    "Use --precision bf16.": "请使用 --precision bf16。",
    "{model} has scales that {precision} does not hold.": "{model} 的缩放系数无法用 {precision} 表示。",
    "{name} caches latents, which are not rounded to int8.": "{name} 缓存的是潜向量，它们不取整为 int8。",
    "Use --kv fp16.": "请使用 --kv fp16。",
    "gqa for GroupQueryAttention: rows of a batch may differ in length, and onnxruntime-genai runs it": (
        "gqa 即 GroupQueryAttention：批内各行长度可以不同，onnxruntime-genai 也能运行"
    ),
    "Leave --kv and latent_cache out.": "请去掉 --kv 和 latent_cache。",
    "{name} has no latent attention, whose cache latent_cache describes.": "{name} 没有潜注意力，而 latent_cache 描述的是它的缓存。",
    "Leave it out.": "请去掉它。",
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
    "Round it anew, and deploy the result: deepseek quantize {model} --int4, or deepseek compress … --set zero_points=false": (
        "请重新量化，再部署其结果：deepseek quantize {model} --int4，或 deepseek compress … --set zero_points=false"
    ),
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
    "multiply in int8 where a weight's rows have one scale each: activations rounded by token; faster": "权重每行一个缩放系数时以 int8 相乘：激活值按词元舍入；更快",
}
