"""Write docs/how-to/watch-a-swarm/*.webp: every view of the page, of a made-up desk that trades."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
from PIL import Image
from playwright.async_api import Page, async_playwright

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "bench"))

import trading_desk  # noqa: E402

from nt_memory import MemorySystem  # noqa: E402

OUT = ROOT / "docs" / "how-to" / "watch-a-swarm"
VIEWS = {
    "desk": "#/",
    "agents": "#/agents/vol_short",
    "votes": "#/votes",
    "decisions": "#/decisions",
    "situations": "#/situations",
    "store": "#/store",
}
SIZES = {
    "light": {"viewport": {"width": 1280, "height": 860}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 860}, "color_scheme": "dark"},
    "phone": {
        "viewport": {"width": 390, "height": 844},
        "color_scheme": "light",
        "device_scale_factor": 1.5,
    },
}


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "memory"
        async with MemorySystem.open(store) as memory:
            await trading_desk.fill(memory)
        command = [sys.executable, "-m", "nt_memory.apps.cli.main", "serve", "--port", "0"]
        server = subprocess.Popen(  # noqa: ASYNC220
            [*command, "--store", str(store)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            said = server.stdout.readline() if server.stdout else ""
            url = re.search(r"http://\S+(?=,)", said)
            if url is None:
                raise SystemExit("the server did not start")
            await take_all(url[0])
        finally:
            server.terminate()
            server.wait(20)


async def take_all(url: str) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    async with httpx.AsyncClient(base_url=url) as client, async_playwright() as driver:
        trading = asyncio.ensure_future(trading_desk.trade(client, 300.0))
        browser = await driver.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        for size, options in SIZES.items():
            context = await browser.new_context(**options, timezone_id="America/New_York")
            page = await context.new_page()
            await page.goto(url)
            await page.locator("[data-status=live]").wait_for()
            await page.wait_for_timeout(8_000 if size != "phone" else 3_000)
            for name, path in VIEWS.items():
                await take(page, path, name, size)
            if size == "light":
                await page.goto(f"{url}/#/agents")
                await page.locator("#asof").fill("40")
                await page.wait_for_timeout(1_500)
                await shoot(page, OUT / "past-light.webp")
            await context.close()
        await browser.close()
        trading.cancel()
        await asyncio.gather(trading, return_exceptions=True)


async def take(page: Page, path: str, name: str, size: str) -> None:
    await page.evaluate("hash => { location.hash = hash }", path)
    await page.wait_for_timeout(600)
    if name in {"decisions", "situations"}:
        await page.get_by_label("Agent", exact=True).select_option("vol_short")
        await page.wait_for_timeout(1_500)
    if name == "situations":
        await page.get_by_role("slider", name="Map of").press("End")
        await page.get_by_role("button", name="Like").click()
    await page.wait_for_timeout(1_200)
    await shoot(page, OUT / f"{name}-{size}.webp")


async def shoot(page: Page, out: Path) -> None:
    png = out.with_suffix(".png")
    await page.screenshot(path=png)
    with Image.open(png) as image:
        image.save(out, quality=72, method=6)
    png.unlink()


def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        raise SystemExit("needs Chromium: apt-get install chromium")
    return found


if __name__ == "__main__":
    asyncio.run(main())
