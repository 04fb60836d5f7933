"""Take the README's picture: three real servers, a real browser, thirty requests.

    python tools/screenshot.py                                 docs/screenshot.png
    python tools/screenshot.py --strategy memory:// --output /tmp/mismatch.png

It needs the Python package ``playwright`` and a Chromium (``apt-get install chromium``); with
``fonts-inter`` the picture has the typeface that the page asks for first.
"""

from __future__ import annotations

import argparse
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
WIDTH, HEIGHT, SCALE = 1280, 820, 1.5
START_S = 60
MOST_BYTES = 400_000  # a README should load at once
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def main() -> int:
    """Take the picture and return the exit code."""
    options = _arguments()
    with servers(options.strategy, options.affinity) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.chromium, args=FLAGS)
        try:
            page = shopping(browser, address, dark=options.dark)
            page.screenshot(path=options.output)
            print(page.inner_text("#sentence"), page.inner_text("#score"), sep="\n")
        finally:
            browser.close()
    size = options.output.stat().st_size
    print(f"{options.output}: {size} bytes")
    return 0 if size < MOST_BYTES else 1


@contextmanager
def servers(strategy: str, affinity: str) -> Iterator[str]:
    """Run ``samesession up`` and yield its address."""
    port = _free_port()
    command = [sys.executable, "-m", "samesession", "up", "--port", str(port)]
    up = subprocess.Popen([*command, "--strategy", strategy, "--affinity", affinity], cwd=ROOT)
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_for(up, address)
        yield address
    finally:
        up.send_signal(signal.SIGINT)
        up.wait(30)


def shopping(browser: Browser, address: str, *, dark: bool) -> Page:
    """Return ann's page: logged in here and on her phone, basket filled, thirty requests sent."""
    phone = _context(browser, dark=dark).new_page()
    log_in(phone, address)
    page = _context(browser, dark=dark).new_page()
    log_in(page, address)
    for product in ("Green tea", "Honey", "Green tea", "Pears"):
        page.get_by_label(f"Add {product}").click()
    page.click("#run")
    page.wait_for_selector("#cells li:last-child.answer")
    page.wait_for_selector("#run:not([aria-disabled])")
    page.mouse.move(WIDTH - 1, HEIGHT - 1)  # nothing hovered, nothing focused
    page.evaluate("document.activeElement.blur()")
    page.wait_for_timeout(500)  # transitions of colour
    return page


def log_in(page: Page, address: str) -> None:
    """Open the page and log in as ann."""
    page.goto(address)
    page.get_by_label("Your name").fill("ann")
    with page.expect_response("**/api/login/ann"), page.expect_response("**/shop"):
        page.get_by_role("button", name="Log in").click()


def _context(browser: Browser, *, dark: bool) -> BrowserContext:
    return browser.new_context(
        viewport={"width": WIDTH, "height": HEIGHT},
        device_scale_factor=SCALE,
        color_scheme="dark" if dark else "light",
    )


def _wait_for(up: subprocess.Popen[bytes], address: str) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and up.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/api/plain", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise SystemExit(f"samesession up did not answer within {START_S} s")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--strategy", default="cluster://")
    parser.add_argument("--affinity", default="none", choices=("none", "cookie", "ip"))
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "screenshot.png")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--dark", action="store_true")
    options = parser.parse_args()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    return options


if __name__ == "__main__":
    raise SystemExit(main())
