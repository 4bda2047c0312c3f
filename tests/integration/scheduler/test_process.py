import signal
from pathlib import Path

from migrations.__main__ import upgrade
from scheduler.settings import Settings
from tests.integration.service_process import service_process


def test_it_starts_alone_and_stops_when_told(tmp_path: Path, nats_url: str, database_setting: str) -> None:
    settings = Settings(home=tmp_path, database=database_setting)
    upgrade("scheduler", settings.database_url("scheduler"))
    environ = {"RUNMESH_HOME": str(tmp_path), "RUNMESH_DATABASE_URL": database_setting}
    with service_process("scheduler", RUNMESH_NATS_URL=nats_url, **environ) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert process.stderr is not None
        rest = process.stderr.read()
    assert "service.stopped" in rest
    assert "Traceback" not in rest
