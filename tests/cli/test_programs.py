"""Compiled programs that a command keeps for the next one."""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from jaxplain import cli
from jaxplain.cli import models


@pytest.fixture
def commands(monkeypatch, tmp_path):
    """A command that compiles, with a cache folder of its own; and what the folder holds."""
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv("JAXPLAIN_CACHE", str(tmp_path / "cache"))
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()

    def command(_):
        size = 1024  # takes a while to compile
        values = [jnp.full((size,), i) for i in range(2)]
        jax.jit(lambda a, b: [jnp.sort(a * i + b).cumsum() for i in range(30)])(*values)

    monkeypatch.setattr(models, "_models", command)
    yield lambda: sorted(path.name for path in (tmp_path / "cache").rglob("jit__lambda*-cache"))
    compilation_cache.reset_cache()
    jax.config.update("jax_compilation_cache_dir", before)


def test_they_are_kept(commands):
    assert cli.main(["models", "--no-compilation-cache"]) == 0
    assert commands() == []
    jax.clear_caches()
    assert cli.main(["models"]) == 0
    assert len(commands()) == 1
    assert jax.config.jax_compilation_cache_dir is None


def test_a_folder_that_cannot_be_written_is_a_notice(commands, tmp_path, capsys):
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert cli.main(["models"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("jaxplain: compiled programs are not kept: ")


def test_a_folder_that_the_user_gave_jax_stays(commands, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))
    assert cli.main(["models"]) == 0
    assert commands() == [] and any((tmp_path / "own").iterdir())
