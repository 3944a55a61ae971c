"""The live page in Chromium: since when it has shown so many players of a region, and what the browser costs meanwhile."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import psutil
from playwright.async_api import Page, async_playwright

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync")
ASK_EVERY_S = 0.5
# What a change of the document makes is painted before the next frame begins: a time is late by a frame (17 ms) at the most.
NOTE = """
region => {
  const shown = window.shown = [];
  const note = () => requestAnimationFrame(() => {
    const cell = document.querySelector(`#regions tr[data-key="${region}"] .players`);
    const players = Number(cell?.textContent.replaceAll(",", ""));
    while (shown.length < players) shown.push(Date.now());
  });
  new MutationObserver(note).observe(document.getElementById("regions"), { subtree: true, childList: true, characterData: true });
}
"""


@dataclass(frozen=True, slots=True)
class Watched:
    """An open page; `tree`: the browser's processes."""

    tree: psutil.Process
    _page: Page

    async def shown_s(self, players: int) -> list[float]:
        """When the first, the second … of so many players was on the screen, as time.time() says. Waits for the last one."""
        while len(shown := await self._page.evaluate("shown")) < players:  # noqa: ASYNC110 — asked seldom: asking costs too
            await asyncio.sleep(ASK_EVERY_S)
        return [at_ms / 1e3 for at_ms in shown]


@asynccontextmanager
async def watching(url: str, region: str) -> AsyncIterator[Watched]:
    """The live page, open and full, its row of `region` watched. Raises RuntimeError when there is no Chromium."""
    chromium = shutil.which("chromium")
    if chromium is None:
        raise RuntimeError("chromium is not installed (Debian: apt-get install chromium)")
    before = set(psutil.Process().children())
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        [tree] = set(psutil.Process().children()) - before
        page = await browser.new_page()
        await page.goto(url)
        await page.locator("#regions tbody tr").first.wait_for()
        await page.evaluate(NOTE, region)
        yield Watched(tree, page)
        await browser.close()
