"""`serve`: its options, what it says, and why it does not start."""

SERVING: dict[str, str] = {
    "Serve a bundle through an OpenAI-compatible API.": "通过与 OpenAI 兼容的 API 提供部署包的服务。",
    "where to listen; beyond this machine only with keys": "监听的地址；本机以外须有密钥",
    "0 takes a free one": "0 表示取一个空闲端口",
    "lines of KEY [NAME [use|admin [REQUESTS_PER_MINUTE]]]": "每行为：密钥 [名称 [use|admin [每分钟请求数]]]",
    "most requests that are computed together, up to 64": "最多一起计算的请求数，至多 64",
    "append one JSON line a request here, never what it says; - is stderr": "每个请求在此追加一行 JSON，从不含其内容；- 表示标准错误",
    "most tokens of an answer, where a request does not say": "请求未指明时回答的最多 token 数",
    "most seconds for one request": "一个请求最多的秒数",
    "most requests that wait": "最多等待的请求数",
    "most bytes of a request": "一个请求最多的字节数",
    "for what is under way when SIGTERM comes": "收到 SIGTERM 时留给进行中请求的秒数",
    "prompts, and many answers at once, through int8 weights: faster, and less exact": "提示以及同时生成的多个回答改用 int8 权重：更快，但精度略低",
    "{model} computes its answers in turn, not together.": "{model} 逐个计算各回答，而不是一起计算。",
    "A bundle that computes them together: deepseek deploy MODEL --set latent_cache=gqa": (
        "能一起计算的部署包：deepseek deploy MODEL --set latent_cache=gqa"
    ),
    "{model} is served at {url}": "{model} 的服务地址：{url}",
    "{slots} slots, {tokens} tokens in all, at most {longest} a request.": (
        "{slots} 个槽位，共 {tokens} 个 token，每个请求至多 {longest} 个。"
    ),
    "--slots {slots} is neither auto nor 1 to {most}.": "--slots {slots} 既不是 auto，也不在 1 到 {most} 之间。",
    "There is no port {port}.": "没有端口 {port}。",
    "Choose one from 1024 to 65535, or 0 for a free one.": "请选 1024 到 65535 之间的端口，或用 0 取空闲端口。",
    "{name} must be more than 0.": "{name} 必须大于 0。",
    "The schema cannot be compiled: {reason}": "该 schema 无法编译：{reason}",
    "The schema cannot be followed further: {reason}": "无法继续遵循该 schema：{reason}",
    "The schema is longer than {most} characters.": "该 schema 超过 {most} 个字符。",
    "{file} holds no key.": "{file} 中没有密钥。",
    "Write one key a line.": "请每行写一个密钥。",
    "{file}, line {number}, is no key.": "{file} 第 {number} 行不是密钥。",
    "Write KEY [NAME [use|admin [REQUESTS_PER_MINUTE]]], the key of {shortest} characters at least.": (
        "请写：密钥 [名称 [use|admin [每分钟请求数]]]，密钥至少 {shortest} 个字符。"
    ),
    "{file} cannot be read: {reason}": "{file} 无法读取：{reason}",
    "{model} is no cpu bundle, which is what serve runs.": "{model} 不是 cpu 部署包，而 serve 只运行这种包。",
    "Make one: deepseek deploy {model} --target cpu": "先生成一个：deepseek deploy {model} --target cpu",
    "{slots} slots leave room for {tokens} tokens in one of them.": "{slots} 个槽位时，其中一个只容得下 {tokens} 个 token。",
    "Allow more with --memory, or use fewer --slots.": "请用 --memory 放宽限制，或减少 --slots。",
    "Nothing can listen at {host}, port {port}.": "无法在 {host} 的端口 {port} 上监听。",
    "Choose another --port.": "请换一个 --port。",
    "--host {host} is reached from elsewhere, and there are no keys.": "--host {host} 可从别处访问，却没有密钥。",
    "Add --api-key-file FILE, with one key a line.": "请加上 --api-key-file FILE，每行一个密钥。",
    "The server of a {target} bundle cannot be told {options}.": "{target} 产物的服务器不接受 {options}。",
    "Leave them out, or serve a cpu bundle.": "请去掉它们，或用 cpu 产物提供服务。",
    "The server of {model} ended with exit code {code}.": "{model} 的服务器以退出码 {code} 结束。",
    "What it said stands above.": "它的输出在上面。",
    "with --target cpu: add compose.yaml and a systemd unit that run `deepseek serve`": "配合 --target cpu：附上运行 `deepseek serve` 的 compose.yaml 和 systemd 单元",
    "server_files is for --target cpu, not for {target}: what serves with vLLM, llama.cpp or TensorRT has its own.": "server_files 用于 --target cpu，不用于 {target}：由 vLLM、llama.cpp 或 TensorRT 提供服务的产物自带这些文件。",
    "{file} gives keys roles or rates, which the server of this bundle does not know.": "{file} 给密钥写了角色或速率，而这个产物的服务器不认识它们。",
    "vLLM is not installed, which serves {model}.": "没有安装 vLLM，而 {model} 由它提供服务。",
    "Install it: pip install vllm": "请安装：pip install vllm",
    "vLLM cannot be told --port 0 or --threads.": "vLLM 不接受 --port 0 和 --threads。",
    "Name a port, and leave --threads out.": "请写明端口，并去掉 --threads。",
    "llama.cpp cannot serve {model}: {reason}": "llama.cpp 无法为 {model} 提供服务：{reason}",
    "Deploy it again with --force.": "请用 --force 重新 deploy。",
    "Name another file with --log.": "请用 --log 指定另一个文件。",
    "with --engine ray: how many share the requests, or the fewest and the most": "配合 --engine ray：多少个副本分担请求，或最少和最多的个数",
    "--replicas {replicas} is no number from 1 to {most}, nor two of them.": "--replicas {replicas} 不是 1 到 {most} 的数，也不是这样的两个数。",
    "Write it like 2, or like 1-4 to have as many as the load needs.": "请写成 2 这样，或 1-4 这样，按负载增减。",
    "--replicas is for --engine ray.": "--replicas 用于 --engine ray。",
    "--memory-profile sees nothing of what replicas hold.": "--memory-profile 看不到副本所占的内存。",
    "{replicas} replicas, each with {threads} threads and {slots} slots.": "{replicas} 个副本，每个 {threads} 个线程、{slots} 个槽位。",
    "The Ray cluster has room for {room} replicas of {threads} threads, and {replicas} are to run.": (
        "Ray 集群容得下 {room} 个 {threads} 线程的副本，而要运行 {replicas} 个。"
    ),
    "Use fewer --replicas, or fewer --threads for each.": "请减少 --replicas，或每个副本的 --threads。",
    "Ray Serve could not start a replica: {reason}": "Ray Serve 无法启动副本：{reason}",
    "The bundle has to lie at the same path on all machines, and to fit in the memory of each.": (
        "部署包须在所有机器上位于同一路径，并容得进每台的内存。"
    ),
    "{model} is a {target} bundle, which serve does not run.": "{model} 是 {target} 产物，serve 不运行它。",
    "Neither vLLM nor llama.cpp is installed, which serve {model}.": "vLLM 和 llama.cpp 都没有安装，而 {model} 由它们提供服务。",
    "Install one: pip install vllm, or pip install 'deepseek-cli[gguf]'": "请安装其一：pip install vllm，或 pip install 'deepseek-cli[gguf]'",
    "vLLM does not take this model. Serve it from a cpu bundle: deepseek deploy MODEL --target cpu": (
        "vLLM 不支持这个模型。请用 cpu 产物提供服务：deepseek deploy MODEL --target cpu"
    ),
    "On a Mac: mlx_lm.server --model {path}. Elsewhere from a cpu bundle: deepseek deploy MODEL --target cpu": (
        "在 Mac 上：mlx_lm.server --model {path}。在别处用 cpu 产物：deepseek deploy MODEL --target cpu"
    ),
    "An app runs it. Serve the model from a cpu bundle: deepseek deploy MODEL --target cpu": (
        "它由应用程序运行。请用 cpu 产物提供服务：deepseek deploy MODEL --target cpu"
    ),
    "OpenVINO Model Server takes {path}. Without it, serve a cpu bundle: deepseek deploy MODEL --target cpu": (
        "OpenVINO Model Server 可用 {path}。没有它时请用 cpu 产物：deepseek deploy MODEL --target cpu"
    ),
    "It has a server of its own: python {path}/serve.py. Or serve a cpu bundle: deepseek deploy MODEL --target cpu": (
        "它自带服务器：python {path}/serve.py。或用 cpu 产物：deepseek deploy MODEL --target cpu"
    ),
    "It computes in the reader's browser: python {path}/serve.py. An API wants: deepseek deploy MODEL --target cpu": (
        "它在读者的浏览器里计算：python {path}/serve.py。要 API 请用：deepseek deploy MODEL --target cpu"
    ),
    "Serve the model from a cpu bundle: deepseek deploy MODEL --target cpu": "请用 cpu 产物提供服务：deepseek deploy MODEL --target cpu",
}
