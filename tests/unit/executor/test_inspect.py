"""The import check on a driver without processes."""

from dataclasses import replace

from executor.cgroups import Bounds, Usage
from executor.inspect import Inspect
from executor.model import Limits
from executor.sandbox import Crashed, Exit, Launch, StartFailed
from tests.fakes.real_sandboxes import OUR_ENVIRONMENT
from tests.fakes.sandbox import FakeDriver, FakeSandbox

SOURCE = b"print('hello')"
LIMITS = Limits(memory_bytes=64 << 20, cpu=0.5, processes=9)


class Printing(FakeDriver):
    """Its sandboxes print at once."""

    async def start(self, launch: Launch) -> FakeSandbox:
        sandbox = await super().start(launch)
        sandbox.print(b"out\n")
        sandbox.print(b"err\n", "stderr")
        return sandbox


async def test_a_failure_is_told_with_what_was_printed() -> None:
    driver = Printing(fails=StartFailed("import", "KeyError: 'x'", line=3))
    report = await Inspect(driver)(OUR_ENVIRONMENT, SOURCE, "w.py", {}, 5.0, LIMITS)
    assert (report.ok, report.error_kind, report.detail, report.line) == (False, "import", "KeyError: 'x'", 3)
    assert sorted(report.log_tail.split("\n")) == ["err", "out"]
    assert driver.running == 0


async def test_the_script_sees_its_own_variables_and_the_platforms() -> None:
    driver = FakeDriver()
    assert (await Inspect(driver)(OUR_ENVIRONMENT, SOURCE, "w.py", {"DECLARED": "x", "PORT": "1"}, 5.0, LIMITS)).ok
    (sandbox,) = driver.started
    assert sandbox.launch.env["DECLARED"] == "x"
    assert sandbox.launch.env["PORT"] == "8000"
    assert sandbox.launch.bounds == Bounds(memory=64 << 20, processes=9, cpu=0.5)
    assert sandbox.launch.env["CODEWORDS_RUNTIME_URI"] == "http://runtime.runmesh"
    assert driver.running == 0


async def test_an_app_that_cant_describe_itself_is_fine() -> None:
    class Undescribed(FakeSandbox):
        async def openapi(self) -> str:
            raise Crashed("no schema")

    class Driver(FakeDriver):
        async def start(self, launch: Launch) -> FakeSandbox:
            sandbox = Undescribed(self, launch)
            self.started.append(sandbox)
            return sandbox

    driver = Driver()
    report = await Inspect(driver)(OUR_ENVIRONMENT, SOURCE, "w.py", {}, 5.0, LIMITS)
    assert (report.ok, report.openapi, report.detail) == (True, "", "no schema")
    assert driver.running == 0


async def test_one_that_needs_too_much_memory_is_told_so() -> None:
    class Killed(FakeSandbox):
        async def close(self) -> Exit:
            return replace(await super().close(), used=Usage(oom_kills=1))

    class Driver(FakeDriver):
        async def start(self, launch: Launch) -> FakeSandbox:
            self.started.append(Killed(self, launch))
            return self.started[-1]

    driver = Driver(fails=StartFailed("killed", "the script was killed"))
    report = await Inspect(driver)(OUR_ENVIRONMENT, SOURCE, "w.py", {}, 5.0, LIMITS)
    assert (report.ok, report.error_kind) == (False, "out_of_memory")
    assert "more memory than its limit of 64 MiB" in report.detail
    assert driver.running == 0
