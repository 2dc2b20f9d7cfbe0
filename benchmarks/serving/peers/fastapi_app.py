"""FastAPI: the body awaited, the model in the thread pool."""

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool

from benchmarks.serving.peers.model import Model

app = FastAPI()
model = Model()


@app.get("/ping")  # type: ignore[untyped-decorator]
def ping() -> Response:
    return Response(status_code=200)


@app.post("/invocations")  # type: ignore[untyped-decorator]
async def invocations(request: Request) -> dict[str, object]:
    answer: dict[str, object] = await run_in_threadpool(model.classify, await request.body())
    return answer
