"""What a secret looks like in a file of an image's layer."""

import re

SECRETS = {
    "a private key": rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/]{40}",
    "an AWS access key": rb"\bA(?:KIA|SIA)[0-9A-Z]{16}\b",
    "an AWS secret": rb"(?i:aws_secret_access_key|secretaccesskey)[\"']?\s*[=:]\s*[\"']?[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+])",
    "a password in an address": rb"https?://[^/\s:@\"'<>]{1,64}:[^/\s:@\"'<>{}$]{3,64}@[a-z0-9]",
}


def found(content: bytes) -> list[str]:
    """The names of what is in it."""
    return [what for what, pattern in SECRETS.items() if re.search(pattern, content)]
