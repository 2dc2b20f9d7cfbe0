"""What to try about an error of AWS: by its code where we know better, else by its kind, else where to look it up.

A kind is told by the words of the code, as AWS names errors over all services (`…NotFound…`, `…InUse…`), and where these say
nothing, by the HTTP status.
"""

# AWS error code → what a person can do about it. Codes are unique enough over services to need no service name.
_CODES = {
    "UnrecognizedClientException": "these credentials are not known in this region: check AWS_PROFILE and the stage's region",
    "InvalidClientTokenId": "these credentials are not known to AWS: check AWS_PROFILE",
    "RequestExpired": "the session has ended, or this machine's clock is wrong",
    "OptInRequired": "this account has not enabled the service or the region: open it in the console once",
    "ResourceLimitExceeded": "ask for a higher quota in Service Quotas (SageMaker: '<instance type> for endpoint usage'), "
    "or choose another instance type",
    "BucketAlreadyExists": "another account owns this bucket name: choose another project name",
    "ServiceQuotaExceededException": "ask for a higher quota in Service Quotas",
    "AuthFailure.ServiceLinkedRoleCreationNotPermitted": "an account's first spot machine needs a role that somebody makes "
    "once: `aws iam create-service-linked-role --aws-service-name spot.amazonaws.com`, or this identity with the policy "
    "`deployer-ec2` that `python -m deploy policies` prints",
    "InsufficientFreeAddressesInSubnet": "the subnet has no address left: set [security] subnet_ids to larger ones",
    "PendingVerification": "AWS looks at an account before its first machines in a region, mostly for minutes: try again then",
    "ModelError": "the container answered with an error: `python -m deploy logs endpoint` has its reason",
    "ModelNotReadyException": "the model is still being loaded: try again in a minute",
}

_KEY = (
    "the key of [security] kms_key_arn: is it enabled, in the stage's region, and does its own policy let this identity and "
    "the stage's roles use it?"
)
_THROTTLED = "AWS is limiting calls: wait a minute and run the same command again, it continues where it stopped"
_ENDED = "the session has ended: log in again"
_CREDENTIALS = "AWS does not take these credentials: check AWS_PROFILE, AWS_SECRET_ACCESS_KEY and this machine's clock"
_NOT_KNOWN = ("UnrecognizedClientException", "InvalidClientTokenId", "RequestExpired")
_POLICY = "give this identity the policy that `python -m deploy policies` prints"
_CAPACITY = "AWS has no such machine free now: try another zone, type, or later"
_QUOTA = "ask for a higher quota in Service Quotas, or delete what is not needed"
_MISSING = (
    "`python -m deploy status` shows what stands: was it deleted, or is it in another region or account? `apply` makes again "
    "what the stage's file says"
)
_BUSY = (
    "something of this name is there already, or is being changed: look with `python -m deploy status`, wait for what runs, "
    "then run the same command again"
)
_FAULT = "a fault of AWS's: run the same command again, it continues where it stopped; if it stays, see AWS's health dashboard"
_REFUSED = "AWS does not take a value that it names here: change it in the stage's file or the flags"

# Words of a code → what to try; the first that fits. Throttling before limits: RequestLimitExceeded is no quota.
_KINDS = (
    (("KMS", "Kms"), _KEY),
    (("Throttl", "TooManyRequests", "RequestLimitExceeded", "SlowDown", "RateExceeded", "PriorRequestNotComplete"), _THROTTLED),
    (("ExpiredToken",), _ENDED),
    (("SignatureDoesNotMatch", "InvalidSignature", "IncompleteSignature", "AuthFailure", "InvalidAccessKeyId",
      "AuthenticationToken", "Skewed"), _CREDENTIALS),
    (("AccessDenied", "Unauthorized", "NotAuthorized", "Forbidden", "403"), _POLICY),
    (("InsufficientInstance", "InsufficientHost", "InsufficientVolume", "InsufficientReserved"), _CAPACITY),
    (("Limit", "Quota", "TooMany", "Exceeded"), _QUOTA),
    (("NotFound", "NoSuch", "DoesNotExist", "404"), _MISSING),
    (("InUse", "AlreadyExists", "AlreadyOwned", "Duplicate", "Conflict", "Concurrent", "OperationAborted",
      "DependencyViolation", "NotReady", "NotEmpty"), _BUSY),
    (("InternalError", "InternalFailure", "InternalServ", "ServerException", "ServiceUnavailable", "ServiceException",
      "ServiceFailure"), _FAULT),
    (("Validation", "Invalid", "Malformed", "Missing", "Unsupported", "BadRequest", "Parameter", "TooLarge"), _REFUSED),
)  # fmt: skip
_STATUSES = {401: _CREDENTIALS, 403: _POLICY, 404: _MISSING, 409: _BUSY, 429: _THROTTLED}


def is_about_credentials(code: str) -> bool:
    """Whether AWS does not take who asks, whatever it is asked."""
    return code in _NOT_KNOWN or hint_for(code) in (_ENDED, _CREDENTIALS)


def hint_for(code: str, *, status: int = 0, operation: str = "", request_id: str = "") -> str:
    """`status` is HTTP's, 0 where there was none; `operation` as in AWS's API reference. Never empty."""
    of_words = next((text for words, text in _KINDS if any(word in code for word in words)), "")
    text = _CODES.get(code) or of_words or (_FAULT if status >= 500 else _STATUSES.get(status, ""))
    if text == _FAULT and request_id:
        return f"{text} (AWS's support asks for the request's id: {request_id})"
    if text:
        return text
    where = f"of {operation} " if operation else ""
    asked = f"; AWS's support asks for the request's id: {request_id}" if request_id else ""
    return f"Kennel knows no remedy for {code or 'this'}: AWS's API reference {where}explains it under Errors{asked}"
