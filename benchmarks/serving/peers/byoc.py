"""The classic "bring your own container" sample: Flask behind gunicorn, one model per worker."""

import flask

from benchmarks.serving.peers.model import Model

app = flask.Flask(__name__)
model = Model()


@app.get("/ping")
def ping() -> flask.Response:
    return flask.Response("\n", status=200, mimetype="application/json")


@app.post("/invocations")
def invocations() -> flask.Response:
    return flask.jsonify(model.classify(flask.request.get_data()))
