from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from deepseek_cli.errors import UsageError
from deepseek_cli.settings import Settings, Value, read_settings
from deepseek_cli.spec import Size, fields_of, format_size, option, parse_size


@dataclass(frozen=True, slots=True)
class Spec:
    level: Literal["fast", "best"] = option("fast", help="h")
    group: Literal[32, 64] | None = option(None, help="h")
    tokens: int = option(100, help="h")
    share: float = option(0.5, help="h")
    report: bool = option(True, help="h", rare=True)
    file: Path | None = option(None, help="h")
    to_size: Size | None = option(None, help="h")
    rule: tuple[str, ...] = option((), help="h")
    threads: int | None = option(None, help="h")


FIELDS = fields_of(Spec)


def settings(tmp_path: Path, project: str = "", user: str = "", **environ: str) -> Settings:
    folder, config = tmp_path / "p", tmp_path / "config"
    for place, text in ((folder / "deepseek.toml", project), (config / "deepseek" / "config.toml", user)):
        place.parent.mkdir(parents=True, exist_ok=True)
        if text:
            place.write_text(text, encoding="utf-8")
    found = read_settings(
        folder, {"XDG_CONFIG_HOME": str(config), "DEEPSEEK_HOME": "/h", **environ}, ("tune", "list"), ("threads",)
    )
    found.check("tune", FIELDS)
    return found


def value(found: Settings, name: str, **given: Any) -> Value:
    return found.resolve("tune", FIELDS, given, ("threads",))[name]


def test_the_nearer_source_wins(tmp_path: Path) -> None:
    project, user = "threads = 2\n[tune]\ntokens = 3\n", "threads = 4\n[tune]\ntokens = 5\nshare = 0.25\n"
    found = settings(tmp_path, project, user, DEEPSEEK_TUNE_TOKENS="6")
    assert value(found, "tokens", tokens="7") == Value(7, "--tokens")
    assert value(found, "tokens") == Value(6, "DEEPSEEK_TUNE_TOKENS")
    found = settings(tmp_path, project, user)
    assert value(found, "tokens") == Value(3, "./deepseek.toml: [tune] tokens")
    assert value(found, "threads") == Value(2, "./deepseek.toml: threads")
    assert value(found, "share") == Value(0.25, f"{tmp_path}/config/deepseek/config.toml: [tune] share")
    assert value(found, "level") == Value("fast", "default")


def test_a_general_option_listens_to_its_own_variable_and_the_commands_first(tmp_path: Path) -> None:
    assert value(settings(tmp_path, DEEPSEEK_THREADS="3"), "threads") == Value(3, "DEEPSEEK_THREADS")
    assert value(settings(tmp_path, DEEPSEEK_THREADS="3", DEEPSEEK_TUNE_THREADS="4"), "threads").value == 4
    assert value(settings(tmp_path, DEEPSEEK_TOKENS="3"), "tokens").value == 100


def test_an_empty_variable_says_nothing(tmp_path: Path) -> None:
    assert value(settings(tmp_path, DEEPSEEK_TUNE_TOKENS=""), "tokens").origin == "default"


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("level", "best", "best"),
        ("group", "64", 64),
        ("tokens", "12", 12),
        ("share", "0.125", 0.125),
        ("report", "no", False),
        ("to_size", "1.5GiB", 1_610_612_736),
        ("rule", "a=int4 b=int8", ("a=int4", "b=int8")),
    ],
)
def test_text_becomes_the_type_of_the_field(tmp_path: Path, name: str, text: str, wanted: object) -> None:
    assert value(settings(tmp_path, **{f"DEEPSEEK_TUNE_{name.upper()}": text}), name).value == wanted


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("group = 64", 64),
        ('group = "64"', 64),
        ("share = 1", 1.0),
        ("report = false", False),
        ("to_size = 5000", 5000),
        ('to_size = "4GB"', 4_000_000_000),
        ('rule = ["a=b", "c=d"]', ("a=b", "c=d")),
        ('file = "x.txt"', Path("x.txt")),
    ],
)
def test_a_file_holds_values_of_the_fields_type(tmp_path: Path, line: str, wanted: object) -> None:
    assert value(settings(tmp_path, f"[tune]\n{line}\n"), line.split()[0]).value == wanted


def test_rules_are_items_in_order_and_the_command_line_comes_last(tmp_path: Path) -> None:
    found = settings(tmp_path, '[tune.rules]\nlm_head = "int8"\n"*.q" = "int4"\n', '[tune.rules]\n"*" = "bf16"\n')
    assert value(found, "rule").value == ("*=bf16", "lm_head=int8", "*.q=int4")
    assert value(found, "rule", rule=["x=y"]).value == ("*=bf16", "lm_head=int8", "*.q=int4", "x=y")


@pytest.mark.parametrize(
    ("project", "said"),
    [
        ("thread = 1", "./deepseek.toml: 'thread' is unknown. Did you mean threads?"),
        ("[tun]\ntokens = 1", "./deepseek.toml: 'tun' is unknown. Did you mean tune?"),
        ("[tune]\ntoken = 1", "./deepseek.toml: [tune]: 'token' is unknown. Did you mean tokens?"),
        ("[tune.ruls]\na = 'b'", "./deepseek.toml: [tune]: 'ruls' is unknown. Did you mean rules?"),
        ("[tune]\nrule = ['a=b']\n[tune.rules]\na = 'b'", "./deepseek.toml: [tune] has both rule and rules. Keep one."),
        ("[tune]\ntokens = '12x'", "./deepseek.toml: [tune] tokens cannot be '12x'. It is a whole number."),
        ("[tune]\ntokens = 1.5", "./deepseek.toml: [tune] tokens cannot be 1.5. It is a whole number."),
        ("[tune]\ntokens = true", "./deepseek.toml: [tune] tokens cannot be True. It is a whole number."),
        ("[tune]\nreport = 'perhaps'", "./deepseek.toml: [tune] report cannot be 'perhaps'. It is true or false."),
        ("[tune]\nfile = 3", "./deepseek.toml: [tune] file cannot be 3. It is a path, in quotes."),
        ("[tune]\nrule = 3", "./deepseek.toml: [tune] rule cannot be 3. It is a text, in quotes."),
        (
            "[tune]\nto_size = 'big'",
            "./deepseek.toml: [tune] to_size cannot be 'big'. It is a size, such as 900MB, 4GB or 1.5GiB.",
        ),
        ("[tune]\nlevel = 'bestt'", "./deepseek.toml: [tune] level cannot be 'bestt'. Did you mean best?"),
        ("[tune]\ngroup = 48", "./deepseek.toml: [tune] group cannot be 48. It is one of: 32, 64."),
        ("model = 3", "./deepseek.toml: model is 3, not a text. Write it in quotes."),
    ],
)
def test_a_mistake_names_the_file_the_key_and_what_fits(tmp_path: Path, project: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        settings(tmp_path, project).resolve("tune", FIELDS, {})
    assert str(error.value) == said


def test_a_misspelt_variable_of_the_command_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean DEEPSEEK_TUNE_TOKENS"):
        settings(tmp_path, DEEPSEEK_TUNE_TOKEN="3")


@pytest.mark.parametrize("content", [b"[tune\n", b"\xff\xfe", b"a = 1\na = 2\n"])
def test_a_file_that_is_not_toml_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "deepseek.toml").write_bytes(content)
    with pytest.raises(UsageError, match=r"\./deepseek\.toml cannot be read"):
        read_settings(tmp_path, {"XDG_CONFIG_HOME": "/none", "DEEPSEEK_HOME": "/h"})


def test_a_byte_order_mark_is_nothing_special(tmp_path: Path) -> None:
    (tmp_path / "deepseek.toml").write_bytes(b"\xef\xbb\xbfmodel = 'm'\n")
    assert read_settings(tmp_path, {"XDG_CONFIG_HOME": "/none", "DEEPSEEK_HOME": "/h"}).model == "m"


def test_home_comes_from_the_variable_a_file_or_the_users_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    assert settings(tmp_path).home == Path("/h")
    assert settings(tmp_path, 'home = "store"', DEEPSEEK_HOME="").home == tmp_path / "p" / "store"
    (tmp_path / "p" / "deepseek.toml").unlink()
    assert settings(tmp_path, DEEPSEEK_HOME="", XDG_DATA_HOME="/data").home == Path("/data/deepseek")
    monkeypatch.setattr(Path, "home", lambda: Path("/u"))
    assert settings(tmp_path, DEEPSEEK_HOME="").home == Path("/u/.local/share/deepseek")
    monkeypatch.setattr("sys.platform", "darwin")
    assert settings(tmp_path, DEEPSEEK_HOME="").home == Path("/u/Library/Application Support/deepseek")
    monkeypatch.setattr("sys.platform", "win32")
    assert settings(tmp_path, DEEPSEEK_HOME="", LOCALAPPDATA="/local").home == Path("/local/deepseek")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("12", 12),
        ("900MB", 900_000_000),
        ("4 GB", 4_000_000_000),
        ("4g", 4_000_000_000),
        ("1.5GiB", 1_610_612_736),
        ("2kib", 2048),
    ],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1", "4XB", "1,5GB", "4GBs", "nan"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1500, "1.5 kB"),
        (999_600, "1.0 MB"),
        (270_000_000, "270 MB"),
        (3.1e9, "3.1 GB"),
        (2e12, "2.0 TB"),
    ],
)
def test_sizes_are_shown(size: float, text: str) -> None:
    assert format_size(size) == text


# the same on the command line


def test_config_shows_values_and_origins(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "list", "quantize", "config")
    Path("deepseek.toml").write_text('model = "a/b"\nthreads = 3\n[quantize]\ngroup = 64\n', encoding="utf-8")
    rows = {row["name"]: (row["value"], row["origin"]) for row in cli("config", "show", "--json").json["values"]}
    assert rows["model"] == ("a/b", "./deepseek.toml")
    assert rows["threads"] == (3, "./deepseek.toml: threads")
    assert rows["quantize.group"] == ("64", "./deepseek.toml: [quantize] group")
    assert rows["offline"] == (False, "default")
    assert "origin" in cli("config", "show", "--origin").out
    assert "./deepseek.toml" not in cli("config", "show").out
    assert "quantize.level" in cli("config", "--all").out
    assert "quantize.group=64\n" in cli("config", "-q").out


def test_config_checks_every_table(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "list", "quantize", "config")
    Path("deepseek.toml").write_text("[quantize]\ngrup = 64\n", encoding="utf-8")
    assert cli("list").code == 0
    assert (done := cli("config")).code == 2 and "Did you mean group?" in done.err


def test_set_reaches_options_without_a_flag(cli: Any) -> None:
    assert "--set report cannot be 'x'" in cli("quantize", "m", "--set", "report=x").err
    assert "Did you mean report?" in cli("quantize", "m", "--set", "repot=no").err
    assert "NAME=VALUE" in cli("quantize", "m", "--set", "report").err


def test_verbose_says_where_values_come_from(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSEEK_YES", "1")
    assert "yes = True (DEEPSEEK_YES)" in cli("list", "-v").err


def only(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    from deepseek_cli.commands import COMMANDS, config

    monkeypatch.setattr(config, "COMMANDS", {name: COMMANDS[name] for name in names})
