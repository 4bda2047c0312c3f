# /// script
# requires-python = ">=3.11"
# dependencies = ["fastapi==0.116.1", "uvicorn[standard]==0.35.0", "pydantic==2.11.7", "numpy", "pandas"]
# ///
"""The bench app with heavy imports, and a little work for them."""

import os

import numpy as np
import pandas as pd
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()


class Hello(BaseModel):
    name: str


@app.post("/")
async def hello(hello: Hello) -> dict[str, object]:
    frame = pd.DataFrame({"x": np.arange(100), "y": np.arange(100) % 7})
    return {"message": f"Hello {hello.name}!", "sum": int(frame.groupby("y")["x"].sum().iloc[3])}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8000")), log_level="warning")
