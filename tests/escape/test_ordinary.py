"""What the filter and Landlock must not break: the software that workflows are made of, used, not merely imported."""

import json

import pytest

from tests.e2e.mesh import Mesh

DEPENDENCIES = [
    "fastapi", "uvicorn[standard]", "numpy", "pandas", "httpx", "aiohttp", "redis", "asyncpg", "psycopg[binary]",
    "grpcio", "pillow", "openai", "google-genai", "sentry-sdk",
]  # fmt: skip
WORKFLOW = """# /// script
# dependencies = @DEPENDENCIES@
# [tool.runmesh]
# isolation = "@ISOLATION@"
# ///
import asyncio, multiprocessing, os, signal, socket, sqlite3, ssl, subprocess, sys, tempfile, threading, time, traceback
import aiohttp, asyncpg, fastapi, httpx, numpy, pandas, psycopg, redis, sentry_sdk, uvicorn, uvloop
import openai
from google import genai
from PIL import Image

def basics():
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    with sqlite3.connect("/tmp/db") as db:
        db.execute("pragma journal_mode=wal")
        db.execute("create table t (a)")
    ssl.create_default_context()
    import fcntl, mmap, shutil
    with tempfile.NamedTemporaryFile() as file, tempfile.TemporaryDirectory() as directory:
        file.write(b"x" * 5000)
        file.flush()
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)[:5]
        os.rename(shutil.copy(file.name, directory), "/tmp/moved")
    fcntl.flock(open("/tmp/lock", "w"), fcntl.LOCK_EX)
    told = []
    previous = signal.signal(signal.SIGUSR1, lambda *_: told.append(1))
    os.kill(os.getpid(), signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, previous)
    assert told == [1]

def numbers():
    numpy.random.rand(200, 200) @ numpy.random.rand(200, 200)
    frame = pandas.DataFrame({"a": range(1000), "b": range(1000)})
    frame.groupby("a").sum().to_csv("/tmp/x.csv")
    assert len(pandas.read_csv("/tmp/x.csv")) == 1000

def network():
    async def handle(reader, writer):
        await reader.readline()
        writer.write(b"HTTP/1.1 200 OK\\r\\ncontent-length: 2\\r\\nconnection: close\\r\\n\\r\\nok")
        await writer.drain()
        writer.close()

    async def main():
        server = await asyncio.start_server(handle, "127.0.0.1", 8099)
        async with httpx.AsyncClient(trust_env=False) as client:
            assert (await client.get("http://127.0.0.1:8099/")).text == "ok"
        async with aiohttp.ClientSession() as client, client.get("http://127.0.0.1:8099/") as answer:
            assert await answer.text() == "ok"
        process = await asyncio.create_subprocess_exec("/bin/echo", "hi", stdout=-1)
        assert (await process.communicate())[0] == b"hi\\n"
        server.close()

    asyncio.run(main())
    uvloop.run(main())

def databases():
    refused = (OSError, redis.ConnectionError, psycopg.OperationalError)
    for connect in (
        lambda: redis.Redis("127.0.0.1", 1).ping(),
        lambda: psycopg.connect("host=127.0.0.1 port=1 connect_timeout=1"),
        lambda: asyncio.run(asyncpg.connect(host="127.0.0.1", port=1)),
    ):
        try:
            connect()
        except refused:
            continue
        raise AssertionError("nobody listens there")

def calls():
    import concurrent.futures, grpc
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
    port = server.add_insecure_port("127.0.0.1:0")
    echo = grpc.unary_unary_rpc_method_handler(lambda request, context: request)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("a.B", {"C": echo}),))
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert channel.unary_unary("/a.B/C")(b"x", timeout=10) == b"x"
    server.stop(0)

def pictures():
    Image.new("RGB", (100, 100)).resize((10, 10)).save("/tmp/x.jpg")
    Image.open("/tmp/x.jpg").load()

def processes():
    assert subprocess.run("echo $((1+2)) | cat", shell=True, capture_output=True, text=True).stdout == "3\\n"
    for way in ("fork", "spawn"):
        with multiprocessing.get_context(way).Pool(2) as pool:
            assert pool.map(abs, [-1, -2]) == [1, 2]
    from multiprocessing import shared_memory
    memory = shared_memory.SharedMemory(create=True, size=100)
    memory.close()
    memory.unlink()

def told(step):
    try:
        step()
    except BaseException:
        return traceback.format_exc()[-600:]
    return "ok"

app = fastapi.FastAPI()

@app.get("/")
def use():
    steps = (numbers, network, databases, calls, pictures, processes)
    return {step.__name__: told(step) for step in steps}

@app.get("/basics")
async def main_thread():
    return {"basics": told(basics)}

if __name__ == "__main__":
    uvicorn.run(app)
"""


@pytest.mark.slow  # it fetches what most workflows together need
@pytest.mark.timeout(300)
@pytest.mark.parametrize("isolation", ["run", "cold"])
def test_ordinary_software_works(besieged: Mesh, isolation: str) -> None:
    name = f"ordinary-{isolation}"
    code = WORKFLOW.replace("@DEPENDENCIES@", json.dumps(DEPENDENCIES))
    besieged.deploy(name, code.replace("@ISOLATION@", isolation))
    with besieged.http(timeout=60) as client:
        told = client.get(f"/run/{name}/basics").json() | client.get(f"/run/{name}/").json()
    assert set(told.values()) == {"ok"}, told
    assert len(told) == 7
