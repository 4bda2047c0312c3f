# /// script
# requires-python = ">=3.11"
# dependencies = ["fastapi", "uvicorn", "docopt==0.6.2"]
# ///
"""docopt 0.6.2 exists as an sdist only."""

import docopt
import uvicorn
from fastapi import FastAPI

app = FastAPI()


@app.post("/")
async def parse() -> dict[str, object]:
    return dict(docopt.docopt("Usage: x [--fast]", argv=["--fast"]))


if __name__ == "__main__":
    uvicorn.run(app)
