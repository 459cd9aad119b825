"""Commands of docs/cluster.md that need machines: each is one that Ray, or the project, understands."""

import re
import shlex
from pathlib import Path

import pytest
from click import ClickException
from ray.scripts.scripts import cli

from orchestrator.submission import words_of

PAGE = (Path(__file__).parents[1] / "docs/cluster.md").read_text()
KUBECTL = ("create -f", "get rayjobs", "logs -f", "delete rayjob")


def commands(program):
    """Commands of a program, in blocks and in line, without its name."""
    blocks = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL))
    # In line, what names no cluster or object is a word of the prose: `ray submit`.
    whole = [line for line in inline if "cluster.yaml" in line or line.startswith("kubectl")]
    words = [shlex.split(line, comments=True) for line in [*blocks, *whole]]
    return [rest for first, *rest in filter(None, words) if first == program]


def understood(words):
    """The command of Ray that takes these words; its options are checked, nothing is run."""
    command, words = cli, list(words)
    while hasattr(command, "commands"):
        name = words.pop(0)
        command = command.commands[name]
    command.make_context(command.name, words)
    return command


@pytest.mark.parametrize("words", commands("ray"), ids=" ".join)
def test_ray_understands(words):
    understood(words)


def test_the_token_is_for_its_owners_eyes():
    assert commands("chmod") == [["600", "~/.ray/auth_token"]]


def test_many_commands_of_ray_are_looked_at():
    assert {"up", "submit", "exec", "attach", "rsync-down", "down", "job"} <= {words[0] for words in commands("ray")}


def test_a_wrong_option_would_be_seen():
    with pytest.raises(ClickException):
        understood(["up", "--nonsense", "cluster.yaml"])


def test_searches_are_ones_that_the_project_understands():
    submitted = [words[words.index("--") + 1 :] for words in commands("ray") if "--" in words]
    assert len(submitted) >= 3
    for words in submitted:
        assert words_of([word for word in words if word not in ("python", "-m", "orchestrator.submit")])


def test_commands_on_the_head_are_ones_of_the_project():
    import typer

    from orchestrator import cli as cascade

    group = typer.main.get_command(cascade.app)
    on_head = [shlex.split(words[-1]) for words in commands("ray") if words[0] == "exec"]
    ours = [words[1:] for words in on_head if words[0] == "cascade"]
    assert ours
    for name, *words in ours:
        group.commands[name].make_context(name, words)


def test_kubectl_is_used_in_few_ways():
    assert all(" ".join(words).startswith(KUBECTL) for words in commands("kubectl"))
