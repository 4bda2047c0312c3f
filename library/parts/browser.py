"""Headless Chromium, driven by its DevTools protocol: written into the services that need it (scheduler/library.py).

It speaks through a pipe (https://chromedevtools.github.io/devtools-protocol/): nothing listens, nothing is installed.
Its own sandbox needs namespaces, which ours doesn't allow; it is left out inside of ours, where a run that begins and
ends with this call is all that a page could break out into (docs/decisions/0024).
"""

import asyncio
import base64
import fcntl
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from library.parts.refusals import Refused
from library.parts.way import Gate, in_a_sandbox, place_of

# The first that is there: the shell starts five times as fast as the whole browser, in a third of its memory.
PROGRAMS = (
    "/usr/lib/chromium/chromium-headless-shell", "/usr/lib/chromium/chromium", "chromium-headless-shell", "chromium",
    "chromium-browser", "google-chrome",
)  # fmt: skip
NO_BROWSER = (
    "this needs a browser, which the operator of this platform hasn't installed: apt-get install "
    "chromium-headless-shell (or chromium) on the host"
)
OPTIONS = (
    "--headless", "--remote-debugging-pipe", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars",
    "--mute-audio", "--no-first-run", "--no-default-browser-check", "--disable-extensions", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-default-apps", "--disable-breakpad",
    "--disable-quic", "--disable-notifications", "--block-new-web-contents", "--password-store=basic",
    "--force-webrtc-ip-handling-policy=disable_non_proxied_udp", "--renderer-process-limit=2",
    "--disable-features=Translate,MediaRouter,OptimizationHints,IsolateOrigins,site-per-process",
    "--disable-site-isolation-trials", "--js-flags=--max-old-space-size=512", "--proxy-bypass-list=<-loopback>",
)  # fmt: skip
WINDOW = (1280, 1024)
START_SECONDS = 20.0
IDLE_SECONDS = 3.0  # for what a page still fetches once it has loaded
COMMAND_SECONDS = 30.0
MOST_SAID = 32 << 20
_FONTS = "<fontconfig><dir>/usr/share/fonts</dir><dir>/usr/local/share/fonts</dir><cachedir>{}</cachedir></fontconfig>"


def program() -> str:
    """The browser's path; empty where there is none."""
    return next((found for each in PROGRAMS if (found := shutil.which(each))), "")


class Browser:
    """`async with Browser() as browser:` with one tab. `may_visit`: whether the tab may go to that address; what its
    pages fetch isn't asked for. Errors: Refused.
    """

    def __init__(self, window: tuple[int, int] = WINDOW, may_visit: Callable[[str], bool] | None = None) -> None:
        self._window = window
        self._may_visit = may_visit
        self._stack = AsyncExitStack()
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._background: set[asyncio.Task[Any]] = set()
        self._number = 0
        self._session = ""
        self._frame = ""
        self._pid = 0
        self._out: Any = None
        self._loaded = asyncio.Event()
        self._idle = asyncio.Event()
        # Of the newest document of the tab itself.
        self.status = 0
        self.content_type = ""
        self.gone = ""

    async def __aenter__(self) -> Self:
        if not (path := program()):
            raise Refused(424, "no_browser", NO_BROWSER)
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._start(path)
                await self._open_tab()
        except BaseException as error:
            said = self._last_words()
            await self._close()
            if isinstance(error, TimeoutError | OSError | Refused):
                raise Refused(500, "browser_failed", f"the browser didn't start: {said or error}") from None
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._close()

    async def _start(self, path: str) -> None:
        self._home = Path(self._stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        fonts = self._home / "fonts.conf"
        fonts.write_text(_FONTS.format(self._home))
        gate = await self._stack.enter_async_context(Gate())
        width, height = self._window
        argv = [path, *OPTIONS, f"--user-data-dir={self._home}/profile", f"--window-size={width},{height}"]
        argv += [f"--proxy-server=socks5://127.0.0.1:{gate.port}"]
        if in_a_sandbox() or os.geteuid() == 0:  # by hand it has one of its own
            argv += ["--no-sandbox", "--no-zygote"]
        env = {"PATH": os.environ.get("PATH", ""), "HOME": str(self._home), "FONTCONFIG_FILE": str(fonts)}
        env |= {"LANG": "C.UTF-8", "DBUS_SESSION_BUS_ADDRESS": "disabled:", "TMPDIR": str(self._home)}
        for_it, ours = os.pipe(), os.pipe()
        # Far from 3 and 4, where it expects them.
        inside = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (for_it[0], ours[1])]
        said = os.open(self._home / "said", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        actions: list[tuple[int, int, int]] = [(os.POSIX_SPAWN_DUP2, said, place) for place in (1, 2)]
        actions += [(os.POSIX_SPAWN_DUP2, end, place) for place, end in enumerate(inside, 3)]
        try:
            self._pid = os.posix_spawn(path, argv, env, file_actions=actions, setsid=True)  # noqa: ASYNC221  # doesn't wait
        finally:
            for end in (*inside, for_it[0], ours[1], said):
                os.close(end)
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=MOST_SAID)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(ours[0], "rb", 0))
        self._out, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(for_it[1], "wb", 0))
        self._spawn(self._hear(reader))

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _last_words(self) -> str:
        with suppress(OSError, AttributeError):
            lines = (self._home / "said").read_text(errors="replace").strip().splitlines()
            return "; ".join(line for line in lines if "dbus" not in line)[-500:]
        return ""

    async def _close(self) -> None:
        self._fail("the browser was closed")
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        if self._pid:
            with suppress(OSError):
                os.killpg(self._pid, signal.SIGKILL)
            with suppress(OSError):
                await asyncio.to_thread(os.waitpid, self._pid, 0)
            self._pid = 0
            if self._out is not None:  # it may not have come that far
                self._out.close()
        await self._stack.aclose()

    def _fail(self, reason: str) -> None:
        self.gone = self.gone or reason
        self._loaded.set()
        self._idle.set()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(Refused(500, "browser_failed", reason))
                future.exception()  # whoever waits is told; some have gone
        self._waiting.clear()

    async def _hear(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                said = json.loads((await reader.readuntil(b"\0"))[:-1])
                if future := self._waiting.pop(said.get("id", 0), None):
                    if not future.done():
                        future.set_result(said)
                elif "method" in said:
                    self._happened(said["method"], said.get("params") or {})
        except asyncio.LimitOverrunError:
            self._fail(f"the page is larger than {MOST_SAID >> 20} MiB")
        except (OSError, EOFError):
            self._fail("the browser has crashed, perhaps for want of memory")
        except (ValueError, RecursionError):
            self._fail("the page has what can't be told")

    def _happened(self, name: str, what: dict[str, Any]) -> None:
        if name == "Page.javascriptDialogOpening":
            # Whoever wants to leave a page leaves it.
            self._spawn(self.do("Page.handleJavaScriptDialog", accept=what.get("type") == "beforeunload"))
        elif name == "Fetch.requestPaused":
            self._spawn(self._decide(what))
        elif name == "Inspector.targetCrashed":
            self._fail("the page has crashed, perhaps for want of memory")
        elif name == "Network.responseReceived" and what.get("type") == "Document":
            if what.get("frameId") == self._frame:
                self.status = what["response"].get("status", 0)
                self.content_type = what["response"].get("mimeType", "")
        elif name in ("Page.frameStartedLoading", "Page.frameStoppedLoading") and what.get("frameId") == self._frame:
            (self._loaded.clear if name == "Page.frameStartedLoading" else self._loaded.set)()
        elif name == "Page.lifecycleEvent" and what.get("frameId") == self._frame:
            if what["name"] == "init":
                self._idle.clear()
            elif what["name"] in ("load", "networkAlmostIdle"):
                (self._loaded if what["name"] == "load" else self._idle).set()

    async def _decide(self, what: dict[str, Any]) -> None:
        """About a document that is to be fetched."""
        request = {"requestId": what["requestId"]}
        refused = what.get("frameId") == self._frame and self._may_visit and not self._may_visit(what["request"]["url"])
        with suppress(Refused):  # it has gone meanwhile
            if refused:
                await self.do("Fetch.failRequest", errorReason="BlockedByClient", **request)
            else:
                await self.do("Fetch.continueRequest", **request)

    async def do(
        self, method: str, session: str | None = None, seconds: float = COMMAND_SECONDS, **params: Any
    ) -> dict[str, Any]:
        """A command of the protocol, and its result: a page that is busy for ever doesn't answer. Errors: Refused."""
        if self.gone:
            raise Refused(500, "browser_failed", self.gone)
        self._number = number = self._number + 1
        session = self._session if session is None else session
        order = {"id": number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._out.write(json.dumps(order).encode() + b"\0")
        try:
            async with asyncio.timeout(seconds):
                said = await future
        except TimeoutError:
            raise Refused(504, "page_timeout", f"the page didn't answer within {seconds:g} s ({method})") from None
        finally:
            self._waiting.pop(number, None)
        if "error" in said:
            raise Refused(424, "browser_refused", f"{method}: {said['error'].get('message', 'failed')}")
        result: dict[str, Any] = said["result"]
        return result

    async def _open_tab(self) -> None:
        with suppress(Refused):  # not in every version
            await self.do("Browser.setDownloadBehavior", "", behavior="deny")
        target = (await self.do("Target.createTarget", "", url="about:blank"))["targetId"]
        self._session = (await self.do("Target.attachToTarget", "", targetId=target, flatten=True))["sessionId"]
        await asyncio.gather(*(self.do(f"{each}.enable") for each in ("Page", "Network", "Runtime", "Inspector")))
        self._frame = (await self.do("Page.getFrameTree"))["frameTree"]["frame"]["id"]
        await self.do("Page.setLifecycleEventsEnabled", enabled=True)
        if self._may_visit:
            documents = {"urlPattern": "*", "resourceType": "Document", "requestStage": "Request"}
            await self.do("Fetch.enable", patterns=[documents])

    async def goto(self, url: str, seconds: float = 30) -> None:
        """Until it has loaded, or that time is up and there is something of it. Errors: Refused."""
        await place_of(url)
        self.status, self.content_type = 0, ""
        self._loaded.clear()
        self._idle.clear()
        try:
            async with asyncio.timeout(seconds):
                answer = await self.do("Page.navigate", seconds=seconds + 1, url=url)
        except TimeoutError:
            raise Refused(504, "page_timeout", f"{url[:200]} didn't answer within {seconds:g} s") from None
        if trouble := answer.get("errorText"):
            code = {"net::ERR_NAME_NOT_RESOLVED": "no_such_host"}.get(trouble, "unreachable")
            code = "tls_failed" if "_CERT_" in trouble or "_SSL_" in trouble else code
            raise Refused(424, code, f"{url[:200]} can't be shown, or may not be: {trouble}")
        await self.settled(seconds)

    async def settled(self, seconds: float = 10) -> None:
        """Until the document has loaded, and for what it fetches then. Errors: Refused."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._loaded.wait()
                with suppress(TimeoutError):
                    async with asyncio.timeout(IDLE_SECONDS):
                        await self._idle.wait()
        if self.gone:
            raise Refused(500, "browser_failed", self.gone)

    async def evaluate(self, expression: str, seconds: float = 10) -> Any:
        """What this JavaScript gives (as JSON), promises awaited. Errors: Refused."""
        try:
            async with asyncio.timeout(seconds):
                answer = await self.do(
                    "Runtime.evaluate",
                    seconds=seconds + 1,
                    expression=expression,
                    returnByValue=True,
                    awaitPromise=True,
                    userGesture=True,
                )
        except TimeoutError:
            raise Refused(504, "page_timeout", f"the page didn't answer within {seconds:g} s") from None
        if trouble := answer.get("exceptionDetails"):
            told = (trouble.get("exception") or {}).get("description") or trouble.get("text")
            raise Refused(424, "page_refused", str(told).partition("\n")[0][:300])
        return answer["result"].get("value")

    async def html(self) -> str:
        """Of the document as it stands. Errors: Refused."""
        html = str(await self.evaluate("document.documentElement.outerHTML"))
        if (await self.url()).startswith("chrome-error:"):  # its own words, of a page that this one went to
            raise Refused(424, "unreachable", "the page went to one that can't be reached, or may not be")
        return html.encode("utf-8", "replace").decode()  # half a character is none

    async def url(self) -> str:
        """Where the tab is. Errors: Refused."""
        return str(await self.evaluate("location.href"))

    async def screenshot(self, *, whole: bool = False) -> bytes:
        """A PNG of what is in view, or of the page as a `whole`. Errors: Refused."""
        shot = await self.do("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(shot["data"])
