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
}
