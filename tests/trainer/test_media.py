from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hftrain import Trainer, TrainerCallback
from hftrain.callbacks.tracking import Tracking, TrackingSettings
from hftrain.errors import ConfigurationError, PluginError
from hftrain.plugin_api.tracker import Artifact, Media, Run, Tracker
from hftrain.trainer.media_files import write_histogram, write_image, write_text
from hftrain.trainer.tracking import run_of
from tests.trainer.tasks import trainer


class Shows(Tracker):
    """Keeps what it is shown, with what is in the file when it is told."""

    def __init__(self) -> None:
        self.media: list[tuple[Media, bytes]] = []
        self.artifacts: list[Artifact] = []
        self.num_starts = 0

    def start(self, run: Run) -> None:
        self.num_starts += 1

    def log_media(self, media: Media) -> None:
        self.media.append((media, Path(media.path).read_bytes()))

    def log_artifact(self, artifact: Artifact) -> None:
        self.artifacts.append(artifact)


def shown_by(folder: Path, *callbacks: TrainerCallback, **changes: Any) -> tuple[Trainer, Shows]:
    """A Trainer whose run is shown to a tracker."""
    shows, run = Shows(), trainer(folder, max_steps=2, callbacks=list(callbacks), **changes)
    run._tracking = Tracking({"shows": lambda: shows}, TrackingSettings(close_s=30), run_of=lambda: run_of(run))
    run.args.report_to = ["shows"]
    run.callback_handler.callbacks.insert(1, run._tracking)
    return run, shows


def ended(run: Trainer) -> None:
    """Wait until the tracker has been told everything."""
    assert run._tracking is not None
    run._tracking.end("finished", step=0)


class AtStep(TrainerCallback):
    """Calls a function after a step."""

    def __init__(self, step: int, call: Callable[[], None]) -> None:
        self.step, self.call = step, call

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            self.call()


def read_png(content: bytes) -> np.ndarray[Any, Any]:
    """The pixels of a PNG whose rows are not filtered, by the letter of its specification."""
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    chunks, place = {}, 8
    while place < len(content):
        length, kind = struct.unpack(">I4s", content[place : place + 8])
        chunks[kind] = content[place + 8 : place + 8 + length]
        assert zlib.crc32(kind + chunks[kind]) == struct.unpack(">I", content[place + 8 + length :][:4])[0]
        place += length + 12
    width, height, _, color = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    channels = {0: 1, 2: 3, 6: 4}[color]
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, 1 + width * channels)
    return rows[:, 1:].reshape(height, width, channels)


def pixels_of(value: Any, folder: Path) -> np.ndarray[Any, Any]:
    write_image(value, str(folder / "x.png"))
    return read_png((folder / "x.png").read_bytes())


RED = np.zeros((5, 7, 3), np.uint8) + np.array([255, 0, 0], np.uint8)


@pytest.mark.parametrize(
    "value",
    [
        RED,
        RED.transpose(2, 0, 1),
        RED / 255.0,
        RED.astype(np.int64),
        RED.astype(bool),
        torch.tensor(RED.transpose(2, 0, 1)),
        torch.tensor(RED.transpose(2, 0, 1)) / 255,
        (torch.tensor(RED) / 255).to(torch.bfloat16).requires_grad_(),
    ],
)
def test_an_image_of_an_array_or_tensor_is_a_png_of_its_pixels(tmp_path: Path, value: Any) -> None:
    np.testing.assert_array_equal(pixels_of(value, tmp_path), RED)


def test_a_grey_image_needs_no_channels(tmp_path: Path) -> None:
    grey = np.arange(35, dtype=np.uint8).reshape(5, 7)
    np.testing.assert_array_equal(pixels_of(grey, tmp_path)[:, :, 0], grey)


def test_where_both_orders_fit_a_tensor_has_its_channels_first_and_an_array_last(tmp_path: Path) -> None:
    both = np.arange(3 * 9 * 3, dtype=np.uint8).reshape(3, 9, 3)
    np.testing.assert_array_equal(pixels_of(both, tmp_path), both)
    np.testing.assert_array_equal(pixels_of(torch.tensor(both), tmp_path), both.transpose(1, 2, 0))


def test_pillow_reads_the_png(tmp_path: Path) -> None:
    from PIL import Image as image

    write_image(RED, str(tmp_path / "x.png"))
    with image.open(tmp_path / "x.png") as found:
        np.testing.assert_array_equal(np.asarray(found), RED)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "CMYK", "F"])
def test_a_pil_image_is_kept_whatever_its_mode(tmp_path: Path, mode: str) -> None:
    from PIL import Image as image

    write_image(image.fromarray(RED).convert(mode), str(tmp_path / "x.png"))
    with image.open(tmp_path / "x.png") as found:
        assert found.size == (7, 5)


def test_a_path_of_another_format_becomes_a_png(tmp_path: Path) -> None:
    from PIL import Image as image

    image.fromarray(RED).save(tmp_path / "x.bmp")
    write_image(tmp_path / "x.bmp", str(tmp_path / "x.png"))
    with image.open(tmp_path / "x.png") as found:
        np.testing.assert_array_equal(np.asarray(found), RED)


def test_a_figure_is_drawn(tmp_path: Path) -> None:
    class Figure:
        def savefig(self, path: str, *, format: str) -> None:
            Path(path).write_text(format)

    write_image(Figure(), str(tmp_path / "x.png"))
    assert (tmp_path / "x.png").read_text() == "png"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.zeros((2, 3, 8, 8)), r"found \(2, 3, 8, 8\). Pass one image of the batch"),
        (np.zeros((5, 8, 8)), r"with 1, 3 or 4 channels; found \(5, 8, 8\)"),
        (np.zeros((0, 8)), r"found \(0, 8\)"),
        (RED * 1.0, r"floats in \[0, 1\]; found values from 0 to 255. Scale it"),
        (RED.astype(int) - 1, r"integers in \[0, 255\]; found values from -1 to 254"),
        (RED.astype(str), "takes numbers; found an array of <U"),
        ("nowhere.png", "'nowhere.png', which cannot be read"),
        (object(), "takes a PIL image, .* found <class 'object'>"),
        (7, "found int '7'"),
    ],
)
def test_what_is_no_image_is_refused_with_what_was_found(tmp_path: Path, value: Any, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        write_image(value, str(tmp_path / "x.png"))


def test_a_file_that_is_no_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"no image")
    with pytest.raises(ConfigurationError, match="which pillow cannot read"):
        write_image(tmp_path / "x.jpg", str(tmp_path / "x.png"))


def test_values_that_are_not_finite_are_black_and_counted(tmp_path: Path) -> None:
    image = np.ones((4, 4))
    image[0, :3] = (np.nan, np.inf, -np.inf)
    assert write_image(image, str(tmp_path / "x.png")) == 3
    assert read_png((tmp_path / "x.png").read_bytes())[0, :, 0].tolist() == [0, 0, 0, 255]


def test_a_histogram_leaves_out_and_counts_what_is_not_finite(tmp_path: Path) -> None:
    value = torch.tensor([[0.0, 1.0, float("nan")], [0.5, float("inf"), -float("inf")]], dtype=torch.bfloat16)
    assert write_histogram(value, str(tmp_path / "x.npz")) == 3
    with np.load(tmp_path / "x.npz") as found:
        assert (found["counts"].sum(), len(found["counts"]), len(found["edges"])) == (3, 64, 65)
        assert (found["edges"][0], found["edges"][-1]) == (0.0, 1.0)


@pytest.mark.parametrize("value", [[], [3], [[1e16, 1e16]], [-1.7e308, 1.7e308], [np.nan], [True, False], [1e-320, 0]])
def test_a_histogram_of_odd_numbers_has_them_all(tmp_path: Path, value: list[Any]) -> None:
    num_left_out = write_histogram(value, str(tmp_path / "x.npz"))
    with np.load(tmp_path / "x.npz") as found:
        assert np.isfinite(found["edges"]).all()
        assert found["counts"].sum() <= np.size(value) - num_left_out


@pytest.mark.parametrize("value", ["text", ["1"], 1j, object(), [[1], [1, 2]], [torch.ones(1, requires_grad=True)]])
def test_a_histogram_of_no_numbers_is_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(ConfigurationError, match="kind='histogram' takes"):
        write_histogram(value, str(tmp_path / "x.npz"))


def test_a_text_is_kept_to_the_letter(tmp_path: Path) -> None:
    write_text("öde\r\n\ud800", str(tmp_path / "x.txt"))
    assert (tmp_path / "x.txt").read_bytes() == "öde\r\n\\ud800".encode()


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"takes a str; found int '7'. Pass str\(value\)"):
        write_text(7, str(tmp_path / "x.txt"))


def test_a_callback_shows_an_image_at_its_step(tmp_path: Path) -> None:
    run, shows = shown_by(tmp_path, AtStep(2, lambda: run.log_media("eval/samples", RED)))
    run.train()
    (media, content), *rest = shows.media
    assert (media.name, media.kind, media.step, rest) == ("eval/samples", "image", 2, [])
    assert Path(media.path).parent == tmp_path / "runs" / str(run.run_id) / "media"
    np.testing.assert_array_equal(read_png(content), RED)


def test_the_spool_names_the_file_from_the_runs_folder_on_so_that_it_may_be_moved(tmp_path: Path) -> None:
    run, _ = shown_by(tmp_path, AtStep(1, lambda: run.log_media("text", "hello", kind="text", step=7)))
    run.train()
    folder = tmp_path / "runs" / str(run.run_id)
    rows = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    (row,) = [row for row in rows if row["type"] == "media"]
    assert (row["step"], row["data"]["kind"]) == (7, "text")
    assert (folder / row["data"]["path"]).read_text() == "hello"


def test_an_evaluation_and_an_overridden_method_show_what_they_like(tmp_path: Path) -> None:
    class Looks(Trainer):
        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            super().log(logs, start_time)
            self.log_media("row", str(sorted(logs)), kind="text")

    run, shows = shown_by(tmp_path)
    run.__class__ = Looks
    run.evaluate()
    ended(run)
    assert b"eval_loss" in shows.media[0][1]


def test_before_training_it_goes_the_way_of_a_row(tmp_path: Path) -> None:
    run, shows = shown_by(tmp_path)
    run.log_media("first", [1.0, 2.0], kind="histogram")
    run.log({"loss": 1.0})
    ended(run)
    assert (shows.num_starts, [media.name for media, _ in shows.media]) == (1, ["first"])


def test_two_of_one_name_and_step_stay_apart(tmp_path: Path) -> None:
    run, shows = shown_by(tmp_path)
    for text in ("a", "b"):
        run.log_media("text", text, kind="text")
    ended(run)
    assert [content for _, content in shows.media] == [b"a", b"b"]


@pytest.mark.parametrize("name", ["../../up", "/etc/x", "a\\b", "..", "ü", "x" * 500, "con\n\x00"])
def test_no_name_leaves_the_folder(tmp_path: Path, name: str) -> None:
    run, shows = shown_by(tmp_path)
    run.log_media(name, "text", kind="text")
    ended(run)
    assert Path(shows.media[0][0].path).resolve().parent == Path(run_of(run).folder).resolve() / "media"
    assert shows.media[0][0].name == name


def test_nobody_to_report_to_costs_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.log_media("object", object())
    run.log_artifacts(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "changes", "text"),
    [
        ("x", {"kind": "video"}, "kind='video' is none of 'image', 'histogram', 'text'"),
        (" ", {}, "name=' ' is no name"),
        ("x", {"step": -1}, "step=-1 is no step"),
        ("x", {"step": 0.5}, "step=0.5 is no step"),
    ],
)
def test_a_wrong_argument_is_refused(tmp_path: Path, name: str, changes: dict[str, Any], text: str) -> None:
    run, _ = shown_by(tmp_path)
    with pytest.raises(ConfigurationError, match=text):
        run.log_media(name, RED, **changes)


def test_a_known_token_in_a_text_is_masked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdef")
    run, shows = shown_by(tmp_path)
    run.log_media("text", "at hf_abcdef", kind="text")
    ended(run)
    assert shows.media[0][1] == b"at ***"


def test_what_is_not_finite_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run, _ = shown_by(tmp_path)
    run.log_media("weights", [1.0, float("nan")], kind="histogram")
    ended(run)
    assert "1 values of the histogram 'weights' at step 0 are not finite: they are left out" in caplog.text


def test_a_disk_that_refuses_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run, shows = shown_by(tmp_path)
    Path(run_of(run).folder).mkdir(parents=True)
    Path(run_of(run).folder, "media").write_text("in the way")
    run.log_media("text", "text", kind="text")
    ended(run)
    assert "Training goes on; trackers are not told of it" in caplog.text
    assert shows.media == []


def test_it_is_an_error_for_who_asked_for_that(tmp_path: Path) -> None:
    run, _ = shown_by(tmp_path, tracker_errors="raise")
    Path(run_of(run).folder).mkdir(parents=True)
    Path(run_of(run).folder, "media").write_text("in the way")
    with pytest.raises(PluginError, match="tracker_errors='raise'"):
        run.log_media("text", "text", kind="text")
    ended(run)


def test_a_folder_is_kept_though_it_is_gone_at_once(tmp_path: Path) -> None:
    source = tmp_path / "predictions"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "a.txt").write_text("a")
    run, shows = shown_by(tmp_path)
    run.log_artifacts(source)
    (source / "deep" / "a.txt").unlink()
    ended(run)
    assert (shows.artifacts[0].name, shows.artifacts[0].is_checkpoint) == ("predictions", False)
    assert (Path(shows.artifacts[0].path) / "deep" / "a.txt").read_text() == "a"


def test_a_file_keeps_its_name_and_gets_the_one_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1,2")
    run, shows = shown_by(tmp_path)
    run.log_artifacts(str(tmp_path / "a.csv"), name="the table")
    ended(run)
    assert (shows.artifacts[0].name, Path(shows.artifacts[0].path).name) == ("the table", "a.csv")


def test_output_dir_itself_may_be_kept(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    run, shows = shown_by(tmp_path)
    run.log_artifacts(tmp_path)
    ended(run)
    found = Path(shows.artifacts[0].path)
    assert (found / "a.txt").exists()
    assert not list(found.rglob("events.jsonl"))


def test_a_path_where_nothing_is_is_an_error(tmp_path: Path) -> None:
    run, _ = shown_by(tmp_path)
    with pytest.raises(ConfigurationError, match="there is nothing at 'nowhere' .looked for /"):
        run.log_artifacts("nowhere")
