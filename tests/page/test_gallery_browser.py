"""The gallery in a real browser, from the disk: filter, sort, open, back; keys alone; names."""

import json
import re

import pytest

SCREENS = [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")]


def address(folder, state=""):
    return f"{(folder / 'index.html').as_uri()}{state}"


def field(page, name):
    return page.locator(f"#controls [name={name}]")


def until(page, expression):
    """Waits for an expression; the page's policy forbids how Playwright itself would."""
    for _ in range(1000):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(20)
    raise AssertionError(f"never true: {expression}")


def settled(page):
    """Waits until the page shows what its address says."""
    until(page, "String(state) === String(new URLSearchParams(location.hash.slice(1))) ")
    return page


def ids(page):
    settled(page)
    return page.locator("#grid .id").all_inner_texts()


def count(page):
    settled(page)
    return page.locator("#count").inner_text()


def test_filter_and_sort(pictures, visit):
    page = visit(address(pictures))
    assert count(page) == "150 maps"
    field(page, "right").select_option("wrong")
    assert count(page) == "50 of 150 maps"
    assert ids(page)[:2] == ["../../../002.jpg", "../../../005.jpg"]
    field(page, "right").select_option("right or wrong")
    field(page, "method").select_option("left")
    field(page, "hit").select_option("miss")
    assert count(page) == "50 of 150 maps"
    field(page, "class").select_option("cup (100)")
    assert count(page) == "25 of 150 maps"
    assert page.locator("#grid img").first.get_attribute("src") == "thumbnails/1-1.jpg"

    page.get_by_role("button", name="Show all").click()
    field(page, "sort").select_option("score")
    field(page, "down").select_option("highest first")
    settled(page)
    scores = page.evaluate("chosen.map((i) => GALLERY.entries.score[i])")
    assert scores == sorted(scores, reverse=True) and len(set(scores)) > 50
    shown = page.locator("#grid .about").first.inner_text()
    assert shown.startswith(f"score {scores[0]:.3g}")
    field(page, "from").fill(str(scores[9]))
    field(page, "from").blur()
    assert count(page) == f"{sum(s >= scores[9] for s in scores)} of 150 maps"
    field(page, "q").fill("PICTURES")
    assert count(page) == "0 of 150 maps"
    field(page, "q").fill("../007")
    field(page, "from").fill("")
    field(page, "from").blur()
    assert ids(page) == ["../../../007.jpg"]
    # The address says it all: a colleague sees the same.
    other = visit(page.url)
    assert ids(other) == ["../../../007.jpg"]
    assert field(other, "sort").input_value() == "score"


def test_open_and_back(pictures, visit):
    page = visit(address(pictures, "#sort=agreement&right=1"))
    before = ids(page)
    page.locator("#grid a").nth(2).click()
    settled(page)
    dialog = page.get_by_role("dialog")
    assert dialog.get_by_role("heading").inner_text().endswith(before[2])
    page.wait_for_selector("#numbers td")
    assert dialog.locator("canvas").count() == 2 and dialog.locator(".box").count() == 3
    assert "which is right" in dialog.locator("#facts").inner_text()
    number = int(re.search(r"record=(\d+)", page.url)[1])  # pyright: ignore[reportOptionalSubscript]
    assert dialog.locator("figure img").first.evaluate("one => one.naturalWidth") == 80
    # What the canvas shows is what the record's file says.
    text = (pictures / f"records/{number}.js").read_text()
    height, width, _ = json.loads(text[text.index("{") : -2])["maps"][0]
    canvas = dialog.locator("canvas").first
    assert canvas.evaluate("one => [one.height, one.width]") == [height, width]
    point = "one => one.getContext('2d').getImageData(Math.floor(%s * one.width), 11, 1, 1).data[3]"
    box = dialog.locator("figure:nth-child(2) .box").evaluate("one => one.style.left")
    share = float(box.rstrip("%")) / 100 + 0.05
    bright, dark = (canvas.evaluate(point % at) for at in (share, 0.5))
    assert bright > 180 and dark < 80  # opacity
    dialog.get_by_label("Boxes and maxima").uncheck()
    assert not dialog.locator(".box").first.is_visible()
    opacity = dialog.get_by_label("Opacity of the maps")
    opacity.fill("0")
    assert canvas.evaluate("one => getComputedStyle(one).opacity") == "0"
    page.go_back()
    until(page, "!detail.open")
    assert not dialog.is_visible() and ids(page) == before and "record" not in page.url
    assert page.evaluate("document.activeElement.querySelector('.id').textContent") == before[2]
    page.go_forward()
    until(page, "detail.open")
    # A finding that was sent to someone opens by itself, and closes to the grid.
    other = visit(page.url, selector="#numbers td")
    other.get_by_role("button", name="Close").click()
    until(other, "!detail.open")
    assert ids(other) == before


def test_keys_alone(pictures, visit):
    page = visit(address(pictures))
    page.locator("#reset").focus()
    page.keyboard.press("Tab")
    focused = "document.activeElement.dataset.entry"
    assert page.evaluate(focused) == "0"
    columns = page.evaluate("getComputedStyle(grid).gridTemplateColumns.split(' ').length")
    for key, wanted in (("ArrowRight", 1), ("ArrowDown", 1 + columns), ("ArrowLeft", columns)):
        page.keyboard.press(key)
        assert page.evaluate(focused) == str(wanted)
    page.keyboard.press("Enter")
    settled(page)
    dialog = page.get_by_role("dialog")
    name = dialog.get_by_role("heading")
    assert name.inner_text().endswith(f"{columns:03d}.jpg")
    settled(page).keyboard.press("ArrowRight")
    settled(page)
    assert name.inner_text().endswith(f"{columns + 1:03d}.jpg")
    # The focus stays inside.
    for _ in range(12):
        page.keyboard.press("Tab")
        inside = (
            "detail.contains(document.activeElement) || document.activeElement === document.body"
        )
        assert page.evaluate(inside)
    page.keyboard.press("Escape")
    until(page, "!detail.open")
    assert page.evaluate(focused) == str(columns + 1)
    for _ in range(30):  # beyond what was drawn at first
        page.keyboard.press("ArrowDown")
    assert page.locator("#grid a").count() == 150
    assert 150 - int(page.evaluate(focused)) <= 2 * columns


def test_hostile_names_do_nothing(pictures, visit):
    stopped = "violates the following Content Security Policy"
    page = visit(address(pictures, "#record=1"), selector="#numbers td", expected=stopped)
    assert page.get_by_role("dialog").get_by_role("heading").inner_text() == (
        "cup in <img src=x onerror=alert(1)>.jpg"
    )
    assert "<img src=x" in page.locator("h1").inner_text()
    assert page.locator("[onerror]").count() == 0
    for state in ("#record=../../1", "#record=1e9", "#method=<b>&sort=__proto__", "#class=%22"):
        page.goto(address(pictures, state))
        until(page, "!detail.open")
    # An element that was smuggled in would not run: the policy forbids it.
    assert page.evaluate(
        """() => new Promise((done) => {
            document.addEventListener("securitypolicyviolation", (e) => done(e.effectiveDirective));
            setTimeout(() => done("nothing was stopped"), 2000);
            document.body.insertAdjacentHTML("beforeend", "<b onclick='alert(1)'>x</b>");
        })"""
    ).startswith("script-src")


def test_ten_thousand_records_are_loaded_as_one_scrolls(pictures, visit, tmp_path):
    text = (pictures / "data.js").read_text()
    found = json.loads(text.removeprefix("const GALLERY = ").removesuffix(";\n"))
    columns = found["entries"]
    found["entries"] = {name: (values * 67)[:10_000] for name, values in columns.items()}
    for name in ("index.html", "gallery.css", "gallery.js", "detail.js"):
        (tmp_path / name).write_bytes((pictures / name).read_bytes())
    (tmp_path / "data.js").write_text(f"const GALLERY = {json.dumps(found)};")
    thumbnails = tmp_path / "thumbnails"
    thumbnails.mkdir()
    for i in range(10_000):
        (thumbnails / f"{i}-0.jpg").symlink_to(pictures / "thumbnails/0-0.jpg")
    page = visit("about:blank", selector=None)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address(tmp_path))
    until(page, "document.querySelector('#grid img').naturalWidth > 0")
    assert count(page) == "10000 maps"
    first = page.locator("#grid a").count()
    assert first <= 240 and len(asked) < 250
    for _ in range(3):
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        page.wait_for_timeout(100)
    assert first < page.locator("#grid a").count() <= first + 600
    field(page, "sort").select_option("concentration")
    settled(page)
    assert page.locator("#grid a").count() <= 240


@pytest.mark.parametrize("width,scheme", SCREENS)
def test_accessible_and_no_wider_than_the_screen(pictures, visit, serious, width, scheme):
    page = visit(address(pictures, "#down=1"), width=width, scheme=scheme)
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")
    assert serious(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    settled(page).locator("#grid a").first.click()
    page.wait_for_selector("#numbers td")
    assert serious(page) == []
    assert page.evaluate("detail.scrollWidth <= detail.clientWidth")
