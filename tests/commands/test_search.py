from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conftest import Outcome

Cli = Callable[..., Outcome]
R1 = "r1-distill-1.5b"


def test_everything_one_alias_a_line(cli: Cli) -> None:
    listed = cli("search", "-q").out.split()
    assert len(listed) == len(set(listed)) >= 40 and {R1, "v3", "v4-pro", "bge-m3"} <= set(listed)


def test_every_word_has_to_be_there(cli: Cli) -> None:
    assert cli("search", "distill", "1.5B", "-q").out == f"{R1}\n"
    found = cli("search", "distill", "llama", "-q").out.split()
    assert found == ["r1-distill-8b", "r1-distill-70b"]


def test_a_table_for_people(cli: Cli) -> None:
    head, *rows = cli("search", "distill", "1.5b").out.splitlines()
    assert head.split() == ["alias", "model", "for", "parameters", "size", "context", "licence", "state"]
    (row,) = rows
    assert all(
        word in row for word in (R1, "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", "1.78 B", "≈3.6 GB", "131072", "mit", "works")
    )


def test_json(cli: Cli) -> None:
    document = cli("search", "distill", "1.5b", "--json").json
    (model,) = document["models"]
    assert (document["schema"], model["alias"], model["supported"], model["obstacle"]) == ("deepseek.search/1", R1, True, None)
    assert (model["pulled"], model["bytes"], model["fits_as"], len(model["revision"])) == (False, None, None, 40)


@pytest.mark.parametrize("domain", ["code", "embedding", "drafting"])
def test_by_domain(cli: Cli, domain: str) -> None:
    models = cli("search", "--domain", domain, "--json").json["models"]
    assert models and all(domain in model["domains"] for model in models)


def test_only_what_works(cli: Cli) -> None:
    assert all(model["supported"] for model in cli("search", "--supported", "--json").json["models"])
    assert cli("search", "--domain", "embedding", "--supported").code == 1


def test_what_fits_a_size(cli: Cli) -> None:
    models = {m["alias"]: m["fits_as"] for m in cli("search", "distill", "--fits", "6GB", "--json").json["models"]}
    assert models == {R1: "as it is", "r1-distill-7b": "int4-g32", "r1-distill-8b": "int4-g32"}


def test_what_fits_this_machine_needs_no_value(cli: Cli) -> None:
    done = cli("search", "smollm2", "--fits", "--json").json["models"]
    assert {model["alias"]: model["fits_as"] for model in done}["smollm2-135m"] == "as it is"
    assert cli("search", "smollm2", "--fits", "--json").out == cli("search", "smollm2", "--fits", "here", "--json").out


def test_larger_than_any_memory(cli: Cli) -> None:
    done = cli("search", "v3", "--fits", "Raspberry")
    assert (done.code, "leave an option out" in done.err) == (1, True)


@pytest.mark.parametrize(("words", "says"), [("destill", "Did you mean distill?"), ("xyzzy", "deepseek search lists everything")])
def test_nothing_is_found(cli: Cli, words: str, says: str) -> None:
    done = cli("search", words)
    assert (done.code, done.out) == (1, "") and says in done.err


@pytest.mark.parametrize(
    ("option", "value", "says"), [("--domain", "cod", "Did you mean code?"), ("--fits", "toaster", "Known are")]
)
def test_mistakes(cli: Cli, option: str, value: str, says: str) -> None:
    done = cli("search", option, value)
    assert done.code == 2 and says in done.err


def test_show_without_weights(cli: Cli) -> None:
    document = cli("show", R1, "--offline", "--json").json
    assert (document["kind"], document["path"], document["layers"], document["bytes"]) == ("catalogue", None, 28, 3_554_176_000)
    assert (document["kv_bytes_per_token"], document["catalogue"]["licence"]) == (28_672, "mit")
    assert "deploy" in document["commands"] and document["obstacle"] is None
    assert "It is not on this machine." in cli("show", R1, "--offline").out


def test_show_says_what_does_not_work_yet(cli: Cli) -> None:
    done = cli("show", "v4-flash", "--offline")
    assert "search, show\n" in done.out and "its architecture is not supported yet" in done.out
    assert "profile --estimate" in cli("show", "llm-7b", "--offline").out


def test_an_estimate_by_alias(cli: Cli) -> None:
    done = cli("profile", "v3", "--estimate", "--offline", "--context", "131072", "--set", "bandwidth=1GB")
    assert done.code == 0 and "8.58 GiB" in done.out
    assert "v3 is hf:deepseek-ai/DeepSeek-V3 in the catalogue." in done.err


def test_a_misspelt_alias_is_answered(cli: Cli) -> None:
    done = cli("quantize", "r1-distil-1.5b", "--int4")
    assert done.code == 3 and f"Did you mean {R1}?" in done.err
