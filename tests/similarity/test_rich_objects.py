"""Results in notebooks: HTML with every text escaped, tables of all, and parts of a matrix by the names of layers."""

import builtins
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

import repsim
from repsim import SimilarityMatrix
from repsim.studies.common.finding import Finding
from repsim.studies.common.jackknife import Estimate
from tests.conftest import exactly

BAD = '<script>alert("1")</script>&'


class Tags(HTMLParser):
    """Every tag with its attributes, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def matrix(**changes: Any) -> SimilarityMatrix:
    values = np.array([[0.9, 0.1, np.nan], [0.2, 0.3, 0.4]])
    given: dict[str, Any] = {
        "rows": ("layer1.0", "layer1.1"),
        "cols": ("layer1.0", "layer2.0", "fc[0]"),
        "metric": "cka",
        "row_model": "a",
        "col_model": "b",
        "n": 20,
        "reasons": {(0, 2): "constant features"},
        "details": {"p": values / 2},
    }
    return SimilarityMatrix(values, **{**given, **changes})


def test_a_value_by_the_names_of_its_layers() -> None:
    made = matrix()
    assert made["layer1.1", "layer2.0"] == 0.3
    assert made["layer1.1", "fc[0]"] == 0.4  # a name is a name before it is a glob
    assert np.isnan(made["layer1.0", "fc[0]"])
    text = "SimilarityMatrix: the layer must exist; got 'layer1.2'. Close matches: layer1.1, layer1.0."
    with pytest.raises(KeyError) as error:
        made["layer1.2", "layer2.0"]
    assert error.value.args == (text,)
    text = 'SimilarityMatrix: two layers must be named; got \'layer1.0\'. Write matrix["layer1.0", "layer2.0"].'
    with pytest.raises(KeyError) as error:
        made["layer1.0"]  # type: ignore[index]
    assert error.value.args == (text,)


def test_parts_by_names_and_globs_keep_their_order_and_reasons() -> None:
    part = matrix().sel(rows="*.0", cols=["fc[0]", "layer2.*"])
    assert (part.rows, part.cols) == (("layer1.0",), ("layer2.0", "fc[0]"))
    assert part.reasons == {(0, 1): "constant features"}
    np.testing.assert_array_equal(part.details["p"], [[0.05, np.nan]])
    assert matrix().sel().values.shape == (2, 3)
    with pytest.raises(KeyError, match="the layer must exist; got 'head"):
        matrix().sel(cols="head*")


def test_the_best_column_of_each_row() -> None:
    assert matrix().best() == [("layer1.0", "layer1.0", 0.9), ("layer1.1", "fc[0]", 0.4)]
    assert matrix(metric="td").best() == [("layer1.0", "layer2.0", 0.1), ("layer1.1", "layer1.0", 0.2)]
    empty, why = np.full((2, 3), np.nan), {(i, j): "x" for i in range(2) for j in range(3)}
    nothing = replace(matrix(), values=empty, reasons=why)
    assert nothing.best() == []
    assert "nan" in nothing._repr_html_()


def test_xarray_holds_values_details_and_names(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("xarray")
    found = matrix().to_xarray()
    assert float(found["value"].sel(row="layer1.1", col="layer2.0")) == 0.3
    assert float(found["p"].sel(row="layer1.0", col="layer1.0")) == 0.45
    assert found.attrs["n"] == 20
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "xarray":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    text = (
        "to_xarray: xarray must be installed; got no such package. "
        'Install it with pip install "repsim-toolkit[xarray]".'
    )
    with pytest.raises(ImportError, match=exactly(text)):
        matrix().to_xarray()


def test_a_notebook_shows_the_picture_and_the_cautions_as_text() -> None:
    made = matrix(row_model=BAD, cautions=(BAD, "mind the n"))
    seen = Tags(made._repr_html_())
    assert {tag for tag, _ in seen.tags} == {"div", "p", "code", "img", "ul", "li"}
    (image,) = (attributes for tag, attributes in seen.tags if tag == "img")
    assert (image["src"] or "").startswith("data:image/png;base64,")
    assert "most alike are layer1.0 and layer1.0 with 0.900" in (image["alt"] or "")
    assert seen.text.count(BAD) == 2
    assert "mind the n" in seen.text


def test_everything_has_a_table_and_shows_it_as_text() -> None:
    rng = np.random.default_rng(0)
    a = repsim.Activations.from_arrays(
        {BAD: rng.standard_normal((30, 3)), "fc": rng.standard_normal((30, 2))}, name=BAD
    )
    frame = a.to_frame()
    assert list(frame["width"]) == [3, 2]
    assert frame["std"][1] == pytest.approx(a["fc"].std(correction=0).item())
    estimate = Estimate(0.5, 0.1, 4)
    assert estimate.to_frame()["ci_high"][0] == pytest.approx(0.5 + 2.776445 * 0.1)
    b = replace(a, name="b")
    shown = [
        a,
        estimate,
        repsim.lambda_curve(a, b, penalties=[1.0]),
        repsim.difference((a, b), (b, a), "cka", resamples=20),
    ]
    for thing in shown:
        seen = Tags(thing._repr_html_())
        assert "table" in {tag for tag, _ in seen.tags}
        assert "script" not in {tag for tag, _ in seen.tags}


def test_a_finding_shows_picture_reading_and_table() -> None:
    table = pd.DataFrame({"layer": [BAD], "value": [0.5]})
    found = Finding("x", BAD, {"": table, "more": table}, (f"{BAD} says.",), Figure)
    seen = Tags(found._repr_html_())
    assert {"img", "table", "li"} <= {tag for tag, _ in seen.tags}
    assert "script" not in {tag for tag, _ in seen.tags}
    assert re.search(r"says\.", seen.text)
    assert found.to_frame() is table
