"""The page in a browser on which one turns the knobs of an explanation; needs the extra ``app``."""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jaxplain.core.extras import missing
from jaxplain.explainers.catalogue import CATALOGUE
from jaxplain.page.markup import HEAD, STYLE, message, pictures, program
from jaxplain.page.studio import METHODS, PictureError, Studio, code_of, read_picture

__all__ = ["app"]

#: What may wait for the one computation at a time; who comes later is told to try again.
_QUEUE = 16
#: The largest file that is taken.
_LARGEST_FILE = "64mb"
#: Seconds after which pictures and maps of visitors are removed from the page's cache.
_KEPT = 3600
#: Nothing is loaded from anywhere else, whatever the toolkit's page asks for.
_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; connect-src 'self' data: blob: ws: wss:; "
    "frame-ancestors *; base-uri 'self'; object-src 'none'"
)
_MAPS = ("plasma", "viridis", "inferno", "magma", "cividis", "turbo", "jet", "gray")
_DEFAULT = ("grad-cam", "c-mwp")


def app(
    model: Any = "efficientnet_lite0",
    *,
    class_names: Sequence[str] | None = None,
    config: Any = None,
    preprocess: Callable[[np.ndarray], Any] | None = None,
    methods: Sequence[str] = _DEFAULT,
    others: Mapping[str, Callable[[], Any]] | None = None,
    name: str | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
) -> Any:
    """A page on which one explains pictures: drop one, and choose methods, classes and layer.

    In a notebook it shows below the cell; the call returns at once, and ``close()`` of what it
    gives ends it. Nobody but this machine can reach it, unless ``host`` says otherwise. One picture
    is explained at a time, and others wait; files of more than 64 MB and pictures of more than 2^26
    pixels are refused. Nothing is asked of other servers, and no statistics are sent.

    Args:
        model, class_names, config, preprocess: as of `jaxplain.explain`.
        methods: what is chosen at first.
        others: networks to choose besides, each by what it is called and what loads it when it is
            chosen.
        name: what the network is called; by default its own name.
        host: the address to listen on; "0.0.0.0" for all of this machine.
        port: None for the first that is free from 7860 on.

    Returns:
        The page, a ``gradio.Blocks``; its attribute ``local_url`` is its address.

    Raises:
        ImportError: gradio is not installed.
        ValueError: an unknown method, or a network without classes.
        OSError: the port is taken.

    Reference:
        The interface is made with Gradio (Abid et al., *Gradio: Hassle-free sharing and testing of
        ML models in the wild*, 2019).
    """
    gradio = _gradio()
    from jaxplain.explanation.choice import names_of_methods

    chosen = names_of_methods(methods, METHODS)
    if name is None and isinstance(model, str):
        name = model
    studio = Studio(
        model,
        class_names=class_names,
        config=config,
        preprocess=preprocess,
        said="network" if name is None else repr(name),
    )
    page = _Page(gradio, name or "network", studio, others or {}, chosen)
    blocks = page.blocks
    blocks.queue(max_size=_QUEUE, default_concurrency_limit=1)
    blocks.launch(**page.launch_options, server_name=host, server_port=port)
    return blocks


def _gradio() -> Any:
    # Read when gradio is imported, which would else tell its makers of it.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        return importlib.import_module("gradio")
    except ImportError as error:
        raise missing("app", "gradio", "The page in the browser") from error


class _Page:
    """The page: its parts, and what happens when they are used."""

    def __init__(
        self,
        gradio: Any,
        own: str,
        studio: Studio,
        others: Mapping[str, Callable[[], Any]],
        methods: Sequence[str],
    ):
        self.gradio, self.own = gradio, own
        self.studios: dict[str, Studio] = {own: studio}
        self.others = {name: load for name, load in others.items() if name != own}
        theme = gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
        theme = theme.set(  # its own are too faint to be read by all
            input_placeholder_color="*neutral_600",
            input_placeholder_color_dark="*neutral_300",
            body_text_color_subdued="*neutral_600",
            body_text_color_subdued_dark="*neutral_300",
        )
        self.launch_options: dict[str, Any] = {
            "theme": theme,
            "css": STYLE,
            "head": HEAD,
            "prevent_thread_lock": True,
            "quiet": True,
            "share": False,
            "ssr_mode": False,
            "footer_links": [],
            "max_file_size": _LARGEST_FILE,
            "allowed_paths": [],
            "state_session_capacity": 64,
            "app_kwargs": {"middleware": [_policy()]},
        }
        self.blocks = gradio.Blocks(
            title="jaxplain", analytics_enabled=False, delete_cache=(_KEPT, _KEPT)
        )
        with self.blocks:
            self._make(methods)

    def _studio(self, name: str) -> Studio:
        if name not in self.studios:
            if name not in self.others:
                raise PictureError(f"There is no network {name!r} here.")
            self.studios[name] = Studio(self.others[name](), said=repr(name))
        return self.studios[name]

    # -- parts ------------------------------------------------------------------------------------

    def _make(self, methods: Sequence[str]) -> None:
        gr = self.gradio
        gr.Markdown("# jaxplain\nWhat in a picture speaks for a class, as a network sees it.")
        state = gr.State(None)
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                picture = gr.Image(
                    label="Picture",
                    type="filepath",
                    sources=["upload", "clipboard", "webcam"],
                    buttons=[],
                    height=300,
                    elem_id="picture",
                )
                # The file as it is, so that what is wrong with it can be said.
                picture.preprocess = lambda given: None if given is None else given.path
                network = gr.Dropdown(
                    [self.own, *self.others],
                    value=self.own,
                    label="Network",
                    visible=bool(self.others),
                )
                chosen = gr.Dropdown(
                    [(CATALOGUE[name].title, name) for name in METHODS],
                    value=list(methods),
                    multiselect=True,
                    max_choices=6,
                    label="Methods",
                    elem_id="methods",
                )
                top = gr.Radio([], label="What the network sees", elem_id="top")
                search = gr.Dropdown([], label="Class: search all", elem_id="class", value=None)
                against = gr.Dropdown(
                    [], label="Against another class", elem_id="against", value=None
                )
                layer = gr.Slider(
                    0,
                    1,
                    value=0,
                    step=1,
                    label="Layer: 0 is each method's own",
                    elem_id="layer",
                    interactive=True,
                )
                opacity = gr.Slider(
                    0, 100, value=100, step=1, label="Opacity of the maps", elem_id="opacity"
                )
                cmap = gr.Dropdown(list(_MAPS), value=_MAPS[0], label="Colours of heat maps")
            with gr.Column(scale=2, min_width=320):
                status = gr.HTML(
                    message("Drop a picture, paste one, or take one."), elem_id="status"
                )
                shown = gr.HTML("", elem_id="maps")
                with gr.Row():
                    arrays = gr.DownloadButton("Raw maps (npz)", elem_id="npz", interactive=False)
                    image = gr.DownloadButton("Pictures (PNG)", elem_id="png", interactive=False)
                code = gr.HTML("", elem_id="code")
        knobs = [picture, network, chosen, top, search, against, layer, opacity, cmap]
        results = [state, status, shown, arrays, image, code, top, search, against, layer]
        heavy: dict[str, Any] = {
            "inputs": knobs,
            "outputs": results,
            "concurrency_id": "explain",
            "concurrency_limit": 1,
            "trigger_mode": "always_last",
            "api_visibility": "private",
            "show_progress_on": [shown],
        }
        picture.change(partial(self.explain, "picture"), **heavy)
        for cause, event in (
            ("network", network.input),
            ("methods", chosen.input),
            ("top", top.input),
            ("search", search.input),
            ("against", against.input),
            ("layer", layer.input),
        ):
            event(partial(self.explain, cause), **heavy)
        for event in (opacity.input, cmap.input):
            event(
                self.redraw,
                inputs=[state, opacity, cmap],
                outputs=[shown, image],
                trigger_mode="always_last",
                show_progress="hidden",
                api_visibility="private",
            )

    # -- what happens -----------------------------------------------------------------------------

    def explain(
        self,
        cause: str,
        path: str | None,
        network: str,
        methods: list[str],
        top: int | None,
        search: int | None,
        against: int | None,
        layer: int,
        opacity: float,
        cmap: str,
    ) -> list[Any]:
        """All results, for what the knobs say; ``cause`` is the one that was turned."""
        gr = self.gradio
        progress = gr.Progress()
        if path is None:
            return self._said(message("Drop a picture, paste one, or take one."))
        if not methods:
            return self._said(message("Choose a method.", wrong=True))
        try:
            photo = read_picture(path)
            progress(0.0, desc="Looking at the picture")
            studio = self._studio(network)
            anew = cause in ("picture", "network")
            layers = [row.name for row in studio.layers(photo)]
            at = 0 if anew else int(layer)
            where = layers[at - 1] if 0 < at <= len(layers) else None
            own = None if anew else (top if cause == "top" else search)
            other = None if anew else against
            targets: list[Any] = ["top1" if own is None else own]
            if other is not None and other != own:
                targets.append(other)

            def begins(number: int, title: str) -> None:
                progress((number, len(methods)), desc=f"{title}: the first time it is compiled")

            about = studio.explain(
                photo,
                methods,
                targets,
                against=len(targets) == 2,
                layer=where,
                name=os.path.basename(path),
                begins=begins,
            )
        except (ValueError, OSError) as error:
            return self._said(message(str(error), wrong=True))
        target = about.targets[0]
        names = studio.class_names or [f"class {i}" for i in range(studio.count)]
        ranked = [(f"{called}  {share:.1%}", i) for called, i, _, share in about.predictions]
        every = [(called, i) for i, called in enumerate(names)]
        markup, png = self._drawn(about, opacity, cmap)
        folder = Path(png).parent
        about.save(folder / "maps.npz")
        said = " ".join(f"{title} is left out: {why}." for title, why in about.left_out.items())
        text = (
            f"{about.class_names[0]}: score {about.scores[0]:.4g}. Move over a map for its values."
        )
        script = program(code_of(studio, methods, about, where))
        return [
            about,
            message(f"{text} {said}".strip(), wrong=bool(said)),
            markup,
            gr.update(value=str(folder / "maps.npz"), interactive=True),
            gr.update(value=png, interactive=True),
            script,
            gr.update(choices=ranked, value=target if target in [i for _, i in ranked] else None),
            gr.update(choices=every, value=target),
            gr.update(choices=every, value=about.targets[1] if len(about.targets) > 1 else None),
            gr.update(
                maximum=max(1, len(layers)),
                value=at,
                label=f"Layer: {where}" if where else "Layer: 0 is each method's own",
            ),
        ]

    def redraw(self, about: Any, opacity: float, cmap: str) -> list[Any]:
        """The same maps with other colours."""
        if about is None:
            return [self.gradio.skip(), self.gradio.skip()]
        markup, png = self._drawn(about, opacity, cmap)
        return [markup, self.gradio.update(value=png, interactive=True)]

    def _drawn(self, about: Any, opacity: float, cmap: str) -> tuple[str, str]:
        markup, sheet = pictures(about, opacity / 100, cmap)
        folder = Path(tempfile.mkdtemp(prefix="jaxplain-app-", dir=_cache()))
        sheet.save(folder / "maps.png")
        return markup, str(folder / "maps.png")

    def _said(self, text: str) -> list[Any]:
        """Nothing but a sentence."""
        off = self.gradio.update(value=None, interactive=False)
        skip = self.gradio.skip()
        return [None, text, "", off, off, "", skip, skip, skip, skip]


def _cache() -> str:
    folder = Path(importlib.import_module("gradio.utils").get_upload_folder())
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder)


def _policy() -> Any:
    """Adds a Content-Security-Policy to all answers."""
    headers_of = importlib.import_module("starlette.datastructures").MutableHeaders
    middleware = importlib.import_module("starlette.middleware").Middleware

    class Policy:
        def __init__(self, inner: Any):
            self.inner = inner

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            async def answered(event: Any) -> None:
                if event["type"] == "http.response.start":
                    headers = headers_of(scope=event)
                    headers["Content-Security-Policy"] = _POLICY
                    headers["Referrer-Policy"] = "no-referrer"
                await send(event)

            await self.inner(scope, receive, answered)

    return middleware(Policy)
