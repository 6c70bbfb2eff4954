"""The page in a browser: what it shows, what its controls do, and that it asks nothing of anybody."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hftrain.report.page import write_page
from hftrain.report.runs import RunData
from tests.report.kit import losses, make_run

pytestmark = pytest.mark.slow

HOSTILE = (
    "</script><script>window.harmed = 1</script><img src=http://127.0.0.1:9/x onerror='window.harmed = 1'><b>bold</b>"
)
SMOOTH = (
    "value => { const s = document.getElementById('smoothing'); s.value = value; s.dispatchEvent(new Event('input')); }"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The system's chromium. Without one these tests are skipped, unless HFTRAIN_NEEDS_BROWSER is set."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        (pytest.fail if os.environ.get("HFTRAIN_NEEDS_BROWSER") else pytest.skip)("no chromium is installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Chromium's own sandbox does not start for root, and its shared memory may be too small in a container.
        flags = ["--no-sandbox", "--disable-dev-shm-usage"]
        launched = playwright.chromium.launch(executable_path=path, args=flags)
        yield launched
        launched.close()


class Opened:
    """A page that is open, with what it asked for and what went wrong in it."""

    def __init__(self, page: Any, path: Path) -> None:
        self.page, self.requests, self.errors = page, [], []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda said: self.errors.append(said.text) if said.type in ("error", "warning") else None)
        page.goto(path.as_uri())
        page.wait_for_selector("#cards .card", state="attached")

    def __call__(self, script: str, argument: Any = None) -> Any:
        return self.page.evaluate(script, argument)

    def chart(self, title: str) -> Any:
        """Bring a chart into view, wait until it is drawn, and return its element."""
        found = self.page.locator("figure.chart", has=self.page.get_by_text(title, exact=True))
        found.scroll_into_view_if_needed()
        found.locator(".main-svg").first.wait_for()
        self.settle()
        return found

    def drawn(self, title: str) -> list[dict[str, Any]]:
        """The traces of a chart, as they were given to plotly."""
        plot = self.chart(title).locator(".plot").element_handle()
        traces = "plot => plot.data.map(t => ({x: t.x, y: t.y, name: t.name, opacity: t.opacity, text: t.text}))"
        found: list[dict[str, Any]] = plot.evaluate(traces)
        return found

    def axis(self, title: str) -> str:
        plot = self.chart(title).locator(".plot").element_handle()
        return str(plot.evaluate("plot => plot._fullLayout.yaxis.type"))

    def settle(self) -> None:
        """Wait until what was asked for is drawn: two frames."""
        self("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


Open = Callable[..., Opened]


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Open]:
    contexts = []

    def opened(*runs: RunData, width: int = 1400, height: int = 1000, scheme: str = "light") -> Opened:
        write_page(str(tmp_path / "page.html"), runs)
        size = {"width": width, "height": height}
        contexts.append(browser.new_context(viewport=size, color_scheme=scheme, offline=True))
        contexts[-1].set_default_timeout(60_000)
        return Opened(contexts[-1].new_page(), tmp_path / "page.html")

    yield opened
    for context in contexts:
        context.close()


def test_the_curves_are_there_and_their_numbers_are_the_runs(show: Open, tmp_path: Path) -> None:
    page = show(*(make_run(tmp_path / name, name=name, scale=scale) for name, scale in (("one", 1.0), ("two", 3.0))))
    for title, factor in (("Training loss", 1.0), ("Gradient norm", 2.0)):
        one, two = page.drawn(title)
        assert (one["name"], two["name"]) == ("one", "two")
        assert one["x"] == list(range(10, 210, 10))
        assert one["y"] == pytest.approx([factor * loss for loss in losses(20)], rel=1e-6)
        assert two["y"] == pytest.approx([factor * loss for loss in losses(20, scale=3.0)], rel=1e-6)
    assert page.chart("Training loss").locator(".scatterlayer path.js-line").count() == 2
    assert page.drawn("eval accuracy")[0]["x"] == [50, 100, 150, 200]
    assert page.errors == []


@pytest.mark.parametrize("title", ["Learning rate", "Evaluation loss", "Steps per second", "Time of a step"])
def test_every_kind_of_curve_is_drawn(show: Open, tmp_path: Path, title: str) -> None:
    page = show(make_run(tmp_path / "a"))
    lines = page.drawn(title)
    assert [len(line["x"]) for line in lines] == {"Evaluation loss": [4], "Time of a step": [20] * 5}.get(title, [20])
    assert page.chart(title).locator(".scatterlayer path.js-line").count() == len(lines)


def test_one_run_shows_both_its_losses_together(show: Open, tmp_path: Path) -> None:
    page = show(make_run(tmp_path / "a"))
    assert [line["name"] for line in page.drawn("Training loss")] == ["training", "evaluation"]


def test_smoothing_draws_a_mean_over_the_faint_curve(show: Open, tmp_path: Path) -> None:
    page = show(make_run(tmp_path / "a"))
    page(SMOOTH, 0.5)
    raw, mean = page.drawn("Gradient norm")
    expected, total, weight = [], 0.0, 0.0
    for value in raw["y"]:
        total, weight = 0.5 * total + 0.5 * value, 0.5 * weight + 0.5
        expected.append(total / weight)
    assert raw["opacity"] < 0.3
    assert mean["y"] == pytest.approx(expected)
    page(SMOOTH, 0)
    (plain,) = page.drawn("Gradient norm")
    assert plain["y"] == raw["y"]


def test_the_axis_is_logarithmic_by_the_keyboard_too(show: Open, tmp_path: Path) -> None:
    page = show(make_run(tmp_path / "a"))
    button = page.chart("Gradient norm").get_by_role("button", name="log")
    button.focus()
    page.page.keyboard.press("Enter")
    assert button.get_attribute("aria-pressed") == "true"
    assert (page.axis("Gradient norm"), page.axis("Training loss")) == ("log", "linear")
    page.page.locator("#log-all").click()
    assert page.axis("Training loss") == "log"


def test_hovering_tells_the_value(show: Open, tmp_path: Path) -> None:
    page = show(make_run(tmp_path / "a", name="<b>bold</b>"), make_run(tmp_path / "b"))
    box = page.chart("Gradient norm").locator(".nsewdrag").bounding_box()
    words = page.page.locator(".hoverlayer", has_text="step 200")
    for move in range(100):  # plotly passes over moves that follow each other fast
        page.page.mouse.move(box["x"] + box["width"] - 3 - move % 2, box["y"] + box["height"] / 2)
        page.page.wait_for_timeout(100)
        if words.count():
            break
    assert f"{2 * losses(20)[-1]:.5g}" in words.text_content()
    assert "<b>bold</b>" in words.text_content()


def test_zooming_one_chart_zooms_the_others_until_it_is_reset(show: Open, tmp_path: Path) -> None:
    page = show(make_run(tmp_path / "a"))
    page.chart("Learning rate")
    box = page.chart("Training loss").locator(".nsewdrag").bounding_box()
    middle = box["y"] + box["height"] / 2
    page.page.mouse.move(box["x"] + box["width"] * 0.4, middle)
    page.page.mouse.down()
    page.page.mouse.move(box["x"] + box["width"] * 0.6, middle, steps=5)
    page.page.mouse.up()
    page.page.locator("#reset").wait_for()
    axis = "charts.find(c => c.title === 'Learning rate').plot._fullLayout.xaxis"
    span = f"() => {axis}.range[1] - {axis}.range[0]"
    page.settle()
    assert 20 < page(span) < 60
    page.page.locator("#reset").click()
    page.settle()
    assert page(span) > 150


def test_a_run_can_be_hidden_or_seen_alone(show: Open, tmp_path: Path) -> None:
    page = show(*(make_run(tmp_path / name, name=name) for name in "abc"))
    page.page.get_by_role("checkbox").nth(1).uncheck()
    assert [line["name"] for line in page.drawn("Training loss")] == ["a", "c"]
    page.page.get_by_role("button", name="Show only b").click(force=True)
    assert [line["name"] for line in page.drawn("Training loss")] == ["b"]
    page.page.get_by_role("button", name="all", exact=True).click()
    assert len(page.drawn("Training loss")) == 3


def test_the_runs_are_compared_and_sorted_by_what_differs(show: Open, tmp_path: Path) -> None:
    page = show(*(make_run(tmp_path / f"{seed}", name=f"run {seed}", seed=seed, scale=seed) for seed in (2, 3, 1)))
    names = page.page.locator(".comparison tbody th")
    assert [" ".join(name.split()) for name in names.all_text_contents()] == ["run 2", "run 3", "run 1"]
    page.page.get_by_role("button", name="seed").click()
    assert names.all_text_contents() == ["run 1", "run 2", "run 3"]
    page.page.get_by_role("button", name="seed").click()
    assert names.all_text_contents() == ["run 3", "run 2", "run 1"]
    assert page.page.locator(".comparison td.best").all_text_contents()[0] == "0.3679"


def test_the_details_are_those_of_the_chosen_run(show: Open, tmp_path: Path) -> None:
    page = show(make_run(tmp_path / "a", seed=7), make_run(tmp_path / "b", name="other", seed=8))
    row = page.page.locator("#cards tr.own", has_text="seed")
    assert row.text_content() == "seed7"
    page.page.locator("#chosen").select_option("1")
    assert row.text_content() == "seed8"
    assert "checkpoint-200" in page.page.locator("#cards").text_content()


def test_no_request_leaves_the_page_and_nothing_a_run_says_is_run(show: Open, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    (folder / "media").mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "media" / "a.png")
    (folder / "t.txt").write_text(HOSTILE)
    media = [
        {"name": HOSTILE, "kind": kind, "path": path} for kind, path in (("image", "media/a.png"), ("text", "t.txt"))
    ]
    run = make_run(folder, name=HOSTILE, status="failed", error=HOSTILE, media=media, **{HOSTILE: HOSTILE})
    page = show(run, make_run(tmp_path / "b", name=f"{HOSTILE} 2", seed=1))
    page.chart("Training loss")
    page.page.locator("#cards img").scroll_into_view_if_needed()
    assert (
        page("() => document.querySelector('#cards img').complete && document.querySelector('#cards img').naturalWidth")
        == 8
    )
    assert page("() => window.harmed") is None
    assert page("() => document.querySelectorAll('script').length") == 3
    assert [url for url in page.requests if not url.startswith("data:")] == [(tmp_path / "page.html").as_uri()]
    assert page.errors == []


def test_a_request_would_be_refused_by_the_page_itself(show: Open, tmp_path: Path) -> None:
    page = show(make_run(tmp_path / "a"))
    page("() => fetch('http://127.0.0.1:9/').catch(() => 'refused')")
    assert any("Content Security Policy" in error for error in page.errors)


@pytest.mark.parametrize("width", [360, 800, 1440])
@pytest.mark.parametrize("count", [1, 30])
def test_nothing_is_wider_than_the_window(show: Open, tmp_path: Path, width: int, count: int) -> None:
    long = "a_name_without_any_blank_" * 4
    runs = [make_run(tmp_path / f"{n}", name=f"{long}{n}", seed=n, **{long: long + str(n)}) for n in range(count)]
    page = show(*runs, width=width)
    page.chart("Training loss")
    assert page("() => document.documentElement.scrollWidth") <= width
    assert page.errors == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_is_seen_is_not_blank(show: Open, tmp_path: Path, scheme: str) -> None:
    page = show(make_run(tmp_path / "a"), make_run(tmp_path / "b", name="other", scale=2.0), scheme=scheme)
    picture = Image.open(io.BytesIO(page.chart("Training loss").locator(".plot").screenshot())).convert("RGB")
    pixels = np.asarray(picture).reshape(-1, 3)
    colors, counts = np.unique(pixels, axis=0, return_counts=True)
    background = colors[counts.argmax()]
    assert (background.mean() < 60) == (scheme == "dark")
    is_blue, is_orange = pixels[:, 2] > pixels[:, 0] + 60, pixels[:, 0] > pixels[:, 2] + 60
    assert min(is_blue.sum(), is_orange.sum()) > 100


def test_a_run_without_numbers_says_so(show: Open, tmp_path: Path) -> None:
    page = show(make_run(tmp_path / "a", rows=0, status=None))
    assert "No numbers have been logged" in page.page.locator("#charts").text_content()
    assert page.errors == []


def test_one_point_is_a_dot(show: Open, tmp_path: Path) -> None:
    page = show(make_run(tmp_path / "a", rows=1))
    assert page.chart("Training loss").locator(".scatterlayer path.point").count() == 1
    assert page.errors == []


def test_what_is_not_finite_is_a_gap_and_a_cross(show: Open, tmp_path: Path) -> None:
    page = show(make_run(tmp_path / "a", odd={60: "nan", 90: "inf"}), make_run(tmp_path / "b", name="other"))
    line, crosses, other = page.drawn("Training loss")
    assert [step for step, value in zip(line["x"], line["y"], strict=True) if value is None] == [60, 90]
    assert (crosses["x"], crosses["text"]) == ([60, 90], ["nan", "inf"])
    assert None not in other["y"]
    assert "mine: 2 values not finite, first nan at step 60" in page.chart("Training loss").text_content()


def test_a_run_of_nothing_but_nan_has_its_page(show: Open, tmp_path: Path) -> None:
    page = show(make_run(tmp_path / "a", rows=3, odd={10: "nan", 20: "nan", 30: "-inf"}))
    assert page.drawn("Training loss")[-1]["text"] == ["nan", "nan", "-inf"]
    assert page.errors == []


def test_runs_with_other_metrics_share_a_page(show: Open, tmp_path: Path) -> None:
    page = show(make_run(tmp_path / "a", rows=20), make_run(tmp_path / "b", name="short", rows=3))
    assert [line["name"] for line in page.drawn("Evaluation loss")] == ["mine"]
    assert len(page.drawn("Training loss")) == 2
