"""The live page in a real browser: it fills, updates by itself, follows a selection, and stays inside its origin."""

import re
import shutil
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import ConsoleMessage, Page, Request, expect, sync_playwright

# Chromium must not look for updates: the test allows no request that leaves the service.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
FILLS_WITHIN_MS = 20_000
NUMBER = re.compile(r"^[\d,]+(\.\d)?$")


@pytest.fixture
def page(page_url: str) -> Iterator[Page]:
    """The opened page; fails the test afterwards for anything on the console or any request to elsewhere."""
    chromium = shutil.which("chromium")
    assert chromium is not None, "chromium is missing: apt-get install chromium"
    complaints: list[str] = []

    # Violations of the content security policy are console messages too.
    def note_console(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            complaints.append(f"console: {message.text}")

    def note_request(request: Request) -> None:
        if urlsplit(request.url).netloc != urlsplit(page_url).netloc:
            complaints.append(f"request to elsewhere: {request.url}")

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page()
        page.on("console", note_console)
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("request", note_request)
        page.goto(page_url)
        yield page
        browser.close()
    assert complaints == []


def test_page_shows_regions_and_updates_by_itself(page: Page) -> None:
    p50 = page.locator("#regions tbody tr td.p50").first
    expect(p50).to_have_text(NUMBER, timeout=FILLS_WITHIN_MS)
    expect(page.locator("#state")).to_have_text("Live")
    page.evaluate("window.neverReloaded = true")
    as_of = page.locator("#as-of").inner_text().partition(",")[0]
    expect(page.locator("#as-of")).not_to_contain_text(as_of, timeout=3_000)
    assert page.evaluate("window.neverReloaded")


def test_selected_row_is_charted_with_pointer_and_keyboard(page: Page) -> None:
    row = page.locator("#regions tbody tr").first
    expect(row.locator(".p50")).to_have_text(NUMBER, timeout=FILLS_WITHIN_MS)
    region = row.get_attribute("data-key")
    assert region is not None
    heading = page.locator("#chart-heading")
    chosen = page.locator(f'#regions tr[data-key="{region}"]')

    chosen.click()
    expect(heading).to_have_text(region)
    expect(chosen).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Escape")
    expect(heading).to_have_text("All players")
    page.keyboard.press("Enter")
    expect(heading).to_have_text(region)
    page.get_by_role("button", name="Show all players").click()
    expect(heading).to_have_text("All players")
    expect(chosen).to_have_attribute("aria-selected", "false")


def test_policy_forbids_inline_code(page: Page, page_url: str) -> None:
    answer = page.request.get(page_url)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe-" not in policy
