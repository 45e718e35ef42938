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
}
