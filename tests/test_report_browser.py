"""The report page in a browser: it sorts, filters, hovers and answers; by keyboard, too."""

import browser
import pytest
import stored_factory
from stored_factory import HOSTILE

from bench.report.page import page as pages

SHOWN = "#cell-table tbody:not([hidden])"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_bytes(pages.render(stored_factory.stored()))
    with browser.session() as driver:
        yield browser.Page(driver, path)


@pytest.fixture(autouse=True)
def quiet(page):
    """Whatever a test does: the console is silent, nothing is asked for, and no name is obeyed."""
    yield
    page.listen()
    assert page.complaints == []
    assert {
        url for url in page.requests if not url.startswith(("file:", "blob:", "about:"))
    } == set()
    assert page.run("return performance.getEntriesByType('resource').length") == 0
    assert page.run("return window.hit === undefined")
    assert page.every("img") == []


def column(page, name):
    """Texts of the rows that are shown, from the top."""
    script = """
    const table = document.getElementById("cell-table");
    const at = [...table.tHead.rows[0].cells].findIndex((one) => one.textContent === arguments[0]);
    const key = (one) => one.rows[0].cells[at].dataset.key;
    return [...document.querySelectorAll(arguments[1])].map(key);
    """
    return page.run(script, name, SHOWN)


def heading(page, name):
    [button] = [b for b in page.every("#cell-table thead button") if b.text == name]
    return button


def numbers(keys):
    """Those that are known; the others must come last."""
    known = [float(key) for key in keys if key]
    assert keys == [key for key in keys if key] + [""] * (len(keys) - len(known))
    return known


def choose(page, selector, text):
    script = """
    const select = document.querySelector(arguments[0]);
    const fits = (one) => one.textContent.startsWith(arguments[1]);
    select.value = [...select.options].find(fits).value;
    select.dispatchEvent(new Event("change", { bubbles: true }));
    """
    page.run(script, selector, text)


def budget(page, size_bytes):
    script = """
    const range = document.getElementById("budget-range");
    range.value = arguments[0];
    range.dispatchEvent(new Event("input"));
    """
    page.run(script, size_bytes)


def test_headings_sort_by_what_is_stored_and_say_so(page):
    heading(page, "Peak, MB").click()
    rising = numbers(column(page, "Peak, MB"))
    assert rising == sorted(rising)
    cell = "th:has(button)[aria-sort]"
    assert [one.get_attribute("aria-sort") for one in page.every(cell)] == ["ascending"]
    heading(page, "Peak, MB").click()
    assert numbers(column(page, "Peak, MB")) == rising[::-1]
    assert [one.get_attribute("aria-sort") for one in page.every(cell)] == ["descending"]


def test_headings_sort_by_keyboard(page):
    page.run("arguments[0].focus()", heading(page, "Strategy"))
    page.press(page.keys.ENTER)
    names = column(page, "Strategy")
    assert names == sorted(names, key=str.lower)
    assert page.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_words_and_choices_filter(page):
    whole = len(page.every(SHOWN))
    page.one("#find").send_keys("sqrt MODELLED")
    assert [row.get_attribute("data-strategy") for row in page.every(SHOWN)] == ["sqrt"]
    assert page.text("#shown") == f"1 of {whole} cells."
    page.click("#clear")
    assert len(page.every(SHOWN)) == whole
    choose(page, '[data-filter="status"]', "oom")
    assert [row.get_attribute("data-status") for row in page.every(SHOWN)] == ["oom"]
    page.click("#clear")


def test_the_slider_names_the_fastest_strategy_that_fits(page):
    choose(page, "#plane-choice", "gpt-mini on cpu (")
    best = "#answer .best strong"
    for size_mb, name in ((41, "every_layer"), (70, "sqrt"), (100, "none")):
        budget(page, size_mb * 1_000_000)
        assert page.text(best) == name
        assert f"strategies.apply(model, '{name}')" == page.text("#answer code")
    budget(page, 35_000_000)  # what is exact and needs less is the hostile one
    assert page.text(best) == HOSTILE
    page.click("#exact-only")
    assert page.text(best) == "compressed"
    page.click("#exact-only")
    budget(page, 0)
    assert "Nothing that is stored here fits" in page.text("#answer")


def test_the_slider_moves_by_keyboard_and_moves_the_line(page):
    choose(page, "#plane-choice", "gpt-mini on cpu (")
    line = "return document.getElementById('plane').layout.shapes.at(-1).x0"
    before, said = page.run(line), page.text("#budget-value")
    page.one("#budget-range").send_keys(page.keys.ARROW_RIGHT)
    assert page.run(line) > before
    assert page.one("#budget-range").get_attribute("aria-valuetext") == page.text("#budget-value")
    assert page.text("#budget-value") != said


def test_points_say_what_they_are_when_hovered(page):
    choose(page, "#plane-choice", "gpt-mini on cpu (")
    [mark] = page.every("#plane .trace:has(.point) .point")[:1]
    page.hover(mark)
    page.until(lambda: "measured peak" in page.run(HOVER))


HOVER = "return document.querySelector('#plane .hoverlayer').textContent"


def test_points_are_walked_by_keyboard_and_lead_to_their_rows(page):
    choose(page, "#plane-choice", "gpt-mini on cpu (")
    page.run("document.getElementById('plane').focus()")
    page.press(page.keys.ARROW_RIGHT)
    assert page.text("#plane-said").startswith(HOSTILE)  # the lowest peak
    page.until(lambda: HOSTILE in page.run(HOVER))
    page.press(page.keys.ARROW_RIGHT, page.keys.ARROW_RIGHT)
    assert page.text("#plane-said").startswith("every_layer: measured peak 40.0 MB, step 1.40×")
    page.press(page.keys.ENTER)
    page.until(lambda: page.run("return document.activeElement.tagName") == "BUTTON")
    assert (
        page.run("return document.activeElement.closest('tbody').dataset.strategy") == "every_layer"
    )
    more = page.run("return document.activeElement.closest('tbody').rows[1].innerText")
    assert "torch 2.13.0+cpu" in more


def test_planes_and_steps_are_chosen_and_modelled_says_modelled(page):
    choose(page, "#plane-choice", "gpt-mini on sim:h100-80gb, modelled")
    assert page.text("#plane-facts").startswith("modelled sim:h100-80gb (NVIDIA H100); torch")
    assert "modelled peak" in page.text("#answer")
    assert "Modelled peak" in page.text("#plane .xtitle")
    choose(page, "#timeline-choice", f"gpt-mini, {HOSTILE}")
    assert "2026-01-02" in page.text("#timeline-facts")
    page.until(lambda: "saved tensors" in page.text("#timeline .legend"))
    assert page.text("#timeline-peak tbody td") == "9 B"
    choose(page, "#plane-choice", "gpt-mini on cpu (")


def test_verdicts_are_filtered(page):
    page.click("#verdicts button:last-child")
    last = page.one("#verdicts button:last-child")
    verdict = last.get_attribute("value")
    shown = page.every(".claims > li:not([hidden])")
    assert {one.get_attribute("data-verdict") for one in shown} == {verdict}
    assert last.text == f"{verdict} ({len(shown)})"
    page.click("#verdicts button")


def test_the_theme_follows_the_system_until_it_is_switched(page):
    ground = "return getComputedStyle(document.body).backgroundColor"
    page.dark(dark=False)
    light = page.run(ground)
    page.dark(dark=True)
    dark = page.run(ground)
    assert dark != light
    assert page.one("#theme").get_attribute("aria-pressed") == "true"
    page.click("#theme")
    assert page.run(ground) == light
    page.click("#theme")
    font = "return getComputedStyle(document.querySelector('#plane .xtitle')).fill"
    text = page.run("return getComputedStyle(document.body).color")
    page.until(lambda: page.run(font) == text)  # charts follow
    page.run("localStorage.clear(); delete document.documentElement.dataset.theme")


def test_nothing_is_wider_than_a_phone(page):
    page.width(390)
    try:
        widths = "return [document.documentElement.scrollWidth, innerWidth].join()"
        page.until(lambda: page.run(widths) == "390,390")
    finally:
        page.width(None)


def test_a_link_opens_its_row_whatever_is_filtered(page):
    [anchor] = [row.get_attribute("id") for row in page.every('[data-status="oom"]')]
    page.one("#find").send_keys("sqrt")
    page.run("location.hash = arguments[0]", anchor)
    button = page.one(f"#{anchor} .opens")
    page.until(lambda: button.get_attribute("aria-expanded") == "true")
    assert "12 GB missing" in page.one(f"#{anchor}-more").text
    button.click()
    assert not page.one(f"#{anchor}-more").is_displayed()
    page.run("location.hash = ''")


def test_everything_that_takes_a_key_has_a_name(page):
    script = """
    return [...document.querySelectorAll("input, select, button, [tabindex='0']")].filter((one) =>
      !one.closest(".js-plotly-plot *") && !one.labels?.length && !one.getAttribute("aria-label")
      && !one.getAttribute("aria-labelledby") && !one.textContent.trim())
      .map((one) => one.outerHTML);
    """
    assert page.run(script) == []
