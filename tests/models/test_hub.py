"""Weights from the Hugging Face hub (a local server stands in for it), and their checksums."""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import threading

import pytest
import weight_files as wf
from small_network import SMALL, equal, foreign, state

from jaxplain import cli, models
from jaxplain import weights_convert as wc
from jaxplain.models.entries import ENTRIES
from jaxplain.models.entry import Hub, Source


def test_hash_in_the_name(tmp_path):
    data = wf.torch(foreign())
    sha = hashlib.sha256(data).hexdigest()
    for name in (f"net-{sha[:8]}.pth", "net-20240131.pth", "mine.pth", "net-best.pt"):
        assert wc.check_name_hash(wf.write(tmp_path, name, data)) == sha
    for name in ("net-00000000.pth", "net-0123456789abcdef.pt"):
        path = wf.write(tmp_path, name, data)
        with pytest.raises(wc.CheckpointError, match="download it again, or rename it"):
            models.from_pretrained(path, network=SMALL)


class Server(http.server.BaseHTTPRequestHandler):
    """Enough of the hub: the address of a file in a repository, with the headers that say what
    it is. Requests are counted."""

    data, sha256, requests = b"", "", []

    def _answer(self):
        type(self).requests.append(self.command)
        if "/me/net/" not in self.path or not self.path.endswith("/model.safetensors"):
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.data)))
        self.send_header("X-Repo-Commit", "a" * 40)
        self.send_header("X-Linked-Etag", f'"{self.sha256}"')
        self.send_header("X-Linked-Size", str(len(self.data)))
        self.send_header("ETag", f'"{self.sha256}"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(self.data)

    do_GET = do_HEAD = _answer

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(cache, monkeypatch, tmp_path):
    """A server for the hub, and the small network registered as coming from it."""
    constants = pytest.importorskip("huggingface_hub.constants", reason="needs the extra zoo")
    Server.data = wf.safetensors(foreign())
    Server.sha256, Server.requests = hashlib.sha256(Server.data).hexdigest(), []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    entry = ENTRIES[SMALL]
    sources = (Source(entry.sources[0].names, Hub("me/net"), top1=12.3, licence="MIT"),)
    monkeypatch.setitem(ENTRIES, SMALL, dataclasses.replace(entry, sources=sources))
    yield server
    server.shutdown()
    server.server_close()


def test_known_name_from_the_hub_and_then_from_the_cache(hub, cache, tmp_path):
    model = models.from_pretrained(SMALL)
    path = wf.write(tmp_path, "same.safetensors", Server.data)
    equal(model, models.from_pretrained(path, network=SMALL))
    assert model.config.top1 == 12.3 and model.config.licence == "MIT"
    (folder,) = cache.iterdir()
    assert wc.load_config(folder)["origin"] == "hf:me/net"
    count = len(Server.requests)
    assert "GET" in Server.requests
    equal(models.from_pretrained(SMALL), model)
    assert len(Server.requests) == count  # the cache alone


def test_user_weights_do_not_shadow_the_hub(hub, cache, tmp_path):
    path = wf.write(tmp_path, "other.pth", wf.torch(foreign(seed=5)))
    assert cli.main(["convert", SMALL, str(path)]) == 0
    fetched = models.from_pretrained(SMALL)
    mine = models.from_pretrained(path, network=SMALL)
    assert any(
        (a != b).any() for a, b in zip(state(fetched).values(), state(mine).values(), strict=True)
    )


def test_hf_address(hub, cache):
    model = models.from_pretrained("hf:me/net")  # the repository is known to be this network's
    assert model.config.name == SMALL
    equal(models.from_pretrained("hf:me/net/model.safetensors", network=SMALL), model)
    with pytest.raises(ValueError, match="Say which network hf:me/other is of"):
        models.from_pretrained("hf:me/other")
    with pytest.raises(ValueError, match="must be like 'hf:OWNER/NAME'"):
        models.from_pretrained("hf:net")
    with pytest.raises(wc.DownloadError, match="me/other/resolve/main/model.safetensors cannot be"):
        models.from_pretrained("hf:me/other", network=SMALL)


def test_wrong_checksum_is_refused_and_removed(hub, cache, tmp_path):
    Server.sha256 = "0" * 64
    with pytest.raises(wc.DownloadError, match="arrived damaged"):
        models.from_pretrained(SMALL)
    assert not cache.exists()
    assert not [p for p in (tmp_path / "hf").rglob("blobs/*") if p.name == "0" * 64]


def test_offline(hub, cache, tmp_path):
    """First without any file: what to download and where to put it. Then with the hub's cache."""
    hub.shutdown()
    hub.server_close()
    with pytest.raises(wc.DownloadError) as info:
        models.from_pretrained(SMALL)
    text = str(info.value)
    assert "Download model.safetensors from https://huggingface.co/me/net" in text
    assert f"jaxplain convert {SMALL} FILE" in text and f"network={SMALL!r}" in text
    assert "\n" not in text and not cache.exists()

    blobs = tmp_path / "hf" / "models--me--net"  # as the hub's own cache lays files out
    for folder in ("blobs", "refs", f"snapshots/{'a' * 40}"):
        (blobs / folder).mkdir(parents=True)
    wf.write(blobs / "blobs", Server.sha256, Server.data)
    (blobs / "refs" / "main").write_text("a" * 40)
    link = blobs / "snapshots" / ("a" * 40) / "model.safetensors"
    link.symlink_to(f"../../blobs/{Server.sha256}")
    assert models.from_pretrained(SMALL).config.top1 == 12.3
