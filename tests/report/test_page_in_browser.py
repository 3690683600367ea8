"""The html report in a headless Chromium, as somebody with a mouse or a keyboard meets it."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from hiera_seg import Hierarchy
from hiera_seg.report.page import write_report

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
pytest.importorskip("plotly", reason="needs plotly")

from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

OPTIONS = """
--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync
--disable-background-networking --disable-component-update --disable-dev-shm-usage
--force-device-scale-factor=1 --window-size=1400,900 --force-prefers-reduced-motion
""".split()

CURVES = [
    json.dumps({"iteration": i, "total_loss": 3 / (i + 1), "sem_seg/mIoU_class": float(i)})
    for i in range(0, 40, 4)
]
SAFE_DEPTH = {
    "overall": {
        "thresholds": [0.0, 0.5, 1.0], "accuracy": [0.5, 0.75, None], "specificity": [1, 0.8, None],
        "area": 0.7, "pixels": 4,
    }
}  # fmt: skip
CALIBRATION = {
    "class": {
        "bins": [
            {"low": 0, "high": 0.5, "confidence": 0.3, "accuracy": 0.2, "count": 10},
            {"low": 0.5, "high": 1, "confidence": None, "accuracy": None, "count": 0},
        ],
        "ece": 0.1,
    }
}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    names = ("chromium", "chromium-browser", "google-chrome")
    binary = next(filter(None, map(shutil.which, names)), None)
    driver_path = shutil.which("chromedriver")
    if not binary or not driver_path:
        pytest.skip("needs chromium and chromedriver (apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for option in (*OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(driver_path))
    driver.set_page_load_timeout(300)
    yield driver
    driver.quit()


class Page:
    """A report that is open in a browser."""

    def __init__(self, driver, path: Path):
        self.driver = driver
        driver.get(path.as_uri())

    def one(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def js(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def choose(self, fieldset, index):
        """Click a radio button of a switch."""
        self.js("arguments[0].click()", self.all(f"#{fieldset} input")[index])

    def column(self, table, index):
        cells = f"[...document.querySelectorAll('#{table} tbody td:nth-child({index + 1})')]"
        return self.js(f"return {cells}.map(c => c.innerText.trim())")

    def chart(self, name, what):
        """An attribute of a chart of plotly."""
        return self.js(f"return document.getElementById('{name}').{what}")

    def pixel(self, view, x, y, sample=0):
        """RGB of a pixel of a canvas."""
        return self.js(
            "const [view, x, y, sample] = arguments;"
            "const element = document.querySelectorAll('.sample')[sample];"
            "const context = element.querySelectorAll('canvas')[view].getContext('2d');"
            "return [...context.getImageData(x, y, 1, 1).data].slice(0, 3)",
            *(view, x, y, sample),
        )

    def set_opacity(self, value):
        script = f"const o = document.getElementById('opacity'); o.value = {value};"
        self.js(script + "o.dispatchEvent(new Event('input'))")

    def path_of_pointer(self):
        """Rows of the table beside the first image."""
        rows = self.all(".sample")[0].find_elements(By.CSS_SELECTOR, ".path tbody tr")
        return [row.text.split("\n") for row in rows]

    def point_at(self, part):
        """Move the mouse to a part of the width of the first image, from its center."""
        view = self.all(".sample .view")[0]
        self.js("arguments[0].scrollIntoView({block: 'center'})", view)
        actions = ActionChains(self.driver)
        actions.move_to_element_with_offset(view, int(view.size["width"] * part), 0).perform()
        return self.path_of_pointer()

    def wait(self, condition, seconds=60):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.05)


@pytest.fixture(scope="module")
def page(browser, street, evaluation, samples, tmp_path_factory):
    path = write_report(
        tmp_path_factory.mktemp("report") / "report.html", street, *evaluation, images=samples,
        metrics_lines=CURVES, safe_depth=SAFE_DEPTH, calibration=CALIBRATION, notes=["a <u>note"],
    )  # fmt: skip
    page = Page(browser, path)
    page.wait(lambda: page.js("return [...document.images].every(i => i.complete)"))
    return page


def rgb(color):
    return [int(color[i : i + 2], 16) for i in (1, 3, 5)]


@pytest.fixture(autouse=True)
def as_at_first(page):
    yield
    page.choose("level-switch", 2)
    page.js("report.setTheme('light'); scrollTo(0, 0)")


def test_names_are_shown_as_text(page, street):
    heading = page.one("h1").text
    assert heading == "made </script><script>window.broken = 1</script> up"
    assert page.js("return window.broken") is None
    assert "a <u>note" in page.one("#notes").text
    assert {"<b>bold", "R&D \"lab\" 'x'"} <= set(page.column("class-table", 0))
    texts = "[...document.querySelectorAll('#tree-chart text')]"
    drawn = page.js(f"return {texts}.map(t => t.textContent)")
    assert {"<b>bold", "<i>street", "<!--<script>"} <= set(drawn)
    assert not page.all("#tree-chart b, #class-table b, h1 script, img[onerror]")


def test_the_level_switch_changes_tables_charts_and_images(page, street):
    switch = [label.text for label in page.all("#level-switch label")]
    assert switch == ["group", "kind", "class"]
    for index, name in enumerate(switch):
        page.choose("level-switch", index)
        classes = set(page.column("class-table", 0))
        assert classes == {street.display_names[v] for v in street.level_nodes(index)}
        assert f"level {name}" in page.one("#classes-title").text
        assert page.all(".sample output")[0].text == name
        assert page.chart("tree-chart", "data[0].maxdepth") == index + 2
        assert page.chart("matrix", "data[0].z.length") == len(classes)


def test_tables_sort_by_mouse_and_by_keyboard(page):
    ious = [float(v) for v in page.column("class-table", 1) if v != "–"]
    assert ious == sorted(ious, reverse=True) and page.column("class-table", 1)[-1] == "–"
    heading = page.all("#class-table th button")[1]
    page.js("arguments[0].click()", heading)
    ascending = [float(v) for v in page.column("class-table", 1) if v != "–"]
    assert ascending == sorted(ious) and page.column("class-table", 1)[-1] == "–"
    assert page.all("#class-table th")[1].get_attribute("aria-sort") == "ascending"
    page.all("#class-table th button")[0].send_keys(Keys.ENTER)
    names = page.column("class-table", 0)
    assert names == page.js("return arguments[0].slice().sort((a, b) => a.localeCompare(b))", names)
    page.choose("level-switch", 0)  # the order stays
    assert page.all("#class-table th")[0].get_attribute("aria-sort") == "ascending"


def test_classes_are_found_by_name(page):
    box = page.one("#class-filter")
    box.send_keys("TRUC")
    assert page.column("class-table", 0) == ["truck"]
    box.send_keys(Keys.BACKSPACE * 4)
    assert len(page.column("class-table", 0)) == 7


def test_the_slider_walks_from_coarse_to_fine(page, street):
    slider = page.all(".walk input")[0]
    colors = []
    for level, keys in enumerate((Keys.ARROW_LEFT * 3, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)):
        slider.send_keys(keys)
        assert page.all(".sample output")[0].text == street.level_names[level]
        assert slider.get_attribute("aria-valuetext") == street.level_names[level]
        colors.append(page.pixel(0, 50, 20))
    assert len({tuple(color) for color in colors}) == 3  # vehicle, four_wheeled, car
    assert page.all(".sample output")[1].text == "class"  # the other image stays
    page.set_opacity(100)
    color = page.js("return report.data.tree.color[arguments[0]]", street["car"])
    assert page.pixel(0, 50, 20) == rgb(color)
    page.set_opacity(60)


def test_the_pixel_pointed_at_shows_its_path_with_scores(page):
    rows = page.point_at(1 / 4)
    assert [row[:3] for row in rows] == [
        ["group", "vehicle", "0.96"], ["kind", "four_wheeled", "0.80"], ["class", "car", "0.52"],
    ]  # fmt: skip
    assert rows[2][3:] == ["truck", "sibling"] and rows[0][3:] == ["vehicle"]
    assert [row[1] for row in page.point_at(-1 / 4)] == ["flat", "ground", "road"]


def test_the_arrow_keys_move_over_the_pixels(page):
    view = page.all(".sample .view")[0]
    view.send_keys(Keys.ARROW_RIGHT * 40)
    assert page.path_of_pointer()[2][1] == "car"
    view.send_keys(Keys.ARROW_LEFT * 70)
    view.send_keys(Keys.ARROW_UP * 70)
    rows = page.path_of_pointer()
    assert rows[2][1] == "road" and rows[2][-1] == "void"
    assert "pixel 0, 0" in page.all(".sample .path")[0].text


def test_mistakes_are_coloured_by_relation(page):
    page.choose("paint", 1)
    expected = np.array(rgb(page.js("return report.color('sibling')")))
    assert np.abs(page.pixel(0, 50, 20) - expected).max() < 60
    assert np.ptp(page.pixel(0, 10, 20)) < 6  # right: grey
    page.choose("level-switch", 1)
    assert np.ptp(page.pixel(0, 50, 20)) < 6  # four_wheeled both
    page.choose("paint", 0)


def test_the_tree_zooms_by_buttons_and_shapes_change(page):
    page.js("report.showNode(-1)")
    chip = next(c for c in page.all("#node .chips .chip") if c.text.startswith("vehicle"))
    chip.send_keys(Keys.ENTER)
    assert page.one("#node h3").text == "vehicle"
    first = page.chart("tree-chart", "data[0].level")
    assert first != "root"
    chip = next(c for c in page.all("#node .chips .chip") if c.text.startswith("bicyclist"))
    chip.send_keys(Keys.ENTER)
    assert page.chart("tree-chart", "data[0].level") == first
    assert page.one("#node h3").text == "bicyclist"
    for index, shape in ((1, "icicle"), (0, "sunburst")):
        page.choose("tree-shape", index)
        assert page.chart("tree-chart", "data[0].type") == shape
    page.js("document.querySelector('#class-table .link').click()")
    assert page.one("#node h3").text == page.column("class-table", 0)[0]
    page.one("#node .crumbs .chip").send_keys(Keys.ENTER)
    assert page.chart("tree-chart", "data[0].level") == "root"


def test_a_click_into_the_chart_goes_down_and_up(page):
    click = (
        "const slices = [...document.querySelectorAll('#tree-chart .slice')];"
        "const s = slices.find(s => s.textContent === 'vehicle');"
        "s.dispatchEvent(new MouseEvent('click', {bubbles: true}))"
    )
    page.js("report.showNode(-1)")
    page.js(click)
    assert page.one("#node h3").text == "vehicle"
    assert page.chart("tree-chart", "data[0].level") != "root"
    page.js(click)
    assert page.chart("tree-chart", "data[0].level") == "root"


def test_dark_follows_the_system_and_the_button(page):
    paper = "return getComputedStyle(document.body).backgroundColor"
    light = page.js(paper)
    prefer, dark = "Emulation.setEmulatedMedia", {"name": "prefers-color-scheme", "value": "dark"}
    page.driver.execute_cdp_cmd(prefer, {"features": [dark]})
    page.wait(lambda: page.js(paper) != light)
    assert page.one("#theme").get_attribute("aria-pressed") == "true"
    ink = page.js("return report.color('ink')")
    assert page.chart("loss-chart", "layout.font.color") == ink
    page.one("#theme").send_keys(Keys.SPACE)
    assert page.js(paper) == light
    page.driver.execute_cdp_cmd(prefer, {"features": []})


def test_everything_is_reached_by_tab(page):
    page.js("document.activeElement.blur(); scrollTo(0, 0)")
    met = set()
    name = "const e = arguments[0]; return e.id || e.name || e.className || e.tagName"
    page.one("body").send_keys(Keys.TAB)
    for _ in range(90):
        active = page.driver.switch_to.active_element
        met.add(page.js(name, active))
        active.send_keys(Keys.TAB)
    assert {"skip", "level", "theme", "shape", "size", "chip", "class-filter", "link", "log-losses",
            "paint", "opacity", "walk-0", "walk-1", "view"} <= met  # fmt: skip


def test_every_control_has_a_name(page):
    nameless = page.js(
        "return [...document.querySelectorAll('button, input, [role]')].filter(e => "
        "!(e.innerText || e.getAttribute('aria-label') || e.labels?.length)).map(e => e.outerHTML)"
    )
    assert nameless == []


def test_curves_and_trust_are_drawn(page):
    assert page.chart("miou-chart", "data.map(t => t.name)") == ["class"]
    assert page.chart("loss-chart", "data.map(t => t.name)") == ["total_loss"]
    assert page.chart("safe-depth-chart", "data[0].y") == [50, 75, None]
    assert "10.00 %" in page.one("#calibration-text").text
    page.choose("level-switch", 0)
    assert "Nothing was counted" in page.one("#calibration-text").text


@pytest.mark.parametrize("width", [1400, 400])
def test_nothing_sticks_out_at_any_width(page, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        page.wait(lambda: page.js("return document.documentElement.scrollWidth") <= width)
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_bare_reports_have_no_errors_either(page, street, evaluation, tmp_path):
    """No images, no curves, one level, NaN everywhere; and then the way back."""
    here = page.driver.current_url
    flat = Hierarchy.from_dict(["a"], levels=["class"])
    summary = {"dataset": "bare", "images": 0, "metrics": {"mIoU_class": float("nan")}}
    path = write_report(tmp_path / "bare.html", flat, summary, [np.zeros((2, 1), np.int64)])
    bare = Page(page.driver, path)
    assert bare.column("class-table", 1) == ["–"]
    assert not bare.one("#images").is_displayed() and not bare.one("#trust").is_displayed()
    assert bare.one("#curves-missing").is_displayed()
    assert "Images" not in bare.one("#contents").text
    page.driver.get(here)


def test_no_errors_and_no_network(page):
    """Last: what all the tests above left in the browser's logs."""
    severe = [line for line in page.driver.get_log("browser") if line["level"] == "SEVERE"]
    assert severe == []
    asked = []
    for entry in page.driver.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            if message["params"]["documentURL"].startswith("file:"):  # not the browser's own page
                asked.append(message["params"]["request"]["url"])
    assert asked and all(url.startswith(("file:", "data:", "blob:")) for url in asked), asked
