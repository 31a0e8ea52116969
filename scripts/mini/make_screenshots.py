"""Take the pictures of docs/serving.md: the page of a running server in Chromium, asked about an example clip.

In:  the address of `python serve.py demo=true`. Out: page_thoughts.png and page_answer.png in --out.

    python scripts/mini/make_screenshots.py --model mini_alarm_ca
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

EXAMPLE = "robot voice, then hi-hat"
SIZE = {"width": 1200, "height": 800}
SLOW = {"offline": False, "latency": 0, "downloadThroughput": 2000, "uploadThroughput": -1}
"""Bytes per second: the miniature writes faster than a picture is taken."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", default="http://127.0.0.1:8001")
    parser.add_argument("--model", default="mini_alarm_ca", help="one of the page's models")
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="folder for the pictures")
    args = parser.parse_args()
    from playwright.sync_api import sync_playwright

    args.out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE)
        page.goto(args.address)
        page.get_by_text(EXAMPLE, exact=True).click()
        page.locator("#spectrogram img").wait_for()
        page.locator("#model input").click()
        page.get_by_role("option", name=args.model).click()
        network = page.context.new_cdp_session(page)
        network.send("Network.enable")
        network.send("Network.emulateNetworkConditions", SLOW)
        page.locator("#ask").click()
        page.locator("#history").get_by_text("hear: robot").wait_for()
        page.screenshot(path=args.out / "page_thoughts.png")
        network.send("Network.emulateNetworkConditions", {**SLOW, "downloadThroughput": -1})
        page.locator("#history").get_by_text("is louder.").wait_for()
        page.wait_for_timeout(1000)
        page.screenshot(path=args.out / "page_answer.png")
        browser.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
