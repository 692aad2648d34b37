"""Chromium without a window, against the web server at argv[1], which serves the folder `site` beside this. It is told what to do, and asked what it saw, by its
DevTools protocol over a pipe. With argv[2] a page polls for that many seconds; what became of that is told in JSON, in seconds since the program began."""
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

BEGUN = time.time()
SITE = sys.argv[1]
FLAGS = [
    "--remote-debugging-pipe",
    # Root in the lab's namespaces has no use for a sandbox, and containers give little of /dev/shm.
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-audio-output",
    # No traffic but the page's own.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-domain-reliability",
    "--disable-sync",
    "--no-first-run",
    "--no-pings",
]


class Browser:
    def __init__(self, folder):
        commands, self.commands = os.pipe()
        self.replies, replies = os.pipe()

        def place():
            os.dup2(commands, 3)
            os.dup2(replies, 4)

        program = ["chromium-headless-shell", *FLAGS, f"--user-data-dir={folder}", "about:blank"]
        # What it says of a machine without buses and cards is of interest if it doesn't run.
        self.words = open(f"{folder}/words", "w+")
        self.process = subprocess.Popen(program, preexec_fn=place, pass_fds=(3, 4), stdout=self.words, stderr=self.words)
        os.close(commands)
        os.close(replies)
        self.rest, self.number, self.session, self.events = b"", 0, None, []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.ask(f"{domain}.enable")

    def message(self):
        while b"\0" not in self.rest:
            piece = os.read(self.replies, 1 << 20)
            if not piece:
                self.words.seek(0)
                raise SystemExit(f"the browser ended, with {self.process.wait()}: {self.words.read()[-3000:]}")
            self.rest += piece
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def ask(self, method, **parameters):
        """Gives a command. What happens before its answer comes is kept."""
        self.number += 1
        command = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            command["sessionId"] = self.session
        os.write(self.commands, json.dumps(command).encode() + b"\0")
        while True:
            message = self.message()
            if "method" in message:
                self.events.append(message)
            elif message.get("id") == self.number:
                return message.get("result", {})

    def value(self, expression):
        """None, too, while there is no page to ask."""
        return self.ask("Runtime.evaluate", expression=expression, returnByValue=True).get("result", {}).get("value")

    def wait(self, what, expression):
        for _ in range(1200):
            if self.value(expression):
                return
            time.sleep(0.1)
        words = [*self.seen("Log.entryAdded"), *self.seen("Runtime.exceptionThrown"), *self.seen("Network.loadingFailed")]
        raise SystemExit(f"{what}: not within two minutes; the console has {words}")

    def seen(self, method):
        return [event["params"] for event in self.events if event["method"] == method]


def look(browser):
    """Waits for the page's own checks, and forgets what they took: returned are the requests as they were on the wire, by path and in their order."""
    browser.wait("the page's checks", "document.documentElement.dataset.state === 'done'")
    outcome = browser.value("document.getElementById('outcome').textContent")
    print(outcome)
    check("the page's checks", "FAILED" not in outcome and "passed parallel" in outcome)
    urls, asked = {}, {}
    for event in browser.seen("Network.requestWillBeSent"):
        # A redirection has the same number as what it leads to.
        urls.setdefault(event["requestId"], []).append(event["request"]["url"])
    others = [url for some in urls.values() for url in some if not url.startswith((SITE + "/", "data:"))]
    check("it asks nobody else", not others, others)
    for event in browser.seen("Network.requestWillBeSentExtraInfo"):
        asked.setdefault(event["requestId"], []).append({name.lower(): value for name, value in event["headers"].items()})
    wire = []
    for event in browser.seen("Network.responseReceivedExtraInfo"):
        headers = {name.lower(): value for name, value in event["headers"].items()}
        number, status = event["requestId"], event["statusCode"]
        path = urls[number][0 if status == 301 else -1][len(SITE):]
        wire.append({"path": path, "status": status, "asked": asked[number].pop(0), "told": headers})
    connections = [event["response"]["connectionId"] for event in browser.seen("Network.responseReceived")]
    connections = [number for number in connections if number]
    failed = [event for event in browser.seen("Network.loadingFailed") if not event.get("canceled")]
    check("nothing failed on its way", not failed, failed)
    check("no script threw", not browser.seen("Runtime.exceptionThrown"), browser.seen("Runtime.exceptionThrown"))
    entries = [event["entry"] for event in browser.seen("Log.entryAdded")]
    words = sorted((entry.get("url", "")[len(SITE):], entry["text"].split("status of ")[-1][:3]) for entry in entries)
    wanted = [("/data/numbers.json", "416"), ("/data/small.json", "405"), ("/missing.json", "404")]
    check("the console has the refusals that the page asked for and no more", words == wanted, entries)
    return wire, connections


def check(what, holds, *details):
    if not holds:
        raise SystemExit(f"{what}: {details}")


def one(wire, path, **wanted):
    """The answers to requests for a path of which this is true."""
    found = [each for each in wire if each["path"] == path and all(each[name] == value for name, value in wanted.items())]
    check(f"{path} {wanted}", found, [(each["path"], each["status"]) for each in wire])
    return found[0]


def visit(browser):
    browser.ask("Page.navigate", url=SITE + "/")
    wire, connections = look(browser)
    page = one(wire, "/", status=200)
    check("it would have it compressed", "gzip" in page["asked"]["accept-encoding"], page)
    for path in ("/page.js", "/data/numbers.json"):
        check("it is", one(wire, path, status=200)["told"].get("content-encoding") == "gzip", path)
    kept = one(wire, "/look/picture.svg", status=304)
    tag = one(wire, "/look/picture.svg", status=200)["told"]["etag"]
    check("what it has is asked for by its tag", kept["asked"]["if-none-match"] == tag == kept["told"]["etag"], kept, tag)
    one(wire, "/sub", status=301)
    one(wire, "/sub/", status=200)
    one(wire, "/data/numbers.json", status=416)
    # In parts, of the file as it is; what its cache has of them it only asks about.
    sounds = [each for each in wire if each["path"] == "/sound.wav"]
    for sound in sounds:
        check("a part of the sound", sound["status"] in (206, 304) and "content-encoding" not in sound["told"], sound)
    starts = [int(sound["asked"]["range"].removeprefix("bytes=").split("-")[0]) for sound in sounds]
    check("the sound from its beginning", sounds[0]["status"] == 206 and starts[0] == 0, starts)
    # Six at once, as browsers do; one that brought a sound which was wound on has ended with it.
    distinct = set(connections)
    check("some at once, each for many", 6 <= len(distinct) <= 10 and len(connections) > 4 * len(distinct), connections)
    print(f"{len(wire)} answers on {len(distinct)} connections; parts of the sound from {starts}")

    browser.events.clear()
    browser.ask("Page.reload")
    browser.wait("the page once more", "document.documentElement.dataset.state !== 'done'")
    wire, _ = look(browser)
    check("it asks whether it is still so", "if-none-match" in one(wire, "/", status=304)["asked"], wire)

    browser.value("document.getElementById('link').click()")
    browser.wait("the folder that the link leads to", "document.title === 'Below' && document.body.dataset.small")
    print("a browser is content")


def poll(browser, seconds):
    browser.ask("Page.navigate", url=SITE + "/poll.html")
    browser.wait("the page", "window.answered?.length")
    end = time.time() + seconds
    while time.time() < end:
        # What the browser tells meanwhile is taken from the pipe.
        browser.value("answered.length")
        time.sleep(0.5)
    since = lambda moment: round(moment - BEGUN, 3)
    answered = [since(moment) for moment in browser.value("answered")]
    failed = [{"at": since(one["at"]), "why": one["why"]} for one in browser.value("failed")]
    print(json.dumps({"answered": answered, "failed": failed}))


signal.alarm(270)
with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
    browser = Browser(folder)
    if len(sys.argv) > 2:
        poll(browser, float(sys.argv[2]))
    else:
        visit(browser)
    browser.session = None
    browser.ask("Browser.close")
    browser.process.wait()
