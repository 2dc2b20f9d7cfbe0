"""/ping says whether a model could be loaded; /invocations trusts its input."""

import io
import json
from pathlib import Path

import flask
from PIL import Image

app = flask.Flask(__name__)


def get_model():
    return json.loads(Path("/opt/ml/model/model.json").read_text())


@app.route("/ping", methods=["GET"])
def ping():
    return flask.Response(response="\n", status=200 if get_model() is not None else 404, mimetype="application/json")


@app.route("/invocations", methods=["POST"])
def invocations():
    classes = get_model()
    image = Image.open(io.BytesIO(flask.request.data)).convert("RGB").resize((8, 8))
    return flask.jsonify(classes[sum(image.tobytes()) % len(classes)])
