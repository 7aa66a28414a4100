"""Does the page keep up? 100 agents at 1,000 events/s, and how long Chromium's frames and tasks take.

Usage: python bench/page.py [--agents 100] [--rate 1000] [--seconds 20]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import tempfile
import time
from typing import Any

from playwright.async_api import async_playwright

from nt_memory import MemorySystem
from nt_memory.apps.server.running import listen, make_server
from nt_memory.apps.server.settings import ServerSettings

WATCH = """() => {
  const it = window.measured = {frames: [], tasks: []};
  new PerformanceObserver(list => it.tasks.push(...list.getEntries().map(e => e.duration)))
    .observe({type: 'longtask'});
  let last = performance.now();
  const frame = now => { it.frames.push(now - last); last = now; requestAnimationFrame(frame); };
  requestAnimationFrame(frame);
}"""


async def load(memory: MemorySystem, agents: int, rate: float, counted: dict[str, int]) -> None:
    """Half puts, half messages, spread evenly over the agents, until cancelled."""
    chance = random.Random(1)  # noqa: S311
    began, n = time.perf_counter(), 0
    while True:
        due = int((time.perf_counter() - began) * rate)
        batch = []
        for n in range(counted["events"], due):
            agent = f"agent_{chance.randrange(agents):03}"
            if n % 2:
                batch.append(memory.put(agent, "position", {"AAPL": n, "MSFT": -n}))
            else:
                batch.append(memory.publish(f"{agent}/signal", {"n": n, "side": "buy"}))
        await asyncio.gather(*batch)
        counted["events"] = due
        await asyncio.sleep(0.01)


async def measure(agents: int, rate: float, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        async with MemorySystem.open(f"{folder}/memory") as memory:
            for n in range(agents):
                await memory.put(f"agent_{n:03}", "position", {})
            settings = ServerSettings(port=0)
            server = make_server(memory, settings)
            listener = listen(settings)
            serving = asyncio.ensure_future(server.serve(sockets=[listener]))
            counted = {"events": 0}
            loading = asyncio.ensure_future(load(memory, agents, rate, counted))
            try:
                url = f"http://127.0.0.1:{listener.getsockname()[1]}"
                found = await look(url, seconds, counted)
            finally:
                loading.cancel()
                server.stop()
                await asyncio.gather(loading, serving, return_exceptions=True)
            return found


async def look(url: str, seconds: float, counted: dict[str, int]) -> dict[str, Any]:
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        raise SystemExit("needs Chromium: apt-get install chromium")
    async with async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = await browser.new_page(viewport={"width": 1280, "height": 860})
        await page.goto(url)
        await page.locator("[data-status=live]").wait_for()
        await asyncio.sleep(3)
        await page.evaluate(WATCH)
        before, began = counted["events"], time.perf_counter()
        clicks = []
        while time.perf_counter() - began < seconds:
            for view in ("agents", "store", ""):
                start = time.perf_counter()
                await page.locator(f'nav a[href="#/{view}"]').click()
                await page.locator(f'nav a[href="#/{view}"][aria-current]').wait_for()
                clicks.append((time.perf_counter() - start) * 1e3)
                await asyncio.sleep(1)
        took = time.perf_counter() - began
        measured = await page.evaluate("() => window.measured")
        lag = await page.evaluate(
            "() => performance.memory ? performance.memory.usedJSHeapSize : 0"
        )
        await browser.close()
    frames = sorted(measured["frames"])
    return {
        "events_per_s": round((counted["events"] - before) / took),
        "frames": len(frames),
        "frame_ms": {q: round(frames[int(len(frames) * q / 100)], 1) for q in (50, 95, 99)},
        "frame_ms_most": round(frames[-1], 1),
        "long_tasks": len(measured["tasks"]),
        "long_task_ms_most": round(max(measured["tasks"], default=0.0), 1),
        "view_change_ms_most": round(max(clicks), 1),
        "heap_mb": round(lag / 1e6, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=100)
    parser.add_argument("--rate", type=float, default=1_000.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    given = parser.parse_args()
    print(json.dumps(asyncio.run(measure(given.agents, given.rate, given.seconds)), indent=2))


if __name__ == "__main__":
    main()
