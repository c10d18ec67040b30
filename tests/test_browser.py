"""The console in a real browser: Chromium, with a keyboard, on a desk and on a phone, by day and by night."""

import importlib.resources
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import ActionChains, Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from harness.redis_servers import RedisServer
from harness.service import BANK, BANK_SETTINGS, Server, start_server
from harness.waiting import wait_for

MARKUP = '<script>document.title="taken"</script><img src=x onerror=document.title="taken">'
DESK, PHONE = 1280, 360
FLAGS = (
    "--headless",
    "--no-sandbox",  # as root, as in CI, it starts in no other way; it sees nothing but our own pages
    "--disable-gpu",
    "--disable-dev-shm-usage",  # a container has little of it
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
AXE = (importlib.resources.files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def server(redis_server: RedisServer, signing_keys: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service with a store that is its own, so that the order of its streams is."""
    url = redis_server.url.removesuffix("0") + "10"
    with redis.from_url(url) as client:
        client.flushdb()
    environ = {
        "REDIS_URL": url,
        **BANK_SETTINGS,
        "EVENTPOLL_SIGNING_KEYS": signing_keys,
    }
    server = start_server(environ, tmp_path_factory.mktemp("browser"), workers=2)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """One browser for all tests here."""
    options = ChromeOptions()
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program:  # elsewhere the driver knows where it is
        options.binary_location = program
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = shutil.which("chromedriver")
    assert driver, "tests/install-programs.sh installs Chromium and its driver"
    chrome = Chrome(options, Service(driver))
    yield chrome
    chrome.quit()


@dataclass
class Operator:
    """The bank's, in front of a screen."""

    chrome: Chrome
    server: Server
    tpp: str = field(default_factory=lambda: f"browser-{uuid.uuid4().hex[:8]}")

    def screen(self, width: int = DESK, scheme: str = "light") -> None:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width == PHONE}
        self.chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", features)

    def open(self, path: str = "/console") -> None:
        self.chrome.get(f"http://{BANK[0]}:{BANK[1]}@127.0.0.1:{self.server.port}{path}")

    def at(self, selector: str) -> WebElement:
        """The first element that fits, as soon as there is one: a click may still be on its way."""
        found: WebElement = wait_for(lambda: next(iter(self.all(selector)), None))
        return found

    def reads(self, selector: str, words: str) -> bool:
        """Whether such an element comes to say those words."""

        def says() -> bool:
            try:
                return any(words in element.text for element in self.all(selector))
            except StaleElementReferenceException:  # of the page before
                return False

        return bool(wait_for(says))

    def all(self, selector: str) -> list[WebElement]:
        return self.chrome.find_elements(By.CSS_SELECTOR, selector)

    def follow(self, words: str) -> None:
        found = wait_for(lambda: self.chrome.find_elements(By.LINK_TEXT, words))
        found[0].click()

    def press(self, *keys: str) -> None:
        ActionChains(self.chrome).send_keys(*keys).perform()

    def run(self, script: str, *arguments: Any) -> Any:
        return self.chrome.execute_script(script, *arguments)

    def complaints(self) -> list[str]:
        """What the browser's own console says since it was last asked."""
        told: list[dict[str, Any]] = self.chrome.get_log("browser")  # type: ignore[no-untyped-call]
        return [entry["message"] for entry in told]

    def park(self, *jtis: str, description: str = "unknown kid") -> None:
        """SETs that the TPP has reported."""
        self.server.tpp(self.tpp)
        for jti in jtis:
            self.server.push(self.tpp, jti, {"urn:test:event": {"text": description}})
        errors = {jti: {"err": "invalid_key", "description": description} for jti in jtis}
        reply = self.server.poll(self.tpp, {"setErrs": errors, "maxEvents": 0, "returnImmediately": True})
        assert reply.status == 200, reply.body

    def listed(self, tpp: str) -> list[str]:
        """The streams in their order, as soon as that stream is among them."""

        def names() -> list[str] | None:
            self.open()
            found = [link.text for link in self.all("tbody th a")]
            return found if tpp in found else None

        found: list[str] = wait_for(names, 30, 0.5)
        return found


@pytest.fixture
def operator(chrome: Chrome, server: Server) -> Iterator[Operator]:
    """With nothing on the screen, and nothing to complain of."""
    operator = Operator(chrome, server)
    operator.screen()
    operator.open()
    operator.complaints()
    yield operator
    assert operator.complaints() == []


def test_an_operator_finds_the_stream_that_is_behind_and_puts_it_right(operator: Operator) -> None:
    """Issue 7: "find the stream that is behind, open a parked SET, requeue it, see it delivered"."""
    operator.server.tpp(f"a-{operator.tpp}")
    operator.park("event-1", "event-2")
    names = operator.listed(operator.tpp)
    assert names.index(operator.tpp) < names.index(f"a-{operator.tpp}")
    row = operator.chrome.find_element(By.LINK_TEXT, operator.tpp).find_element(By.XPATH, "ancestor::tr")
    assert "2 parked" in row.text
    operator.follow(operator.tpp)
    operator.follow("event-1")
    assert operator.reads(".error", "unknown kid")
    assert operator.reads("pre", '"text": "unknown kid"')
    operator.at("form button").click()
    assert operator.reads("[role=status]", "✓ 1 SET requeued: pending again, as if never delivered.")
    # Chromium sees to autofocus when it next paints, which may be after the page has loaded.
    wait_for(lambda: operator.run("return document.activeElement.getAttribute('role')") == "status")
    assert operator.chrome.title.startswith("1 SET requeued")
    answer = operator.server.poll(operator.tpp, {"returnImmediately": True})
    assert list(answer.json["sets"]) == ["event-1"]
    operator.open(f"/console/streams/{operator.tpp}/sets/event-1")
    happened = [row.text.split()[-2:] for row in operator.all("tbody tr")]
    assert [what for what, _ in happened] == ["pushed", "reported", "requeued", "delivered"]
    assert operator.reads(".sum", "in flight")


def test_all_are_discarded_after_a_tick(operator: Operator) -> None:
    """It cannot be taken back: without the tick the browser sends nothing."""
    operator.park("event-1", "event-2")
    operator.open(f"/console/streams/{operator.tpp}")
    operator.at(".all summary").click()
    button = operator.at(".all details button")
    button.click()
    assert operator.all("[role=status]") == []
    operator.at("[name=sure]").click()
    button.click()
    assert operator.reads("[role=status]", "✓ 2 SETs discarded")
    assert operator.server.bank("GET", f"/streams/{operator.tpp}").json["discarded"] == 2


def test_the_keyboard_is_enough(operator: Operator) -> None:
    """Issue 7: "keyboard only". From the first page to a requeued SET, and wherever the focus is can be seen."""
    operator.park("event-1")
    operator.listed(operator.tpp)
    operator.press(Keys.TAB)
    assert operator.run("return document.activeElement.textContent") == "Skip to the content"
    assert operator.run("return document.activeElement.getBoundingClientRect().left") >= 0
    operator.press(Keys.ENTER)

    def tab_to(words: str) -> None:
        for _ in range(400):
            operator.press(Keys.TAB)
            seen = operator.run(
                "const e = document.activeElement; return [e.textContent.trim(), getComputedStyle(e).outlineStyle]"
            )
            assert seen[1] != "none", seen
            if seen[0] == words:
                return
        raise AssertionError(f"no tab leads to {words}")

    tab_to(operator.tpp)
    operator.press(Keys.ENTER)
    tab_to("event-1")
    operator.press(Keys.ENTER)
    tab_to("Requeue")
    operator.press(Keys.ENTER)
    assert operator.reads("[role=status]", "✓ 1 SET requeued")
    assert operator.server.bank("GET", f"/streams/{operator.tpp}").json["pending"] == 1


def test_a_search_by_hand_finds_a_set(operator: Operator) -> None:
    """Issue 7: "search by jti"."""
    jti = f"jti-{uuid.uuid4().hex}"
    operator.park(jti)
    operator.open()
    operator.at("[name=jti]").send_keys(jti, Keys.ENTER)
    assert operator.reads("[role=status]", "found on 1.")
    operator.follow(operator.tpp)
    assert operator.reads("h1 .name", jti)


def test_markup_stays_text(operator: Operator) -> None:
    """Issue 7: in a jti, in an error's description, in a claim. Nothing of it runs, and nothing of it is lost."""
    operator.park(MARKUP, description=MARKUP)
    operator.open(f"/console/streams/{operator.tpp}")
    assert operator.reads("tbody th a", MARKUP)
    operator.follow(MARKUP)
    assert operator.reads("h1 .name", MARKUP)
    assert operator.reads(".words", MARKUP)
    assert "taken" not in operator.chrome.title.replace(MARKUP, "")
    assert operator.all("script, img") == []


def test_a_jti_with_a_way_up_is_reached_in_a_real_browser_too(operator: Operator) -> None:
    """WHATWG URL: a browser takes .. out of a path, even percent-encoded."""
    operator.park("a/../b")
    operator.open(f"/console/streams/{operator.tpp}")
    operator.follow("a/../b")
    assert operator.reads("h1 .name", "a/../b")
    operator.at("form button").click()
    assert operator.reads("[role=status]", "✓ 1 SET requeued")


PAGES: dict[str, Callable[[str], str]] = {
    "the streams": lambda tpp: "/console",
    "a stream": lambda tpp: f"/console/streams/{tpp}",
    "a stream with a line that says what was done": lambda tpp: f"/console/streams/{tpp}?done=requeued&state=pending",
    "a SET": lambda tpp: f"/console/streams/{tpp}/sets/{'long-jti-' * 14}",
    "a search": lambda tpp: f"/console/search?jti={'long-jti-' * 14}",
}


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(("width", "scheme"), [(DESK, "light"), (DESK, "dark"), (PHONE, "light"), (PHONE, "dark")])
def test_nobody_is_kept_out(operator: Operator, page: str, width: int, scheme: str) -> None:
    """Issue 7: "axe-core or the like finds nothing serious": it finds nothing at all. And no page scrolls sideways."""
    operator.park("long-jti-" * 14, "short", description="W" * 200)
    operator.screen(width, scheme)
    operator.open(PAGES[page](operator.tpp))
    for details in operator.all("summary"):
        details.click()
    operator.run(AXE)
    found = operator.chrome.execute_async_script("axe.run().then(arguments[0])")
    assert [(each["id"], each["nodes"][0]["html"]) for each in found["violations"]] == []
    assert len(found["passes"]) > 10
    assert operator.run("return document.documentElement.scrollWidth") <= width


def test_a_refusal_is_a_page_too(operator: Operator) -> None:
    """The browser itself notes that it was refused, and that is all that it has to say."""
    operator.open("/console/streams/nobody")
    assert operator.reads("h1", "Not found")
    operator.follow("Back to the streams")
    assert operator.reads("h1", "Streams")
    (complaint,) = operator.complaints()
    assert "404" in complaint


def test_nothing_needs_a_script(operator: Operator) -> None:
    """Issue 7: "no JavaScript framework": there is none at all."""
    operator.park("event-1")
    operator.chrome.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        operator.open(f"/console/streams/{operator.tpp}/sets/event-1")
        operator.at("form button").click()
        assert operator.reads("[role=status]", "✓ 1 SET requeued")
    finally:
        operator.chrome.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
