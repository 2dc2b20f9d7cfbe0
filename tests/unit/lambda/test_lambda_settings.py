import pytest

from lambda_settings import Settings


def test_defaults_need_only_the_endpoint():
    assert Settings.from_environment({"ENDPOINT_NAME": "dogs-prod"}) == Settings(endpoint_name="dogs-prod")


def test_everything_set():
    settings = Settings.from_environment(
        {
            "ENDPOINT_NAME": "dogs",
            "READ_TIMEOUT_SECONDS": "7.5",
            "MAX_ATTEMPTS": "3",
            "MAX_BODY_MB": "4",
            "INPUT_BUCKET": "inbox",
            "INPUT_PREFIX": "photos/",
            "MANY_MODELS": "true",
            "TARGET_MODEL": "pug.tar.gz",
            "CORS_ORIGINS": "https://a.example, http://localhost:3000",
        }
    )
    assert settings == Settings(
        endpoint_name="dogs",
        read_timeout_seconds=7.5,
        max_attempts=3,
        max_body_mb=4,
        input_bucket="inbox",
        input_prefix="photos/",
        many_models=True,
        target_model="pug.tar.gz",
        cors_origins=("https://a.example", "http://localhost:3000"),
    )


def test_all_mistakes_come_in_one_message():
    wrong = {
        "ENDPOINT_NAME": "dogs_prod",
        "READ_TIMEOUT_SECONDS": "61",
        "MAX_ATTEMPTS": "many",
        "MAX_BODY_MB": "nan",
        "INPUT_PREFIX": "photos",
        "MANY_MODELS": "yes",
        "TARGET_MODEL": "pug.tar.gz",
        "CORS_ORIGINS": "dogs.example",
    }
    with pytest.raises(ValueError, match="cannot be used") as caught:
        Settings.from_environment(wrong)
    for name in (*wrong, "INPUT_BUCKET", "slash"):
        assert name in str(caught.value)
