"""`repsim certify`: what it writes and prints, and what it refuses before any work."""

import csv
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import beta, norm
from torch import Tensor, nn

from repsim import load_data, load_model
from repsim.robustness.smoothing import Certificates, certify
from tests.support import commands
from tests.support.commands import STANDARD, Run

N = 200


def ran(folder: Path, *words: Any, network: str = STANDARD) -> Run:
    return commands.ran("certify", folder, network, "--data", "digits", *words)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """20 images under noise that leaves some of them uncertain."""
    folder = tmp_path_factory.mktemp("certify") / "deep" / "out"
    return ran(folder, "--limit", 20, "--sigma", 0.3, "--n0", 20, "--n", N, "--seed", 3, "--batch-size", 64)


@pytest.fixture(scope="module")
def expected() -> Certificates:
    data, net = load_data("digits", limit=20, seed=3), load_model(STANDARD)
    return certify(net, data, 0.3, n0=20, n=N, seed=3, progress=False)


def test_it_writes_its_files_and_nothing_else(found: Run) -> None:
    assert found.code == 0
    assert "caution" not in found.err
    assert found.names == [
        "certificates.csv",
        "certificates.npz",
        "certified_curve.png",
        "summary.json",
    ]
    assert (found.folder / "certified_curve.png").read_bytes().startswith(b"\x89PNG")


def test_the_certificates_are_those_of_the_package(found: Run, expected: Certificates) -> None:
    made = Certificates.load(found.folder / "certificates.npz")
    assert made.ids == expected.ids
    for name in ("labels", "selected", "counts", "predicted", "radius"):
        np.testing.assert_array_equal(getattr(made, name), getattr(expected, name))
    assert (made.sigma, made.n0, made.n, made.alpha, made.seed) == (0.3, 20, N, 0.001, 3)
    assert 0 < made.abstained < 0.5  # otherwise the tests below would see one kind of image alone


def test_the_table_has_a_row_per_image(found: Run, expected: Certificates) -> None:
    with open(found.folder / "certificates.csv", newline="", encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    assert [line["id"] for line in lines] == list(expected.ids)
    for i, line in enumerate(lines):
        count = int(expected.counts[i])
        p = float(beta.ppf(0.001, count, N - count + 1)) if count else 0.0
        certain = p > 0.5
        assert int(line["label"]) == expected.labels[i]
        assert int(line["predicted"]) == (expected.selected[i] if certain else -1)
        assert float(line["radius"]) == pytest.approx(0.3 * norm.ppf(p) if certain else 0.0, abs=1e-12)


def test_the_summary_counts_what_the_table_holds(found: Run, expected: Certificates) -> None:
    facts = found.summary
    right = expected.predicted == expected.labels
    radii = [row["radius"] for row in facts["certified"]]
    assert radii == pytest.approx([0.15 * k for k in range(len(radii))])
    assert radii[-1] < facts["radius_cap"] <= radii[-1] + 0.15
    assert facts["radius_cap"] == pytest.approx(0.3 * norm.ppf(0.001 ** (1 / N)))
    for row in facts["certified"]:
        share = float((right & (expected.radius >= row["radius"])).mean())
        assert row["accuracy"] == pytest.approx(share)
        z, m = float(norm.ppf(0.975)), 20
        centre = (share + z * z / (2 * m)) / (1 + z * z / m)
        half = z / (1 + z * z / m) * math.sqrt(share * (1 - share) / m + z * z / (4 * m * m))
        assert row["interval"] == pytest.approx([centre - half, centre + half])
    counted = np.where(right, expected.radius, 0.0)
    assert facts["average_certified_radius"] == pytest.approx(counted.mean())
    assert facts["standard_error"] == pytest.approx(math.sqrt(((counted - counted.mean()) ** 2).sum() / 19 / 20))
    assert facts["abstained"] == pytest.approx(float((expected.predicted == -1).mean()))
    assert (facts["sigma"], facts["n0"], facts["n"], facts["alpha"], facts["seed"]) == (0.3, 20, N, 0.001, 3)
    assert facts["data"] == {"name": "digits/test", "n": 20, "digest": load_data("digits", limit=20, seed=3).digest}
    assert facts["network"]["checkpoint"] == "digits_standard.safetensors"
    assert facts["run"]["device"] == "cpu"


def test_the_text_says_of_which_network_and_how_sure(found: Run) -> None:
    facts = found.summary
    abstained = round(20 * facts["abstained"])
    lines = found.out.splitlines()
    assert lines[1:5] == [
        "certificates of the SMOOTHED network, digits_standard under Gaussian noise of σ = 0.3, not of "
        "digits_standard itself; each holds with confidence 1 - alpha = 0.999, for its image by itself",
        "draws per image: 20 select the class, n = 200 certify it",
        f"radius cap: {facts['radius_cap']:.4f}, which no image can pass with so many draws",
        f"abstained: {abstained} of 20 images ({abstained / 20:.1%})",
    ]
    assert re.split(r" {2,}", lines[5]) == ["ℓ2 radius", "certified accuracy", "Wilson 95 % over images"]
    rows = [re.split(r" {2,}", line) for line in lines[7 : 7 + len(facts["certified"])]]
    assert rows == [
        [f"{at['radius']:g}", f"{at['accuracy']:.4f}", f"[{at['interval'][0]:.4f}, {at['interval'][1]:.4f}]"]
        for at in facts["certified"]
    ]
    average, error = facts["average_certified_radius"], facts["standard_error"]
    assert lines[-2:] == [
        f"average certified radius: {average:.4f}, standard error over images {error:.4f}",
        f"written to {found.folder}: certificates.{{npz,csv}}, certified_curve.png, summary.json",
    ]


def test_few_images_and_draws(tmp_path: Path) -> None:
    options = ["--limit", 10, "--sigma", "51/255", "--n0", 1, "--n", 10, "--device", "cpu", "--split", "train"]
    made = ran(tmp_path, *options, network="digits_resnet8")
    assert made.code == 0
    assert "digits_resnet8: untrained: random weights" in made.out.splitlines()
    facts = made.summary
    # Ten equal answers of ten prove a probability of 0.501: the least radius there is.
    assert [row["radius"] for row in facts["certified"]] == [0.0]
    assert facts["data"]["name"] == "digits/train"


def answered_second(folder: Path, classes: int) -> Run:
    """One image per class, and a network that answers the second class whatever it sees."""
    from PIL import Image

    for k in range(classes):
        (folder / "images" / f"class {k}").mkdir(parents=True)
        Image.fromarray(np.full((8, 8), 90 + k, dtype=np.uint8)).save(folder / "images" / f"class {k}" / "a.png")
    words = [f"{__name__}:second_of_two", "--data", f"imagefolder:{folder / 'images'}", "--sigma", 0.1, "--n", 20]
    found = commands.ran("certify", folder / "out", *words, "--root", folder / "cache")
    assert found.code == 0
    assert (folder / "out" / "certified_curve.png").exists()
    return found


def test_one_image_that_is_answered_wrong_with_certainty(tmp_path: Path) -> None:
    found = answered_second(tmp_path, classes=1)
    assert "average certified radius: 0.0000, standard error over images -" in found.out.splitlines()
    facts = found.summary
    assert {row["accuracy"] for row in facts["certified"]} == {0.0}
    assert (facts["abstained"], facts["average_certified_radius"], facts["standard_error"]) == (0.0, 0.0, None)
    made = Certificates.load(tmp_path / "out" / "certificates.npz")
    assert (made.predicted.tolist(), made.labels.tolist()) == ([1], [0])
    assert made.radius[0] == pytest.approx(made.radius_cap)


def test_a_certificate_of_a_wrong_answer_counts_as_no_radius(tmp_path: Path) -> None:
    facts = answered_second(tmp_path, classes=2).summary
    half = facts["radius_cap"] / 2  # the mean of 0 and the cap, and its standard error
    assert facts["average_certified_radius"] == pytest.approx(half)
    assert facts["standard_error"] == pytest.approx(half)
    assert {row["accuracy"] for row in facts["certified"]} == {0.5}


class SecondOfTwo(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor([0.0, 1.0]).repeat(len(x), 1)


def second_of_two() -> nn.Module:
    return SecondOfTwo()


# --- Mistakes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            ["--sigma", 0.25, "--n", 9],
            "certify: there must be enough draws; got n = 9 at alpha = 0.001, where even equal answers prove nothing. "
            "Draw at least 10.",
        ),
        (
            ["--sigma", 0.25, "--n", 100, "--alpha", 1e-31],
            "certify: there must be enough draws; got n = 100 at alpha = 1e-31, where even equal answers prove "
            "nothing. Draw at least 103.",
        ),
        (["--sigma", 0.25, "--n0", 0], "certify: n0 must be a whole number >= 1; got 0. Leave it out."),
        (["--sigma", 0.25, "--alpha", 0.5], "certify: alpha must be in (0, 0.5); got 0.5. 0.001 is usual."),
        (
            ["--sigma", 0],
            "certify: sigma must be positive and finite; got 0.0. "
            "Pass the noise's standard deviation in pixels of [0, 1], as in 0.25.",
        ),
    ],
)
def test_settings_that_cannot_certify_are_refused_before_anything_is_loaded(
    options: list[Any], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("loaded")

    for name in ("named_network", "asked_images"):
        monkeypatch.setattr(f"repsim.cli.certify.{name}", never)
    made = ran(tmp_path / "out", *options)
    assert (made.code, made.out, made.err) == (2, "", text + "\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            ["--split", "valid"],
            "load_data: split must be train, test or all; got 'valid'. Choose one of these.",
        ),
        (["--batch-size", 0], "certify: batch_size must be at least 1; got 0. Leave it out."),
        (
            ["--normalize", ".5/.2"],
            "load_model: normalize must be what the weight file carries; got normalize=((0.5,), (0.2,)) for "
            "digits_standard.safetensors, which carries None. Leave it out.",
        ),
    ],
)
def test_other_mistakes_are_one_line_too(options: list[Any], text: str, tmp_path: Path) -> None:
    made = ran(tmp_path / "out", "--limit", 10, "--sigma", 0.25, *options)
    assert (made.code, made.err) == (2, text + "\n")
    assert list(tmp_path.iterdir()) == []


def test_a_network_of_fewer_classes_is_refused(tmp_path: Path) -> None:
    made = ran(tmp_path, "--limit", 10, "--sigma", 0.25, "--n", 20, network=f"{__name__}:five_classes")
    text = "certify: labels must be the network's classes; got labels 0 to 9 for 5 classes. Map them to 0, 1, …."
    assert (made.code, made.err) == (2, text + "\n")


def five_classes() -> nn.Module:
    return load_model("digits_resnet8", num_classes=5).net
