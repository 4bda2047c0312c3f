# /// script
# requires-python = ">=3.11"
# dependencies = ["starlette", "uvicorn"]
# ///
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


async def home(request: Request) -> JSONResponse:
    return JSONResponse({"framework": "starlette", "length": len(await request.body())})


app = Starlette(routes=[Route("/", home, methods=["POST"])])

if __name__ == "__main__":
    uvicorn.Server(uvicorn.Config("starlette_app:app", port=8000)).run()
