"""A shop's stock: a third service, behind the worker."""

from fastapi import FastAPI

app = FastAPI()


@app.get("/health")
def health() -> dict[str, str]:
    return {"status": "ok"}


@app.post("/reserve/{number}")
def reserve(number: str) -> dict[str, str]:
    return {"reserved": number}
