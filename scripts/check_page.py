#!/usr/bin/env python3
"""Drives the page of a real `preload-node serve` in headless Chromium, and checks that it shows what happens in the cluster.

    check_page.py NODE [--screenshots DIR]

NODE is the binary. Chromium and its driver are installed from the packages `chromium` and `chromium-driver` if they are
missing and that may be done without asking; otherwise this says that it is skipped, and succeeds.
"""

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.error
import urllib.request

from webdriver import Browser, find_chromium, free_port, until

SECONDS = 30
STORES = (1, 2, 3)
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Node:
    """The node process and its interface, as a user of it sees them."""

    def __init__(self, binary, data_dir, log, config=None):
        self.binary, self.data_dir, self.log, self.config = binary, data_dir, log, config
        self.address = f"127.0.0.1:{free_port()}"
        self.process = None

    def start(self):
        command = [self.binary, "serve", "--data-dir", self.data_dir, "--status-addr", self.address]
        command += ["--config", self.config] if self.config else []
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        until("a node whose regions have leaders", SECONDS, self._is_led)

    def _is_led(self):
        if self.process.poll() is not None:
            raise AssertionError(f"the node has ended with exit code {self.process.returncode}")
        with contextlib.suppress(OSError):
            return all(region["leader"] for region in self.get("/regions")["regions"])

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def get(self, path):
        return self.call("GET", path)

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://{self.address}{path}", data, headers, method=method)
        try:
            with OPENER.open(request, timeout=60) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.code} {error.read().decode()}") from None

    def post(self, path, **body):
        return self.call("POST", path, body)

    def region(self, region_id):
        return self.get(f"/regions/{region_id}")


class Page:
    """The page as its user sees it: by its elements and texts, never by its code."""

    def __init__(self, browser, node):
        self.browser, self.node = browser, node

    def text(self, css):
        return self.browser.run("return document.querySelector(arguments[0])?.textContent ?? null", css)

    def is_shown(self, css):
        return self.browser.run("return document.querySelector(arguments[0])?.checkVisibility() ?? false", css)

    def region_ids(self):
        return self.browser.run("return [...document.querySelectorAll('#regions > li')].map((item) => Number(item.dataset.id))")

    def replica(self, region_id, store_id):
        """What the list says of a replica, without the spaces between its parts."""
        css = f'#regions > [data-id="{region_id}"] > [data-store="{store_id}"]'
        script = "const cell = document.querySelector(arguments[0]); return cell && [...cell.querySelectorAll('.word, .tag, small')].filter((part) => part.checkVisibility()).map((part) => part.textContent).join(' ').trim()"
        return self.browser.run(script, css)

    def until_replica(self, region_id, store_id, look):
        what = f"region {region_id} on store {store_id}"
        try:
            return until(what, SECONDS, lambda: look(self.replica(region_id, store_id) or ""))
        except AssertionError as error:
            raise AssertionError(f"{error}; the page says {self.replica(region_id, store_id)!r}") from None

    def choose(self, region_id):
        self.browser.click(f'#regions > [data-id="{region_id}"] button')
        until("the chosen region", SECONDS, lambda: (self.text("#detail-title") or "").startswith(f"Region {region_id}"))

    def press_button(self, what, store_id=None):
        key = f"{what}-{store_id or ''}"
        css = f'#detail [data-key="{key}"]:not([aria-disabled])'
        until(f"the button {key}", SECONDS, lambda: self.is_shown(css))
        self.browser.click(css)

    def until_note(self, part):
        notes = lambda: self.browser.run("return [...document.querySelectorAll('#notes .note')].map((note) => note.textContent)")
        return until(f"a note with {part!r}", SECONDS, lambda: [note for note in notes() if part in note])

    def focused(self):
        return self.browser.run("const element = document.activeElement; return element.getAttribute('aria-label') ?? element.id ?? ''")


def leader_of(node, region_id):
    return node.region(region_id)["leader"]["store_id"]


def follower_of(node, region_id):
    return next(store_id for store_id in STORES if store_id != leader_of(node, region_id))


def shows_stores_and_regions(page, node):
    until("a live connection", SECONDS, lambda: page.text("#connection-text") == "Live")
    assert len(node.get("/status")["stores"]) == len(STORES)
    for store_id in STORES:
        assert page.text(f"#store-{store_id}") == f"Store {store_id}"
    ids = [region["id"] for region in node.get("/regions")["regions"]]
    until("all regions, in the order of their keys", SECONDS, lambda: page.region_ids() == ids)
    leader = leader_of(node, ids[0])
    page.until_replica(ids[0], leader, lambda said: "leader" in said)


def split_shows_on_the_page(page, node):
    for number in range(400):
        node.post("/kv/put", key=f"user{number:05}".encode().hex().upper(), value="56" * 200)
    region_id = page.region_ids()[0]
    page.choose(region_id)
    page.press_button("split")
    page.until_note("is split")
    ids = [region["id"] for region in node.get("/regions")["regions"]]
    assert len(ids) == 2, ids
    until("both halves", SECONDS, lambda: page.region_ids() == ids)


def transfer_shows_on_the_page(page, node):
    region_id = page.region_ids()[0]
    target = follower_of(node, region_id)
    page.choose(region_id)
    page.press_button("transfer-leader", target)
    page.until_replica(region_id, target, lambda said: "leader" in said)
    assert leader_of(node, region_id) == target


def warm_up_shows_step_by_step(page, node):
    region_id = page.region_ids()[0]
    target = follower_of(node, region_id)
    page.choose(region_id)
    # Whatever is cached there goes first, by the interface: the page has to notice.
    node.post(f"/regions/{region_id}/evict", store=target)
    page.until_replica(region_id, target, lambda said: said.startswith("Cold"))
    page.press_button("preload", target)
    page.until_replica(region_id, target, lambda said: said.startswith("Warm"))
    feed = f'#feed [data-region="{region_id}"]'
    for kind, verdict in (("request_sent", None), ("answer_sent", "warm"), ("answer_received", "warm")):
        line = f'{feed}[data-kind="{kind}"]' + (f'[data-verdict="{verdict}"]' if verdict else "")
        until(f"{kind} in the list", SECONDS, lambda: page.is_shown(line))
    asker = f"is asked by store {leader_of(node, region_id)} to warm up"
    received = f'{feed}[data-kind="request_received"][data-verdict="accepted"]'
    until("who has asked in the list", SECONDS, lambda: asker in (page.text(received) or ""))
    until("the last answers of the region", SECONDS, lambda: "warm" in (page.text("#detail .answers") or ""))
    page.press_button("evict", target)
    page.until_replica(region_id, target, lambda said: said.startswith("Cold"))


def peers_come_and_go(page, node):
    region_id = page.region_ids()[-1]
    target = follower_of(node, region_id)
    node.post(f"/regions/{region_id}/remove-peer", store=target)
    page.until_replica(region_id, target, lambda said: said == "no replica")
    page.choose(region_id)
    page.press_button("add-peer", target)
    page.until_note("has a replica")
    page.until_replica(region_id, target, lambda said: said.startswith(("Cold", "Warm")))


def parked_request_shows_what_it_waits_for(page, node):
    if "failpoints" not in node.get("/status")["features"]:
        return "left out: this build has no failpoints to hold a snapshot back with"
    region_id = page.region_ids()[-1]
    target = follower_of(node, region_id)
    node.post(f"/regions/{region_id}/remove-peer", store=target)
    page.until_replica(region_id, target, lambda said: said == "no replica")
    page.choose(region_id)
    name = "/fail/raftstore::generate_snapshot::hold"
    node.call("PUT", name, {"actions": "pause"})
    try:
        page.press_button("add-peer", target)
        page.until_replica(region_id, target, lambda said: said.startswith("Uninitialized"))
        page.press_button("preload", target)
        page.until_replica(region_id, target, lambda said: "parked, waits to be initialized" in said)
        line = f'#feed [data-region="{region_id}"][data-kind="request_received"][data-verdict="parked"]'
        until("the parked request in the list", SECONDS, lambda: page.is_shown(line))
    finally:
        node.call("DELETE", name)
    page.until_replica(region_id, target, lambda said: said.startswith("Warm"))


def pin_shows_on_the_page(page, node):
    region_id = page.region_ids()[0]
    pin = f'#regions > [data-id="{region_id}"] .pin'
    page.choose(region_id)
    page.press_button("pin")
    until("the pin", SECONDS, lambda: page.is_shown(pin))
    page.until_replica(region_id, leader_of(node, region_id), lambda said: said.startswith("Warm"))
    page.press_button("unpin")
    until("no pin", SECONDS, lambda: not page.is_shown(pin))
    assert node.get("/pins")["pins"] == []


def refusal_is_told(page, node):
    region_id = page.region_ids()[0]
    stranger = follower_of(node, region_id)
    page.choose(region_id)
    # The region changes behind the page's back: the button still says what the page knew.
    button = f'#detail [data-key="remove-peer-{stranger}"]'
    until("the button", SECONDS, lambda: page.is_shown(button))
    page.browser.run("document.querySelector(arguments[0]).dataset.store = '99'", button)
    page.browser.click(button)
    page.until_note("store 99")
    assert page.browser.run("return document.querySelector('#notes .note[data-error]') !== null")
    page.browser.click("#notes .note[data-error] button")


def keyboard_reaches_everything(page, node):
    browser = page.browser
    ids = page.region_ids()
    browser.open(f"http://{node.address}/")
    until("the regions", SECONDS, lambda: page.region_ids() == ids)
    browser.press("Tab")
    assert browser.run("return document.activeElement.className") == "skip", page.focused()
    browser.press("Enter", "Tab")
    assert page.focused() == "filter", page.focused()
    browser.press("Tab")
    assert page.focused().startswith(f"Region {ids[0]};"), page.focused()
    browser.press("ArrowDown")
    assert page.focused().startswith(f"Region {ids[1]};"), page.focused()
    browser.press("Home")
    assert page.focused().startswith(f"Region {ids[0]};"), page.focused()
    browser.press("Enter")
    until("the focus in the region", SECONDS, lambda: page.focused() == "detail")
    browser.press("Tab")
    assert page.focused() == f"Close region {ids[0]}", page.focused()
    # All buttons of the region come next, each of which says what it is about; the focus stays on what was pressed.
    seen = set()
    while len(seen) < 40:
        browser.press("Tab")
        if browser.run("return document.activeElement.closest('#detail') === null"):
            break
        seen.add(page.focused())
    assert any(name.startswith("Pin: region") for name in seen) and any(name.startswith("Preload: region") for name in seen), seen
    browser.run("document.querySelector('#detail [data-key=\"pin-\"]').focus()")
    browser.press("Enter")
    until("the other button in its place", SECONDS, lambda: page.is_shown('#detail [data-key="unpin-"]'))
    assert browser.run("return document.getElementById('detail').contains(document.activeElement)"), page.focused()
    node.call("DELETE", "/pins", {"region": ids[0]})
    browser.press("Escape")
    until("the focus back in the list", SECONDS, lambda: page.focused().startswith(f"Region {ids[0]};"))
    browser.press("ArrowUp")
    assert browser.run("return document.querySelectorAll('#regions [tabindex=\"0\"]').length") == 1
    # What changes by itself is told, once the region is chosen.
    assert browser.run("return document.getElementById('announcer').getAttribute('aria-live')") == "polite"


def filter_finds_regions(page, _node):
    ids = page.region_ids()
    shown = lambda: page.browser.run("return [...document.querySelectorAll('#regions > li')].filter((item) => item.checkVisibility()).map((item) => Number(item.dataset.id))")
    type_in = lambda text: page.browser.run("const field = document.getElementById('filter'); field.value = arguments[0]; field.dispatchEvent(new Event('input'))", text)
    type_in(str(ids[1]))
    assert shown() == [region_id for region_id in ids if str(region_id).startswith(str(ids[1]))], shown()
    type_in("no such state")
    assert shown() == [] and "No region matches" in page.text("#regions-empty")
    type_in("")
    assert shown() == ids


# The contrast of each text with what is behind it, by the formula of WCAG 2, of texts below 4.5.
LOW_CONTRAST = """
const parse = (color) => (color.match(/[\\d.]+/g) ?? []).map(Number);
const luminance = ([r, g, b]) => [r, g, b].map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)).reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const behind = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const color = parse(getComputedStyle(at).backgroundColor);
    if (color.length === 3 || color[3] === 1) return color;
  }
  return [255, 255, 255];
};
const low = [];
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  if (!own || !element.checkVisibility() || element.closest(".visually-hidden, .skip, noscript, svg")) continue;
  const [a, b] = [luminance(parse(getComputedStyle(element).color)), luminance(behind(element))].sort((x, y) => y - x);
  const ratio = (a + 0.05) / (b + 0.05);
  if (ratio < 4.5) low.push(`${element.tagName}.${element.className} “${element.textContent.trim().slice(0, 30)}” ${ratio.toFixed(2)}`);
}
return low;
"""


def every_look_is_readable(page, _node, screenshots):
    page.choose(page.region_ids()[0])
    ground = {}
    for scheme in ("light", "dark"):
        for name, width, height in (("wide", 1360, 1180), ("phone", 390, 844)):
            page.browser.color_scheme(scheme)
            page.browser.size(width, height, is_phone=name == "phone")
            until("the new size", SECONDS, lambda: page.browser.run("return innerWidth") == width)
            until("what has changed to be drawn", SECONDS, lambda: not page.browser.run("return document.getAnimations().some((one) => one.playState === 'running')"))
            ground[scheme] = page.browser.run("return getComputedStyle(document.documentElement).backgroundColor")
            low = page.browser.run(LOW_CONTRAST)
            assert not low, f"{scheme}, {name}: {low}"
            assert page.browser.run("return document.documentElement.scrollWidth") <= width, f"{name}: the page is wider than the screen"
            small = page.browser.run("return [...document.querySelectorAll('#detail button')].filter((button) => button.getBoundingClientRect().height < 24).length")
            assert small == 0, f"{name}: {small} buttons are too small for a finger"
            if screenshots:
                page.browser.run("scrollTo(0, 0)")
                page.browser.screenshot(screenshots / f"{name}-{scheme}.png")
    assert ground["light"] != ground["dark"]
    page.browser.color_scheme("light")
    page.browser.size(1360, 1180)


def lost_connection_is_told_and_found_again(page, node):
    node.kill()
    until("the banner", SECONDS, lambda: page.is_shown("#lost"))
    assert page.text("#connection-text") == "Not connected"
    assert "preload-node serve" in page.text("#lost-help")
    assert page.region_ids(), "what was known stays"
    page.browser.click("#retry")
    assert page.is_shown("#lost"), "trying does not help while there is no node"
    # From here on the page finds it by itself.
    node.start()
    until("a live connection", SECONDS, lambda: page.text("#connection-text") == "Live" and not page.is_shown("#lost"))
    page.until_note("has been restarted")
    page.until_replica(page.region_ids()[0], leader_of(node, page.region_ids()[0]), lambda said: "leader" in said)


def token_is_asked_for_once(page, node):
    directory = pathlib.Path(node.data_dir).parent
    token = "as long as it has to be"
    (directory / "token").write_text(token)
    (directory / "token.toml").write_text(f'[server]\ntoken-file = "{directory}/token"\n')
    guarded = Node(node.binary, f"{directory}/guarded", node.log, f"{directory}/token.toml")
    browser = page.browser
    try:
        guarded.start()
        browser.open(f"http://{guarded.address}/")
        until("its regions", SECONDS, page.region_ids)
        region_id = page.region_ids()[0]
        pin = f'#regions > [data-id="{region_id}"] .pin'
        assert not page.is_shown("#token-dialog"), "looking needs no token"
        page.choose(region_id)
        page.press_button("pin")
        until("the question", SECONDS, lambda: page.is_shown("#token-dialog"))
        assert browser.run("return document.activeElement.id") == "token", page.focused()
        browser.press("not the token", "Enter")
        until("that it is refused", SECONDS, lambda: page.is_shown("#token-error"))
        browser.press(token, "Enter")
        until("the pin", SECONDS, lambda: page.is_shown(pin) and not page.is_shown("#token-dialog"))
        page.press_button("unpin")
        until("no pin", SECONDS, lambda: not page.is_shown(pin))
        assert not page.is_shown("#token-dialog"), "it is asked for once"
    finally:
        guarded.kill()
        browser.open(f"http://{node.address}/")
    until("the first node's regions", SECONDS, lambda: page.text("#connection-text") == "Live" and page.region_ids())


def nothing_comes_from_elsewhere(page, node):
    resources = page.browser.run("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert resources and all(name.startswith(f"http://{node.address}/") for name in resources), resources
    # What the page asked for while the node was away, and refusals, are no mistakes of the page.
    complaints = [message for message in page.browser.console() if "ERR_CONNECTION" not in message and "status of 4" not in message]
    assert not complaints, complaints


CHECKS = [
    shows_stores_and_regions,
    split_shows_on_the_page,
    transfer_shows_on_the_page,
    warm_up_shows_step_by_step,
    peers_come_and_go,
    parked_request_shows_what_it_waits_for,
    pin_shows_on_the_page,
    refusal_is_told,
    filter_finds_regions,
    every_look_is_readable,
    keyboard_reaches_everything,
    nothing_comes_from_elsewhere,
    token_is_asked_for_once,
    lost_connection_is_told_and_found_again,
    nothing_comes_from_elsewhere,
]


def install_chromium():
    """Returns why it cannot be installed, or None."""
    by_hand = "on Debian and Ubuntu: sudo apt-get install chromium chromium-driver"
    if not shutil.which("apt-get"):
        return f"there is no Chromium with its driver, and no apt-get to install them with; {by_hand}"
    as_root = []
    if os.geteuid() != 0:
        as_root = ["sudo", "-n"]
        if not shutil.which("sudo") or subprocess.run([*as_root, "true"], capture_output=True).returncode != 0:
            return f"there is no Chromium with its driver, and installing it needs a password; {by_hand}"
    print("check-page: installing chromium and chromium-driver", flush=True)
    packages = ["apt-get", "install", "-y", "-q", "--no-install-recommends", "chromium", "chromium-driver"]
    for command in (["apt-get", "update", "-q"], ["env", "DEBIAN_FRONTEND=noninteractive", *packages]):
        if subprocess.run([*as_root, *command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL).returncode != 0:
            return f"apt-get failed; {by_hand}"
    return None if find_chromium() else f"apt-get has installed no Chromium; {by_hand}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("node", help="the binary preload-node")
    parser.add_argument("--screenshots", type=pathlib.Path, help="where to put a screenshot of each look")
    arguments = parser.parse_args()
    if not find_chromium():
        why = install_chromium()
        if why:
            print(f"check-page: SKIPPED, nothing was checked: {why}")
            return 0
    if arguments.screenshots:
        arguments.screenshots.mkdir(parents=True, exist_ok=True)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch, tempfile.TemporaryFile() as log:
        node = Node(arguments.node, f"{scratch}/data", log)
        failed = None
        try:
            node.start()
            with Browser(*find_chromium()) as browser:
                browser.size(1360, 1180)
                browser.open(f"http://{node.address}/")
                page = Page(browser, node)
                for check in CHECKS:
                    failed = check.__name__
                    begun = time.monotonic()
                    extra = (arguments.screenshots,) if check is every_look_is_readable else ()
                    left_out = check(page, node, *extra)
                    words = check.__name__.replace("_", " ")
                    print(f"check-page: {words}: {left_out or f'{time.monotonic() - begun:.1f} s'}", flush=True)
                    failed = None
        except Exception:
            print(f"check-page: FAILED in {failed or 'the start'}:\n{traceback.format_exc()}")
            log.seek(0)
            print("".join(f"  node: {line}" for line in log.read().decode(errors="replace").splitlines(keepends=True)[-20:]))
            return 1
        finally:
            node.kill()
    print(f"check-page: all {len(CHECKS)} checks passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
