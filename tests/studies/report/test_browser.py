"""The page in a real browser: no error, no request, the right cell under the pointer and the keys, readable colours.

Chromium is the system's; `.ci/run` installs it and sets REPSIM_BROWSER=1, with which a missing browser is a failure.
"""

import csv
import importlib.util
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from repsim.studies.report import write_page
from tests.studies.report.runs import BAD, ODD, compared, matrix, studied

#: Colour of text and of what lies behind it, of every element that holds text: contrast by WCAG 2, the worst ten.
CONTRAST = """
const channel = (v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
const light = (c) => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
const parse = (text) => text.match(/[\\d.]+/g).map(Number);
const found = [];
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  if (!own || !element.getClientRects().length || ["SCRIPT", "STYLE", "OPTION"].includes(element.tagName)) continue;
  let behind = element, back = [0, 0, 0, 0];
  while (behind && back.length === 4 && back[3] === 0) {
    back = parse(getComputedStyle(behind).backgroundColor);
    behind = behind.parentElement;
  }
  const [a, b] = [light(parse(getComputedStyle(element).color)), light(back)].sort((x, y) => y - x);
  found.push([(a + 0.05) / (b + 0.05), element.tagName, element.textContent.slice(0, 30)]);
}
return found.sort((x, y) => x[0] - y[0]).slice(0, 10);
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium; missing, it is a failure where REPSIM_BROWSER is set and a loud skip elsewhere."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    there = {"selenium": importlib.util.find_spec("selenium"), "chromium": program, "chromedriver": driver}
    lacking = [name for name, found in there.items() if not found]
    if lacking or program is None:
        text = f"THE PAGE WAS NOT TRIED IN A BROWSER: no {', '.join(lacking)}. apt-get install chromium chromium-driver"
        if os.environ.get("REPSIM_BROWSER"):
            pytest.fail(text)
        pytest.skip(text)
    from selenium import webdriver  # pyright: ignore[reportMissingImports]
    from selenium.webdriver.chrome.options import Options  # pyright: ignore[reportMissingImports]
    from selenium.webdriver.chrome.service import Service  # pyright: ignore[reportMissingImports]

    options = Options()
    options.binary_location = program
    for word in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1400,1000",
    ):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    made = webdriver.Chrome(options=options, service=Service(driver))
    yield made
    made.quit()


def opened(browser: Any, path: Path, *, width: int = 1400, scheme: str = "light") -> None:
    """Opens a page at a width, in a colour scheme."""
    size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": [feature]})
    browser.get_log("performance")
    browser.get_log("browser")
    browser.get(path.as_uri())


def requests(browser: Any) -> list[str]:
    """What the page has asked for."""
    events = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]


def said(browser: Any) -> str:
    return browser.find_element("css selector", ".cell").text


def point_at(browser: Any, row: int, col: int, rows: int) -> None:
    """Moves the pointer to the middle of a cell."""
    browser.execute_script("document.querySelector('canvas').scrollIntoView({block: 'center'})")
    script = "const r = document.querySelector('canvas').getBoundingClientRect(); return [r.left, r.top]"
    left, top = browser.execute_script(script)
    box = json.loads(browser.find_element("css selector", "canvas").get_attribute("data-box"))
    x = left + box["left"] + (col + 0.5) * box["side"]
    y = top + box["top"] + (rows - 1 - row + 0.5) * box["side"]
    browser.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": x, "y": y})
    time.sleep(0.1)


def cells(folder: Path, name: str) -> dict[tuple[str, str], dict[str, str]]:
    with open(folder / f"{name}.csv", newline="", encoding="utf-8") as stream:
        return {(row["row_layer"], row["col_layer"]): row for row in csv.DictReader(stream)}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    return compared(folder, matrix(), matrix(metric="td", seed=1))


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (390, "dark")])
def test_the_page_has_no_error_no_request_and_readable_colours(
    browser: Any, run: Path, width: int, scheme: str
) -> None:
    opened(browser, write_page(run), width=width, scheme=scheme)
    assert browser.get_log("browser") == []
    assert [url for url in requests(browser) if not url.startswith("data:")] == [(run / "report.html").as_uri()]
    assert browser.title == "Two networks, layer by layer"  # no name of a class or layer has run
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    worst = browser.execute_script(CONTRAST)
    assert worst
    assert worst[0][0] >= 4.5, worst
    bare = "return [...document.images].filter((i) => !i.alt).length"
    assert browser.execute_script(bare) == 0


@pytest.mark.parametrize(("row", "col"), [(0, 0), (4, 6), (2, 5), (0, 1)])
@pytest.mark.parametrize("width", [1400, 390])
def test_the_cell_under_the_pointer_is_that_of_the_table(
    browser: Any, run: Path, width: int, row: int, col: int
) -> None:
    opened(browser, write_page(run), width=width)
    made = matrix()
    point_at(browser, row, col, 5)
    names, _, numbers = said(browser).partition("\n")
    assert names == f"standard {made.rows[row]} × robust {made.cols[col]}"
    expected = cells(run, "cka")[made.rows[row], made.cols[col]]
    if expected["value"] == "":
        assert numbers == f"CKA, debiased: no number; constant {BAD}"
        return
    value, low, high, p = (float(f"{float(expected[name]):.5g}") for name in ("value", "ci_low", "ci_high", "p"))
    assert numbers == f"CKA, debiased: {value:g}; 95 % interval from {low:g} to {high:g}; p {p:g}; chance 0.1"


def test_keys_move_through_cells_and_a_switch_changes_the_measure(browser: Any, run: Path) -> None:
    from selenium.webdriver.common.keys import Keys  # pyright: ignore[reportMissingImports]
    from selenium.webdriver.support.ui import Select  # pyright: ignore[reportMissingImports]

    opened(browser, write_page(run))
    canvas = browser.find_element("css selector", "canvas")
    canvas.send_keys(Keys.ARROW_UP, Keys.ARROW_UP, Keys.ARROW_RIGHT)
    made = matrix(metric="td", seed=1)
    assert said(browser).startswith(f"standard {made.rows[2]} × robust {made.cols[1]}\nCKA, debiased: ")
    Select(browser.find_element("css selector", "select.measure")).select_by_index(1)
    value = float(f"{made.values[2, 1]:.5g}")
    assert said(browser).split("\n")[1].startswith(f"TD, share of answers that differ: {value:g};")
    assert "move with the arrow keys" in canvas.get_attribute("aria-label")
    before = canvas.screenshot_as_base64
    low = browser.find_element("css selector", "input.low")
    low.send_keys(Keys.CONTROL, "a")
    low.send_keys("0.5")
    assert canvas.screenshot_as_base64 != before
    browser.find_element("css selector", "button.own").click()
    assert float(low.get_attribute("value")) == pytest.approx(
        float(f"{min(v for v in made.values.ravel() if v == v):.4g}"), rel=1e-3
    )
    canvas.send_keys(Keys.END)
    assert said(browser).startswith(f"standard {made.rows[4]} × robust {made.cols[6]}")


def test_the_brightest_cell_is_the_most_alike(browser: Any, run: Path) -> None:
    opened(browser, write_page(run))
    made = matrix()
    script = """
    const c = document.querySelector("canvas"), b = JSON.parse(c.dataset.box), pen = c.getContext("2d");
    const middle = (i, j) => [b.left + (j + 0.5) * b.side, b.top + (arguments[0] - 1 - i + 0.5) * b.side];
    return arguments[1].map(([i, j]) => [...pen.getImageData(...middle(i, j), 1, 1).data]);
    """
    pairs = [(i, j) for i in range(5) for j in range(7) if (i, j) != (0, 1)]
    found = browser.execute_script(script, 5, pairs)
    brightness = [0.299 * r + 0.587 * g + 0.114 * b for r, g, b, _ in found]
    order = sorted(range(len(pairs)), key=lambda k: made.values[pairs[k]])
    assert [brightness[k] for k in order] == sorted(brightness)


def test_blocks_are_outlined_on_request(browser: Any, tmp_path: Path) -> None:
    import numpy as np

    values = np.full((8, 8), 0.2)
    values[:5, :5] = 0.95
    np.fill_diagonal(values, 1)
    opened(browser, write_page(compared(tmp_path, matrix(8, 8, values=values, col_model="standard", details={}))))
    canvas = browser.find_element("css selector", "canvas")
    before = canvas.screenshot_as_base64
    browser.find_element("css selector", "input.blocks").click()
    assert canvas.screenshot_as_base64 != before


def test_tables_sort_by_number_and_by_name(browser: Any, tmp_path: Path) -> None:
    opened(browser, write_page(studied(tmp_path)))
    assert browser.get_log("browser") == []
    script = "return [...document.querySelectorAll('tbody')[0].rows].map((row) => row.cells[arguments[0]].textContent)"
    button = browser.find_elements("css selector", "button.sort")[1]
    button.click()
    assert browser.execute_script(script, 1) == [*(f"{k}.0" for k in range(11)), ""]
    assert button.find_element("xpath", "..").get_attribute("aria-sort") == "ascending"
    button.click()
    assert browser.execute_script(script, 1) == [*(f"{k}.0" for k in range(10, -1, -1)), ""]
    browser.find_elements("css selector", "button.sort")[0].click()
    assert browser.execute_script(script, 0) == [f"l{k}" for k in range(12)]


def test_odd_names_run_nothing_and_are_shown(browser: Any, tmp_path: Path) -> None:
    odd = matrix(2, 2, rows=(ODD, "b\nc"), cols=("x" * 200, BAD), row_model=ODD, col_model=BAD)
    opened(browser, write_page(compared(tmp_path, odd, picture=False)), width=390)
    assert browser.get_log("browser") == []
    assert browser.title == "Two networks, layer by layer"
    assert ODD in browser.find_element("css selector", "h2").text
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390


def test_82_layers_and_three_measures_are_drawn_in_time(browser: Any, tmp_path: Path) -> None:
    made = [matrix(82, 82, metric, seed=k) for k, metric in enumerate(("cka", "td", "rsa"))]
    opened(browser, write_page(compared(tmp_path, *made, picture=False)))
    assert browser.get_log("browser") == []
    point_at(browser, 80, 3, 82)
    assert said(browser).startswith(f"standard {made[0].rows[80]} × robust {made[0].cols[3]}")
