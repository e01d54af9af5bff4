"""What all commands share: bars, what the library says, errors in one line, how to install."""

import json
import logging
import os
import subprocess
import sys
import types

import pytest

from jaxplain import cli
from jaxplain.cli import models, progress
from jaxplain.core import UnsupportedOperationError, extras
from jaxplain.evaluation.studies.localisation import held_out_images

# -- the bar -----------------------------------------------------------------------------------


def test_elsewhere_than_on_a_terminal_the_bar_is_a_line_now_and_then(capsys, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    with progress.Bar("images") as bar:
        for done in range(10, 101, 10):
            bar(done, 100)
            now[0] += 10
        bar(100, 100)  # said twice, shown once
    lines = capsys.readouterr().err.split("\n")
    assert [line.split(",")[0] for line in lines[:-2]] == [
        "40 of 100 images (40 %)",
        "70 of 100 images (70 %)",
        "100 of 100 images (100 %)",
    ]
    assert lines[-2:] == ["100 of 100 images (100 %), took 01:30", ""]


def test_a_bar_on_a_terminal_is_finished_before_an_error_is_printed(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)

    def broken(_):
        with progress.Bar("images") as bar:
            bar(1, 4)
            logging.getLogger("jaxplain.models").info("loading ...")
            bar(2, 4)
            raise ValueError("no more images")

    monkeypatch.setattr(models, "_models", broken)
    assert cli.main(["models"]) == 2
    err = capsys.readouterr().err
    shown, _, last = err.rstrip("\n").rpartition("\n")
    assert "2/4" in shown.rpartition("\r")[2] and last.startswith("jaxplain: error: no more images")
    assert "jaxplain: loading ...\n" in shown


def test_each_thing_that_is_counted_has_its_bar(capsys):
    with progress.Bar("done") as bar:
        for done, total in ((1, 3), (3, 3), (1, 3), (2, 3), (1, 9)):
            bar(done, total)
    shown = [line.split(",")[0] for line in capsys.readouterr().err.splitlines()]
    counts = ["3 of 3 done (100 %)", "2 of 3 done (67 %)", "1 of 9 done (11 %)"]
    assert shown == counts


def test_messages_are_shown_while_a_command_runs_and_not_after(capsys):
    logger = logging.getLogger("jaxplain.some.module")
    with progress.messages():
        logger.info("converting %s ...", "x.pth")
        logger.debug("epoch 1")
    logger.info("nobody listens")
    assert capsys.readouterr().err == "jaxplain: converting x.pth ...\n"
    assert logging.getLogger("jaxplain").level == logging.NOTSET


# -- errors ------------------------------------------------------------------------------------


def run_with(error, monkeypatch, *options):
    def command(_):
        raise error

    monkeypatch.setattr(models, "_models", command)
    return cli.main(["models", *options])


@pytest.mark.parametrize(
    "error",
    [
        OSError("no space"),
        UnsupportedOperationError("no rule\n for it"),
        extras.missing("viz", "matplotlib", "Drawing"),
        ModuleNotFoundError("No module named 'grain'", name="grain"),
    ],
)
def test_what_can_be_put_right_is_one_line(error, monkeypatch, capsys):
    assert run_with(error, monkeypatch) == 2
    err = capsys.readouterr().err
    assert err == f"jaxplain: error: {' '.join(str(error).split())}\n"


@pytest.mark.parametrize(
    "error",
    [TypeError("x"), KeyError("x"), AssertionError("x"), ImportError("x", name="jaxplain.y")],
)
def test_a_bug_is_not_hidden(error, monkeypatch):
    with pytest.raises(type(error)):
        run_with(error, monkeypatch)


def test_the_whole_traceback_on_demand(monkeypatch, capsys):
    for options, variable in ((["--traceback"], ""), ([], "1")):
        monkeypatch.setenv("JAXPLAIN_TRACEBACK", variable)
        assert run_with(OSError("no space"), monkeypatch, *options) == 2
        err = capsys.readouterr().err
        assert err.startswith("Traceback") and "in command" in err
        assert err.endswith("jaxplain: error: no space\n")


def test_an_error_of_values_that_jax_raised_says_so(monkeypatch, capsys):
    import jax.numpy as jnp

    def command(_):
        jnp.broadcast_to(jnp.ones(3), (2,))

    monkeypatch.setattr(models, "_models", command)
    assert cli.main(["models"]) == 2
    assert capsys.readouterr().err.endswith("(raised in jax; --traceback shows where)\n")
    monkeypatch.setattr(models, "_models", lambda _: held_out_images(5, 5))
    assert cli.main(["models"]) == 2
    assert capsys.readouterr().err.endswith("1 to 4 can be held out, not 5\n")


# -- how to install ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (None, 'pip install "jaxplain[viz]"'),
        ({"url": "file://HERE", "dir_info": {}}, 'pip install ".[viz]"'),
        ({"url": "file://HERE", "dir_info": {"editable": True}}, 'pip install -e ".[viz]"'),
        ({"url": "file:///a%20b", "dir_info": {}}, 'pip install "/a b[viz]"'),
        (
            {"url": "https://x.org/j.git", "vcs_info": {"vcs": "git", "commit_id": "ab1"}},
            'pip install "jaxplain[viz] @ git+https://x.org/j.git@ab1"',
        ),
        (
            {"url": "file:///j-0.1-py3-none-any.whl", "archive_info": {}},
            'pip install "jaxplain[viz] @ file:///j-0.1-py3-none-any.whl"',
        ),
    ],
)
def test_advice_for_every_kind_of_installation(origin, command, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    text = None if origin is None else json.dumps(origin).replace("HERE", str(tmp_path))
    distribution = types.SimpleNamespace(read_text=lambda name: text)
    monkeypatch.setattr(extras.importlib.metadata, "distribution", lambda name: distribution)
    assert extras.install("viz") == command


def test_advice_in_a_clone_that_is_not_installed(monkeypatch):
    def none(name):
        raise extras.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(extras.importlib.metadata, "distribution", none)
    root = extras.Path(extras.__file__).parents[2]
    monkeypatch.chdir(root)
    assert extras.install("viz") == 'pip install ".[viz]"'
    monkeypatch.chdir(root.parent)
    assert extras.install("viz") == f'pip install "{root}[viz]"'


def test_every_command_has_its_file_and_its_help():
    main = sys.modules["jaxplain.cli.main"]  # the function has the module's name
    parser = main._parser()
    (commands,) = (a.choices for a in parser._actions if isinstance(a.choices, dict))
    names = [module.__name__.rpartition(".")[2] for module in main.COMMANDS]
    assert [n.replace("-", "_") for n in commands] == names
    for command in commands.values():
        assert "--traceback" in command.format_help()


# -- odd names and places ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["explian"], "there is no 'explian'; did you mean explain"),
        (["evaluate", "pointin"], "there is no 'pointin'; did you mean pointing"),
        (["zzzz"], "there is no 'zzzz'; known: explain, layers"),
        (["explain", "x.jpg", "--methods", "grad-camm"], "did you mean grad-cam"),
        (["explain", "caf\udce9\n\0.jpg"], "jaxplain: error: "),
        (["explain", "a" * 5000], "no such file"),
        (["explain", "x.jpg", "--model", "x\udce9.pth"], "no such file"),
        (["convert", "efficientnet_lite0", "\udce9\0"], "jaxplain: error: "),
        (["explain-dataset", "--data", "\udce9", "--model", "m", "--output", "o"], "error: There"),
    ],
)
def test_names_of_any_kind_and_unknown_words_are_one_line(words, said, capsys):
    assert cli.main(words) == 2
    err = capsys.readouterr().err
    assert err.startswith("jaxplain: error: ") and err.count("\n") == 1 and said in err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a full device")
@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        ("explian 2>/dev/full", 2, ""),
        ("explian 2>&-", 2, ""),
        ("--version >/dev/full", 2, "No space left"),
        ("models >/dev/full", 2, "No space left"),
        ("models >&-", 0, ""),
        ("--version | true; exit ${PIPESTATUS[0]}", 0, ""),
        ("models | true; exit ${PIPESTATUS[0]}", 0, ""),
    ],
)
def test_output_that_goes_nowhere_is_no_traceback(command, status, said):
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m jaxplain {command}"], capture_output=True, text=True
    )
    assert done.returncode == status
    assert said in done.stderr and done.stderr.count("\n") == bool(said)


def test_an_interrupted_compilation_ends_in_time():
    """Ctrl-C while the main thread is in a call that looks at no signal."""
    code = """
import ctypes, os, signal, sys, threading
from jaxplain.cli import main, models
def compile(_):
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    for _ in range(100):
        ctypes.CDLL(None).sleep(60)  # as a compiler: a call that goes on after the signal
models._models = compile
import jaxplain.engine.stopping
jaxplain.engine.stopping.GRACE = 0.2
sys.exit(main(["models"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 130, done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["explain", "--help"]])
def test_help_does_not_wait_for_jax(arguments):
    code = (
        "import sys\nfrom jaxplain import cli\n"
        "try:\n    cli.main(sys.argv[1:])\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "print({'jax', 'flax', 'matplotlib', 'PIL'} & {*sys.modules}, file=sys.stderr)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    assert run.stdout.startswith(("usage: ", "jaxplain ")) and run.stderr == "set()\n"
