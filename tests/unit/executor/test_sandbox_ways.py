"""Which addresses inside a sandbox lead to the runtime."""

import pytest

from executor.netns import Way, ways_out

RUNTIME = Way("127.0.0.2", 80, tls=False, name="runtime.runmesh")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8080", Way("127.0.0.1", 8080, tls=False)),
        ("http://localhost", Way("127.0.0.1", 80, tls=False)),
        ("https://127.5.6.7", Way("127.5.6.7", 443, tls=True)),
        ("https://mesh.example.com:8443/base", Way("127.0.0.3", 8443, tls=True, name="mesh.example.com")),
        ("http://192.0.2.1:81", Way("192.0.2.1", 81, tls=False)),
        ("http://0.0.0.0:8080", Way("127.0.0.1", 8080, tls=False)),
        ("http://[::]:8080", Way("::1", 8080, tls=False)),
        ("http://[2001:DB8:0::1]", Way("2001:db8::1", 80, tls=False)),
    ],
)
def test_ways_out(url: str, expected: Way) -> None:
    assert ways_out(url) == [RUNTIME, expected]
