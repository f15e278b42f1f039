"""A page in headless Chromium, if there is one: Debian's ``chromium`` and ``chromium-driver``."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--hide-scrollbars", "--window-size=1300,1000", "--force-prefers-reduced-motion"),
    *("--host-resolver-rules=MAP * ~NOTFOUND", "--no-first-run", "--disable-background-networking"),
)
WAIT_S = 60.0


def programs() -> tuple[str, str]:
    """Browser and driver; a test without them is skipped, and says why."""
    browser = next(filter(None, map(shutil.which, NAMES)), None)
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("no chromium with chromedriver: apt-get install chromium chromium-driver")
    return browser, driver


def library() -> Any:
    """Loaded where it is used: most processes of the tests open no page."""
    return pytest.importorskip("selenium.webdriver", reason="selenium is not installed")


@contextlib.contextmanager
def session() -> Iterator[Any]:
    """One browser, which looks up no host."""
    webdriver = library()
    browser, driver = programs()
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    running = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield running
    finally:
        running.quit()


class Page:
    """An open page, and what a reader does with it."""

    def __init__(self, driver: Any, path: Path) -> None:
        self.driver, self.path = driver, path
        self.keys = library().Keys
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.open()

    def open(self, anchor: str = "") -> None:
        """From the file, anew; waits until every chart is drawn."""
        self.driver.get("about:blank")
        self.driver.get(self.path.as_uri() + anchor)
        self.until(lambda: self.run("return !document.querySelector('.chart:not([data-drawn])')"))
        self.listen()

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def one(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def every(self, selector: str) -> list[Any]:
        return list(self.driver.find_elements("css selector", selector))

    def text(self, selector: str) -> str:
        return str(self.run("return document.querySelector(arguments[0]).textContent", selector))

    def press(self, *keys: str) -> None:
        """Where the focus is."""
        self.driver.switch_to.active_element.send_keys(*keys)

    def click(self, selector: str) -> None:
        """In the middle of the window, where nothing lies above it."""
        found = self.one(selector)
        self.run("arguments[0].scrollIntoView({ block: 'center' })", found)
        found.click()

    def hover(self, found: Any) -> None:
        self.run("arguments[0].scrollIntoView({ block: 'center' })", found)
        library().ActionChains(self.driver).move_to_element(found).perform()

    def until(self, holds: Callable[[], Any]) -> None:
        """Wait; what never holds is a failure."""
        end_s = time.monotonic() + WAIT_S
        while not holds():
            assert time.monotonic() < end_s, "it never came about"
            time.sleep(0.05)

    def dark(self, *, dark: bool) -> None:
        """What the reader's system prefers."""
        value = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [value]})

    def width(self, pixels: int | None) -> None:
        """That of a phone; ``None``: of the window."""
        if pixels is None:
            self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
            return
        size = {"width": pixels, "height": 844, "deviceScaleFactor": 1, "mobile": True}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def listen(self) -> None:
        """Note what the console says, and what was asked for over a network."""
        self.complaints += [entry["message"] for entry in self.driver.get_log("browser")]
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
